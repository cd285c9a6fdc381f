//! `larder call`.

use chrono::{DateTime, TimeDelta, Utc};

use crate::support::{Daemon, both_engines, text, wait_until};

/// A command that says which run it is.
const COUNT: &str = "[commands.count]\nargv = [\"sh\", \"-c\", \"echo run >> runs; echo run $(wc -l < runs)\"]\n\
    fresh_for = \"1h\"\n";

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
    fn a_stale_result_of_a_command_is_given_while_it_is_refreshed(home) {
        home.write("larder.toml", format!("{COUNT}stale_for = \"2h\"\n"));
        let call = || home.run(&["call", "run_command", r#"{"command":"count"}"#]);
        let mut worker = Daemon::start(home.larder().arg("worker"));
        call().prints("\"run 1\"\n");
        let key = home.run(&["cache", "keys"]).stdout;
        let info = || home.json(&["cache", "get", key.trim(), "--info"]);
        let instant = |name: &str| DateTime::parse_from_rfc3339(info()[name].as_str().unwrap()).unwrap();
        assert_eq!(instant("expires_at") - instant("stale_at"), TimeDelta::hours(2));
        // No worker is there to refresh it.
        worker.signal("-TERM");
        worker.ended();
        home.execute("UPDATE {}cached_item SET stale_at = created_at");
        for _ in 0..2 {
            call().prints("\"run 1\"\n");
        }
        let queued = home.json(&["jobs", "list", "--status", "queued"]);
        assert_eq!((queued.as_array().unwrap().len(), &queued[0]["id"]), (1, &info()["job_id"]));
        let _worker = Daemon::start(home.larder().arg("worker"));
        wait_until("it is refreshed", || call().stdout == "\"run 2\"\n");
    }

    fn what_is_cleared_is_made_anew_where_that_is_asked_for(home) {
        home.write("larder.toml", COUNT);
        let _worker = Daemon::start(home.larder().arg("worker"));
        home.run(&["call", "run_command", r#"{"command":"count"}"#]).prints("\"run 1\"\n");
        let key = home.run(&["cache", "keys"]).stdout;
        let key = key.trim();
        home.run(&["cache", "delete", key, "--rewarm"]).prints("Deleted 1 cache items, enqueued 1 jobs.\n");
        wait_until("it is there again", || home.run(&["cache", "get", key]).stdout == "\"run 2\"\n");
        home.execute(&format!("INSERT INTO {{}}cached_item_link (namespace, kind, name, key) VALUES ('', 'tag', 'counts', '{key}')"));
        home.execute("UPDATE {}cached_item SET linked = TRUE");
        home.run(&["cache", "clear-tag", "counts", "--rewarm", "--json"]).prints("{\"deleted\":1,\"enqueued\":1}\n");
        wait_until("it is there once more", || home.run(&["cache", "get", key]).stdout == "\"run 3\"\n");
        home.run(&["cache", "clear-tag", "counts", "--rewarm"]).says_no("Deleted 0 cache items, enqueued 0 jobs.\n");
        home.run(&["cache", "delete", "none", "--rewarm", "--json"]).says_no("{\"deleted\":0,\"enqueued\":0}\n");
    }
    /// The job that is joined has kept its result before the invalidation, and its outcome is written after it.
    fn call_prints_nothing_that_a_job_knew_before_the_last_invalidation(home) {
        home.write("larder.toml", COUNT);
        home.run(&["cache", "keys"]).prints("");
        // To PostgreSQL it may go well later. SQLite knows no such refusal, and what is refused for good ends as dead: that
        // goes on being refused.
        home.execute(if home.is_sqlite() {
            "CREATE TRIGGER held BEFORE UPDATE ON job WHEN NEW.status = 'done' BEGIN SELECT RAISE(ABORT, 'held'); END; \
             CREATE TRIGGER dead BEFORE UPDATE ON job WHEN NEW.status = 'dead' BEGIN SELECT RAISE(ABORT, 'dead'); END"
        } else {
            "CREATE FUNCTION {}held() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'held' USING ERRCODE = '40001'; END $$; \
             CREATE TRIGGER held BEFORE UPDATE ON {}job FOR EACH ROW WHEN (NEW.status = 'done') EXECUTE FUNCTION {}held()"
        });
        let _worker = Daemon::start(home.larder().arg("worker"));
        let call = ["call", "run_command", r#"{"command":"count"}"#];
        home.run(&[call.as_slice(), &["--timeout", "0"]].concat()).fails(&["is still"]);
        let key = || home.run(&["cache", "keys"]).stdout;
        wait_until("the result is kept", || !key().is_empty());
        home.run(&["cache", "delete", key().trim()]).prints("Deleted 1 cache items.\n");
        let mut caller = Daemon::spawn(home.larder().args(call));
        // It joins the job that holds the key.
        home.run(&[call.as_slice(), &["--timeout", "200ms"]].concat()).fails(&["is still running"]);
        home.execute(if home.is_sqlite() { "DROP TRIGGER held" } else { "DROP TRIGGER held ON {}job" });
        assert!(caller.ended().success(), "{:?}", caller.log);
        assert_eq!(caller.stdout(), "\"run 2\"\n");
    }
    fn a_worker_holds_a_key_for_as_long_as_the_settings_say(home) {
        let argv = "argv = [\"sh\", \"-c\", \"while test -e slow; do sleep 0.05; done\"]";
        home.write("larder.toml", format!("[cache]\nlease = \"3s\"\n[commands.waits]\n{argv}\nfresh_for = \"1h\"\nstale_for = \"1h\"\n"));
        let _worker = Daemon::start(home.larder().arg("worker"));
        let call = || home.run(&["call", "run_command", r#"{"command":"waits"}"#]).prints("\"\"\n");
        call();
        let key = home.run(&["cache", "keys"]).stdout;
        let lease = || home.json(&["cache", "get", key.trim(), "--info"])["lease"].as_str().map(str::to_owned);
        assert_eq!(lease(), None);
        home.execute("UPDATE {}cached_item SET stale_at = created_at");
        home.write("slow", "");
        call();
        wait_until("it is refreshed", || lease().is_some());
        let left = DateTime::parse_from_rfc3339(&lease().unwrap()).unwrap().to_utc() - Utc::now();
        assert!(left < TimeDelta::seconds(4), "{left}");
        std::fs::remove_file(home.path("slow")).unwrap();
        wait_until("it is over", || lease().is_none());
    }
}
