//! How far a handler says that it is.

use std::sync::Arc;

use larder::queue::{JobProgress, JobStatus, NewJob};
use larder::{JobContext, JobError, Queue, Worker};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::support::both_engines;
use crate::work::{Probe, becomes, eventually, job, lively, once, probe, run, start};

const fn of(done: u64, total: u64) -> Option<JobProgress> {
    Some(JobProgress { done, total })
}

both_engines! {
    async fn the_progress_of_a_running_job_is_seen_and_its_latest_is_kept(db) {
        let queue = Queue::new(db.open().await);
        let gate = Arc::new(Semaphore::new(0));
        let handler = {
            let gate = gate.clone();
            move |_: Probe, cx: JobContext| {
                let gate = gate.clone();
                async move {
                    for step in 0..3 {
                        // Of many in a row the latest counts.
                        for part in 0..=1_000 {
                            cx.progress(step * 1_000 + part, 3_000);
                        }
                        gate.acquire().await?.forget();
                    }
                    Ok::<_, JobError>(Value::Null)
                }
            }
        };
        let worker = start(Worker::new(db.open().await).options(lively()).register(handler));
        let id = queue.enqueue(&probe(1)).await.unwrap().id;
        for step in 1..=3 {
            eventually("its progress is written", async || job(&queue, id).await.progress == of(step * 1_000, 3_000)).await;
            assert_eq!(job(&queue, id).await.status, JobStatus::Running);
            gate.add_permits(1);
        }
        assert_eq!(becomes(&queue, id, JobStatus::Done).await.progress, of(3_000, 3_000));
        worker.end().await;
    }

    async fn the_last_progress_is_written_with_the_outcome(db) {
        let queue = Queue::new(db.open().await);
        // So many, and so quick, that few of them meet the rhythm of the writing.
        let ids = queue.enqueue_many((0..500).map(|n| NewJob::new(&probe(n)).max_attempts(1))).await.unwrap();
        let none = queue.enqueue(&probe("none")).await.unwrap().id;
        run(Worker::new(db.open().await).options(once()).register(|job: Probe, cx: JobContext| async move {
            let Some(n) = job.value.as_u64() else {
                return Ok(Value::Null);
            };
            cx.progress(0, 500);
            cx.progress(n, 500);
            if n % 2 == 0 { Ok(Value::Null) } else { Err(JobError::retry("odd")) }
        })).await;
        for (n, id) in (0..).zip(ids) {
            let job = job(&queue, id.id).await;
            assert_eq!(job.progress, of(n, 500));
            assert_eq!(job.status, if n % 2 == 0 { JobStatus::Done } else { JobStatus::Dead });
        }
        assert_eq!(job(&queue, none).await.progress, None);
    }

    async fn a_job_that_is_tried_again_begins_without_progress(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe(1)).await.unwrap().id;
        let handler = |_: Probe, cx: JobContext| async move {
            cx.progress(u64::MAX, u64::MAX);
            Err::<Value, _>(JobError::retry("again"))
        };
        run(Worker::new(db.open().await).options(once()).register(handler)).await;
        let waits = job(&queue, id).await;
        assert_eq!((waits.status, waits.progress), (JobStatus::Queued, None));
        db.execute("UPDATE {}job SET max_attempts = 2").await;
        assert!(queue.retry(id).await.unwrap());
        run(Worker::new(db.open().await).options(once()).register(handler)).await;
        let largest = i64::MAX.unsigned_abs();
        let dead = job(&queue, id).await;
        assert_eq!((dead.status, dead.progress), (JobStatus::Dead, of(largest, largest)));
        assert!(queue.retry(id).await.unwrap());
        assert_eq!(job(&queue, id).await.progress, None);
    }

    async fn progress_of_an_attempt_that_was_taken_away_is_not_written(db) {
        let queue = Queue::new(db.open().await);
        let gate = Arc::new(Semaphore::new(0));
        let handler = {
            let gate = gate.clone();
            move |_: Probe, cx: JobContext| {
                let gate = gate.clone();
                async move {
                    cx.progress(1, 2);
                    gate.acquire().await?.forget();
                    cx.progress(2, 2);
                    Ok::<_, JobError>(Value::Null)
                }
            }
        };
        let mut options = lively();
        options.concurrency = 1;
        let worker = start(Worker::new(db.open().await).options(options).register(handler));
        let id = queue.enqueue(&probe(1)).await.unwrap().id;
        eventually("its progress is written", async || job(&queue, id).await.progress == of(1, 2)).await;
        db.execute("UPDATE {}job SET attempt = 2, progress_done = 7").await;
        gate.add_permits(1);
        worker.end().await;
        let job = job(&queue, id).await;
        assert_eq!((job.status, job.progress), (JobStatus::Running, of(7, 2)));
    }
}
