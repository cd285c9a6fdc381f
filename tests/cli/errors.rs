//! Every error is one line that names the thing and the remedy, and status 2.

use crate::support::{Home, both_engines};

both_engines! {
    fn bad_input_is_named_and_changes_nothing(home) {
        let cases: &[(&[&str], &[&str])] = &[
            (&["cache", "set", "k", "hello"], &["\"k\"", "not JSON", "'\"hello\"'"]),
            (&["cache", "set", "k", "[1,"], &["\"k\"", "not JSON"]),
            (&["cache", "set", "k", ""], &["\"k\"", "not JSON"]),
            (&["cache", "set", "k", "@/no/such/file"], &["\"k\"", "/no/such/file"]),
            (&["cache", "set", "", "1"], &["a key must be 1 to 1,024 bytes"]),
            (&["cache", "set", "k", "1", "--expires-in", "5x"], &["\"5x\"", "--expires-in", "1h30m"]),
            (&["cache", "set", "k", "1", "--expires-in", "9999999w"], &["between the years 1 and 9999"]),
            (&["cache", "set", "k", "1", "--expires-at", "2026-01-01T00:00:00"], &["--expires-at", "offset"]),
            (&["cache", "set", "k", "1", "--never", "--expires-in", "1"], &["--never", "--expires-in"]),
            (&["cache", "set", "k"], &["JSON", "cache set --help"]),
            (&["cache", "touch", "k"], &["--expires-in", "--expires-at", "--never", "cache touch --help"]),
            (&["cache", "set", "k", "--nevr"], &["--nevr", "cache set --help"]),
            (&["cache", "get", "k", "--frsh"], &["--frsh", "cache get --help"]),
            (&["cache", "get"], &["<KEY>", "cache get --help"]),
            (&["cache", "increment", "k", "--by", "1.5"], &["'1.5'", "--by"]),
            (&["cache", "increment", "k", "--by", "1000000000000000000"], &["18 digits"]),
            (&["cache"], &["larder cache needs a command", "clear-all"]),
            (&["cahce"], &["'cahce'", "tip", "larder --help"]),
            (&[], &["larder needs a command", "larder --help"]),
            (&["worker", "--concurrency", "0"], &["--concurrency", "1..=10000"]),
            (&["worker", "--queues", "a,,b"], &["--queues", "empty"]),
            (&["worker", "--shutdown-timeout", "-1s"], &["--shutdown-timeout", "negative"]),
            (&["worker", "--http", ":1"], &["--http", "worker --help"]),
            (&["enqueue", "nope"], &["\"nope\"", "clear_expired, fetch_url, file_digest, prune_jobs"]),
            (&["enqueue", "file_digest"], &["\"file_digest\"", "path"]),
            (&["enqueue", "clear_expired", "{\"a\":1}"], &["\"clear_expired\"", "`a`"]),
            (&["enqueue", "clear_expired", "nonsense"], &["not JSON", "\"clear_expired\""]),
            (&["enqueue", "clear_expired", "--delay", "-1s"], &["--delay", "negative"]),
            (&["enqueue", "clear_expired", "--delay", "1", "--at", "2100-01-01T00:00:00Z"], &["--delay", "--at"]),
            (&["enqueue", "clear_expired", "--priority", "32768"], &["--priority", "32768"]),
            (&["enqueue", "clear_expired", "--max-attempts", "0"], &["--max-attempts", "32767"]),
            (&["enqueue", "clear_expired", "--wait=soon"], &["--wait", "\"soon\""]),
            (&["jobs", "list", "--status", "ready"], &["\"ready\"", "queued, running, done, dead or cancelled"]),
            (&["jobs", "list", "--limit", "-1"], &["--limit"]),
            (&["jobs", "prune", "--status", "queued"], &["--status", "done, dead or cancelled"]),
            (&["jobs", "prune", "--older-than", "old"], &["--older-than", "\"old\""]),
            (&["jobs", "prune", "--keep", "-1"], &["--keep"]),
            (&["jobs", "prune", "--keep", "1", "--older-than", "1d"], &["--keep", "--older-than"]),
            (&["enqueue", "clear_expired", "--limit-key", ""], &["--limit-key", "empty"]),
            (&["enqueue", "clear_expired", "--max-running", "2"], &["--limit-key"]),
            (&["enqueue", "clear_expired", "--limit-key", "k", "--max-running", "0"], &["--max-running", "2147483647"]),
            (&["queues", "pause"], &["NAME", "queues pause --help"]),
            (&["queues", "pause", "a", ""], &["1 to 255 bytes"]),
            (&["queues"], &["larder queues needs a command", "resume"]),
            (&["jobs", "show", "42"], &["\"42\"", "not an id"]),
            (&["schedule", "next", "nope"], &["\"nope\"", "clear-expired, prune-jobs"]),
            (&["schedule", "run", "nope"], &["\"nope\"", "clear-expired, prune-jobs"]),
            (&["schedule", "check", "0 24 * * *"], &["column 3", "0 to 23"]),
            (&["schedule", "check", "@daily", "--timezone", "Europe/Berlyn"], &["Europe/Berlyn", "Europe/Berlin"]),
            (&["schedule", "check", "@daily", "--from", "today"], &["--from", "'today'", "RFC 3339"]),
            (&["completions", "cmd.exe"], &["cmd.exe", "bash", "fish"]),
            (&["--config", "none.toml", "cache", "stats"], &["none.toml"]),
        ];
        for (arguments, parts) in cases {
            home.run(arguments).fails(parts);
        }
        home.run(&["cache", "keys"]).prints("");
        home.run(&["jobs", "list", "--json"]).prints("[]\n");
        home.run(&["queues", "list", "--json"]).prints("[]\n");
    }

    fn a_database_of_a_newer_larder_is_refused_by_all(home) {
        home.run(&["cache", "set", "k", "1"]).prints("");
        home.execute("INSERT INTO {}larder_migration (version, name, applied_at) \
            SELECT 99, 'later', applied_at FROM {}larder_migration WHERE version = 0");
        for arguments in [
            &["cache", "get", "k"][..], &["enqueue", "clear_expired"], &["jobs", "list"], &["schedule", "list"],
            &["migrate"], &["migrate", "--dry-run"],
        ] {
            home.run(arguments).fails(&["version 99", "newer larder"]);
        }
        let worker = home.run(&["worker", "--once"]);
        assert_eq!(worker.status, 2, "{worker:?}");
        assert!(worker.stderr.lines().last().unwrap().contains("newer larder"), "{worker:?}");
        assert!(home.run(&["migrate", "--status"]).stdout.ends_with("0099 later applied\n"));
    }

    fn an_older_database_is_upgraded_by_migrate(home) {
        an_older_database_is_upgraded_by(home, &["migrate"]);
    }

    fn an_older_database_is_upgraded_by_the_worker(home) {
        an_older_database_is_upgraded_by(home, &["worker", "--once"]);
    }
}

