//! Cancelling jobs: those that wait, and those that run somewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use larder::queue::{Cancelled, JobId, JobSelection, JobStatus, NewJob};
use larder::worker::{Ended, WorkerOptions};
use larder::{JobContext, JobError, Queue, Worker};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};

use crate::support::{TestDatabase, both_engines, noon};
use crate::work::{
    Probe, Started, becomes, count, eventually, job, lively, once, probe, run, start, ticking,
    within, without_polling,
};

/// What a handler does when its job is cancelled, by the payload.
async fn handler(job: Probe, cx: JobContext) -> Result<Value, JobError> {
    cx.progress(1, 3);
    match job.value.as_str().unwrap() {
        "fails" => {
            cx.cancellation().cancelled().await;
            Err(JobError::retry("I was told to stop"))
        }
        "panics" => {
            cx.cancellation().cancelled().await;
            panic!("boom");
        }
        "finishes" => {
            cx.cancellation().cancelled().await;
            Ok(Value::from("done all the same"))
        }
        "ignores" => std::future::pending().await,
        _ => Ok(Value::Null),
    }
}

async fn started(db: &TestDatabase, options: WorkerOptions) -> (Queue, Started) {
    let database = ticking(db).await;
    let worker = Worker::new(database.clone())
        .options(options)
        .register(handler);
    (Queue::new(database), start(worker))
}

/// A job that runs and does this when it is cancelled.
async fn running(queue: &Queue, how: &str) -> JobId {
    let id = queue.enqueue(&probe(how)).await.unwrap().id;
    becomes(queue, id, JobStatus::Running).await;
    id
}

fn only(status: JobStatus) -> JobSelection {
    JobSelection {
        status: Some(status),
        ..JobSelection::default()
    }
}

async fn errors(queue: &Queue, id: JobId) -> Vec<(i32, Option<String>)> {
    let attempts = queue.attempts(id).await.unwrap();
    attempts
        .into_iter()
        .map(|attempt| (attempt.attempt, attempt.error))
        .collect()
}

