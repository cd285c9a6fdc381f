//! A database that is away pauses a worker and never ends it.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::database::DatabaseOptions;
use larder::queue::JobStatus;
use larder::{JobError, Queue, Worker};
use serde_json::Value;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::Semaphore;

use crate::proxy::Proxy;
use crate::support::{TestDatabase, run_on};
use crate::work::{Probe, becomes, eventually, gated, lively, probe, start};

/// What larder logs on this thread.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<String>>>);

impl Logs {
    fn count(&self, what: &str) -> usize {
        self.0
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains(what))
            .count()
    }
}

impl tracing::Subscriber for Logs {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::DEBUG && metadata.target().starts_with("larder")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                write!(self.0, "{}={value:?} ", field.name()).unwrap();
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// On one thread, so that its logs are those of the test.
fn logged(
    database: impl AsyncFnOnce() -> TestDatabase,
    test: impl AsyncFnOnce(&TestDatabase, &Logs),
) {
    let logs = Logs::default();
    let _guard = tracing::subscriber::set_default(logs.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    run_on(&runtime, database, async |db| test(db, &logs).await);
}

#[test]
fn a_postgres_that_is_cut_off_pauses_the_worker_and_nothing_is_lost() {
    logged(TestDatabase::postgres, async |db, logs| {
        let proxy = Proxy::before(&db.url).await;
        let queue = Queue::new(db.open().await);
        let database = DatabaseOptions::new(&proxy.url)
            .schema(&db.schema)
            .clock(db.clock.clone())
            .acquire_timeout(Duration::from_secs(1))
            .connect()
            .await
            .unwrap();
        let gate = Arc::new(Semaphore::new(0));
        let handler = {
            let gate = gate.clone();
            move |job: Probe| gated(gate.clone(), job)
        };
        let worker = start(Worker::new(database).options(lively()).register(handler));
        let finishes_meanwhile = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, finishes_meanwhile, JobStatus::Running).await;

        proxy.cut();
        gate.add_permits(2);
        let comes_meanwhile = queue.enqueue(&probe(2)).await.unwrap().id;
        for fault in [
            "cannot write the outcomes",
            "cannot fetch jobs",
            "cannot write the heartbeat",
            "notifications are lost",
        ] {
            eventually(fault, async || logs.count(fault) > 0).await;
        }
        eventually("it goes on trying", async || {
            logs.count("still no heartbeat") > 2
        })
        .await;
        assert!(worker.is_at_work());
        assert_eq!(
            becomes(&queue, finishes_meanwhile, JobStatus::Running)
                .await
                .attempt,
            1
        );

        proxy.mend();
        let done = becomes(&queue, finishes_meanwhile, JobStatus::Done).await;
        assert_eq!(done.attempt, 1);
        becomes(&queue, comes_meanwhile, JobStatus::Done).await;
        worker.end().await;
        for fault in [
            "cannot write the outcomes",
            "cannot fetch jobs",
            "cannot write the heartbeat",
            "notifications are lost",
        ] {
            assert_eq!(logs.count(fault), 1, "{fault}");
        }
    });
}

#[test]
fn connections_that_postgres_ends_lose_no_job_and_run_none_twice() {
    logged(TestDatabase::postgres, async |db, _| {
        let queue = Queue::new(db.open().await);
        let runs = Arc::new(Mutex::new(std::collections::BTreeMap::<i64, u32>::new()));
        let counted = runs.clone();
        let mut options = lively();
        options.rescue_after = Duration::from_millis(500);
        let database = DatabaseOptions::new(&db.url)
            .schema(&db.schema)
            .acquire_timeout(Duration::from_secs(2))
            .connect()
            .await
            .unwrap();
        let worker = start(
            Worker::new(database)
                .options(options)
                .register(move |job: Probe| {
                    *counted
                        .lock()
                        .unwrap()
                        .entry(job.value.as_i64().unwrap())
                        .or_default() += 1;
                    async {
                        tokio::task::yield_now().await;
                        Ok::<_, JobError>(Value::Null)
                    }
                }),
        );
        // A worker whose start meets a fault does not start.
        let first = queue.enqueue(&probe(-1)).await.unwrap().id;
        becomes(&queue, first, JobStatus::Done).await;
        let (mut all, mut ended) = (Vec::new(), 0);
        for round in 0..20 {
            let jobs = (0..100).map(|n| larder::queue::NewJob::new(&probe(round * 100 + n)));
            all.extend(queue.enqueue_many(jobs).await.unwrap());
            // Whoever touched this test's tables, but for the one that asks.
            ended += db.number(&format!(
                "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%{}%' AND query LIKE '%worker%' AND pid <> pg_backend_pid()",
                db.schema.trim_start_matches("Test ").trim_matches('"')
            )).await;
        }
        assert!(ended > 0, "no connection was ended");
        for one in &all {
            becomes(&queue, one.id, JobStatus::Done).await;
        }
        worker.end().await;
        let runs = runs.lock().unwrap();
        assert_eq!(runs.len(), 2_001);
        assert!(runs.values().all(|runs| *runs == 1));
    });
}

#[test]
fn an_sqlite_that_somebody_locks_pauses_the_worker_and_nothing_is_lost() {
    logged(TestDatabase::sqlite, async |db, logs| {
        let database = db
            .options()
            .busy_timeout(Duration::from_millis(30))
            .connect()
            .await
            .unwrap();
        let queue = Queue::new(db.open().await);
        let gate = Arc::new(Semaphore::new(0));
        let handler = {
            let gate = gate.clone();
            move |job: Probe| gated(gate.clone(), job)
        };
        let worker = start(Worker::new(database).options(lively()).register(handler));
        let finishes_meanwhile = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, finishes_meanwhile, JobStatus::Running).await;
        let comes_meanwhile = queue
            .enqueue(&probe(2))
            .delay(Duration::from_secs(5))
            .await
            .unwrap()
            .id;

        let mut other = SqliteConnection::connect(&db.url).await.unwrap();
        let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
        gate.add_permits(2);
        db.advance(5);
        for fault in [
            "cannot write the outcomes",
            "cannot fetch jobs",
            "cannot write the heartbeat",
        ] {
            eventually(fault, async || logs.count(fault) > 0).await;
        }
        eventually("it goes on trying", async || {
            logs.count("still no heartbeat") > 2
        })
        .await;
        assert!(worker.is_at_work());
        lock.rollback().await.unwrap();
        let done = becomes(&queue, finishes_meanwhile, JobStatus::Done).await;
        assert_eq!(done.attempt, 1);
        becomes(&queue, comes_meanwhile, JobStatus::Done).await;
        worker.end().await;
        for fault in [
            "cannot write the outcomes",
            "cannot fetch jobs",
            "cannot write the heartbeat",
        ] {
            assert_eq!(logs.count(fault), 1, "{fault}");
        }
    });
}
