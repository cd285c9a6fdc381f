//! A `larder.toml` that changes under a worker at work.

use std::fs;

use crate::support::{Daemon, Home, both_engines, text, wait_until};

const CHANGED: &str = "the schedule has changed";

fn secondly(name: &str) -> String {
    format!("[schedule.{name}]\njob = \"clear_expired\"\ncron = \"* * * * * *\"\n")
}

/// Replaces the file as an editor does that writes another and renames it.
fn replace(home: &Home, text: impl AsRef<[u8]>) {
    let new = home.write("larder.toml.new", text);
    fs::rename(new, home.path("larder.toml")).unwrap();
}

/// Waits for the line that tells of a change, and returns it.
fn changed(worker: &mut Daemon) -> String {
    worker.wait_for(|line| line.contains(CHANGED))
}

fn fault(worker: &mut Daemon) -> String {
    worker.wait_for(|line| line.contains("stays as it was"))
}

fn entry(home: &Home, name: &str) -> Option<serde_json::Value> {
    let listed = home.json(&["schedule", "list"]);
    let mut entries = listed.as_array().unwrap().iter();
    entries.find(|entry| entry["name"] == name).cloned()
}

fn ticks(home: &Home, name: &str) -> bool {
    entry(home, name).is_some_and(|entry| entry["last_tick"].is_string())
}

both_engines! {
    fn entries_come_and_change_and_go_without_a_restart(home) {
        home.write("larder.toml", secondly("one"));
        let mut worker = Daemon::start(home.larder().arg("worker"));
        wait_until("it ticks", || ticks(home, "one"));
        // In place, and by a rename.
        home.write("larder.toml", secondly("one") + &secondly("two"));
        assert!(changed(&mut worker).contains("changes=\"added two\""), "{:#?}", worker.log);
        wait_until("it ticks", || ticks(home, "two"));
        replace(home, "[schedule.two]\njob = \"clear_expired\"\ncron = \"@yearly\"\nenabled = false\n");
        assert!(changed(&mut worker).contains("changes=\"removed one, changed two\""), "{:#?}", worker.log);
        let two = entry(home, "two").unwrap();
        assert_eq!((&two["enabled"], &two["definition"]), (&false.into(), &"same".into()));
        assert!(entry(home, "one").is_none(), "what was removed is gone");
        let jobs_of_one = || {
            let jobs = home.json(&["jobs", "list", "--limit", "0"]);
            jobs.as_array().unwrap().iter().filter(|job| job["schedule"] == "one").count()
        };
        let last = jobs_of_one();
        replace(home, secondly("three"));
        assert!(changed(&mut worker).contains("changes=\"removed two, added three\""), "{:#?}", worker.log);
        wait_until("it ticks", || ticks(home, "three"));
        assert_eq!(jobs_of_one(), last, "what was removed does not tick");
        worker.signal("-TERM");
        assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log);
    }

    fn commands_and_queues_change_without_a_restart(home) {
        home.write("larder.toml", "[commands.one]\nargv = [\"echo\", \"1\"]\n");
        let mut worker = Daemon::start(home.larder().arg("worker"));
        let two = ["enqueue", "run_command", "{\"command\":\"two\"}", "--queue", "narrow", "--wait=60s"];
        assert_eq!(home.run(&two).status, 1, "there is no such command yet");
        replace(home, "[queues.narrow]\nrate = { limit = 2, per = \"1h\" }\n[commands.two]\nargv = [\"echo\", \"2\"]\n");
        worker.wait_for(|line| line.contains("limits have changed"));
        home.run(&two).prints("2\n");
        home.run(&two).prints("2\n");
        // The rate is used up, but for what it is raised by.
        let third = home.enqueue(&two[1..5]);
        replace(home, "[queues.narrow]\nrate = { limit = 3, per = \"1h\" }\n[commands.two]\nargv = [\"echo\", \"3\"]\n");
        wait_until("it is done", || home.json(&["jobs", "show", &third])["result"] == 3);
        worker.signal("-TERM");
        assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log);
    }

    fn a_bad_change_keeps_the_schedule_and_is_told_once(home) {
        home.write("larder.toml", secondly("one"));
        let mut worker = Daemon::start(home.larder().arg("worker"));
        for (bad, parts) in [
            ("[schedule.one\njob", vec!["larder.toml:1:14", "invalid TOML"]),
            ("[schedule.one]\njob = \"clear_expired\"\ncron = \"0 24 * * *\"", vec!["larder.toml:3", "column 3", "0 to 23"]),
            ("[schedule.one]\njob = \"clear_exipred\"\ncron = \"@daily\"", vec!["[schedule.one] in larder.toml:1", "clear_exipred", "clear_expired, "]),
            ("[schedule.one]\njob = \"file_digest\"\ncron = \"@daily\"\npayload = { path = \"/{tick:%Q}\" }", vec!["[schedule.one] in larder.toml:1", "{tick:%Q}"]),
            ("[schedule.one]\ncorn = \"@daily\"", vec!["larder.toml:2", "did you mean `cron`"]),
        ] {
            replace(home, bad);
            let line = fault(&mut worker);
            for part in parts {
                assert!(line.contains(part), "{part} is not in {line}");
            }
            assert!(line.contains("ERROR"), "{line}");
            // The same fault, written anew, is no news.
            replace(home, format!("{bad}\n\n"));
        }
        fs::remove_file(home.path("larder.toml")).unwrap();
        assert!(fault(&mut worker).contains("cannot read larder.toml"), "{:#?}", worker.log);
        let last = entry(home, "one").unwrap()["last_tick"].clone();
        wait_until("the old schedule goes on", || entry(home, "one").unwrap()["last_tick"] != last);
        home.write("larder.toml", secondly("one") + &secondly("two"));
        worker.wait_for(|line| line.contains("larder.toml is good again"));
        changed(&mut worker);
        wait_until("it ticks", || ticks(home, "two"));
        worker.signal("-TERM");
        assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log);
        let told = worker.log.iter().filter(|line| line.contains("stays as it was")).count();
        assert_eq!(told, 6, "{:#?}", worker.log);
        assert_eq!(worker.log.iter().filter(|line| line.contains(CHANGED)).count(), 1, "{:#?}", worker.log);
    }
}

