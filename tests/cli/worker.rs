//! `larder worker` as it ships.

use crate::support::{Daemon, both_engines, text, wait_until};

both_engines! {
    fn the_daemon_is_ready_and_drains_at_sigterm(home) {
        for signal in ["-TERM", "-INT"] {
            let mut worker = Daemon::spawn(home.larder().arg("worker"));
            let ready = worker.wait_for(|line| line.starts_with("ready"));
            let engine = if home.is_sqlite() { "engine=sqlite" } else { "engine=postgres" };
            assert!(ready.contains(engine) && ready.contains("queues=all"), "{ready}");
            worker.signal(signal);
            assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log);
            let ready = worker.log.iter().filter(|line| line.contains("ready")).count();
            assert_eq!(ready, 1, "{:#?}", worker.log);
            assert_eq!(worker.stdout(), "");
        }
    }

    fn the_ready_line_comes_whatever_is_logged(home) {
        let mut worker = Daemon::start(home.larder().args(["worker", "--no-listen"]).env("RUST_LOG", "off"));
        worker.signal("-TERM");
        assert_eq!(worker.ended().code(), Some(0));
        assert_eq!(worker.log.len(), 1, "{:#?}", worker.log);
    }

    fn once_runs_what_is_ready_and_ends(home) {
        let (now, later) = (home.enqueue(&["clear_expired"]), home.enqueue(&["clear_expired", "--delay", "1h"]));
        let other = home.enqueue(&["clear_expired", "--queue", "other"]);
        let worker = home.run(&["worker", "--once", "--queues", "default,another", "--concurrency", "2"]);
        assert_eq!(worker.status, 0, "{worker:?}");
        assert_eq!(worker.stdout, "");
        assert!(worker.stderr.lines().any(|line| line.contains("purged expired cache items")), "{worker:?}");
        assert_eq!(home.json(&["jobs", "show", &now])["status"], "done");
        assert_eq!(home.json(&["jobs", "show", &later])["status"], "queued");
        assert_eq!(home.json(&["jobs", "show", &other])["status"], "queued");
    }

    fn jobs_of_another_process_are_run_as_they_come(home) {
        let file = home.write("text", "one\n");
        let worker = Daemon::start(home.larder().arg("worker"));
        let id = home.enqueue(&["file_digest", &format!("{{\"path\":{:?}}}", text(&file))]);
        wait_until("the job is done", || home.json(&["jobs", "show", &id])["status"] == "done");
        let job = home.json(&["jobs", "show", &id]);
        assert_eq!((&job["attempt"], &job["result"]["lines"]), (&1.into(), &1.into()));
        assert!(job["worker"].is_string() && job["finished_at"].is_string());
        drop(worker);
    }

    fn retention_and_attempts_are_those_of_the_settings(home) {
        home.write("larder.toml", "[jobs]\nmax_attempts = 1\nkeep_done = \"1ms\"\nkeep_dead = \"1d\"\n");
        let missing = home.enqueue(&["file_digest", "{\"path\":\"/no/such/file\"}"]);
        let done = home.enqueue(&["clear_expired"]);
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        let dead = home.json(&["jobs", "show", &missing]);
        assert_eq!((&dead["status"], &dead["max_attempts"]), (&"dead".into(), &1.into()));
        home.enqueue(&["prune_jobs"]);
        assert_eq!(home.run(&["worker", "--once"]).status, 0);
        home.run(&["jobs", "show", &done]).says_no("");
        assert_eq!(home.run(&["jobs", "show", &missing]).status, 0);
    }
}
