//! The worker processes of the fleet: this test's own binary, started again.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::database::{DatabaseOptions, SchemaPolicy};
use larder::queue::{Job, NewJob};
use larder::schedule::{CatchUp, Cron, ScheduleEntry};
use larder::worker::WorkerOptions;
use larder::{JobContext, JobError, Worker};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::fleet;
use crate::history::{Event, now};

/// A worker is taken for dead after so long.
pub(crate) const RESCUE_AFTER: Duration = Duration::from_secs(4);
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(400);
pub(crate) const SCHEDULE: &str = "every-second";

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Deed {
    /// Takes so many milliseconds.
    Wait(u64),
    /// Keeps its thread for so many milliseconds.
    Block(u64),
    /// Fails this often, and then is done.
    FailFirst(i32),
    /// Panics at its first attempt.
    PanicFirst,
    /// Fails for good.
    Abort,
    /// Fails each time.
    Fail,
    /// Ends its worker, each time.
    Poison,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Deeds {
    pub(crate) deed: Deed,
}

impl Job for Deeds {
    const NAME: &'static str = "deed";
    type Output = ();
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tick {}

impl Job for Tick {
    const NAME: &'static str = "tick";
    const QUEUE: &'static str = "ticks";
    type Output = ();
}

/// One file, to which every process appends.
#[derive(Clone)]
struct Log(Arc<Mutex<File>>);

impl Log {
    fn open(path: &Path) -> Self {
        let file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        Self(Arc::new(Mutex::new(file)))
    }

    fn write(&self, event: &Event) {
        let line = serde_json::to_string(event).unwrap() + "\n";
        // One write: lines of different processes do not mix.
        self.0.lock().unwrap().write_all(line.as_bytes()).unwrap();
    }
}

async fn attempt(deed: Deed, cx: JobContext, log: Log) -> Result<(), JobError> {
    let process = std::process::id();
    let (job, attempt) = (cx.id.to_string(), cx.attempt);
    log.write(&Event::Began {
        job: job.clone(),
        attempt,
        process,
        at: now(),
    });
    let outcome = match deed {
        Deed::Wait(milliseconds) => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            Ok(())
        }
        Deed::Block(milliseconds) => {
            std::thread::sleep(Duration::from_millis(milliseconds));
            Ok(())
        }
        Deed::FailFirst(times) if attempt <= times => {
            Err(JobError::retry_after("not yet", Duration::from_millis(50)))
        }
        Deed::FailFirst(_) => Ok(()),
        Deed::PanicFirst if attempt == 1 => Err(JobError::retry("about to panic")),
        Deed::PanicFirst => Ok(()),
        Deed::Abort => Err(JobError::abort("no use")),
        Deed::Fail => Err(JobError::retry_after("never", Duration::from_millis(50))),
        Deed::Poison => {
            log.write(&Event::Killed { process, at: now() });
            fleet::signal("KILL", process);
            std::future::pending().await
        }
    };
    log.write(&Event::Ended {
        job,
        attempt,
        process,
        ok: outcome.is_ok(),
        at: now(),
    });
    assert!(
        deed != Deed::PanicFirst || outcome.is_ok(),
        "it panics, as it was told"
    );
    outcome
}

/// What a process needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) url: String,
    pub(crate) log: std::path::PathBuf,
}

pub(crate) fn main(orders: &Orders) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work(orders));
    // What was given up may still block its thread.
    runtime.shutdown_background();
}

async fn work(orders: &Orders) {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let log = Log::open(&orders.log);
    let mut options = WorkerOptions::default();
    options.heartbeat = HEARTBEAT;
    options.rescue_after = RESCUE_AFTER;
    options.shutdown_timeout = Duration::from_millis(700);
    options.poll_interval = Some(Duration::from_millis(100));
    let every_second = Cron::parse_in("* * * * * *", "UTC").unwrap();
    let every_second =
        ScheduleEntry::new(SCHEDULE, every_second, NewJob::new(&Tick {})).catch_up(CatchUp::All);
    let database = DatabaseOptions::new(&orders.url)
        .acquire_timeout(Duration::from_secs(2))
        .schema_policy(SchemaPolicy::Upgrade);
    // The server may be away just now.
    let database = loop {
        match database.clone().connect().await {
            Ok(database) => break database,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let (of_deeds, of_ticks) = (log.clone(), log.clone());
    let worker = Worker::new(database)
        .options(options)
        .schedule(every_second)
        .register(move |job: Deeds, cx: JobContext| attempt(job.deed, cx, of_deeds.clone()))
        .register(move |_: Tick, cx: JobContext| attempt(Deed::Wait(1), cx, of_ticks.clone()));
    let process = std::process::id();
    let stopping = async move {
        terminate.recv().await;
        log.write(&Event::Drains { process, at: now() });
    };
    // One that cannot start ends, and is followed by another.
    if worker.run_until(stopping).await.is_err() {
        std::process::exit(3);
    }
}
