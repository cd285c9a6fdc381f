//! The rules of the house, read off the sources.

mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Source, sources, words};

/// Imports run one way: a module sees those of lower rank, and one way only among its own.
const RANKS: &[(&str, u8)] = &[
    ("error", 0),
    ("clock", 1),
    ("database", 2),
    ("gather", 3),
    ("cache", 4),
    ("command", 4),
    ("fetch", 4),
    ("queue", 4),
    ("schedule", 4),
    ("call", 5),
    ("worker", 5),
    ("settings", 6),
    ("http", 6),
    ("cli", 6),
    ("main", 7),
];

/// What follows each `crate::`: one name, or those of a `{…}` list, each the first segment of its path.
fn crate_paths(bare: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in bare.match_indices("crate::") {
        let before = bare[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let after = &bare[at + "crate::".len()..];
        let Some(list) = after.strip_prefix('{') else {
            names.extend(words(after).next().map(str::to_owned));
            continue;
        };
        let (mut depth, mut item) = (1, String::new());
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => {
                    names.extend(words(&item).next().map(str::to_owned));
                    item.clear();
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
            item.push(c);
        }
        names.extend(words(&item).next().map(str::to_owned));
    }
    names
}

/// The module that each name of `lib.rs`'s own `pub use` comes from.
fn re_exports() -> BTreeMap<String, String> {
    let library = sources("src")
        .into_iter()
        .find(|source| source.path == "src/lib.rs")
        .unwrap();
    let bare = library.bare();
    let mut names = BTreeMap::new();
    for (_, statement) in bare
        .split("pub use ")
        .skip(1)
        .filter_map(|rest| Some((0, rest.split_once(';')?.0)))
    {
        let mut parts = words(statement);
        let module = parts.next().unwrap().to_owned();
        names.extend(parts.map(|name| (name.to_owned(), module.clone())));
    }
    names
}

#[test]
fn imports_run_one_way() {
    let ranks: BTreeMap<&str, u8> = RANKS.iter().copied().collect();
    let re_exports = re_exports();
    let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
    for source in sources("src")
        .iter()
        .filter(|source| source.path != "src/lib.rs")
    {
        let module = source.module();
        let rank = ranks
            .get(module)
            .unwrap_or_else(|| panic!("{} has no place in the house", source.path));
        for name in crate_paths(&source.bare()) {
            let other = re_exports.get(&name).unwrap_or(&name).clone();
            if other == module {
                continue;
            }
            let Some(theirs) = ranks.get(other.as_str()) else {
                assert!(
                    module == "main",
                    "{}: crate::{name} is no module of the house",
                    source.path
                );
                continue;
            };
            assert!(
                theirs <= rank,
                "{} sees {other}, which stands above it",
                source.path
            );
            seen.insert((module.to_owned(), other));
        }
    }
    assert!(
        seen.contains(&("cache".to_owned(), "database".to_owned())),
        "the test reads paths: {seen:?}"
    );
    for (one, other) in &seen {
        assert!(
            !seen.contains(&(other.clone(), one.clone())),
            "{one} and {other} see each other"
        );
    }
}

#[test]
fn no_statement_stands_outside_the_database() {
    const STATEMENTS: &[&str] = &[
        "SELECT ",
        "INSERT INTO",
        "UPDATE ",
        "DELETE FROM",
        "CREATE TABLE",
        "CREATE INDEX",
        "ALTER TABLE",
        "DROP ",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "PRAGMA ",
        "LISTEN ",
        "NOTIFY ",
        "VACUUM",
        "WITH ",
    ];
    let is_sql = |literal: &str| {
        STATEMENTS
            .iter()
            .any(|statement| literal.trim_start().starts_with(statement))
    };
    let (inside, outside): (Vec<_>, Vec<_>) = [sources("src"), sources("jobs")]
        .into_iter()
        .flatten()
        .partition(|source| source.path.starts_with("src/database"));
    assert!(
        inside
            .iter()
            .flat_map(Source::literals)
            .filter(|literal| is_sql(literal))
            .count()
            > 20,
        "the test reads SQL"
    );
    for source in outside {
        let found: Vec<_> = source
            .literals()
            .into_iter()
            .filter(|literal| is_sql(literal))
            .collect();
        assert!(found.is_empty(), "{}: {found:?}", source.path);
        assert!(
            !source.bare().contains("sqlx::query"),
            "{} runs SQL of its own",
            source.path
        );
    }
}

#[test]
fn only_main_and_the_command_line_read_arguments_log_and_exit() {
    const THEIRS: &[&str] = &[
        "env::args",
        "args_os",
        "process::exit",
        "ExitCode",
        "tracing_subscriber",
        "set_global_default",
        "clap::",
    ];
    for source in [sources("src"), sources("jobs")].into_iter().flatten() {
        if source.path == "src/main.rs"
            || source.module() == "cli" && source.path.starts_with("src/")
        {
            continue;
        }
        for word in THEIRS {
            assert!(!source.bare().contains(word), "{} has {word}", source.path);
        }
    }
}

#[test]
fn jobs_see_the_public_api_only() {
    // What is public somewhere is not suspect, though something private has the same name.
    let (mut private, mut public) = (BTreeSet::new(), BTreeSet::new());
    for source in sources("src") {
        let bare = source.bare();
        let words: Vec<&str> = words(&bare).collect();
        for (at, word) in words.iter().enumerate() {
            const KINDS: &[&str] = &[
                "fn", "struct", "enum", "const", "static", "trait", "type", "mod", "use", "async",
                "unsafe",
            ];
            let named = |from: usize| {
                words[from..]
                    .iter()
                    .find(|word| !KINDS.contains(word))
                    .map(|name| (*name).to_owned())
            };
            if *word == "pub" && matches!(words.get(at + 1), Some(&"crate" | &"super")) {
                private.extend(named(at + 2));
            } else if *word == "pub" {
                public.extend(named(at + 1));
            }
        }
    }
    assert!(private.contains("Sql"), "the test reads definitions");
    for source in sources("jobs") {
        let bare = source.bare();
        assert!(
            !bare.contains("super::super"),
            "{} looks out of its room",
            source.path
        );
        // A path into the crate ends with its statement. A method is known by its name alone, and one of a single word
        // may as well be a file's or a socket's.
        let seen: BTreeSet<&str> = bare
            .split("crate::")
            .skip(1)
            .flat_map(|path| words(path.split([';', '(', '<']).next().unwrap_or_default()))
            .chain(
                bare.split('.')
                    .skip(1)
                    .filter_map(|call| call.split_once('('))
                    .map(|(name, _)| name),
            )
            .filter(|name| private.contains(*name) && !public.contains(*name))
            .collect();
        for name in seen {
            let of_another = !name.contains('_') && !bare.contains(&format!("crate::{name}"));
            let in_a_path = bare
                .lines()
                .any(|line| line.contains("crate::") && words(line).any(|word| word == name));
            assert!(
                of_another && !in_a_path,
                "{} uses {name}, which is not public",
                source.path
            );
        }
    }
}

#[test]
fn nothing_but_the_library_and_the_binary_names_a_particular_job() {
    let jobs: Vec<String> = sources("jobs")
        .iter()
        .map(|source| source.module().to_owned())
        .filter(|name| name != "mod")
        .collect();
    let pascal = |name: &str| -> String {
        name.split('_')
            .map(|part| part[..1].to_uppercase() + &part[1..])
            .collect()
    };
    for source in sources("src") {
        if ["src/lib.rs", "src/main.rs"].contains(&source.path.as_str()) {
            continue;
        }
        let (bare, literals) = (source.bare(), source.literals());
        assert!(!bare.contains("crate::jobs"), "{} sees jobs/", source.path);
        for job in &jobs {
            assert!(
                !literals.contains(job),
                "{} names the job {job}",
                source.path
            );
            // The command `cache clear-expired` is older than the job of that name.
            let of_the_command_line = source.module() == "cli";
            let named = words(&bare).any(|word| word == pascal(job));
            assert!(
                !named || of_the_command_line,
                "{} names the job {}",
                source.path,
                pascal(job)
            );
        }
    }
}
