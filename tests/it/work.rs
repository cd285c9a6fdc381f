//! Workers in tests, and waiting for what they do: for an event, with a deadline, and never for time to pass.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::clock::Clock;
use larder::database::{Database, SchemaPolicy};
use larder::queue::{Job, JobRecord, JobStatus};
use larder::worker::{Ended, WorkerOptions};
use larder::{JobError, Queue, Worker};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::support::TestDatabase;

/// A job that holds anything and returns anything; each test brings its own handler.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) value: Value,
}

impl Job for Probe {
    const NAME: &'static str = "probe";
    type Output = Value;
}

pub(crate) fn probe(value: impl Into<Value>) -> Probe {
    Probe {
        value: value.into(),
    }
}

/// The plainest handler.
pub(crate) async fn give_back(job: Probe) -> Result<Value, JobError> {
    Ok(job.value)
}

/// One that waits for a permit first: `move |job| gated(gate.clone(), job)`.
pub(crate) async fn gated(gate: Arc<Semaphore>, job: Probe) -> Result<Value, JobError> {
    gate.acquire().await?.forget();
    Ok(job.value)
}

/// The same name as [`Probe`], with a result of any depth.
#[derive(Serialize, Deserialize)]
pub(crate) struct Anything {
    pub(crate) value: Value,
}

impl Job for Anything {
    const NAME: &'static str = "probe";
    type Output = Box<RawValue>;
}

/// Another one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Other {}

impl Job for Other {
    const NAME: &'static str = "other";
    type Output = ();
}

/// Until no job is ready and none runs.
pub(crate) fn once() -> WorkerOptions {
    let mut options = WorkerOptions::default();
    options.once = true;
    options
}

/// Quick to notice everything.
pub(crate) fn lively() -> WorkerOptions {
    let mut options = WorkerOptions::default();
    options.heartbeat = Duration::from_millis(20);
    options.poll_interval = Some(Duration::from_millis(20));
    options
}

/// Never polls while a test lasts.
pub(crate) fn without_polling() -> WorkerOptions {
    let mut options = lively();
    options.poll_interval = Some(Duration::from_secs(3600));
    options
}

/// Until it is given up, triggers wait that take the lock of this test's schema.
pub(crate) async fn hold_waits<'c>(
    db: &TestDatabase,
    other: &'c mut PgConnection,
) -> sqlx::Transaction<'c, sqlx::Postgres> {
    let mut lock = other.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext($1))")
        .bind(&db.schema)
        .execute(&mut *lock)
        .await
        .unwrap();
    lock
}

/// The database by the machine's clock, for what waits for a time of its own.
pub(crate) async fn ticking(db: &TestDatabase) -> Database {
    db.options()
        .clock(Clock::system())
        .schema_policy(SchemaPolicy::Upgrade)
        .connect()
        .await
        .unwrap()
}

pub(crate) async fn run(worker: Worker) {
    worker.run_until(std::future::pending()).await.unwrap();
}

/// A worker at work.
pub(crate) struct Started {
    stop: oneshot::Sender<()>,
    task: JoinHandle<larder::Result<Ended>>,
}

pub(crate) fn start(worker: Worker) -> Started {
    start_until(worker, std::future::pending())
}

pub(crate) fn start_until(
    worker: Worker,
    force: impl Future<Output = ()> + Send + 'static,
) -> Started {
    let (stop, stopped) = oneshot::channel();
    let signal = async {
        let _ = stopped.await;
    };
    Started {
        stop,
        task: tokio::spawn(worker.run_until_forced(signal, force)),
    }
}

impl Started {
    /// Tells it to stop, and waits until it has.
    pub(crate) async fn end(self) -> Ended {
        self.stop().await
    }

    /// Tells it to stop. What it returns waits until it has.
    pub(crate) fn stop(self) -> impl Future<Output = Ended> {
        self.stop.send(()).expect("the worker ended by itself");
        let task = self.task;
        async move { within(task).await.unwrap().unwrap() }
    }

    pub(crate) fn is_at_work(&self) -> bool {
        !self.task.is_finished()
    }
}

/// What `future` gives, before the deadline of every wait.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("it did not happen in time")
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "it did not come to this: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn job(queue: &Queue, id: larder::queue::JobId) -> JobRecord {
    queue.get(id).await.unwrap().unwrap()
}

/// Waits until a job has this status.
pub(crate) async fn becomes(
    queue: &Queue,
    id: larder::queue::JobId,
    status: JobStatus,
) -> JobRecord {
    eventually(&format!("the job is {status}"), async || {
        job(queue, id).await.status == status
    })
    .await;
    job(queue, id).await
}

/// How many jobs have this status.
pub(crate) async fn count(queue: &Queue, status: JobStatus) -> i64 {
    let counts = queue.counts().await.unwrap();
    counts
        .iter()
        .filter(|counts| counts.status == status)
        .map(|counts| counts.count)
        .sum()
}

/// No job can be said to be done or dead until [`let_outcomes`]: workers try on, as they do while a database is away.
pub(crate) async fn hold_outcomes(db: &TestDatabase) {
    // What is refused for good leaves its job dead. That is refused to the end, lest it come through when all else does.
    db.execute(if db.is_sqlite() {
        "CREATE TRIGGER held BEFORE UPDATE ON job WHEN NEW.status IN ('done', 'dead') \
         BEGIN SELECT RAISE(ABORT, 'held'); END; \
         CREATE TRIGGER never BEFORE UPDATE ON job WHEN NEW.error LIKE 'its outcome could not be stored%' \
         BEGIN SELECT RAISE(ABORT, 'held'); END"
    } else {
        "CREATE FUNCTION {}held() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'held'; END $$; \
         CREATE TRIGGER held BEFORE UPDATE ON {}job FOR EACH ROW WHEN (NEW.status IN ('done', 'dead')) \
         EXECUTE FUNCTION {}held(); \
         CREATE TRIGGER never BEFORE UPDATE ON {}job FOR EACH ROW \
         WHEN (NEW.error LIKE 'its outcome could not be stored%') EXECUTE FUNCTION {}held()"
    })
    .await;
}

pub(crate) async fn let_outcomes(db: &TestDatabase) {
    let drop_trigger = if db.is_sqlite() {
        "DROP TRIGGER held"
    } else {
        "DROP TRIGGER held ON {}job"
    };
    db.execute(drop_trigger).await;
}
