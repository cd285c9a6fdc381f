//! What lies between the claim of a job and the beginning of its handler.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use larder::queue::{JobStatus, NewJob};
use larder::{JobContext, JobError, Queue, Worker};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::support::both_engines;
use crate::work::{Probe, becomes, count, eventually, give_back, lively, once, probe, run, start};

/// Blocks its thread until the job is cancelled and the test lets it end.
fn block(
    job: &Probe,
    cx: &JobContext,
    seen: &Mutex<Vec<u64>>,
    told: &[AtomicBool; 3],
    end: &AtomicBool,
) {
    let number = job.value.as_u64().unwrap();
    seen.lock().unwrap().push(number);
    let told = &told[usize::try_from(number).unwrap()];
    while number != 1 && !end.load(Ordering::SeqCst) {
        told.store(cx.is_cancelled(), Ordering::SeqCst);
        std::thread::yield_now();
    }
}

both_engines! {
    async fn a_job_that_is_cancelled_when_it_is_claimed_and_not_begun_never_begins(db) {
        let queue = Queue::new(db.open().await);
        let (seen, told, end) = (Arc::<Mutex<Vec<u64>>>::default(), Arc::<[AtomicBool; 3]>::default(), Arc::<AtomicBool>::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut options = lively();
        options.concurrency = 3;
        let handler = {
            let (seen, told, end) = (seen.clone(), told.clone(), end.clone());
            move |job: Probe, cx: JobContext| {
                block(&job, &cx, &seen, &told, &end);
                async { Ok::<Value, JobError>(Value::Null) }
            }
        };
        let worker = Worker::new(db.open().await).options(options).register(handler);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let worker = runtime.spawn(worker.run_until(async { let _ = stopped.await; }));
        let enqueue = async |number: u64| queue.enqueue(&probe(number)).await.unwrap().id;
        let (first, last) = (enqueue(0).await, enqueue(2).await);
        eventually("they block all threads", async || seen.lock().unwrap().len() == 2).await;
        let between = enqueue(1).await;
        becomes(&queue, between, JobStatus::Running).await;
        // Who is told of a later one has been told of those before.
        for (id, number) in [(between, None), (first, Some(0)), (last, Some(2))] {
            assert!(queue.cancel(id).await.unwrap());
            let is_told = || number.is_none_or(|number: usize| told[number].load(Ordering::SeqCst));
            eventually("it is told", async || is_told()).await;
        }
        end.store(true, Ordering::SeqCst);
        becomes(&queue, first, JobStatus::Done).await;
        becomes(&queue, last, JobStatus::Done).await;
        eventually("it has ended", async || queue.get(between).await.unwrap().unwrap().status != JobStatus::Running).await;
        assert_eq!(queue.get(between).await.unwrap().unwrap().status, JobStatus::Cancelled);
        assert!(!seen.lock().unwrap().contains(&1));
        stop.send(()).unwrap();
        worker.await.unwrap().unwrap();
        runtime.shutdown_background();
    }

    async fn a_queue_is_served_beside_one_that_runs_more_than_may_wait_to_be_written(db) {
        const MANY: usize = 10_100;
        let queue = Queue::new(db.open().await);
        let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let handler = {
            let (begun, gate) = (begun.clone(), gate.clone());
            move |job: Probe| {
                let (begun, gate) = (begun.clone(), gate.clone());
                async move {
                    if job.value.is_null() {
                        begun.fetch_add(1, Ordering::SeqCst);
                        gate.acquire().await?.forget();
                    }
                    Ok::<Value, JobError>(job.value)
                }
            }
        };
        let mut options = lively();
        options.queue_concurrency.insert("many".to_owned(), MANY);
        let worker = start(Worker::new(db.open().await).options(options).register(handler));
        let jobs = (0..MANY).map(|_| NewJob::new(&probe(Value::Null)).queue("many"));
        queue.enqueue_many(jobs).await.unwrap();
        eventually("all run", async || begun.load(Ordering::SeqCst) == MANY).await;
        let other = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, other, JobStatus::Done).await;
        gate.add_permits(MANY);
        worker.end().await;
        assert_eq!(count(&queue, JobStatus::Running).await, 0);
    }

    async fn a_worker_without_a_bound_runs_its_jobs(db) {
        let queue = Queue::new(db.open().await);
        let jobs = (0..100).map(|n| NewJob::new(&probe(n)));
        queue.enqueue_many(jobs).await.unwrap();
        let mut options = once();
        options.concurrency = usize::MAX;
        run(Worker::new(db.open().await).options(options).register(give_back)).await;
        assert_eq!(count(&queue, JobStatus::Done).await, 100);
    }
}
