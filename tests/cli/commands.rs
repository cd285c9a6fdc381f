//! Commands that `larder.toml` names, run by the real worker.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Daemon, Ended, Home, both_engines, text, wait_until};

/// Says who it is and who its child is, and stays.
const STAYS: &str =
    "echo $$ > pid.new; sleep 600 & echo $! > child.new; mv pid.new pid; mv child.new child; wait";

/// `[commands.NAME]` that runs `script` by the shell.
fn shell(name: &str, script: &str, more: &str) -> String {
    format!("[commands.{name}]\nargv = [\"sh\", \"-c\", {script:?}]\n{more}\n")
}

/// Few attempts and no waits between them, and the commands.
fn settings(home: &Home, commands: &[String]) {
    let jobs = "[jobs]\nmax_attempts = 2\nbackoff = { base = \"1ms\", cap = \"1ms\" }\n";
    home.write("larder.toml", format!("{jobs}{}", commands.concat()));
}

fn enqueue(home: &Home, payload: &str) -> String {
    home.enqueue(&["run_command", payload])
}

fn enqueue_once(home: &Home, payload: &str) -> String {
    home.enqueue(&["run_command", payload, "--max-attempts", "1"])
}

fn show(home: &Home, id: &str) -> Value {
    home.json(&["jobs", "show", id])
}

fn once(home: &Home) {
    let worker = home.run(&["worker", "--once"]);
    assert_eq!(worker.status, 0, "{worker:?}");
}

/// The result of one run.
fn result(home: &Home, payload: &str) -> Value {
    let id = enqueue_once(home, payload);
    once(home);
    let job = show(home, &id);
    assert_eq!(job["status"], "done", "{job}");
    job["result"].clone()
}

/// The error of one run.
fn error(home: &Home, payload: &str) -> String {
    let id = enqueue_once(home, payload);
    once(home);
    let job = show(home, &id);
    assert_eq!(job["status"], "dead", "{job}");
    job["error"].as_str().unwrap().to_owned()
}

