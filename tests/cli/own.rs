//! A binary with jobs of its own, by one call of `larder::cli`: the test binary run again.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use larder::worker::Handlers;
use larder::{Job, JobContext, JobError};
use serde::{Deserialize, Serialize};

use crate::support::{Daemon, Ended, Home, both_engines, text, wait_until};

/// Waits for a file to be there, and returns what it holds.
#[derive(Serialize, Deserialize)]
struct WaitForFile {
    path: PathBuf,
}

impl Job for WaitForFile {
    const NAME: &'static str = "wait_for_file";
    type Output = String;
}

async fn wait_for_file(job: WaitForFile) -> Result<String, JobError> {
    loop {
        if let Ok(text) = std::fs::read_to_string(&job.path) {
            return Ok(text);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Blocks its thread for longer than any test runs.
#[derive(Serialize, Deserialize)]
struct Block {}

impl Job for Block {
    const NAME: &'static str = "block";
    type Output = ();
}

async fn block(_: Block) -> Result<(), JobError> {
    tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(600))).await?;
    Ok(())
}

/// Goes on until it is cancelled, and says how far it is.
#[derive(Serialize, Deserialize)]
struct Endless {}

impl Job for Endless {
    const NAME: &'static str = "endless";
    type Output = ();
}

async fn endless(_: Endless, cx: JobContext) -> Result<(), JobError> {
    cx.progress(3, 10);
    cx.cancellation().cancelled().await;
    Err(JobError::retry("ended by request"))
}

#[derive(Serialize, Deserialize)]
struct Panic {}

impl Job for Panic {
    const NAME: &'static str = "panic";
    type Output = ();
}

async fn panic(_: Panic) -> Result<(), JobError> {
    panic!("the handler's own words")
}

/// Not a test: what [`own`] runs.
#[test]
fn own_binary() {
    let Ok(arguments) = std::env::var("LARDER_TEST_ARGUMENTS") else {
        return;
    };
    let handlers = Handlers::default()
        .register(wait_for_file)
        .register(block)
        .register(endless)
        .register(panic);
    let arguments = arguments.split('\n').map(str::to_owned);
    let code = larder::cli::main_from(arguments, handlers, Vec::new());
    let codes = [ExitCode::SUCCESS, ExitCode::from(1), ExitCode::from(2)];
    let code = codes.iter().position(|known| *known == code).unwrap();
    std::process::exit(i32::try_from(code).unwrap());
}

fn own(home: &Home, arguments: &[&str]) -> Command {
    let mut command = home.command(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "own::own_binary",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(
            "LARDER_TEST_ARGUMENTS",
            [&["own"], arguments].concat().join("\n"),
        );
    command
}

fn enqueue(home: &Home, arguments: &[&str]) -> String {
    let ended = Ended::of(&mut own(
        home,
        &[&["enqueue", "--json"], arguments].concat(),
    ));
    assert_eq!(ended.status, 0, "{ended:?}");
    let start = ended.stdout.find('{').unwrap();
    let enqueued: serde_json::Value = serde_json::from_str(ended.stdout[start..].trim()).unwrap();
    enqueued["id"].as_str().unwrap().to_owned()
}

/// A worker that is busy with a job until `file` is there.
fn busy(home: &Home, arguments: &[&str], file: &str) -> (Daemon, String) {
    let worker = Daemon::start(&mut own(home, &[&["worker"], arguments].concat()));
    let id = enqueue(home, &["wait_for_file", &format!("{{\"path\":{file:?}}}")]);
    wait_until("the job runs", || status(home, &id) == "running");
    (worker, id)
}

fn status(home: &Home, id: &str) -> String {
    home.json(&["jobs", "show", id])["status"]
        .as_str()
        .unwrap()
        .to_owned()
}

both_engines! {
    fn a_running_job_finishes_after_sigterm(home) {
        let file = home.path("go");
        let (mut worker, id) = busy(home, &[], text(&file));
        worker.signal("-TERM");
        worker.wait_for(|line| line.contains("stopping"));
        assert_eq!(status(home, &id), "running");
        home.write("go", "well");
        assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log);
        assert_eq!(home.json(&["jobs", "show", &id])["result"], "well");
    }

    fn a_job_that_outlasts_the_shutdown_timeout_goes_back_to_its_queue(home) {
        let (mut worker, id) = busy(home, &["--shutdown-timeout", "50ms"], "/no/such/file");
        worker.signal("-TERM");
        assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log);
        let job = home.json(&["jobs", "show", &id]);
        assert_eq!((&job["status"], &job["attempt"]), (&"queued".into(), &0.into()));
    }

    fn a_second_signal_ends_it_at_once_with_1(home) {
        let (mut worker, id) = busy(home, &["--shutdown-timeout", "1h"], "/no/such/file");
        worker.signal("-TERM");
        worker.wait_for(|line| line.contains("stopping"));
        worker.signal("-INT");
        assert_eq!(worker.ended().code(), Some(1), "{:#?}", worker.log);
        assert_eq!(status(home, &id), "queued");
    }

    fn a_handler_that_blocks_its_thread_does_not_hold_the_process(home) {
        let mut worker = Daemon::start(&mut own(home, &["worker", "--shutdown-timeout", "50ms"]));
        let id = enqueue(home, &["block"]);
        wait_until("the job runs", || status(home, &id) == "running");
        worker.signal("-TERM");
        assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log);
    }

    fn a_panic_of_a_handler_is_told_once_as_its_jobs_failure(home) {
        let id = enqueue(home, &["panic", "--max-attempts", "1"]);
        let worker = Ended::of(&mut own(home, &["worker", "--once"]));
        assert_eq!(worker.status, 0, "{worker:?}");
        let told: Vec<_> = worker.stderr.lines().filter(|line| line.contains("panicked")).collect();
        assert_eq!(told.len(), 1, "{worker:?}");
        assert!(told[0].contains("the handler's own words") && told[0].contains(&id), "{told:?}");
        let job = home.json(&["jobs", "show", &id]);
        assert_eq!((&job["status"], &job["attempt"]), (&"dead".into(), &1.into()));
    }

    fn a_running_job_is_cancelled_from_another_process_while_somebody_waits_for_it(home) {
        let _worker = Daemon::start(&mut own(home, &["worker"]));
        let mut waiting = Daemon::spawn(&mut own(home, &["enqueue", "endless", "--wait"]));
        let job = || home.json(&["jobs", "list"])[0].clone();
        wait_until("its progress is there", || {
            home.run(&["jobs", "list", "--status", "running"]).stdout.lines().count() == 2 && !job()["progress"].is_null()
        });
        let id = job()["id"].as_str().unwrap().to_owned();
        assert_eq!(job()["progress"], serde_json::json!({"done": 3, "total": 10}));
        assert!(home.run(&["jobs", "show", &id]).stdout.contains("progress: 3 of 10\n"));
        let ended = home.run(&["jobs", "cancel", &id]);
        assert_eq!((ended.status, ended.stdout.as_str()), (0, "Cancelled 1 jobs.\n"));
        assert_eq!(ended.stderr, "note: 1 of them run: their handlers are told, and may finish all the same\n");
        assert_eq!(waiting.ended().code(), Some(1), "{:#?}", waiting.log);
        let told = format!("error: job {id} is cancelled: ended by request");
        assert!(waiting.log.contains(&told), "{:#?}", waiting.log);
        assert_eq!(job()["status"], "cancelled");
    }

    fn the_names_are_those_of_its_own_jobs(home) {
        let names = Ended::of(&mut own(home, &["jobs", "names"])).stdout;
        assert!(names.contains("block\nendless\npanic\nwait_for_file\n"), "{names}");
        let refused = Ended::of(&mut own(home, &["enqueue", "clear_expired"]));
        assert_eq!(refused.status, 2);
        assert!(refused.stderr.contains("choose one of block, endless, panic, wait_for_file"), "{refused:?}");
    }
}