fn an_older_database_is_upgraded_by(home: &Home, upgrade: &[&str]) {
    let tables = home.run(&["migrate", "--dry-run"]).stdout;
    let (older, _) = tables.split_once("-- 0003 ").unwrap();
    home.execute(older);
    for arguments in [
        &["cache", "get", "k"][..],
        &["enqueue", "clear_expired"],
        &["jobs", "list"],
    ] {
        home.run(arguments).fails(&["version 2", "larder migrate"]);
    }
    let status = home.run(&["migrate", "--status"]).stdout;
    assert!(status.contains("0003 schedule pending\n"), "{status}");
    let upgraded = home.run(upgrade);
    assert_eq!(upgraded.status, 0, "{upgraded:?}");
    home.run(&["cache", "set", "k", "1"]).prints("");
}

#[test]
fn a_database_that_cannot_be_reached_is_named() {
    let home = Home::sqlite();
    let nowhere = "postgres://app@127.0.0.1:1/app";
    let mut command = home.larder();
    command.env("LARDER_DATABASE__ACQUIRE_TIMEOUT", "100ms");
    crate::support::Ended::of(command.args(["--database-url", nowhere, "cache", "stats"])).fails(
        &[
            "cannot open postgres://app@127.0.0.1:1/app",
            "--database-url",
        ],
    );
    home.run(&[
        "--database-url",
        "sqlite:///no/such/folder/x.db",
        "cache",
        "stats",
    ])
    .fails(&["/no/such/folder/x.db", "choose a folder"]);
    std::fs::create_dir(home.path("folder")).unwrap();
    home.run(&["--database-url", "sqlite://folder", "cache", "stats"])
        .fails(&["folder", "name a file in it"]);
    home.run(&["--database-url", "mysql://h/db", "cache", "stats"])
        .fails(&["mysql:", "sqlite: or postgres:"]);
    home.write(
        "text.db",
        "this is no database, but a text that is long enough",
    );
    home.run(&["--database-url", "sqlite://text.db", "cache", "stats"])
        .fails(&["text.db", "not a database"]);
}

#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        return;
    };
    let home = Home::sqlite();
    let output = home
        .larder()
        .args(["jobs", "names"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("error: cannot write to standard output"),
        "{stderr}"
    );
}

#[test]
fn help_and_version_are_results() {
    let home = Home::sqlite();
    home.run(&["--version"])
        .prints(concat!("larder ", env!("CARGO_PKG_VERSION"), "\n"));
    for arguments in [
        &["--help"][..],
        &["cache", "set", "--help"],
        &["help", "cache"],
        &["-h"],
        &["jobs", "list", "-h"],
    ] {
        let help = home.run(arguments);
        assert_eq!((help.status, help.stderr.as_str()), (0, ""), "{help:?}");
        assert!(help.stdout.contains("Usage: larder"), "{help:?}");
    }
    assert!(!home.path("test.db").exists());
}

#[test]
fn nothing_is_coloured_without_a_terminal() {
    let home = Home::sqlite();
    home.enqueue(&["clear_expired"]);
    for arguments in [&["jobs", "list"][..], &["nonsense"], &["--help"]] {
        let ended = home.run(arguments);
        assert!(!format!("{}{}", ended.stdout, ended.stderr).contains('\u{1b}'));
    }
}

#[test]
fn a_variable_that_means_nothing_is_a_warning() {
    let home = Home::sqlite();
    let mut command = home.larder();
    let ended = crate::support::Ended::of(command.env("LARDER_PORT", "1").args(["jobs", "names"]));
    assert_eq!(ended.status, 0);
    assert!(
        ended.stderr.contains("WARN") && ended.stderr.contains("LARDER_PORT"),
        "{ended:?}"
    );
    let mut command = home.larder();
    command.env("LARDER_PORT", "1").env("RUST_LOG", "error");
    crate::support::Ended::of(command.args(["jobs", "names"]))
        .prints("clear_expired\nfetch_url\nfile_digest\nprune_jobs\nrun_command\n");
}
