//! How soon a worker learns of a job, without polling where it can.

use std::sync::Arc;
use std::time::Duration;

use larder::database::Database;
use larder::queue::{JobId, JobStatus, NewJob};
use larder::worker::WorkerOptions;
use larder::{JobContext, JobError, Queue, Worker};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};

use crate::support::{TestDatabase, both_engines, run};
use crate::work::{
    Probe, Started, becomes, lively, probe, start, ticking, within, without_polling,
};

/// The first attempt of a job that says so fails, and wants another soon.
async fn handler(job: Probe, cx: JobContext) -> Result<Value, JobError> {
    if job.value == "again" && cx.attempt == 1 {
        return Err(JobError::retry_after("not yet", Duration::from_millis(100)));
    }
    Ok(job.value)
}

/// A worker that has done its first job and found nothing else.
async fn idle(db: &TestDatabase, options: WorkerOptions) -> (Queue, Started) {
    let database = ticking(db).await;
    let queue = Queue::new(database.clone());
    let worker = start(Worker::new(database).options(options).register(handler));
    let first = queue.enqueue(&probe(1)).await.unwrap().id;
    becomes(&queue, first, JobStatus::Done).await;
    (queue, worker)
}

/// A worker of one slot, whose jobs of the queue `busy` tell that they have begun, and wait for the gate.
fn of_one_slot(
    database: Database,
    gate: &Arc<Semaphore>,
) -> (Started, mpsc::UnboundedReceiver<()>) {
    let (begun, begins) = mpsc::unbounded_channel();
    let gate = gate.clone();
    let handler = move |_: Probe, cx: JobContext| {
        let (gate, begun) = (gate.clone(), begun.clone());
        async move {
            if cx.queue == "busy" {
                begun.send(())?;
                gate.acquire().await?.forget();
            }
            Ok::<_, JobError>(Value::Null)
        }
    };
    let mut options = without_polling();
    options.concurrency = 1;
    let worker = Worker::new(database).options(options).register(handler);
    (start(worker), begins)
}

async fn is_done(queue: &Queue, id: JobId, worker: Started) {
    becomes(queue, id, JobStatus::Done).await;
    worker.end().await;
}

both_engines! {
    async fn a_job_of_the_same_process_starts_at_once(db) {
        let mut options = without_polling();
        options.listen = false;
        let (queue, worker) = idle(db, options).await;
        let id = queue.enqueue(&probe(2)).await.unwrap().id;
        is_done(&queue, id, worker).await;
    }

    async fn a_delayed_job_starts_when_its_time_has_come(db) {
        let (queue, worker) = idle(db, without_polling()).await;
        let id = queue.enqueue(&probe(2)).delay(Duration::from_millis(150)).await.unwrap().id;
        becomes(&queue, id, JobStatus::Done).await;
        let job = queue.get(id).await.unwrap().unwrap();
        assert!(job.started_at.unwrap() >= job.run_at);
        worker.end().await;
    }

    async fn a_failed_job_starts_again_when_its_time_has_come(db) {
        let (queue, worker) = idle(db, without_polling()).await;
        let id = queue.enqueue(&probe("again")).await.unwrap().id;
        is_done(&queue, id, worker).await;
    }

    async fn a_job_of_another_queue_starts_at_once_while_a_backlog_waits(db) {
        let database = ticking(db).await;
        let queue = Queue::new(database.clone());
        let gate = Arc::new(Semaphore::new(0));
        let (worker, mut begins) = of_one_slot(database, &gate);
        for _ in 0..10 {
            let backlog = (0..2).map(|n| NewJob::new(&probe(n)).queue("busy"));
            let backlog = queue.enqueue_many(backlog).await.unwrap();
            within(begins.recv()).await.unwrap();
            let other = queue.enqueue(&probe(2)).queue("other").await.unwrap().id;
            becomes(&queue, other, JobStatus::Done).await;
            gate.add_permits(2);
            within(begins.recv()).await.unwrap();
            for job in backlog {
                becomes(&queue, job.id, JobStatus::Done).await;
            }
        }
        worker.end().await;
    }

    async fn a_job_of_another_queue_starts_while_the_busy_one_is_told_of_more_all_the_time(db) {
        let database = ticking(db).await;
        let queue = Queue::new(database.clone());
        let gate = Arc::new(Semaphore::new(0));
        let (worker, mut begins) = of_one_slot(database, &gate);
        queue.enqueue(&probe(0)).queue("busy").await.unwrap();
        within(begins.recv()).await.unwrap();
        let telling = async {
            loop {
                queue.enqueue(&probe(1)).queue("busy").await.unwrap();
            }
        };
        let other = async {
            let other = queue.enqueue(&probe(2)).queue("other").delay(Duration::from_millis(150));
            becomes(&queue, other.await.unwrap().id, JobStatus::Done).await
        };
        tokio::select! {
            () = telling => {}
            _ = other => {}
        }
        gate.add_permits(1_000_000);
        worker.end().await;
    }

    async fn polling_finds_what_nobody_told(db) {
        let mut options = lively();
        options.listen = false;
        let (queue, worker) = idle(db, options).await;
        let id = Queue::new(ticking(db).await).enqueue(&probe(2)).await.unwrap().id;
        is_done(&queue, id, worker).await;
    }

    async fn a_job_of_another_process_starts_at_once_and_a_delayed_one_in_time(db) {
        // By connections of its own, as another process has them.
        let (queue, worker) = idle(db, without_polling()).await;
        let other = Queue::new(ticking(db).await);
        let now = other.enqueue(&probe(2)).await.unwrap().id;
        becomes(&queue, now, JobStatus::Done).await;
        let mut tx = other.database().begin().await.unwrap();
        let delayed = other.enqueue(&probe(3)).delay(Duration::from_millis(150)).in_tx(&mut tx).await.unwrap().id;
        tx.commit().await.unwrap();
        is_done(&queue, delayed, worker).await;
    }
}

// PostgreSQL alone has schemas.
#[test]
fn a_worker_without_notifications_of_its_schema_sleeps_on() {
    run(TestDatabase::postgres, async |db| {
        let (queue, worker) = idle(db, without_polling()).await;
        let stranger = TestDatabase::postgres().await;
        let other = Queue::new(ticking(&stranger).await);
        let theirs = other.enqueue(&probe(2)).await.unwrap().id;
        let ours = Queue::new(ticking(db).await)
            .enqueue(&probe(2))
            .await
            .unwrap()
            .id;
        becomes(&queue, ours, JobStatus::Done).await;
        assert_eq!(becomes(&other, theirs, JobStatus::Queued).await.attempt, 0);
        let schema = stranger.schema.replace('"', "\"\"");
        stranger
            .execute(&format!("DROP SCHEMA \"{schema}\" CASCADE"))
            .await;
        worker.end().await;
    });
}