both_engines! {
    async fn a_queued_job_is_cancelled_at_once_and_never_runs(db) {
        let queue = Queue::new(db.open().await);
        let ready = queue.enqueue(&probe("fine")).unique_key("k").await.unwrap().id;
        let later = queue.enqueue(&probe("fine")).delay(Duration::from_secs(60)).await.unwrap().id;
        db.advance(3);
        for id in [ready, later] {
            assert!(queue.cancel(id).await.unwrap());
            assert!(!queue.cancel(id).await.unwrap());
            let job = job(&queue, id).await;
            let now = Some(noon() + TimeDelta::seconds(3));
            assert_eq!((job.status, job.cancelled_at, job.finished_at), (JobStatus::Cancelled, now, now));
        }
        assert!(queue.enqueue(&probe("fine")).unique_key("k").await.unwrap().inserted, "its key is free");
        db.advance(60);
        run(Worker::new(db.open().await).options(once()).register(handler)).await;
        for id in [ready, later] {
            assert_eq!(job(&queue, id).await.attempt, 0);
        }
        assert_eq!(count(&queue, JobStatus::Done).await, 1);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE status = 'cancelled' AND due").await, 0);
    }

    async fn a_job_that_has_ended_is_not_cancelled(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe("fine")).await.unwrap().id;
        run(Worker::new(db.open().await).options(once()).register(handler)).await;
        assert!(!queue.cancel(id).await.unwrap());
        assert!(!queue.cancel("019aabcd-0000-7000-8000-000000000000".parse().unwrap()).await.unwrap());
        let job = job(&queue, id).await;
        assert_eq!((job.status, job.cancelled_at), (JobStatus::Done, None));
    }

    async fn the_handler_of_a_running_job_is_told_and_its_error_is_kept(db) {
        let (queue, worker) = started(db, lively()).await;
        for (how, error) in [("fails", "I was told to stop"), ("panics", "its handler panicked: boom")] {
            let id = running(&queue, how).await;
            assert!(queue.cancel(id).await.unwrap());
            let job = becomes(&queue, id, JobStatus::Cancelled).await;
            assert_eq!((job.attempt, job.error.as_deref()), (1, Some(error)));
            assert!(job.finished_at >= job.cancelled_at && job.cancelled_at.is_some() && job.progress.is_some());
            assert_eq!(errors(&queue, id).await, [(1, Some(error.to_owned()))]);
            assert!(!queue.cancel(id).await.unwrap());
        }
        worker.end().await;
    }

    async fn a_handler_that_finishes_a_cancelled_job_has_done_it(db) {
        let (queue, worker) = started(db, lively()).await;
        let id = running(&queue, "finishes").await;
        assert!(queue.cancel(id).await.unwrap());
        let job = becomes(&queue, id, JobStatus::Done).await;
        assert_eq!(job.result.unwrap().get(), "\"done all the same\"");
        assert!(job.cancelled_at.is_some());
        assert!(queue.attempts(id).await.unwrap().is_empty());
        worker.end().await;
    }

    async fn a_handler_that_takes_no_notice_is_dropped(db) {
        let dropped = Arc::new(AtomicBool::new(false));
        struct SetOnDrop(Arc<AtomicBool>);
        impl Drop for SetOnDrop {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let database = ticking(db).await;
        let queue = Queue::new(database.clone());
        let mut options = lively();
        options.shutdown_timeout = Duration::from_millis(50);
        options.concurrency = 1;
        let flag = dropped.clone();
        let worker = start(Worker::new(database).options(options).register(move |job: Probe| {
            let guard = SetOnDrop(flag.clone());
            async move {
                if job.value == "ignores" {
                    std::future::pending::<()>().await;
                }
                drop(guard);
                Ok::<_, JobError>(Value::Null)
            }
        }));
        let id = running(&queue, "ignores").await;
        let next = queue.enqueue(&probe("fine")).await.unwrap().id;
        assert!(queue.cancel(id).await.unwrap());
        let job = becomes(&queue, id, JobStatus::Cancelled).await;
        assert_eq!(job.error.as_deref(), Some("it was cancelled, and dropped when it had not ended 0.05 s later"));
        eventually("it is dropped", async || dropped.load(Ordering::SeqCst)).await;
        // Its slot is free again.
        becomes(&queue, next, JobStatus::Done).await;
        worker.end().await;
    }

    async fn a_cancelled_job_holds_its_unique_key_until_its_attempt_has_ended(db) {
        let gate = Arc::new(Semaphore::new(0));
        let database = ticking(db).await;
        let queue = Queue::new(database.clone());
        let held = gate.clone();
        let worker = start(Worker::new(database).options(lively()).register(move |_: Probe, cx: JobContext| {
            let gate = held.clone();
            async move {
                cx.cancellation().cancelled().await;
                gate.acquire().await?.forget();
                Err::<Value, _>(JobError::abort("cancelled"))
            }
        }));
        let id = queue.enqueue(&probe(1)).unique_key("k").await.unwrap().id;
        becomes(&queue, id, JobStatus::Running).await;
        assert!(queue.cancel(id).await.unwrap());
        let again = queue.enqueue(&probe(1)).unique_key("k").await.unwrap();
        assert!(!again.inserted && again.id == id);
        assert!(queue.retry(id).await.unwrap_err().to_string().contains("it is running"));
        gate.add_permits(1);
        becomes(&queue, id, JobStatus::Cancelled).await;
        assert!(queue.enqueue(&probe(1)).unique_key("k").delay(Duration::from_secs(60)).await.unwrap().inserted);
        worker.end().await;
    }

    async fn a_cancelled_job_whose_worker_fell_silent_is_cancelled_and_not_tried_again(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe("fine")).await.unwrap().id;
        let ghost = "019aabcd-0000-7000-8000-00000000dead";
        let ghost = if db.is_sqlite() { format!("'{ghost}'") } else { format!("CAST('{ghost}' AS uuid)") };
        db.execute(&format!("UPDATE {{}}job SET status = 'running', attempt = 1, worker = {ghost}, started_at = created_at")).await;
        assert!(queue.cancel(id).await.unwrap());
        assert_eq!(job(&queue, id).await.status, JobStatus::Running);
        run(Worker::new(db.open().await).options(once()).register(handler)).await;
        let job = job(&queue, id).await;
        let silent = "its worker fell silent for 30 s and is taken for dead";
        assert_eq!((job.status, job.attempt, job.error.as_deref()), (JobStatus::Cancelled, 1, Some(silent)));
        assert_eq!(job.finished_at, Some(noon()));
        assert_eq!(errors(&queue, id).await, [(1, Some(silent.to_owned()))]);
    }

    async fn a_job_that_is_cancelled_during_a_drain_is_told_and_what_outlasts_the_drain_is_cancelled(db) {
        for how in ["fails", "ignores"] {
            let mut options = lively();
            options.shutdown_timeout = if how == "fails" { Duration::from_secs(60) } else { Duration::from_millis(300) };
            let (queue, worker) = started(db, options).await;
            let id = running(&queue, how).await;
            let ended = tokio::spawn(worker.stop());
            assert!(queue.cancel(id).await.unwrap());
            assert_eq!(within(ended).await.unwrap(), Ended::Drained);
            let job = job(&queue, id).await;
            assert_eq!((job.status, job.attempt), (JobStatus::Cancelled, 1));
            assert!(job.error.is_some() && job.finished_at.is_some());
            assert_eq!(errors(&queue, id).await.len(), 1);
        }
    }

    async fn what_a_drain_gives_back_of_a_cancelled_job_is_cancelled(db) {
        let mut options = lively();
        options.shutdown_timeout = Duration::ZERO;
        // It hears of nothing before it gives back: the database decides.
        options.heartbeat = Duration::from_secs(3600);
        options.listen = false;
        let (queue, worker) = started(db, options).await;
        let id = running(&queue, "ignores").await;
        db.execute("UPDATE {}job SET cancelled_at = created_at").await;
        worker.end().await;
        let job = job(&queue, id).await;
        let interrupted = "its last attempt was interrupted by the end of its worker";
        assert_eq!((job.status, job.attempt, job.error.as_deref()), (JobStatus::Cancelled, 1, Some(interrupted)));
        assert_eq!(errors(&queue, id).await, [(1, Some("it was interrupted by the end of its worker".to_owned()))]);
    }

    async fn a_failure_that_meets_the_cancellation_is_not_tried_again(db) {
        // Neither the handler nor the worker knows of it yet: the database decides.
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe(1)).await.unwrap().id;
        let other = Queue::new(db.open().await);
        let mut options = once();
        options.heartbeat = Duration::from_secs(3600);
        options.listen = false;
        run(Worker::new(db.open().await).options(options).register(move |_: Probe, cx: JobContext| {
            let other = other.clone();
            async move {
                assert!(other.cancel(cx.id).await.unwrap());
                assert!(!cx.is_cancelled());
                Err::<Value, _>(JobError::retry("no luck"))
            }
        })).await;
        let job = job(&queue, id).await;
        assert_eq!((job.status, job.error.as_deref()), (JobStatus::Cancelled, Some("no luck")));
        assert_eq!((job.run_at, job.finished_at), (noon(), Some(noon())));
        assert_eq!(errors(&queue, id).await, [(1, Some("no luck".to_owned()))]);
    }

    async fn two_attempts_of_a_job_on_one_worker_are_told_apart(db) {
        let database = ticking(db).await;
        let queue = Queue::new(database.clone());
        let (begun, mut begins) = mpsc::unbounded_channel::<JobContext>();
        let (told, mut tells) = mpsc::unbounded_channel::<i32>();
        let worker = start(Worker::new(database).options(lively()).register(move |_: Probe, cx: JobContext| {
            let (begun, told) = (begun.clone(), told.clone());
            async move {
                begun.send(cx.clone())?;
                cx.cancellation().cancelled().await;
                told.send(cx.attempt)?;
                Err::<Value, _>(JobError::retry(format!("attempt {}", cx.attempt)))
            }
        }));
        let id = queue.enqueue(&probe(1)).await.unwrap().id;
        let first = within(begins.recv()).await.unwrap();
        // It is taken for dead while it is cancelled, and retried; its handler runs still.
        db.execute("UPDATE {}job SET status = 'cancelled', cancelled_at = created_at").await;
        assert!(queue.retry(id).await.unwrap());
        let second = within(begins.recv()).await.unwrap();
        assert_eq!((first.attempt, second.attempt), (1, 2));
        assert!(queue.cancel(id).await.unwrap());
        assert_eq!(within(tells.recv()).await, Some(2));
        let job = becomes(&queue, id, JobStatus::Cancelled).await;
        assert_eq!(job.error.as_deref(), Some("attempt 2"));
        assert!(!first.is_cancelled());
        first.cancellation().cancel();
        worker.end().await;
        assert_eq!(queue.attempts(id).await.unwrap().len(), 1);
    }

    async fn a_cancellation_is_heard_in_the_same_process_without_waiting_for_a_look(db) {
        let mut options = without_polling();
        options.heartbeat = Duration::from_secs(3600);
        options.listen = false;
        let (queue, worker) = started(db, options).await;
        let begun = std::time::Instant::now();
        // A look each second would take them half a minute.
        for n in 0..30 {
            let id = running(&queue, "fails").await;
            if n % 2 == 0 {
                assert!(queue.cancel(id).await.unwrap());
            } else {
                let mut tx = queue.database().begin().await.unwrap();
                assert!(queue.cancel_in(&mut tx, id).await.unwrap());
                tx.commit().await.unwrap();
            }
            becomes(&queue, id, JobStatus::Cancelled).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        worker.end().await;
    }

    async fn a_cancellation_that_nobody_tells_of_is_looked_for(db) {
        let mut options = without_polling();
        options.heartbeat = Duration::from_secs(3600);
        options.listen = false;
        let (queue, worker) = started(db, options).await;
        let id = running(&queue, "fails").await;
        db.execute("UPDATE {}job SET cancelled_at = created_at").await;
        becomes(&queue, id, JobStatus::Cancelled).await;
        worker.end().await;
    }

    async fn a_cancellation_in_a_transaction_is_undone_with_it(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe("fine")).await.unwrap().id;
        let mut tx = queue.database().begin().await.unwrap();
        assert!(queue.cancel_in(&mut tx, id).await.unwrap());
        drop(tx);
        assert_eq!(job(&queue, id).await.status, JobStatus::Queued);
        let mut tx = queue.database().begin().await.unwrap();
        assert!(queue.cancel_in(&mut tx, id).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(job(&queue, id).await.status, JobStatus::Cancelled);
    }

    async fn many_are_cancelled_by_what_they_are(db) {
        let (queue, worker) = started(db, lively()).await;
        let later = |n: u64| NewJob::new(&probe("fine")).queue(format!("q{}", n % 2)).delay(Duration::from_secs(3600));
        queue.enqueue_many((0..2_500).map(later)).await.unwrap();
        let mut runs = Vec::new();
        for _ in 0..3 {
            runs.push(running(&queue, "fails").await);
        }
        let by_queue = JobSelection { queue: Some("q1".to_owned()), ..JobSelection::default() };
        assert_eq!(queue.cancel_many(&by_queue).await.unwrap(), Cancelled { queued: 1_250, running: 0 });
        assert_eq!(queue.cancel_many(&by_queue).await.unwrap(), Cancelled::default());
        let by_name = JobSelection { name: Some("other".to_owned()), ..JobSelection::default() };
        assert_eq!(queue.cancel_many(&by_name).await.unwrap(), Cancelled::default());
        assert_eq!(queue.cancel_many(&only(JobStatus::Running)).await.unwrap(), Cancelled { queued: 0, running: 3 });
        for id in runs {
            becomes(&queue, id, JobStatus::Cancelled).await;
        }
        running(&queue, "fails").await;
        assert_eq!(queue.cancel_many(&only(JobStatus::Queued)).await.unwrap(), Cancelled { queued: 1_250, running: 0 });
        assert_eq!(queue.cancel_many(&JobSelection::default()).await.unwrap(), Cancelled { queued: 0, running: 1 });
        assert!(queue.cancel_many(&only(JobStatus::Dead)).await.unwrap_err().to_string().contains("queued or running"));
        worker.end().await;
    }

    async fn a_handler_learns_that_its_worker_is_told_to_stop(db) {
        let database = ticking(db).await;
        let queue = Queue::new(database.clone());
        let worker = start(Worker::new(database).options(lively()).register(|_: Probe, cx: JobContext| async move {
            cx.stopping().cancelled().await;
            Ok::<_, JobError>(Value::from(cx.is_cancelled()))
        }));
        let id = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, id, JobStatus::Running).await;
        worker.end().await;
        assert_eq!(job(&queue, id).await.result.unwrap().get(), "false");
    }
}

// PostgreSQL alone tells other processes; SQLite's are looked for.
#[test]
fn a_cancellation_by_another_connection_is_heard_without_waiting_for_a_look() {
    crate::support::run(TestDatabase::postgres, async |db| {
        let mut options = without_polling();
        options.heartbeat = Duration::from_secs(3600);
        let (queue, worker) = started(db, options).await;
        let other = Queue::new(ticking(db).await);
        let begun = std::time::Instant::now();
        for _ in 0..30 {
            let id = running(&queue, "fails").await;
            assert!(other.cancel(id).await.unwrap());
            becomes(&queue, id, JobStatus::Cancelled).await;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(15),
            "{:?}",
            begun.elapsed()
        );
        // During a drain as well.
        let id = running(&queue, "fails").await;
        let ended = tokio::spawn(worker.stop());
        assert!(other.cancel(id).await.unwrap());
        assert_eq!(within(ended).await.unwrap(), Ended::Drained);
        assert_eq!(job(&queue, id).await.status, JobStatus::Cancelled);
    });
}
