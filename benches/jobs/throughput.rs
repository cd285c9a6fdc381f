//! How many jobs a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::database::Engine;
use larder::queue::NewJob;
use larder::worker::WorkerOptions;
use larder::{JobError, Queue, Worker};
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, oneshot};

use super::Nothing;
use super::place::{Place, spread};

/// So many jobs run before those that are counted.
const WARM: u64 = 2_000;

static LEFT: AtomicU64 = AtomicU64::new(0);
static ALL: Notify = Notify::const_new();

async fn nothing(_: Nothing) -> Result<(), JobError> {
    if LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        ALL.notify_one();
    }
    Ok(())
}

/// How larder's worker is set for the rates: its defaults, but for the peer's number of jobs at once.
fn options(concurrency: u64) -> WorkerOptions {
    let mut options = WorkerOptions::default();
    options.concurrency = usize::try_from(concurrency).unwrap();
    options
}

pub(crate) async fn rate(engine: Engine, jobs: u64, concurrency: u64) {
    let place = Place::new(engine);
    let database = place.connect().await;
    let queue = Queue::new(database.clone());
    enqueued(&queue, WARM).await;
    let worker = Worker::new(database)
        .options(options(concurrency))
        .register(nothing);
    let (stop, stopped) = oneshot::channel();
    let started = Instant::now();
    let working = tokio::spawn(worker.run_until(async {
        let _ = stopped.await;
    }));
    let first = async {
        while LEFT.load(Ordering::Relaxed) == WARM {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        started.elapsed()
    };
    let (cold, _) = tokio::join!(first, done(&queue));
    let enqueued = enqueued(&queue, jobs).await;
    let took = done(&queue).await - enqueued;
    stop.send(()).unwrap();
    working.await.unwrap().unwrap();
    queue.database().close().await;
    place.end().await;
    println!(
        "{{\"rate\": {:.1}, \"cold\": {:.1}}}",
        jobs as f64 / took.as_secs_f64(),
        cold.as_nanos() as f64 / 1e3
    );
}

/// Enqueues jobs in one transaction, and says when it was over.
async fn enqueued(queue: &Queue, jobs: u64) -> Instant {
    LEFT.store(jobs, Ordering::Relaxed);
    let new = (0..jobs).map(|_| NewJob::new(&Nothing { at: 0 }));
    queue.enqueue_many(new).await.unwrap();
    Instant::now()
}

/// When each job is written down as done.
async fn done(queue: &Queue) -> Instant {
    ALL.notified().await;
    while unfinished(queue).await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Instant::now()
}

/// Whether any job is not done: those that run hold nothing but their outcome back by now, and of those that were claimed
/// many at once the rows say ready until then. It is counted by an index: to list jobs would read the table, at larder's
/// expense.
async fn unfinished(queue: &Queue) -> bool {
    let queues = queue.queues().await.unwrap();
    queues.iter().any(|queue| queue.running + queue.ready > 0)
}

pub(crate) async fn enqueue(engine: Engine, clients: u64, seconds: f64) {
    let place = Place::new(engine);
    let queue = Queue::new(place.connect().await);
    if engine == Engine::Postgres {
        let mut listener = PgListener::connect(&place.url).await.unwrap();
        listener.listen("larder_job").await.unwrap();
        tokio::spawn(async move { while listener.recv().await.is_ok() {} });
    }
    let mut line = String::new();
    for stretch in [seconds / 4.0, seconds] {
        let started = Instant::now();
        let until = started + Duration::from_secs_f64(stretch);
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let mut took = Vec::new();
                    while Instant::now() < until {
                        let began = Instant::now();
                        queue.enqueue(&Nothing { at: 0 }).await.unwrap();
                        took.push(began.elapsed());
                    }
                    took
                })
            })
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await.unwrap());
        }
        let rate = took.len() as f64 / started.elapsed().as_secs_f64();
        line = format!("{{\"rate\": {rate:.1}, {}}}", spread(took));
    }
    queue.database().close().await;
    place.end().await;
    println!("{line}");
}
