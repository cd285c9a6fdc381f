//! How a worker ends: what runs may finish, what does not goes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::queue::JobStatus;
use larder::worker::{Ended, WorkerOptions};
use larder::{JobError, Queue, Worker};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Notify, Semaphore};

use crate::support::{self, TestDatabase, both_engines};
use crate::work::{
    Probe, becomes, eventually, give_back, hold_waits, job, lively, probe, start, start_until,
    within,
};

/// Handlers that wait, each for a permit of its own gate.
#[derive(Clone)]
struct Gates(Arc<[Semaphore; 2]>, Arc<Semaphore>);

impl Gates {
    fn new() -> Self {
        let gates = [Semaphore::new(0), Semaphore::new(0)];
        Self(Arc::new(gates), Arc::new(Semaphore::new(0)))
    }

    /// Waits until so many handlers have begun: a row says that its job runs when that is claimed.
    async fn begun(&self, handlers: u32) {
        let begun = self.1.acquire_many(handlers);
        within(begun).await.unwrap().forget();
    }

    fn open(&self, gate: usize) {
        self.0[gate].add_permits(1);
    }

    async fn worker(&self, db: &TestDatabase, options: WorkerOptions) -> Worker {
        let gates = self.clone();
        Worker::new(db.open().await)
            .options(options)
            .register(move |job: Probe| {
                let gates = gates.clone();
                async move {
                    gates.1.add_permits(1);
                    let gate = usize::try_from(job.value.as_u64().unwrap()).unwrap();
                    gates.0[gate].acquire().await?.forget();
                    Ok::<_, JobError>(Value::from("finished"))
                }
            })
    }
}

both_engines! {
    async fn running_jobs_finish_and_are_written_during_the_drain_and_nothing_new_begins(db) {
        let queue = Queue::new(db.open().await);
        let gates = Gates::new();
        let worker = start(gates.worker(db, lively()).await);
        let quick = queue.enqueue(&probe(0)).await.unwrap().id;
        let slow = queue.enqueue(&probe(1)).await.unwrap().id;
        for id in [quick, slow] {
            becomes(&queue, id, JobStatus::Running).await;
        }
        gates.begun(2).await;
        let ended = tokio::spawn(worker.stop());
        gates.open(0);
        becomes(&queue, quick, JobStatus::Done).await;
        assert_eq!(job(&queue, slow).await.status, JobStatus::Running);

        let late = queue.enqueue(&probe(0)).await.unwrap().id;
        gates.open(0);
        db.advance(11);
        let now = if db.is_sqlite() { db.clock.now().as_millis().to_string() } else { format!("'{}'", db.clock.now()) };
        eventually("its heart beats during the drain", async || {
            db.number(&format!("SELECT COUNT(*) FROM {{}}job_worker WHERE heartbeat_at = {now}")).await == 1
        }).await;
        assert!(!ended.is_finished());
        gates.open(1);
        assert_eq!(within(ended).await.unwrap(), Ended::Drained);
        assert_eq!(job(&queue, slow).await.status, JobStatus::Done);
        let late = job(&queue, late).await;
        assert_eq!((late.status, late.attempt), (JobStatus::Queued, 0));
    }

    async fn what_does_not_finish_goes_back_with_its_attempt_at_most_three_times(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe(0)).max_attempts(2).await.unwrap().id;
        for (attempt, status) in [(0, JobStatus::Queued), (0, JobStatus::Queued), (0, JobStatus::Queued), (1, JobStatus::Queued), (2, JobStatus::Dead)] {
            let mut options = lively();
            options.shutdown_timeout = Duration::from_millis(50);
            let gates = Gates::new();
            let worker = start(gates.worker(db, options).await);
            becomes(&queue, id, JobStatus::Running).await;
            gates.begun(1).await;
            assert_eq!(worker.end().await, Ended::Drained);
            let job = job(&queue, id).await;
            assert_eq!((job.attempt, job.status), (attempt, status));
            assert!(job.worker.is_none());
        }
        let error = job(&queue, id).await.error.unwrap();
        assert_eq!(error, "its last attempt was interrupted by the end of its worker");
    }

    async fn a_second_signal_ends_the_drain_at_once(db) {
        let queue = Queue::new(db.open().await);
        let force = Arc::new(Notify::new());
        let forced = force.clone();
        let mut options = lively();
        options.shutdown_timeout = Duration::from_secs(3600);
        let worker = start_until(Gates::new().worker(db, options).await, async move { forced.notified().await });
        let id = queue.enqueue(&probe(0)).await.unwrap().id;
        becomes(&queue, id, JobStatus::Running).await;
        let ended = tokio::spawn(worker.stop());
        force.notify_one();
        assert_eq!(within(ended).await.unwrap(), Ended::Forced);
        let job = job(&queue, id).await;
        assert_eq!((job.status, job.attempt), (JobStatus::Queued, 0));
    }

    async fn a_handler_that_blocks_its_thread_holds_up_no_drain(db) {
        let queue = Queue::new(db.open().await);
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let blocked = Arc::new(std::sync::Mutex::new(blocked));
        let begun = Arc::new(Notify::new());
        let begins = begun.clone();
        let mut options = lively();
        options.shutdown_timeout = Duration::from_millis(50);
        let worker = start(Worker::new(db.open().await).options(options).register(move |_: Probe| {
            let (blocked, begins) = (blocked.clone(), begins.clone());
            async move {
                begins.notify_one();
                tokio::task::block_in_place(|| blocked.lock().unwrap().recv().ok());
                Ok::<_, JobError>(Value::Null)
            }
        }));
        let id = queue.enqueue(&probe(0)).await.unwrap().id;
        becomes(&queue, id, JobStatus::Running).await;
        within(begun.notified()).await;
        assert_eq!(worker.end().await, Ended::Drained);
        assert_eq!(job(&queue, id).await.status, JobStatus::Queued);
        drop(release);
    }

    async fn a_drain_of_an_idle_worker_takes_no_time(db) {
        let mut options = lively();
        options.shutdown_timeout = Duration::MAX;
        options.poll_interval = Some(Duration::from_secs(3600));
        options.heartbeat = Duration::from_secs(3600);
        let worker = start(Gates::new().worker(db, options).await);
        let queue = Queue::new(db.open().await);
        eventually("it is there", async || !queue.live_names(Duration::from_secs(30)).await.unwrap().is_empty()).await;
        let started = Instant::now();
        assert_eq!(worker.end().await, Ended::Drained);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }

    async fn many_running_jobs_all_go_back(db) {
        let queue = Queue::new(db.open().await);
        let mut options = lively();
        options.concurrency = 700;
        options.shutdown_timeout = Duration::from_millis(10);
        let worker = start(Gates::new().worker(db, options).await);
        queue.enqueue_many((0..1_000).map(|_| larder::queue::NewJob::new(&probe(0)))).await.unwrap();
        eventually("700 run", async || crate::work::count(&queue, JobStatus::Running).await == 700).await;
        assert_eq!(worker.end().await, Ended::Drained);
        assert_eq!(crate::work::count(&queue, JobStatus::Queued).await, 1_000);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE attempt > 0").await, 0);
    }
}

