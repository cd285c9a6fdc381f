//! Commands in a program of one's own: without a supervisor, and with sets of them that change.

use std::path::Path;
use std::time::Duration;

use larder::command::{Command, Commands};
use larder::jobs::{self, run_command::RunCommand};
use larder::queue::JobStatus;
use larder::{Queue, Worker};
use serde_json::value::RawValue;

use crate::support::{TestDatabase, both_engines, raw};
use crate::work::{becomes, eventually, job, lively, once, run, start, ticking, within};

/// Says who its child is, and stays.
const STAYS: &str = "sleep 600 & echo $! > child.new; mv child.new child; wait";

fn shell(script: &str) -> Command {
    Command::new("sh").arg("-c").arg(script)
}

fn named(command: Command) -> Commands {
    Commands::new([("it".to_owned(), command)])
}

fn it(input: Option<Box<RawValue>>) -> RunCommand {
    RunCommand {
        command: "it".to_owned(),
        input,
    }
}

/// The child whose id a command left behind.
async fn child(directory: &Path) -> String {
    let path = directory.join("child");
    eventually("the child is there", async || path.exists()).await;
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

fn runs(process: &str) -> bool {
    let ps = std::process::Command::new("ps")
        .args(["-o", "stat=", "-p", process])
        .output()
        .unwrap();
    let state = String::from_utf8(ps.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

async fn ends(process: &str) {
    eventually("the child has ended", async || !runs(process)).await;
}

/// What the command gives, or its error.
async fn outcome(command: Command, input: Option<&str>) -> Result<String, String> {
    let input = input.map(raw);
    let command = named(command).get("it").unwrap();
    let ended = within(command.run(input.as_deref(), [("LARDER_JOB_ID", "7".to_owned())])).await;
    ended
        .map(|result| result.get().to_owned())
        .map_err(|error| error.to_string())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

#[test]
fn without_a_supervisor_a_command_gives_the_same() {
    block_on(async {
        let (cat, exits) = (Command::new("cat"), shell("echo why >&2; exit 4"));
        assert_eq!(outcome(cat, Some("[1.0]")).await.unwrap(), "[1.0]");
        let told = shell("echo $LARDER_JOB_ID");
        assert_eq!(outcome(told, None).await.unwrap(), "7");
        let error = outcome(exits, None).await.unwrap_err();
        assert_eq!(
            error,
            "command \"it\" exited with status 4; its stderr: why"
        );
        let error = outcome(shell("kill -TERM $$"), None).await.unwrap_err();
        assert_eq!(error, "command \"it\" was ended by signal: 15 (SIGTERM)");
        let error = outcome(Command::new("no such program"), None).await;
        let expected = "command \"it\" cannot be started: no such program: No such file";
        assert!(
            error.as_ref().unwrap_err().starts_with(expected),
            "{error:?}"
        );
        let error = outcome(Command::new("true").directory("/no/such"), None).await;
        let expected = "command \"it\" cannot be started: /no/such is no directory";
        assert_eq!(error.unwrap_err(), expected);
        let error = outcome(shell("yes").max_output(10), None).await;
        assert!(error.unwrap_err().contains("more than 10 bytes"));
    });
}

#[test]
fn a_command_of_a_relative_directory_finds_its_program_there() {
    block_on(async {
        let directory = tempfile::tempdir_in(".").unwrap();
        let name = directory.path().file_name().unwrap();
        std::os::unix::fs::symlink("/bin/pwd", directory.path().join("where")).unwrap();
        let printed = outcome(Command::new("./where").directory(name), None).await;
        let expected = format!("{:?}", directory.path().canonicalize().unwrap());
        assert_eq!(printed.unwrap(), expected);
    });
}

#[test]
fn children_end_with_their_command_its_timeout_and_who_waits_for_it() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let here = |script: &str| {
            let _ = std::fs::remove_file(directory.path().join("child"));
            shell(script).directory(directory.path())
        };
        let leaves = here("sleep 600 & echo $! > child; echo done");
        assert_eq!(outcome(leaves, None).await.unwrap(), "\"done\"");
        ends(&child(directory.path()).await).await;

        let late = here(&format!("trap '' TERM; {STAYS}")).timeout(Duration::from_millis(1_500));
        let error = outcome(late, None).await.unwrap_err();
        assert_eq!(error, "command \"it\" ran longer than its timeout of 1.5s");
        ends(&child(directory.path()).await).await;

        let asked = here(&format!("trap 'echo ended >&2; exit 0' TERM; {STAYS}"));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let asked = named(asked).get("it").unwrap();
        let stop = async {
            let child = child(directory.path()).await;
            stop.send(()).unwrap();
            child
        };
        let stopped = async {
            let _ = stopped.await;
        };
        let (child_of_it, error) = tokio::join!(stop, asked.run_until(stopped, None, []));
        let error = error.unwrap_err().to_string();
        // The shell may tell before that of its child, which is told to stop with it.
        let told = error.strip_prefix("command \"it\" was told to stop; its stderr: ");
        assert!(told.is_some_and(|told| told.ends_with("ended")), "{error}");
        ends(&child_of_it).await;

        let stays = named(here(STAYS)).get("it").unwrap();
        let mut running = Box::pin(stays.run(None, []));
        let child = tokio::select! {
            ended = &mut running => panic!("it ended: {ended:?}"),
            child = child(directory.path()) => child,
        };
        assert!(runs(&child));
        drop(running);
        ends(&child).await;
    });
}

#[test]
fn a_fingerprint_tells_commands_arguments_and_inputs_apart() {
    let print = |command: Command, input: Option<&str>| {
        let input = input.map(raw);
        named(command)
            .get("it")
            .unwrap()
            .fingerprint(input.as_deref())
    };
    let one = || Command::new("a").arg("b");
    let prints = [
        print(one(), None),
        print(one(), Some("{}")),
        print(one(), Some("{ }")),
        print(one(), Some("12345678901234567890123456789012345678901")),
        print(one(), Some("12345678901234567890123456789012345678902")),
        print(one().arg(""), None),
        print(Command::new("ab"), None),
        print(Command::new("a b"), None),
        print(one().arg("{}"), None),
    ];
    let different: std::collections::BTreeSet<_> = prints.iter().collect();
    assert_eq!(different.len(), prints.len(), "{prints:#?}");
    // How it is run is not what it gives.
    let other = one().timeout(Duration::from_secs(1)).directory("/");
    assert_eq!(print(other, None), prints[0]);
}

async fn worker(db: &TestDatabase, commands: Commands) -> Worker {
    let worker = Worker::new(ticking(db).await).register_all(jobs::all());
    worker.data(commands)
}

both_engines! {
    async fn a_worker_that_is_given_no_commands_runs_none(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&it(None)).await.unwrap().id;
        run(Worker::new(db.open().await).options(once()).register_all(jobs::all())).await;
        let record = job(&queue, id).await;
        assert_eq!((record.status, record.attempt), (JobStatus::Dead, 1));
        assert!(record.error.unwrap().starts_with("there is no command \"it\": name it in the settings file"));
    }

    async fn commands_are_replaced_while_the_worker_works(db) {
        let queue = Queue::new(ticking(db).await);
        let commands = named(shell("echo before"));
        let worker = start(worker(db, commands.clone()).await.options(lively()));
        for (said, script) in [("before", None), ("after", Some("echo after"))] {
            if let Some(script) = script {
                commands.replace([("it".to_owned(), shell(script))]);
            }
            let id = queue.enqueue(&it(None)).await.unwrap().id;
            let record = becomes(&queue, id, JobStatus::Done).await;
            assert_eq!(record.result.unwrap().get(), format!("{said:?}"));
        }
        commands.replace([]);
        let id = queue.enqueue(&it(None)).await.unwrap().id;
        becomes(&queue, id, JobStatus::Dead).await;
        worker.end().await;
    }

    async fn a_drain_that_gives_a_command_up_kills_its_group(db) {
        let queue = Queue::new(ticking(db).await);
        let mut options = lively();
        options.shutdown_timeout = Duration::from_millis(50);
        let worker = start(worker(db, named(shell(STAYS).directory(db.path()))).await.options(options));
        let id = queue.enqueue(&it(None)).await.unwrap().id;
        let child = child(db.path()).await;
        worker.end().await;
        ends(&child).await;
        let record = job(&queue, id).await;
        assert_eq!((record.status, record.attempt), (JobStatus::Queued, 0));
    }

    async fn a_null_that_is_remembered_is_a_result(db) {
        let queue = Queue::new(ticking(db).await);
        let counts = shell("echo run >> runs; echo null").directory(db.path());
        let commands = named(counts.fresh_for(Duration::from_secs(3_600)));
        for _ in 0..2 {
            let id = queue.enqueue(&it(Some(raw("1")))).await.unwrap().id;
            run(worker(db, commands.clone()).await.options(once())).await;
            assert_eq!(job(&queue, id).await.result.unwrap().get(), "null");
        }
        assert_eq!(std::fs::read_to_string(db.path().join("runs")).unwrap(), "run\n");
    }
}
