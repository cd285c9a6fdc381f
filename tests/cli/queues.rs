//! `larder queues …`, and the limits of jobs.

use crate::support::{Daemon, both_engines};

both_engines! {
    fn pausing_and_resuming_answer_yes_and_then_no(home) {
        home.run(&["queues", "resume", "mail"]).says_no("");
        home.run(&["queues", "pause", "mail"]).prints("");
        home.run(&["queues", "pause", "mail"]).says_no("");
        // One of them was paused already; the other is paused now.
        home.run(&["queues", "pause", "mail", "slow"]).says_no("");
        let stats = home.json(&["jobs", "stats"]);
        assert_eq!(stats["paused"], serde_json::json!(["mail", "slow"]));
        assert!(home.run(&["jobs", "stats"]).stdout.ends_with("Paused: mail, slow\n"));
        home.run(&["queues", "resume", "mail", "slow"]).prints("");
        home.run(&["queues", "resume", "slow"]).says_no("");
        assert!(!home.run(&["jobs", "stats"]).stdout.contains("Paused"));
    }

    fn list_tells_how_queues_stand_and_what_holds_for_them(home) {
        home.write("larder.toml", "[queues.mail]\nmax_running = 4\nrate = { limit = 100, per = \"90s\" }\n[queues.rare]\n");
        home.enqueue(&["clear_expired", "--queue", "mail"]);
        home.enqueue(&["clear_expired", "--queue", "mail", "--limit-key", "k"]);
        home.enqueue(&["clear_expired", "--delay", "1h"]);
        home.run(&["queues", "pause", "mail"]).prints("");
        let queues = home.json(&["queues", "list"]);
        let since = queues[1]["paused_at"].as_str().unwrap().to_owned();
        assert_eq!(queues, serde_json::json!([
            {"name": "default", "paused_at": null, "ready": 0, "waiting": 1, "running": 0, "max_running": null, "rate": null},
            {"name": "mail", "paused_at": since, "ready": 2, "waiting": 0, "running": 0, "max_running": 4,
                "rate": {"limit": 100, "per": "1m30s"}},
            {"name": "rare", "paused_at": null, "ready": 0, "waiting": 0, "running": 0, "max_running": null, "rate": null},
        ]));
        let plain = home.run(&["queues", "list"]).stdout;
        let rows: Vec<Vec<_>> = plain.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["NAME", "STATE", "SINCE", "READY", "WAITING", "RUNNING", "MAX_RUNNING", "RATE"]);
        assert_eq!(rows[1], ["default", "active", "-", "0", "1", "0", "-", "-"]);
        assert_eq!(rows[2], ["mail", "paused", &since, "2", "0", "0", "4", "100/1m30s"]);
        assert_eq!(rows.len(), 4);
    }

    fn a_worker_leaves_a_paused_queue_alone_until_it_is_resumed(home) {
        home.run(&["queues", "pause", "default"]).prints("");
        let id = home.enqueue(&["clear_expired"]);
        let _worker = Daemon::start(home.larder().arg("worker"));
        let other = home.run(&["enqueue", "clear_expired", "--queue", "other", "--wait=60s"]);
        assert_eq!(other.status, 0, "{other:?}");
        assert_eq!(home.json(&["jobs", "show", &id])["status"], "queued");
        home.run(&["queues", "resume", "default"]).prints("");
        let next = home.run(&["enqueue", "clear_expired", "--wait=60s"]);
        assert_eq!(next.status, 0, "{next:?}");
        assert_eq!(home.json(&["jobs", "show", &id])["status"], "done");
    }

    fn once_drains_a_queue_with_limits(home) {
        home.write("larder.toml", "[queues.default]\nmax_running = 1\nrate = { limit = 2, per = \"100ms\" }\n");
        for _ in 0..3 {
            home.enqueue(&["clear_expired"]);
            home.enqueue(&["clear_expired", "--limit-key", "k", "--max-running", "2"]);
        }
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        let jobs = home.json(&["jobs", "list", "--status", "done"]);
        assert_eq!(jobs.as_array().unwrap().len(), 6);
    }
}
