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

    fn schedules_are_paused_and_resumed(home) {
        // No worker has loaded it yet.
        home.run(&["schedule", "pause", "clear-expired", "prune-jobs"]).prints("clear-expired\nprune-jobs\n");
        home.run(&["schedule", "pause", "clear-expired"]).says_no("");
        home.run(&["schedule", "resume", "prune-jobs", "clear-expired", "nope"]).fails(&["\"nope\"", "clear-expired, prune-jobs"]);
        home.run(&["schedule", "pause"]).fails(&["<NAME>"]);
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        home.run(&["schedule", "resume", "prune-jobs"]).prints("prune-jobs\n");
        home.run(&["schedule", "resume", "prune-jobs"]).says_no("");
        let listed = home.json(&["schedule", "list"]);
        assert!(listed[0]["paused_at"].is_string() && listed[0]["next_tick"].is_null());
        assert!(listed[1]["paused_at"].is_null() && listed[1]["next_tick"].is_string());
        let plain = home.run(&["schedule", "list"]).stdout;
        assert!(plain.lines().nth(1).unwrap().contains(" paused "), "{plain}");
        // By hand it runs all the same.
        assert_eq!(home.run(&["schedule", "run", "clear-expired"]).status, 0);
        assert_eq!(home.json(&["schedule", "resume", "prune-jobs", "clear-expired"]), serde_json::json!(["clear-expired"]));
        let nothing = home.run(&["schedule", "resume", "clear-expired", "--json"]);
        assert_eq!((nothing.status, nothing.stdout.as_str()), (1, "[]\n"));
    }

    fn list_tells_how_the_fleets_definition_stands_to_the_settings(home) {
        let definition = |name: &str| {
            let listed = home.json(&["schedule", "list"]);
            let entry = listed.as_array().unwrap().iter().find(|entry| entry["name"] == name).cloned();
            entry.map(|entry| entry["definition"].as_str().unwrap().to_owned())
        };
        let entry = |cron: &str| format!("[schedule.mine]\njob = \"clear_expired\"\ncron = \"{cron}\"\n");
        home.write("larder.toml", entry("@daily"));
        assert_eq!(definition("mine").as_deref(), Some("unloaded"));
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        assert_eq!(definition("mine").as_deref(), Some("same"));
        home.write("larder.toml", entry("@yearly"));
        assert_eq!(definition("mine").as_deref(), Some("differs"));
        let next = home.json(&["schedule", "list"])[1]["next_tick"].clone();
        assert!(next.as_str().unwrap().ends_with("T00:00:00Z") && !next.as_str().unwrap().contains("-01-01T"), "the fleet's: {next}");
        home.write("larder.toml", entry("@daily").replace("clear_expired", "theirs"));
        assert_eq!(definition("mine").as_deref(), Some("unknown"));
        home.write("larder.toml", "");
        assert_eq!(definition("mine").as_deref(), Some("elsewhere"));
        home.run(&["schedule", "pause", "mine"]).prints("mine\n");
        assert!(home.run(&["schedule", "list"]).stdout.lines().last().unwrap().contains(" paused "));
    }

    fn an_outcome_is_gone_when_its_job_is(home) {
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        let id = home.json(&["schedule", "run", "clear-expired"])["id"].clone();
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        assert_eq!(home.json(&["schedule", "list"])[0]["last_outcome"], "done");
        home.run(&["jobs", "prune", "--older-than", "0s"]);
        let entry = &home.json(&["schedule", "list"])[0];
        assert_eq!((&entry["last_job"], &entry["last_outcome"]), (&id, &().into()));
        let plain = home.run(&["schedule", "list"]).stdout;
        assert!(plain.lines().nth(1).unwrap().ends_with(" -"), "{plain}");
    }

    fn a_payload_names_the_instant_of_a_run_by_hand(home) {
        home.write("larder.toml", "[schedule.mine]\njob = \"file_digest\"\ncron = \"@daily\"\ntimezone = \"Asia/Tokyo\"\n\
            payload = { path = \"/x/{tick:%Y}/{tick}\" }\n");
        let id = home.run(&["schedule", "run", "mine"]).stdout;
        let path = home.json(&["jobs", "show", id.trim()])["payload"]["path"].as_str().unwrap().to_owned();
        assert!(path.starts_with("/x/2") && path.ends_with('Z') && path.len() == "/x/2026/2026-11-22T12:00:00Z".len(), "{path}");
    }

    fn a_bad_entry_is_refused_at_the_start_with_the_column_of_its_fault(home) {
        for (entry, parts) in [
            ("job = \"clear_expired\"\ncron = \"0 24 * * *\"", &["larder.toml:3", "column 3", "0 to 23"][..]),
            ("job = \"clear_expired\"\ncron = \"0 0 * jam *\"", &["larder.toml:3", "column 7", "jam"]),
            ("job = \"clear_expired\"\ncron = \"@daily\"\ntimezone = \"Europe/Berlyn\"", &["larder.toml:4", "Europe/Berlin"]),
            ("job = \"nope\"\ncron = \"@daily\"", &["[schedule.mine] in larder.toml:1", "\"nope\""]),
            ("job = \"file_digest\"\ncron = \"@daily\"\npayload = { path = \"/{tick:%!}\" }", &["[schedule.mine] in larder.toml:1", "{tick:%!}"]),
        ] {
            home.write("larder.toml", format!("[schedule.mine]\n{entry}\n"));
            home.run(&["worker"]).fails(parts);
        }
        assert!(!home.is_sqlite() || !home.path("test.db").exists());
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
