//! Enqueueing, and what a worker makes of it.

use std::time::Duration;

use larder::queue::{Job, JobStatus, NewJob};
use larder::worker::WorkerOptions;
use larder::{Cache, Data, JobContext, JobError, Queue, Worker};
use serde::{Deserialize, Serialize};

use crate::support::{TestDatabase, both_engines};

#[derive(Serialize, Deserialize)]
struct Square {
    of: i64,
}

impl Job for Square {
    const NAME: &'static str = "square";
    type Output = i64;
}

async fn square(job: Square, cache: Data<Cache>, cx: JobContext) -> Result<i64, JobError> {
    cache
        .increment("squares", 1, larder::Expiration::Never)
        .await?;
    if job.of < 0 {
        return Err(JobError::retry(format!(
            "attempt {} of a negative",
            cx.attempt
        )));
    }
    Ok(job.of * job.of)
}

/// Runs a worker until nothing is ready.
async fn drain(db: &TestDatabase) {
    let mut options = WorkerOptions::default();
    options.once = true;
    Worker::new(db.open().await)
        .options(options)
        .register(square)
        .run_until(std::future::pending())
        .await
        .unwrap();
}

both_engines! {
    async fn a_job_runs_and_its_result_is_kept(db) {
        let queue = Queue::new(db.open().await);
        let many: Vec<_> = (0..100).map(|of| NewJob::new(&Square { of })).collect();
        let ids = queue.enqueue_many(many).await.unwrap();
        drain(db).await;
        for (of, enqueued) in ids.iter().enumerate() {
            let job = queue.get(enqueued.id).await.unwrap().unwrap();
            assert_eq!(job.status, JobStatus::Done);
            assert_eq!(job.result.unwrap().get(), (of * of).to_string());
            assert_eq!(job.attempt, 1);
        }
    }

    async fn a_failed_job_waits_for_its_backoff_and_ends_dead(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&Square { of: -1 }).max_attempts(2).await.unwrap().id;
        drain(db).await;
        let job = queue.get(id).await.unwrap().unwrap();
        assert_eq!((job.status, job.attempt), (JobStatus::Queued, 1));
        assert_eq!(job.error.as_deref(), Some("attempt 1 of a negative"));
        assert!(job.run_at > job.created_at);
        db.advance(10);
        drain(db).await;
        let job = queue.get(id).await.unwrap().unwrap();
        assert_eq!((job.status, job.attempt), (JobStatus::Dead, 2));
    }

    async fn a_delayed_job_waits_for_its_time(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&Square { of: 3 }).delay(Duration::from_secs(60)).await.unwrap().id;
        drain(db).await;
        assert_eq!(queue.get(id).await.unwrap().unwrap().status, JobStatus::Queued);
        db.advance(61);
        drain(db).await;
        assert_eq!(queue.get(id).await.unwrap().unwrap().status, JobStatus::Done);
    }
}
