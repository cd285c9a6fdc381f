//! `larder enqueue`.

use std::time::{Duration, Instant};

use crate::support::{Daemon, both_engines, text};

both_engines! {
    fn enqueue_prints_the_id(home) {
        let id = home.enqueue(&["clear_expired"]);
        let job = home.json(&["jobs", "show", &id]);
        assert_eq!(job["id"], id.as_str());
        assert_eq!((&job["name"], &job["queue"], &job["status"]), (&"clear_expired".into(), &"default".into(), &"queued".into()));
        assert_eq!((&job["priority"], &job["max_attempts"], &job["attempt"]), (&0.into(), &20.into(), &0.into()));
        assert_eq!(job["payload"], serde_json::json!({}));
    }

    fn options_are_the_jobs(home) {
        let enqueued = home.json(&[
            "enqueue", "clear_expired", "{ }", "--queue", "slow", "--priority", "-5", "--at", "2100-01-01T01:00:00+01:00",
            "--max-attempts", "3", "--unique-key", "k",
        ]);
        assert_eq!(enqueued["inserted"], true);
        let job = home.json(&["jobs", "show", enqueued["id"].as_str().unwrap()]);
        assert_eq!((&job["queue"], &job["priority"], &job["max_attempts"]), (&"slow".into(), &(-5).into(), &3.into()));
        assert_eq!((&job["unique_key"], &job["run_at"]), (&"k".into(), &"2100-01-01T00:00:00Z".into()));

        let again = home.json(&["enqueue", "clear_expired", "--unique-key", "k"]);
        assert_eq!((&again["inserted"], &again["id"]), (&false.into(), &enqueued["id"]));
        assert_eq!(home.enqueue(&["clear_expired", "--unique-key", "k"]), enqueued["id"].as_str().unwrap());

        let delayed = home.json(&["jobs", "show", &home.enqueue(&["clear_expired", "--delay", "1h"])]);
        assert!(delayed["run_at"].as_str() > delayed["created_at"].as_str());
    }

    fn a_payload_comes_from_a_file_or_from_standard_input(home) {
        let file = home.write("payload.json", "{ \"path\": \"/a\" }\n");
        let id = home.enqueue(&["file_digest", &format!("@{}", text(&file))]);
        assert!(home.run(&["jobs", "show", &id]).stdout.contains("payload: { \"path\": \"/a\" }\n"));
        let ended = home.run_with_input(&["enqueue", "file_digest", "-"], b"{\"path\":\"/b\"}");
        let job = home.json(&["jobs", "show", ended.stdout.trim()]);
        assert_eq!(job["payload"]["path"], "/b");
    }

    fn wait_prints_the_result(home) {
        let file = home.write("text", "one\ntwo\n");
        let payload = format!("{{\"path\":{:?}}}", text(&file));
        let _worker = Daemon::start(home.larder().arg("worker"));
        let ended = home.run(&["enqueue", "file_digest", &payload, "--wait"]);
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{ended:?}");
        assert!(ended.stdout.starts_with("{\"bytes\":8,\"lines\":2,\"sha256\":\""), "{ended:?}");
        home.run(&["enqueue", "clear_expired", "--wait=60s", "--json"]).prints("{\"deleted\":0}\n");
    }

    fn wait_tells_of_a_job_that_ended_dead(home) {
        let _worker = Daemon::start(home.larder().arg("worker"));
        home.run(&["enqueue", "file_digest", "{\"path\":\"relative\"}", "--wait=60s"])
            .fails_with(1, &["dead", "relative is not an absolute path"]);
    }

    fn wait_ends_at_its_limit_with_the_id(home) {
        let started = Instant::now();
        let ended = home.run(&["enqueue", "clear_expired", "--wait=150ms"]);
        assert!(started.elapsed() >= Duration::from_millis(150));
        let jobs = home.json(&["jobs", "list"]);
        ended.fails(&[jobs[0]["id"].as_str().unwrap(), "queued", "150ms", "no live worker knows clear_expired"]);
    }
}
