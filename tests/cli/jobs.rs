//! `larder jobs …`.

use larder::Queue;
use larder::queue::NewJob;
use serde_json::value::RawValue;

use crate::support::{Home, both_engines};

const FIELDS: [&str; 18] = [
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
        let job = home.json(&["jobs", "show", &id]);
        assert_eq!(job.as_object().unwrap().len(), FIELDS.len());
        assert_eq!(home.json(&["jobs", "list"])[0], job);
        let plain = lines(home, &["jobs", "show", &id]);
        let names: Vec<_> = plain.iter().map(|line| line.split_once(": ").unwrap().0).collect();
        assert_eq!(names[..18], FIELDS);
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
        keep_none.env("LARDER_JOBS__KEEP_DONE", "1ms").args(["jobs", "prune", "--json"]);
        crate::support::Ended::of(&mut keep_none).prints("1\n");
        assert_eq!(home.json(&["jobs", "list"])[0]["id"], waiting.as_str());
    }
}

#[test]
fn names_are_those_of_the_binary_and_open_no_database() {
    let home = Home::sqlite();
    home.run(&["jobs", "names"])
        .prints("clear_expired\nfile_digest\nprune_jobs\nrun_command\n");
    assert_eq!(
        home.json(&["jobs", "names"]),
        serde_json::json!(["clear_expired", "file_digest", "prune_jobs", "run_command"])
    );
    assert!(!home.path("test.db").exists());
}
