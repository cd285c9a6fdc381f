//! The README's tour, pasted into a shell, prints what the README says.

use std::process::{Command, Stdio};

/// A command of the tour, and what it prints.
struct Step {
    command: String,
    printed: Vec<String>,
}

/// The blocks of `console`: lines that begin with `$ ` are typed, the others are printed.
fn tour(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => {
                    steps.push(Step {
                        command: command.to_owned(),
                        printed: Vec::new(),
                    });
                }
                (None, Some(step)) => step.printed.push(line.to_owned()),
                (None, None) => panic!("the tour prints {line:?} before anything is typed"),
            }
        }
    }
    steps
}

/// Whether a printed line is the one that the README shows, where `…` stands for anything.
fn fits(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split('…');
    let Some(mut rest) = printed.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn three_dots_stand_for_anything() {
    assert!(fits("a…c…e", "abbcdde") && fits("same", "same") && fits("…", "anything"));
    assert!(!fits("a…c", "abd") && !fits("same", "same but longer") && !fits("b…", "abc"));
}

/// SQLite alone: the tour is what a stranger does first, with nothing installed.
#[test]
fn the_tour_prints_what_the_readme_says() {
    let steps = tour(include_str!("../../README.md"));
    assert!(steps.len() >= 10, "the tour has {} steps", steps.len());
    let directory = tempfile::tempdir().unwrap();
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_larder"))
        .parent()
        .unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let script: String = steps
        .iter()
        .enumerate()
        .map(|(number, step)| format!("echo '--- step {number}'\n{}\n", step.command))
        .collect();
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("PATH", path)
        .env_remove("DATABASE_URL")
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut sections = printed.split("--- step ").skip(1);
    for step in &steps {
        let section: Vec<&str> = sections
            .next()
            .unwrap_or_default()
            .lines()
            .skip(1)
            .collect();
        let same = section.len() == step.printed.len()
            && section
                .iter()
                .zip(&step.printed)
                .all(|(line, shown)| fits(shown, line));
        assert!(
            same,
            "`{}` should print\n{}\nand printed\n{}\nand on stderr\n{errors}",
            step.command,
            step.printed.join("\n"),
            section.join("\n")
        );
    }
}