/// The process whose id a command wrote into the file `name`.
fn process(home: &Home, name: &str) -> String {
    let path = home.path(name);
    wait_until(&format!("{name} is written"), || path.exists());
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

/// Whether it runs; one that has ended may wait for somebody to ask for its status.
fn runs(process: &str) -> bool {
    let ps = Command::new("ps")
        .args(["-o", "stat=", "-p", process])
        .output()
        .unwrap();
    let state = String::from_utf8(ps.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

fn send(signal: &str, process: &str) {
    assert!(
        Command::new("kill")
            .args([signal, process])
            .status()
            .unwrap()
            .success()
    );
}

/// A worker that runs the command `stays`, and the ids of the command and of its child.
fn staying(home: &Home, worker: &mut Command) -> (Daemon, String, [String; 2]) {
    let worker = Daemon::start(worker);
    let id = enqueue(home, r#"{"command":"stays"}"#);
    let processes = ["pid", "child"].map(|name| process(home, name));
    for process in &processes {
        assert!(runs(process));
    }
    (worker, id, processes)
}

fn all_end(processes: &[String]) {
    for process in processes {
        wait_until(&format!("process {process} has ended"), || !runs(process));
    }
}

both_engines! {
    fn a_result_is_what_the_command_printed_as_json_or_else_as_a_string(home) {
        settings(home, &[
            "[commands.cat]\nargv = [\"cat\"]\n".to_owned(),
            shell("text", "echo 'all is well'; echo this is logged >&2", ""),
            shell("empty", "true", ""),
            shell("two", "printf '1\\n\\n'", ""),
        ]);
        let input = r#"{"a": [1.0, "\u00fc", null]}"#;
        let printed = result(home, &format!("{{\"command\":\"cat\",\"input\":{input}}}"));
        assert_eq!(printed, serde_json::from_str::<Value>(input).unwrap());
        assert_eq!(result(home, r#"{"command":"cat"}"#), "");
        assert_eq!(result(home, r#"{"command":"cat","input":null}"#), "");
        assert_eq!(result(home, r#"{"command":"cat","input":"word"}"#), "word");
        assert_eq!(result(home, r#"{"command":"text"}"#), "all is well");
        assert_eq!(result(home, r#"{"command":"empty"}"#), "");
        assert_eq!(result(home, r#"{"command":"two"}"#), 1);
    }

    fn a_command_that_fails_is_a_failed_attempt_with_its_status_and_the_end_of_its_stderr(home) {
        settings(home, &[
            shell("fails", "echo 'on stdout'; seq 10000 >&2; echo 'no such month' >&2; exit 3", ""),
            shell("killed", "kill -9 $$", ""),
            shell("latin", "printf 'caf\\351'", ""),
            "[commands.missing]\nargv = [\"./no-such-program\"]\n".to_owned(),
        ]);
        let id = enqueue(home, r#"{"command":"fails"}"#);
        once(home);
        let job = show(home, &id);
        assert_eq!((&job["status"], &job["attempt"]), (&"dead".into(), &2.into()));
        let failed = job["error"].as_str().unwrap();
        assert!(failed.starts_with("command \"fails\" exited with status 3; its stderr: …"), "{failed}");
        assert!(failed.ends_with("9999\n10000\nno such month"), "{failed}");
        assert!(failed.len() < 9_000 && !failed.contains("on stdout"), "{failed}");

        let failed = error(home, r#"{"command":"killed"}"#);
        assert_eq!(failed, "command \"killed\" was ended by signal: 9 (SIGKILL)");
        let failed = error(home, r#"{"command":"latin"}"#);
        assert!(failed.contains("not UTF-8, from byte 3 on"), "{failed}");
        let failed = error(home, r#"{"command":"missing"}"#);
        assert!(failed.contains("cannot be started: "), "{failed}");
        assert!(failed.contains("no-such-program: No such file or directory"), "{failed}");
    }

    fn a_command_that_the_file_does_not_name_is_dead_at_once(home) {
        settings(home, &[shell("one", "true", ""), shell("two", "true", "")]);
        for command in ["three", "sh", "/bin/true", ""] {
            let id = enqueue(home, &format!("{{\"command\":{command:?}}}"));
            once(home);
            let job = show(home, &id);
            assert_eq!((&job["status"], &job["attempt"]), (&"dead".into(), &1.into()), "{job}");
            let error = job["error"].as_str().unwrap();
            let expected = format!("there is no command {command:?}: choose one of one, two, or name it");
            assert!(error.starts_with(&expected), "{error}");
        }
        // Nothing but the name and the input can be said.
        let id = enqueue(home, r#"{"command":"one"}"#);
        once(home);
        assert_eq!(show(home, &id)["status"], "done");
        home.run(&["enqueue", "run_command", r#"{"command":"one","argv":["sh"]}"#]).fails(&["unknown field `argv`"]);
    }

    fn more_output_than_may_be_is_a_failed_attempt_that_ends_the_command(home) {
        settings(home, &[
            shell("endless", &format!("{STAYS} & yes"), "max_output = \"64KiB\""),
            shell("just", "head -c 1000 /dev/zero | tr '\\\\0' x", "max_output = 1000"),
            shell("over", "head -c 1001 /dev/zero | tr '\\\\0' x", "max_output = 1000"),
        ]);
        let failed = error(home, r#"{"command":"endless"}"#);
        assert!(failed.contains("wrote more than 65536 bytes to stdout: write less, or raise its max_output"), "{failed}");
        if home.path("child").exists() {
            all_end(&["pid", "child"].map(|name| process(home, name)));
        }
        assert_eq!(result(home, r#"{"command":"just"}"#).as_str().unwrap().len(), 1000);
        let failed = error(home, r#"{"command":"over"}"#);
        assert!(failed.contains("more than 1000 bytes"), "{failed}");
    }

    fn large_input_neither_blocks_nor_is_lost(home) {
        settings(home, &[
            "[commands.count]\nargv = [\"wc\", \"-c\"]\n".to_owned(),
            shell("reads-nothing", "true", ""),
            shell("talks-first", "seq 100000 >&2; seq 100000; wc -c", ""),
        ]);
        let large = "x".repeat(3 << 20);
        let payload = |command: &str| {
            let payload = format!("{{\"command\":\"{command}\",\"input\":\"{large}\"}}");
            result(home, &format!("@{}", text(&home.write("payload", payload))))
        };
        let count = payload("count");
        let count = count.as_i64().or_else(|| count.as_str()?.trim().parse().ok());
        assert_eq!(count, Some((3 << 20) + 2));
        assert_eq!(payload("reads-nothing"), "");
        let talked = payload("talks-first");
        assert!(talked.as_str().unwrap().trim_end().ends_with(&format!("{}", (3 << 20) + 2)));
    }

    fn a_fresh_result_is_found_and_a_failure_is_not_remembered(home) {
        let script = "echo run >> runs; test -e works || exit 1; cat";
        settings(home, &[
            shell("remembers", script, "fresh_for = \"1h\""),
            shell("forgets", script, ""),
        ]);
        let runs = || std::fs::read_to_string(home.path("runs")).unwrap().lines().count();
        let one = r#"{"command":"remembers","input":{"month":11}}"#;
        error(home, one);
        error(home, one);
        assert_eq!(runs(), 2);
        home.write("works", "");
        for _ in 0..3 {
            assert_eq!(result(home, one), serde_json::json!({"month": 11}));
            assert_eq!(runs(), 3);
        }
        assert_eq!(result(home, r#"{"command":"remembers","input":{"month":12}}"#)["month"], 12);
        assert_eq!(runs(), 4);
        let keys = home.run(&["cache", "keys", "--prefix", "run_command:remembers:"]).stdout;
        assert_eq!(keys.lines().count(), 2, "{keys}");
        let left: i64 = home.run(&["cache", "ttl", keys.lines().next().unwrap()]).stdout.trim().parse().unwrap();
        assert!((3_500..=3_600).contains(&left), "{left}");
        // Another argv is another command.
        settings(home, &[shell("remembers", &format!("{script}; true"), "fresh_for = \"1h\"")]);
        result(home, one);
        assert_eq!(runs(), 5);
        settings(home, &[shell("forgets", script, "")]);
        for _ in 0..2 {
            result(home, r#"{"command":"forgets"}"#);
        }
        assert_eq!(runs(), 7);
    }

    fn a_result_that_the_cache_does_not_take_is_still_a_result(home) {
        let cache = "[cache]\nmax_value_bytes = 10\n".to_owned();
        settings(home, &[cache, shell("long", "echo run >> runs; echo far longer than ten bytes", "fresh_for = \"1h\"")]);
        for run in 1..=2 {
            let id = enqueue(home, r#"{"command":"long"}"#);
            let worker = home.run(&["worker", "--once"]);
            assert!(worker.stderr.contains("is not remembered") && worker.stderr.contains("max_value_bytes"), "{worker:?}");
            assert_eq!(show(home, &id)["result"], "far longer than ten bytes");
            assert_eq!(std::fs::read_to_string(home.path("runs")).unwrap().lines().count(), run);
        }
    }

    fn it_runs_in_the_directory_of_the_file_that_names_it(home) {
        std::fs::create_dir_all(home.path("etc/bin")).unwrap();
        let commands = "[commands.here]\nargv = [\"./bin/where\"]\n[commands.name]\nargv = [\"where\"]\n";
        home.write("etc/other.toml", commands);
        let program = home.write("etc/bin/where", "#!/bin/sh\npwd\n");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(program, mode).unwrap();
        let here = home.path("etc").canonicalize().unwrap();
        for (file, by_flag) in [("etc/other.toml", true), ("etc/../etc/other.toml", false)] {
            let id = enqueue_once(home, r#"{"command":"here"}"#);
            let other = enqueue_once(home, r#"{"command":"name"}"#);
            let mut worker = home.larder();
            if by_flag {
                worker.args(["--config", file]);
            } else {
                worker.env("LARDER_CONFIG", file);
            }
            assert!(worker.args(["worker", "--once"]).output().unwrap().status.success());
            let printed = show(home, &id)["result"].clone();
            let printed = Path::new(printed.as_str().unwrap()).canonicalize().unwrap();
            assert_eq!(printed, here);
            // A name without a slash is looked up in PATH, and not there.
            assert_eq!(show(home, &other)["status"], "dead");
        }
    }

    fn the_command_is_told_of_its_job_and_may_call_larder(home) {
        let script = format!("env | grep ^LARDER_JOB_ | sort; {:?} cache set by-command 1 2>&1", env!("CARGO_BIN_EXE_larder"));
        settings(home, &[
            shell("told", &script, ""),
            "[schedule.now-and-then]\njob = \"run_command\"\ncron = \"* * * * * *\"\npayload = { command = \"told\" }\n".to_owned(),
        ]);
        let id = enqueue(home, r#"{"command":"told"}"#);
        let mut worker = home.larder();
        worker.args(["worker", "--once"]).env("LARDER_JOB_TICK", "of another job").env("LARDER_JOB_SCHEDULE", "another");
        assert!(worker.output().unwrap().status.success());
        let expected = format!("LARDER_JOB_ATTEMPT=1\nLARDER_JOB_ID={id}");
        assert_eq!(show(home, &id)["result"], expected.as_str());
        home.run(&["cache", "get", "by-command"]).prints("1\n");

        let worker = Daemon::start(home.larder().arg("worker"));
        let ticked = || {
            let jobs = home.json(&["jobs", "list", "--name", "run_command", "--status", "done"]);
            jobs.as_array().unwrap().iter().find(|job| job["tick"].is_string()).cloned()
        };
        wait_until("a tick's job is done", || ticked().is_some());
        drop(worker);
        let id = ticked().unwrap()["id"].as_str().unwrap().to_owned();
        let job = show(home, &id);
        let told = job["result"].as_str().unwrap();
        assert!(told.contains("LARDER_JOB_SCHEDULE=now-and-then\nLARDER_JOB_TICK="), "{told}");
        let tick = told.split_once("LARDER_JOB_TICK=").unwrap().1;
        let instant = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        assert_eq!(instant(tick.trim()), instant(job["tick"].as_str().unwrap()));
        assert!(tick.trim().ends_with('Z'));
    }

    fn a_schedule_runs_a_command_with_retries_and_history(home) {
        let script = "cat >> inputs; test $LARDER_JOB_ATTEMPT = 3 || { echo not yet >&2; exit 75; }; echo '{\"pages\": 3}'";
        let schedule = "[schedule.nightly]\njob = \"run_command\"\ncron = \"* * * * * *\"\noverlap = \"skip\"\nmax_attempts = 5\n\
            payload = { command = \"nightly-report\", input = { month = 11 } }\n";
        settings(home, &[shell("nightly-report", script, "timeout = \"1m\""), schedule.to_owned()]);
        let mut worker = Daemon::start(home.larder().arg("worker"));
        let done = || home.json(&["jobs", "list", "--status", "done", "--name", "run_command"]);
        wait_until("the scheduled command is done", || !done().as_array().unwrap().is_empty());
        worker.signal("-TERM");
        assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log);
        let first = done().as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
        let job = show(home, &first);
        assert_eq!(job["schedule"], "nightly");
        assert_eq!((&job["attempt"], &job["max_attempts"]), (&3.into(), &5.into()));
        assert_eq!(job["result"], serde_json::json!({"pages": 3}));
        let retries: Vec<_> = worker.log.iter().filter(|line| line.contains(&first) && line.contains("the job failed")).collect();
        assert_eq!(retries.len(), 2, "{:#?}", worker.log);
        assert!(retries.iter().all(|line| line.contains("exited with status 75; its stderr: not yet")), "{retries:?}");
        assert!(std::fs::read_to_string(home.path("inputs")).unwrap().starts_with(r#"{"month":11}{"month":11}{"month":11}"#));
    }

    fn a_worker_that_is_killed_takes_its_commands_and_their_children_along(home) {
        settings(home, &[shell("stays", STAYS, "")]);
        let (worker, _, processes) = staying(home, home.larder().arg("worker"));
        worker.signal("-KILL");
        all_end(&processes);
    }

    fn a_command_that_reads_nothing_of_a_large_input_dies_with_its_killed_worker(home) {
        settings(home, &[shell("stays", STAYS, "")]);
        let worker = Daemon::start(home.larder().arg("worker"));
        let payload = format!("{{\"command\":\"stays\",\"input\":\"{}\"}}", "x".repeat(1 << 20));
        enqueue(home, &format!("@{}", text(&home.write("payload", payload))));
        let processes = ["pid", "child"].map(|name| process(home, name));
        worker.signal("-KILL");
        all_end(&processes);
    }

    fn a_drain_that_gives_a_command_up_ends_it_and_its_children(home) {
        settings(home, &[shell("stays", &format!("trap '' TERM; {STAYS}"), "")]);
        let (mut worker, id, processes) = staying(home, home.larder().args(["worker", "--shutdown-timeout", "50ms"]));
        worker.signal("-TERM");
        assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log);
        all_end(&processes);
        let job = show(home, &id);
        assert_eq!((&job["status"], &job["attempt"]), (&"queued".into(), &0.into()));
    }

    fn a_cancelled_command_is_asked_to_end_and_its_children_go_with_it(home) {
        settings(home, &[shell("stays", STAYS, "")]);
        let (_worker, id, processes) = staying(home, home.larder().args(["worker", "--shutdown-timeout", "1h"]));
        assert_eq!(home.run(&["jobs", "cancel", &id]).status, 0);
        wait_until("the job has ended", || show(home, &id)["finished_at"].is_string());
        let job = show(home, &id);
        assert_eq!(job["status"], "cancelled", "{job}");
        assert_eq!(job["error"], "command \"stays\" was told to stop", "{job}");
        all_end(&processes);
    }

    fn a_second_signal_ends_commands_too(home) {
        settings(home, &[shell("stays", STAYS, "")]);
        let (mut worker, _, processes) = staying(home, home.larder().args(["worker", "--shutdown-timeout", "1h"]));
        worker.signal("-TERM");
        worker.wait_for(|line| line.contains("stopping"));
        assert!(runs(&processes[0]));
        worker.signal("-TERM");
        assert_eq!(worker.ended().code(), Some(1), "{:#?}", worker.log);
        all_end(&processes);
    }

    fn a_timeout_asks_first_and_then_kills_the_children_too(home) {
        let asks = "trap 'sleep 0.3; echo asked > asked; exit 0' TERM; echo 'half way' >&2; sleep 600 & echo $! > child; wait";
        let deaf = "trap '' TERM; echo $$ > deaf; sleep 600 & echo $! > deaf-child; wait";
        settings(home, &[
            shell("asks", asks, "timeout = \"1500ms\""),
            shell("deaf", deaf, "timeout = \"1500ms\""),
        ]);
        let (asked, deaf) = (enqueue_once(home, r#"{"command":"asks"}"#), enqueue_once(home, r#"{"command":"deaf"}"#));
        once(home);
        for (id, name, stderr) in [(asked, "asks", "; its stderr: half way"), (deaf, "deaf", "")] {
            let job = show(home, &id);
            let expected = format!("command {name:?} ran longer than its timeout of 1.5s{stderr}");
            assert_eq!((&job["status"], &job["error"]), (&"dead".into(), &expected.into()));
        }
        assert_eq!(std::fs::read_to_string(home.path("asked")).unwrap(), "asked\n");
        all_end(&["child", "deaf", "deaf-child"].map(|name| process(home, name)));
    }

    fn what_a_command_leaves_behind_ends_with_it_and_holds_up_nothing(home) {
        settings(home, &[
            shell("leaves", "sleep 600 & echo $! > child; echo done", ""),
            shell("escapes", "setsid sh -c 'echo $$ > escaped.new; mv escaped.new escaped; exec sleep 600' & while ! test -e escaped; do sleep 0.01; done; echo done", ""),
            shell("signals", "trap '' TERM; kill -TERM 0; echo done", ""),
        ]);
        assert_eq!(result(home, r#"{"command":"leaves"}"#), "done");
        all_end(&[process(home, "child")]);
        // Whoever has left the group is not waited for, though it holds the pipes.
        assert_eq!(result(home, r#"{"command":"escapes"}"#), "done");
        let escaped = process(home, "escaped");
        assert!(runs(&escaped));
        send("-KILL", &escaped);
        // Its supervisor is of the same group.
        assert_eq!(result(home, r#"{"command":"signals"}"#), "done");
    }

    fn a_supervisor_that_is_killed_is_a_failed_attempt_and_its_group_ends(home) {
        settings(home, &[shell("stays", STAYS, "")]);
        let (worker, id, processes) = staying(home, home.larder().arg("worker"));
        let parent = Command::new("ps").args(["-o", "ppid=", "-p", &processes[0]]).output().unwrap();
        std::fs::remove_file(home.path("pid")).unwrap();
        send("-KILL", String::from_utf8(parent.stdout).unwrap().trim());
        all_end(&processes);
        let again = process(home, "pid");
        let job = show(home, &id);
        assert_eq!((&job["status"], &job["attempt"]), (&"running".into(), &2.into()));
        drop(worker);
        all_end(&[again]);
    }

    fn a_worker_whose_file_is_gone_still_runs_commands(home) {
        settings(home, &[shell("works", "echo works", "")]);
        let copy = home.path("larder-copy");
        std::fs::copy(env!("CARGO_BIN_EXE_larder"), &copy).unwrap();
        let worker = Daemon::start(home.command(&copy).arg("worker"));
        std::fs::remove_file(&copy).unwrap();
        let id = enqueue(home, r#"{"command":"works"}"#);
        wait_until("the job has ended", || show(home, &id)["finished_at"].is_string());
        assert_eq!(show(home, &id)["result"], "works");
        drop(worker);
    }
}

#[test]
fn a_schedule_of_a_command_that_there_is_not_is_refused_at_the_start() {
    let home = Home::sqlite();
    let schedule = "[schedule.nightly]\njob = \"run_command\"\ncron = \"@daily\"\npayload = { command = \"reprot\" }\n";
    settings(&home, &[shell("report", "true", ""), schedule.to_owned()]);
    home.run(&["worker", "--once"]).fails(&[
        "[schedule.nightly] in larder.toml:7: there is no command \"reprot\": choose one of report, or name it in the settings file",
    ]);
    assert!(!home.path("test.db").exists());
}

/// It has nothing to do with a database.
#[test]
fn a_supervisor_is_for_workers_alone() {
    let home = Home::sqlite();
    let mut leads = home.larder();
    leads.process_group(0).stdin(Stdio::piped());
    for supervisor in [home.larder(), leads].iter_mut() {
        let supervisor = Ended::of(supervisor.args(["__supervise", "touch", "touched"]));
        supervisor.fails(&["error: __supervise is what a worker starts for each command"]);
        assert!(!home.path("touched").exists());
    }
    assert!(!home.run(&["--help"]).stdout.contains("__supervise"));
}