/// PostgreSQL alone: a lock that the test holds keeps the claim under way. SQLite's would be the whole database's.
#[test]
fn a_claim_that_is_under_way_at_the_signal_leaves_no_job_running() {
    support::run(TestDatabase::postgres, async |db| {
        let queue = Queue::new(db.open().await);
        let schema = format!("\"{}\"", db.schema);
        db.execute(&format!(
            "CREATE FUNCTION {schema}.wait() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_advisory_xact_lock(hashtext(TG_TABLE_SCHEMA)); RETURN NEW; END $$"
        ))
        .await;
        db.execute(&format!(
            "CREATE TRIGGER wait BEFORE UPDATE ON {schema}.job FOR EACH ROW \
             WHEN (NEW.status = 'running' AND OLD.status = 'queued') EXECUTE FUNCTION {schema}.wait()"
        ))
        .await;
        let mut other = PgConnection::connect(&db.url).await.unwrap();
        let lock = hold_waits(db, &mut other).await;

        let worker = start(
            Worker::new(db.open().await)
                .options(lively())
                .register(give_back),
        );
        let id = queue.enqueue(&probe(1)).await.unwrap().id;
        let waits = format!(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE '%{}%'",
            db.schema.trim_start_matches("Test ")
        );
        eventually("the claim waits", async || db.number(&waits).await == 1).await;
        let ended = worker.stop();
        lock.rollback().await.unwrap();
        ended.await;
        let job = job(&queue, id).await;
        assert!(
            matches!(
                (job.status, job.attempt),
                (JobStatus::Done, 1) | (JobStatus::Queued, 0)
            ),
            "{job:?}"
        );
    });
}