#[test]
fn a_file_that_appears_later_is_picked_up() {
    let home = Home::sqlite();
    let mut worker = Daemon::start(home.larder().arg("worker"));
    home.write("larder.toml", secondly("one"));
    assert!(changed(&mut worker).contains("added one"));
    wait_until("it ticks", || ticks(&home, "one"));
}

#[test]
fn the_links_of_a_config_map_are_followed() {
    use std::os::unix::fs::symlink;

    let home = Home::sqlite();
    // As Kubernetes mounts it: the file is a link through `..data`, which is replaced as a whole.
    for (folder, name) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(home.path(folder)).unwrap();
        home.write(&format!("{folder}/larder.toml"), secondly(name));
    }
    symlink("..1", home.path("..data")).unwrap();
    symlink("..data/larder.toml", home.path("mounted.toml")).unwrap();
    let mounted = home.path("mounted.toml");
    // By the variable here, by the flag below.
    for arguments in [&["worker"][..], &["--config", text(&mounted), "worker"]] {
        let mut command = home.larder();
        if arguments.len() == 1 {
            command.env("LARDER_CONFIG", &mounted);
        }
        let mut worker = Daemon::start(command.args(arguments));
        let now = fs::read_link(home.path("..data")).unwrap();
        let (next, added) = match now.to_str() {
            Some("..1") => ("..2", "added two"),
            _ => ("..1", "added one"),
        };
        symlink(next, home.path("..data_tmp")).unwrap();
        fs::rename(home.path("..data_tmp"), home.path("..data")).unwrap();
        let line = changed(&mut worker);
        assert!(line.contains(added), "{line}");
    }
}

#[test]
fn what_waits_for_a_restart_is_named_without_its_value_and_the_environment_stays_over_the_file() {
    let home = Home::sqlite();
    let database = "[database]\nurl = \"sqlite://test.db\"\n\n";
    home.write("larder.toml", database.to_owned() + &secondly("one"));
    let mut worker = Daemon::start(
        home.larder()
            .arg("worker")
            .env_remove("LARDER_DATABASE_URL")
            .env("LARDER_SCHEDULE__ONE__CRON", "@yearly")
            .env("LARDER_WORKER__CONCURRENCY", "3"),
    );
    replace(
        &home,
        database.to_owned()
            + "[worker]\nconcurrency = 5\nheartbeat = \"2s\"\n\n[cache]\nmax_value_bytes = \"1MiB\"\n\n"
            + &secondly("one")
            + &secondly("two"),
    );
    let line = worker.wait_for(|line| line.contains("restart the worker"));
    let named = "settings=\"cache.max_value_bytes, worker.heartbeat\"";
    assert!(line.contains(named), "{line}");
    assert!(changed(&mut worker).contains("changes=\"added two\""));
    assert_eq!(
        worker
            .log
            .iter()
            .filter(|line| line.contains("restart"))
            .count(),
        1
    );
    wait_until("it ticks", || ticks(&home, "two"));
    assert!(!ticks(&home, "one"), "its expression is the environment's");
    // A password is no line of a log.
    replace(
        &home,
        "[database]\nurl = \"postgres://u:s3cret@h/db\"\n\n".to_owned() + &secondly("one"),
    );
    let line = worker.wait_for(|line| line.contains("restart the worker"));
    assert!(line.contains("settings=\"database.url\""), "{line}");
    worker.signal("-TERM");
    worker.ended();
    assert!(!worker.log.concat().contains("s3cret"), "{:#?}", worker.log);
}
