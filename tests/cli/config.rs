//! Where settings come from, `larder config show`, and `larder completions`.

use crate::support::{Ended, Home, text};

#[test]
fn config_show_prints_what_is_in_effect_and_opens_no_database() {
    let home = Home::sqlite();
    home.write(
        "larder.toml",
        "[worker]\nconcurrency = 3\nheartbeat = \"2s\"\n",
    );
    let mut command = home.larder();
    command.env("LARDER_WORKER__CONCURRENCY", "4");
    let shown = Ended::of(command.args(["config", "show"])).stdout;
    assert!(
        shown.contains("\nconcurrency = 4\n") && shown.contains("\nheartbeat = \"2s\"\n"),
        "{shown}"
    );
    assert!(shown.contains("LARDER_DATABASE_URL"), "{shown}");
    // It is a larder.toml itself.
    let copy = home.write("copy.toml", &shown);
    let again = home
        .run(&["--config", text(&copy), "config", "show"])
        .stdout;
    let settings = |shown: &str| shown.split_once("\n[").unwrap().1.to_owned();
    assert_eq!(settings(&again), settings(&shown));
    let json = home.json(&["config", "show"]);
    assert_eq!(
        (&json["worker"]["concurrency"], &json["worker"]["heartbeat"]),
        (&3.into(), &"2s".into())
    );
    assert!(!home.path("test.db").exists());
}

#[test]
fn a_flag_beats_the_environment_and_that_the_file() {
    let home = Home::sqlite();
    home.write("larder.toml", "[database]\nurl = \"sqlite://file.db\"\n");
    let plain = || {
        let mut command = home.larder();
        command.env_remove("LARDER_DATABASE_URL");
        command
    };
    type Pairs<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, &[&str], Pairs<'_>); 5] = [
        ("file.db", &[], &[]),
        ("plain.db", &[], &[("DATABASE_URL", "sqlite://plain.db")]),
        (
            "ours.db",
            &[],
            &[
                ("LARDER_DATABASE_URL", "sqlite://ours.db"),
                ("DATABASE_URL", "sqlite://plain2.db"),
            ],
        ),
        (
            "flag.db",
            &["--database-url", "sqlite://flag.db"],
            &[("LARDER_DATABASE_URL", "sqlite://other.db")],
        ),
        ("other.db", &[], &[("LARDER_CONFIG", "other.toml")]),
    ];
    home.write("other.toml", "[database]\nurl = \"sqlite://other.db\"\n");
    for (file, flags, environment) in cases {
        assert!(!home.path(file).exists(), "{file}");
        let mut command = plain();
        command.envs(environment.iter().copied());
        Ended::of(command.args(["cache", "exists", "k"]).args(flags)).says_no("false\n");
        assert!(home.path(file).exists(), "{file}");
    }
    home.write("larder.toml", "");
    Ended::of(plain().args(["cache", "exists", "k"])).says_no("false\n");
    assert!(home.path("larder.db").exists());
}

#[test]
fn an_unknown_key_of_the_file_is_named() {
    let home = Home::sqlite();
    home.write("larder.toml", "[worker]\nconcurency = 3\n");
    home.run(&["cache", "stats"])
        .fails(&["concurency", "concurrency", "larder.toml"]);
}

#[test]
fn every_shell_has_its_completions() {
    let home = Home::sqlite();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = home.run(&["completions", shell]);
        assert_eq!((script.status, script.stderr.as_str()), (0, ""), "{shell}");
        assert!(script.stdout.contains("clear-expired"), "{shell}");
    }
    assert!(!home.path("test.db").exists());
}
