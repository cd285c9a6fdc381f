//! `larder schedule …`.

use crate::support::{Home, both_engines};

both_engines! {
    fn list_shows_the_settings_and_what_the_fleet_knows(home) {
        home.write("larder.toml", "[schedule.nightly]\njob = \"prune_jobs\"\ncron = \"30 2 * * *\"\n\
            timezone = \"Europe/Berlin\"\nenabled = false\n");
        let listed = home.json(&["schedule", "list"]);
        assert_eq!(listed.as_array().unwrap().len(), 3);
        let (purge, nightly) = (&listed[0], &listed[1]);
        assert_eq!((&purge["name"], &purge["job"]), (&"clear-expired".into(), &"clear_expired".into()));
        assert!(purge["last_outcome"].is_null() && purge["next_tick"].is_string());
        assert_eq!((&nightly["enabled"], &nightly["timezone"]), (&false.into(), &"Europe/Berlin".into()));
        assert!(nightly["next_tick"].is_null());
        // The first worker makes them the fleet's.
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        let id = home.json(&["schedule", "run", "clear-expired"])["id"].clone();
        assert_eq!(home.json(&["schedule", "list"])[0]["last_outcome"], "queued");
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        let purge = &home.json(&["schedule", "list"])[0];
        assert_eq!((&purge["last_outcome"], &purge["last_job"]), (&"done".into(), &id));
        let plain = home.run(&["schedule", "list"]).stdout;
        assert!(plain.starts_with("NAME "), "{plain}");
        assert!(plain.lines().nth(1).unwrap().ends_with("done"), "{plain}");
    }

    fn run_enqueues_the_job_of_a_schedule(home) {
        home.write("larder.toml", "[schedule.mine]\njob = \"file_digest\"\ncron = \"@daily\"\nenabled = false\n\
            payload = { path = \"/x\" }\nqueue = \"slow\"\npriority = -1\nmax_attempts = 2\n");
        let id = home.run(&["schedule", "run", "mine"]).stdout;
        let job = home.json(&["jobs", "show", id.trim()]);
        assert_eq!((&job["schedule"], &job["tick"], &job["name"]), (&"mine".into(), &().into(), &"file_digest".into()));
        assert_eq!((&job["queue"], &job["priority"], &job["max_attempts"]), (&"slow".into(), &(-1).into(), &2.into()));
        assert_eq!(job["payload"]["path"], "/x");
    }

    fn an_entry_that_no_worker_could_run_is_named(home) {
        for (entry, part) in [
            ("job = \"nope\"\ncron = \"@daily\"", "\"nope\""),
            ("job = \"file_digest\"\ncron = \"@daily\"\npayload = { pth = 1 }", "pth"),
        ] {
            home.write("larder.toml", format!("[schedule.mine]\n{entry}\n"));
            home.run(&["schedule", "run", "mine"]).fails(&["[schedule.mine]", part]);
            home.run(&["worker", "--once"]).fails(&["[schedule.mine]", part]);
        }
    }
}

#[test]
fn next_prints_the_instants_of_a_schedule() {
    let home = Home::sqlite();
    home.run(&[
        "schedule",
        "next",
        "clear-expired",
        "--count",
        "2",
        "--from",
        "2026-11-22T12:01:00+01:00",
    ])
    .prints("2026-11-22T11:05:00Z\n2026-11-22T11:10:00Z\n");
    assert_eq!(
        home.run(&["schedule", "next", "prune-jobs"])
            .stdout
            .lines()
            .count(),
        5
    );
}

#[test]
fn check_prints_the_instants_of_an_expression_and_opens_no_database() {
    let home = Home::sqlite();
    // A night that has no 02:30, and one that has it twice.
    for (from, expected) in [
        (
            "2024-03-30T12:00:00Z",
            "2024-03-31T01:00:00Z\n2024-04-01T00:30:00Z\n",
        ),
        (
            "2024-10-26T12:00:00Z",
            "2024-10-27T00:30:00Z\n2024-10-28T01:30:00Z\n",
        ),
    ] {
        home.run(&[
            "schedule",
            "check",
            "30 2 * * *",
            "--timezone",
            "Europe/Berlin",
            "--count",
            "2",
            "--from",
            from,
        ])
        .prints(expected);
    }
    let check = [
        "schedule",
        "check",
        "@yearly",
        "--count",
        "1",
        "--from",
        "2026-01-01T00:00:00Z",
    ];
    assert_eq!(
        home.json(&check),
        serde_json::json!(["2027-01-01T00:00:00Z"])
    );
    home.run(&["schedule", "check", "* * * * *", "--count", "0"])
        .prints("");
    assert!(!home.path("test.db").exists());
}

#[test]
fn check_prints_as_it_goes_and_ends_with_the_year_9999() {
    use std::io::{BufRead, BufReader};

    let home = Home::sqlite();
    let mut check = home
        .command(env!("CARGO_BIN_EXE_larder"))
        .args(["schedule", "check", "* * * * * *", "--count", "4294967295"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever has read enough closes the pipe; had it all been gathered first, this would take hours.
    let mut lines = BufReader::new(check.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().ends_with('Z'));
    drop(lines);
    check.wait().unwrap();

    home.run(&[
        "schedule",
        "check",
        "@yearly",
        "--from",
        "9998-06-01T00:00:00Z",
    ])
    .prints("9999-01-01T00:00:00Z\n");
}
