//! `larder call`.

use crate::support::{Daemon, both_engines, text};

both_engines! {
    fn call_prints_what_a_worker_computes_and_then_what_is_remembered(home) {
        let file = home.write("text", "one\ntwo\n");
        let payload = format!("{{\"path\":{:?}}}", text(&file));
        let worker = Daemon::start(home.larder().arg("worker"));
        let ended = home.run(&["call", "file_digest", &payload]);
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{ended:?}");
        assert!(ended.stdout.starts_with("{\"bytes\":8,\"lines\":2,\"sha256\":\""), "{ended:?}");
        drop(worker);
        home.run(&["call", "file_digest", &payload, "--timeout", "0"]).prints(&ended.stdout);
        home.run_with_input(&["call", "file_digest", "-", "--json"], payload.as_bytes()).prints(&ended.stdout);

        let jobs = home.json(&["jobs", "list"]);
        assert_eq!(jobs.as_array().unwrap().len(), 1, "{jobs}");
        let keys = home.run(&["cache", "keys", "--prefix", "file_digest:"]).stdout;
        let info = home.json(&["cache", "get", keys.trim(), "--info"]);
        assert_eq!((&info["job_id"], &info["last_error"]), (&jobs[0]["id"], &().into()));
    }

    fn a_command_that_gives_fresh_for_is_run_once_for_each_input(home) {
        home.write("larder.toml", "[commands.count]\nargv = [\"sh\", \"-c\", \"echo run >> runs; cat\"]\nfresh_for = \"1h\"\n");
        let _worker = Daemon::start(home.larder().arg("worker"));
        for input in ["[1.0]", "[2]", "[1.0]"] {
            let payload = format!("{{\"command\":\"count\",\"input\":{input}}}");
            home.run(&["call", "run_command", &payload]).prints(&format!("{input}\n"));
        }
        assert_eq!(std::fs::read_to_string(home.path("runs")).unwrap(), "run\nrun\n");
        assert_eq!(home.json(&["jobs", "list"]).as_array().unwrap().len(), 2);
    }

    fn call_tells_of_a_job_that_ended_dead(home) {
        let _worker = Daemon::start(home.larder().arg("worker"));
        home.run(&["call", "file_digest", "{\"path\":\"relative\"}", "--timeout", "60s"])
            .fails_with(1, &["dead", "relative is not an absolute path"]);
        home.run(&["call", "run_command", "{\"command\":\"none\"}"]).fails_with(1, &["dead", "there is no command \"none\""]);
    }

    fn call_ends_at_its_timeout_with_the_id_and_joins_the_job_that_there_is(home) {
        let file = home.write("text", "one\n");
        let payload = format!("{{\"path\":{:?}}}", text(&file));
        for _ in 0..2 {
            let ended = home.run(&["call", "file_digest", &payload, "--timeout", "150ms"]);
            let jobs = home.json(&["jobs", "list"]);
            assert_eq!(jobs.as_array().unwrap().len(), 1, "{jobs}");
            ended.fails(&[jobs[0]["id"].as_str().unwrap(), "queued", "150ms", "no live worker knows file_digest"]);
        }
        home.run(&["call", "file_digset", &payload]).fails(&["\"file_digset\"", "file_digest"]);
        home.run(&["call", "file_digest"]).fails(&["\"file_digest\"", "path"]);
    }
}
