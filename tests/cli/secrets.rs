//! A password is never shown, whatever goes wrong.

use crate::support::{Ended, Home};

const URLS: [&str; 12] = [
    "postgres://app:HUNTER2@127.0.0.1:1/app",
    "postgres://app:HUNTER2@no-such-host.invalid/app",
    "postgres://app:HUNTER2@127.0.0.1:99999/app",
    "postgres://app:12/HUNTER2@127.0.0.1:1/app",
    "postgres://app:a@HUNTER2@127.0.0.1:1/app",
    "postgres://app@127.0.0.1:1/app?password=HUNTER2",
    "postgres://127.0.0.1:1/app?p%61ssword=HUNTER2",
    "postgres:app:HUNTER2@127.0.0.1/app",
    "postgres://app:HUNTER2@127.0.0.1:1/app?sslmode=nonsense",
    "mysql://app:HUNTER2@127.0.0.1/app",
    "app:HUNTER2@127.0.0.1/app",
    "://app:HUNTER2@127.0.0.1/app",
];

fn command(home: &Home) -> std::process::Command {
    let mut command = home.larder();
    command
        .env("LARDER_DATABASE__ACQUIRE_TIMEOUT", "100ms")
        .env("RUST_LOG", "trace");
    command
}

fn hides(ended: &Ended, what: &str) {
    assert!(
        !format!("{}{}", ended.stdout, ended.stderr).contains("HUNTER2"),
        "{what}: {ended:?}"
    );
}

#[test]
fn no_error_log_or_setting_shows_the_password() {
    let home = Home::sqlite();
    for url in URLS {
        for arguments in [
            &["cache", "get", "k"][..],
            &["worker", "--once"],
            &["migrate"],
        ] {
            let ended = Ended::of(command(&home).args(["--database-url", url]).args(arguments));
            assert_eq!(ended.status, 2, "{url}: {ended:?}");
            hides(&ended, url);
        }
        for arguments in [
            &["config", "show"][..],
            &["config", "show", "--json"],
            &["cache", "clear-all"],
        ] {
            hides(
                &Ended::of(
                    command(&home)
                        .env("LARDER_DATABASE_URL", url)
                        .args(arguments),
                ),
                url,
            );
            hides(
                &Ended::of(command(&home).args(["--database-url", url]).args(arguments)),
                url,
            );
        }
    }
}

#[test]
fn no_error_of_the_file_shows_the_password() {
    let home = Home::sqlite();
    for url in URLS {
        for text in [
            format!("[database]\nurl = \"{url}\"\n"),
            format!("[database]\nurl = \"{url}\"\nnonsense = 1\n"),
            format!("[database]\nurl = [\"{url}\"]\n"),
            format!("database = \"{url}\"\n"),
            format!("[database]\nurl = \"{url}\n"),
        ] {
            home.write("larder.toml", &text);
            for arguments in [&["cache", "get", "k"][..], &["config", "show"]] {
                let mut command = command(&home);
                hides(
                    &Ended::of(command.env_remove("LARDER_DATABASE_URL").args(arguments)),
                    &text,
                );
            }
        }
    }
}

#[test]
fn bad_usage_does_not_repeat_the_password() {
    let home = Home::sqlite();
    for arguments in [
        &["cache", "get", "k", "postgres://app:HUNTER2@h/app"][..],
        &["postgres://app:HUNTER2@h/app"],
        &[
            "--databse-url=postgres://app:HUNTER2@h/app",
            "cache",
            "stats",
        ],
        &[
            "cache",
            "set",
            "k",
            "1",
            "--expires-in=postgres://app:HUNTER2@h/app",
        ],
        &[
            "cache",
            "set",
            "k",
            "1",
            "--expires-in",
            "postgres://app:HUNTER2@h/app",
        ],
        &[
            "enqueue",
            "clear_expired",
            "--delay",
            "postgres://app:HUNTER2@h/app",
        ],
        &["enqueue", "postgres://app:HUNTER2@h/app"],
        &["cache", "set", "k", "postgres://app:HUNTER2@h/app"],
    ] {
        let ended = home.run(arguments);
        ended.fails(&[]);
        hides(&ended, &format!("{arguments:?}"));
    }
}

#[test]
fn a_wrong_password_is_told_without_it() {
    let mut wrong = url::Url::parse(&Home::postgres().url).unwrap();
    wrong.set_username("nobody_of_this_name").unwrap();
    wrong.set_password(Some("HUNTER2")).unwrap();
    let home = Home::sqlite();
    let ended = home.run(&["--database-url", wrong.as_str(), "cache", "stats"]);
    ended.fails(&["nobody_of_this_name", "***", "--database-url"]);
    hides(&ended, "a wrong password");
}
