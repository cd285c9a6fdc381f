//! `larder jobs …`.

use larder::Queue;
use larder::queue::NewJob;
use serde_json::value::RawValue;

use crate::support::{Home, both_engines};

const FIELDS: [&str; 20] = [
    "id",
    "name",
    "queue",
    "status",
    "priority",
    "attempt",
    "max_attempts",
    "unique_key",
    "schedule",
    "tick",
    "run_at",
    "created_at",
    "started_at",
    "finished_at",
    "worker",
    "error",
    "payload",
    "result",
    "cancelled_at",
    "progress",
];

fn lines(home: &Home, arguments: &[&str]) -> Vec<String> {
    let ended = home.run(arguments);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{ended:?}");
    ended.stdout.lines().map(str::to_owned).collect()
}

both_engines! {
    fn list_is_newest_first_and_filtered(home) {
        let first = home.enqueue(&["clear_expired"]);
        let second = home.enqueue(&["prune_jobs", "--queue", "other"]);
        let listed = lines(home, &["jobs", "list"]);
        assert_eq!(listed.len(), 3);
        assert!(listed[0].starts_with("ID "), "{listed:?}");
        assert!(listed[1].starts_with(&second) && listed[2].starts_with(&first), "{listed:?}");
        for (filter, id) in [
            (["--queue", "other"], &second), (["--name", "clear_expired"], &first), (["--limit", "1"], &second),
        ] {
            let listed = lines(home, &[&["jobs", "list"], &filter[..]].concat());
            assert!(listed.len() == 2 && listed[1].starts_with(id), "{filter:?} {listed:?}");
        }
        assert_eq!(lines(home, &["jobs", "list", "--status", "dead"]).len(), 1);
        let listed = home.json(&["jobs", "list", "--status", "queued"]);
        assert_eq!(listed.as_array().unwrap().len(), 2);
        assert_eq!(listed[0]["id"], second.as_str());
    }

    fn a_job_is_the_same_object_everywhere(home) {
        let id = home.enqueue(&["clear_expired"]);
        let shown = home.run(&["jobs", "show", &id, "--json"]).stdout;
        let names: Vec<_> = FIELDS.iter().map(|name| shown.find(&format!("\"{name}\":")).unwrap()).collect();
        assert!(names.is_sorted(), "{shown}");
        let mut job = home.json(&["jobs", "show", &id]);
        // Of one job its attempts are told too.
        assert_eq!(job.as_object_mut().unwrap().remove("attempts"), Some(serde_json::json!([])));
        assert_eq!(job.as_object().unwrap().len(), FIELDS.len());
        assert_eq!(home.json(&["jobs", "list"])[0], job);
        let plain = lines(home, &["jobs", "show", &id]);
        let names: Vec<_> = plain.iter().map(|line| line.split_once(": ").unwrap().0).collect();
        assert_eq!(names[..20], FIELDS);
    }

    fn fifty_are_listed_unless_said_and_0_is_all(home) {
        home.with_database(async |database| {
            let payload = RawValue::from_string("{}".to_owned()).unwrap();
            let jobs = (0..1_205).map(|_| NewJob::named("many", &payload));
            Queue::new(database).enqueue_many(jobs).await.unwrap();
        });
        assert_eq!(lines(home, &["jobs", "list"]).len(), 51);
        assert_eq!(home.json(&["jobs", "list"]).as_array().unwrap().len(), 50);
        assert_eq!(lines(home, &["jobs", "list", "--limit", "1001"]).len(), 1_002);
        let all = home.json(&["jobs", "list", "--limit", "0"]);
        let ids: Vec<_> = all.as_array().unwrap().iter().map(|job| job["id"].to_string()).collect();
        assert!(ids.len() == 1_205 && ids.is_sorted_by(|newer, older| newer > older));
    }

    fn an_unknown_id_is_no(home) {
        let id = "019aabcd-0000-7000-8000-000000000000";
        home.run(&["jobs", "show", id]).says_no("");
        home.run(&["jobs", "show", id, "--json"]).says_no("null\n");
    }

    fn a_job_that_no_live_worker_knows_is_said_to_be_so(home) {
        let id = home.enqueue(&["clear_expired"]);
        let note = "note: no live worker knows clear_expired";
        assert!(home.run(&["jobs", "show", &id]).stdout.contains(note));
        let json = home.run(&["jobs", "show", &id, "--json"]);
        assert!(json.stderr.starts_with(note) && json.stderr.lines().count() == 1, "{json:?}");
        assert!(home.run(&["jobs", "stats"]).stdout.ends_with("No live worker knows: clear_expired\n"));
        assert_eq!(home.json(&["jobs", "stats"])["unknown_names"], serde_json::json!(["clear_expired"]));

        let _worker = crate::support::Daemon::start(home.larder().args(["worker", "--queues", "another"]));
        assert!(!home.run(&["jobs", "show", &id]).stdout.contains("note"));
        assert!(!home.run(&["jobs", "stats"]).stdout.contains("No live worker"));
    }

    fn stats_count_each_queue(home) {
        home.enqueue(&["clear_expired"]);
        home.enqueue(&["clear_expired", "--queue", "other"]);
        home.enqueue(&["prune_jobs", "--queue", "other"]);
        assert_eq!(home.run(&["worker", "--once", "--queues", "default"]).status, 0);
        let stats = home.json(&["jobs", "stats"]);
        // The worker's own schedules have run nothing yet.
        assert_eq!(stats["queues"], serde_json::json!([
            {"queue": "default", "queued": 0, "running": 0, "done": 1, "dead": 0, "cancelled": 0},
            {"queue": "other", "queued": 2, "running": 0, "done": 0, "dead": 0, "cancelled": 0},
        ]));
        let plain = lines(home, &["jobs", "stats"]);
        let words: Vec<_> = plain[2].split_whitespace().collect();
        assert_eq!(words, ["other", "2", "0", "0", "0", "0"]);
    }

    fn the_attempts_of_a_job_are_shown(home) {
        let id = home.enqueue(&["file_digest", "{\"path\":\"/no/such/file\"}", "--max-attempts", "2"]);
        for _ in 0..2 {
            assert_eq!(home.run(&["worker", "--once"]).status, 0);
            // Its next attempt is in a second; by then it is dead, and this is no.
            home.run(&["jobs", "retry", &id]);
        }
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        let job = home.json(&["jobs", "show", &id]);
        assert_eq!((&job["status"], &job["attempt"]), (&"dead".into(), &3.into()));
        assert_eq!(job["attempts"].as_array().unwrap().len(), 3);
        let second = &job["attempts"][1];
        assert_eq!(second["attempt"], 2);
        assert!(second["error"].as_str().unwrap().contains("cannot read /no/such/file"));
        assert!(second["started_at"].as_str() <= second["ended_at"].as_str() && second["worker"].is_string());
        let plain = lines(home, &["jobs", "show", &id]);
        let attempts: Vec<_> = plain.iter().filter(|line| line.starts_with("attempt ")).collect();
        assert_eq!(attempts.len(), 3);
        let begin = format!("attempt 2: {} to {} (", second["started_at"].as_str().unwrap(), second["ended_at"].as_str().unwrap());
        assert!(attempts[1].starts_with(&begin) && attempts[1].contains("cannot read /no/such/file"), "{attempts:?}");
    }

    fn retry_sends_dead_jobs_back(home) {
        let bad = |key: &str| home.enqueue(&["file_digest", "{\"path\":\"relative\"}", "--unique-key", key]);
        let first = bad("a");
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        let second = bad("b");
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        let holder = bad("a");
        home.run(&["jobs", "retry", &second, &first]).fails(&[&first, &holder, "unique key"]);
        assert_eq!(home.json(&["jobs", "show", &second])["status"], "dead", "all of them or none");
        let ended = home.run(&["jobs", "retry", "--status", "dead"]);
        assert_eq!((ended.status, ended.stdout.as_str()), (0, "Retried 1 jobs.\n"));
        assert!(ended.stderr.starts_with("note: 1 jobs stay as they are") && ended.stderr.lines().count() == 1, "{ended:?}");
        assert_eq!(home.json(&["jobs", "show", &second])["status"], "queued");
        home.run(&["jobs", "retry", &holder]).fails(&["cannot be retried", "queued"]);

        home.run(&["jobs", "cancel", &second]).prints("Cancelled 1 jobs.\n");
        home.run(&["jobs", "retry", "--name", "clear_expired"]).says_no("Retried 0 jobs.\n");
        home.run(&["jobs", "retry", "--status", "cancelled", "--queue", "default", "--json"]).prints("{\"retried\":1}\n");
        home.run(&["jobs", "retry", "019aabcd-0000-7000-8000-000000000000"]).says_no("Retried 0 jobs.\n");
    }

    fn cancel_ends_queued_jobs_at_once(home) {
        let first = home.enqueue(&["clear_expired"]);
        let second = home.enqueue(&["clear_expired", "--delay", "1h"]);
        let third = home.enqueue(&["prune_jobs", "--queue", "other"]);
        home.run(&["jobs", "cancel", &first, &second, &first]).prints("Cancelled 2 jobs.\n");
        home.run(&["jobs", "cancel", &first]).says_no("Cancelled 0 jobs.\n");
        home.run(&["jobs", "cancel", "--status", "running"]).says_no("Cancelled 0 jobs.\n");
        home.run(&["jobs", "cancel", "--queue", "default"]).says_no("Cancelled 0 jobs.\n");
        home.run(&["jobs", "cancel", "--status", "queued", "--name", "prune_jobs", "--json"]).prints("{\"cancelled\":1}\n");
        let job = home.json(&["jobs", "show", &third]);
        assert_eq!((&job["status"], &job["cancelled_at"]), (&"cancelled".into(), &job["finished_at"]));
        assert!(job["cancelled_at"].is_string());
    }

    fn what_is_not_retried_or_cancelled_is_refused(home) {
        let id = home.enqueue(&["clear_expired"]);
        for (arguments, parts) in [
            (&["retry"][..], ["--status dead", "ids"]),
            (&["cancel"], ["--status queued", "ids"]),
            (&["retry", "--status", "queued"], ["queued", "dead or cancelled"]),
            (&["retry", "--status", "done"], ["done", "dead or cancelled"]),
            (&["cancel", "--status", "dead"], ["dead", "queued or running"]),
            (&["cancel", "--status", "nonsense"], ["nonsense", "queued or running"]),
            (&["cancel", "42"], ["42", "not an id"]),
            (&["retry", &id, "--status", "dead"], ["--status", "cannot be used with"]),
            (&["cancel", &id, "--queue", "default"], ["--queue", "cannot be used with"]),
            (&["cancel", "--queue", ""], ["--queue", "empty"]),
        ] {
            home.run(&[&["jobs"], arguments].concat()).fails(&parts);
        }
        assert_eq!(home.json(&["jobs", "show", &id])["status"], "queued");
    }

    fn prune_keeps_the_newest_of_each_status(home) {
        for _ in 0..3 {
            home.enqueue(&["clear_expired"]);
        }
        home.enqueue(&["file_digest", "{\"path\":\"relative\"}"]);
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        home.run(&["jobs", "prune", "--keep", "2"]).prints("1\n");
        let mut as_set = home.larder();
        as_set.env("LARDER_JOBS__MAX_DONE", "1").env("LARDER_JOBS__MAX_DEAD", "1").args(["jobs", "prune"]);
        crate::support::Ended::of(&mut as_set).prints("1\n");
        home.run(&["jobs", "prune", "--keep", "0", "--status", "done"]).prints("1\n");
        assert_eq!(lines(home, &["jobs", "list", "--status", "dead"]).len(), 2);
    }

    fn prune_deletes_finished_jobs_and_prints_how_many(home) {
        home.enqueue(&["clear_expired"]);
        home.enqueue(&["file_digest", "{\"path\":\"relative\"}"]);
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        let waiting = home.enqueue(&["clear_expired", "--delay", "1h"]);
        home.run(&["jobs", "prune"]).says_no("0\n");
        home.run(&["jobs", "prune", "--older-than", "1h"]).says_no("0\n");
        home.run(&["jobs", "prune", "--older-than", "0", "--status", "cancelled"]).says_no("0\n");
        home.run(&["jobs", "prune", "--older-than", "0", "--status", "dead"]).prints("1\n");
        let mut keep_none = home.larder();
        home.run(&["jobs", "prune", "--keep", "1"]).says_no("0\n");
        keep_none.env("LARDER_JOBS__KEEP_DONE", "1ms").args(["jobs", "prune", "--json"]);
        crate::support::Ended::of(&mut keep_none).prints("1\n");
        assert_eq!(home.json(&["jobs", "list"])[0]["id"], waiting.as_str());
    }
}

#[test]
fn names_are_those_of_the_binary_and_open_no_database() {
    let home = Home::sqlite();
    home.run(&["jobs", "names"])
        .prints("clear_expired\nfetch_url\nfile_digest\nprune_jobs\nrun_command\n");
    assert_eq!(
        home.json(&["jobs", "names"]),
        serde_json::json!([
            "clear_expired",
            "fetch_url",
            "file_digest",
            "prune_jobs",
            "run_command"
        ])
    );
    assert!(!home.path("test.db").exists());
}
