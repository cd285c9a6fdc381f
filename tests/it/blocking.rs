//! Handlers that block every thread of their runtime.

use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use larder::queue::JobStatus;
use larder::{JobError, Queue, Worker};
use serde_json::Value;

use crate::support::both_engines;
use crate::work::{Probe, becomes, eventually, lively, probe, start, ticking, within};

const THREADS: usize = 2;

/// Blocks its thread until the end of the test.
async fn block(all: Arc<Barrier>, job: Probe) -> Result<Value, JobError> {
    all.wait();
    all.wait();
    Ok(job.value)
}

both_engines! {
    async fn a_worker_whose_threads_are_all_blocked_is_not_taken_for_dead(db) {
        let queue = Queue::new(ticking(db).await);
        let (all, (tell, told)) = (Arc::new(Barrier::new(THREADS + 1)), mpsc::channel::<()>());
        let mut options = lively();
        options.rescue_after = Duration::from_millis(400);
        let blocked = ticking(db).await;
        let worker = {
            let (all, options) = (all.clone(), options.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(THREADS)
                    .enable_all()
                    .build()
                    .unwrap();
                let handler = move |job: Probe| block(all.clone(), job);
                let stop = async move {
                    let _ = tokio::task::spawn_blocking(move || told.recv()).await;
                };
                let worker = Worker::new(blocked).options(options).register(handler);
                runtime.block_on(worker.run_until(stop)).unwrap()
            })
        };
        let jobs: Vec<_> = (0..THREADS).map(|n| larder::queue::NewJob::new(&probe(n))).collect();
        let jobs = queue.enqueue_many(jobs).await.unwrap();
        let reached = tokio::task::spawn_blocking({
            let all = all.clone();
            move || all.wait()
        });
        within(reached).await.unwrap();

        // Another one looks for the dead for several times as long as a silent worker is given.
        let other = start(Worker::new(ticking(db).await).options(options).register(async |job: Probe| Ok::<_, JobError>(job.value)));
        let beats = async || db.number("SELECT COUNT(DISTINCT id) FROM {}job_worker").await;
        eventually("both are there", async || beats().await == 2).await;
        let newest = async || {
            let heartbeat = if db.is_sqlite() { "heartbeat_at" } else { "CAST(EXTRACT(EPOCH FROM heartbeat_at) * 1000 AS bigint)" };
            db.number(&format!("SELECT MIN({heartbeat}) FROM {{}}job_worker")).await
        };
        let since = newest().await;
        eventually("both beat on for long", async || newest().await > since + 1_500).await;
        for job in &jobs {
            assert_eq!(becomes(&queue, job.id, JobStatus::Running).await.attempt, 1);
        }

        tokio::task::spawn_blocking(move || all.wait()).await.unwrap();
        for job in &jobs {
            assert_eq!(becomes(&queue, job.id, JobStatus::Done).await.attempt, 1);
        }
        tell.send(()).unwrap();
        within(tokio::task::spawn_blocking(move || worker.join().unwrap())).await.unwrap();
        other.end().await;
    }
}
