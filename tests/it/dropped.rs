//! A worker whose future is dropped ends as by a crash: nothing more begins, and what runs is given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder::database::Database;
use larder::queue::{JobStatus, NewJob};
use larder::{JobError, Queue, Worker};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::support::both_engines;
use crate::work::{Probe, count, eventually, give_back, lively, probe, start, ticking};

#[derive(Clone, Default)]
struct Seen {
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

/// Counts a handler that is dropped.
struct Drops(Arc<AtomicUsize>);

impl Drop for Drops {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A worker with two slots, taken by handlers that wait for the gate, is dropped.
async fn drop_at_work(database: Database, queue: &Queue, seen: &Seen, gate: &Arc<Semaphore>) {
    let jobs = (0..20).map(|n| NewJob::new(&probe(n)));
    queue.enqueue_many(jobs).await.unwrap();
    let mut options = lively();
    options.concurrency = 2;
    let (state, gate) = (seen.clone(), gate.clone());
    let handler = move |job: Probe| {
        let (state, gate) = (state.clone(), gate.clone());
        async move {
            state.begun.fetch_add(1, Ordering::SeqCst);
            let _drops = Drops(state.dropped);
            gate.acquire().await?.forget();
            Ok::<Value, JobError>(job.value)
        }
    };
    let worker = Worker::new(database).options(options).register(handler);
    let worker = tokio::spawn(worker.run_until(std::future::pending()));
    eventually("the slots are taken", async || {
        seen.begun.load(Ordering::SeqCst) == 2
    })
    .await;
    worker.abort();
    assert!(worker.await.unwrap_err().is_cancelled());
    eventually("the handlers are given up", async || {
        seen.dropped.load(Ordering::SeqCst) == 2
    })
    .await;
}

both_engines! {
    async fn a_worker_that_is_dropped_gives_up_its_handlers_and_begins_nothing_more(db) {
        let (queue, seen) = (Queue::new(ticking(db).await), Seen::default());
        let gate = Arc::new(Semaphore::new(0));
        drop_at_work(ticking(db).await, &queue, &seen, &gate).await;
        gate.add_permits(100);
        assert_eq!(count(&queue, JobStatus::Running).await, 2, "as by a crash");
        let mut options = lively();
        options.rescue_after = Duration::from_millis(400);
        let other = start(Worker::new(ticking(db).await).options(options).register(give_back));
        eventually("another one has done them", async || count(&queue, JobStatus::Done).await == 20).await;
        assert_eq!(seen.begun.load(Ordering::SeqCst), 2);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE attempt = 2").await, 2);
        other.end().await;
    }
}

// SQLite alone: its worker has no thread of its own there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_on_a_database_in_memory_that_is_dropped_ends_too() {
    let database = Database::connect("sqlite::memory:").await.unwrap();
    let (queue, seen) = (Queue::new(database.clone()), Seen::default());
    let gate = Arc::new(Semaphore::new(0));
    drop_at_work(database.clone(), &queue, &seen, &gate).await;
    gate.add_permits(100);
    let worker = Worker::new(database).options(lively()).register(give_back);
    let other = start(worker);
    eventually("another one has done the rest", async || {
        count(&queue, JobStatus::Done).await == 18
    })
    .await;
    assert_eq!(seen.begun.load(Ordering::SeqCst), 2);
    other.end().await;
}
