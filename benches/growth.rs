//! What calls cost in tables of many sizes, for `benches/peers/growth.sh`: `cargo bench --bench growth -- --figures ENGINE
//! ROWS` prints a line of JSON, in microseconds: the median of a `get`, of a `set` and of an `enqueue` by one caller; the
//! purge of 1,000 items; and fetching 100 jobs and writing down what became of them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod place;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::database::Engine;
use larder::worker::WorkerOptions;
use larder::{Cache, Job, JobError, Queue, Worker};
use place::{Items, Jobs, Place, engine, scatter};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Serialize, Deserialize)]
struct Nothing {}

impl Job for Nothing {
    const NAME: &'static str = "nothing";
    type Output = ();
}

static LEFT: AtomicU64 = AtomicU64::new(0);
static ENOUGH: Notify = Notify::const_new();

/// Those that are beyond what is measured count on below nought.
async fn nothing(_: Nothing) -> Result<(), JobError> {
    if LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        ENOUGH.notify_one();
    }
    Ok(())
}

/// How often each is called, beside the smallest table's rows.
const CALLS: u64 = 1_000;
const FETCHED: u64 = 2_000;

fn microseconds(took: Duration) -> f64 {
    took.as_nanos() as f64 / 1e3
}

/// The median of many calls, which come after a tenth as many more.
async fn median(mut call: impl AsyncFnMut(u64)) -> f64 {
    let mut took = Vec::new();
    for number in 0..CALLS + CALLS / 10 {
        let began = Instant::now();
        call(scatter(number)).await;
        took.push(microseconds(began.elapsed()));
    }
    let mut took = took.split_off(usize::try_from(CALLS / 10).unwrap());
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}

/// Get and set among items that live, and then purge those that do not: at most 20,000.
async fn cache(place: &Place, rows: u64) -> [f64; 3] {
    let cache = Cache::new(place.connect().await);
    let expired = (rows / 20_000).max(2);
    place
        .fill_items(Items {
            count: rows,
            expired,
        })
        .await;
    let live = |number: u64| format!("item:{}", number % (rows / expired) * expired + 1);
    let get = median(async |number| {
        let found: Option<serde_json::Value> = cache.get(&live(number)).await.unwrap();
        assert!(found.is_some());
    })
    .await;
    let text = "x".repeat(220);
    let set = median(async |number| cache.set(&live(number), &text).await.unwrap()).await;
    let started = Instant::now();
    let purged = cache.purge().all_namespaces().run().await.unwrap();
    assert_eq!(purged, rows / expired);
    let purge = microseconds(started.elapsed()) * 1e3 / purged as f64;
    cache.database().close().await;
    [get, set, purge]
}

/// Enqueue to jobs that are ready, and then fetch and finish some of them.
async fn queue(place: &Place, rows: u64) -> [f64; 2] {
    let queue = Queue::new(place.connect().await);
    place.fill_jobs(rows, Jobs::Ready).await;
    let enqueue = median(async |_| {
        queue.enqueue(&Nothing {}).await.unwrap();
    })
    .await;
    let wanted = FETCHED.min(rows);
    LEFT.store(wanted, Ordering::Relaxed);
    let mut options = WorkerOptions::default();
    options.concurrency = 100;
    options.once = true;
    let worker = Worker::new(queue.database().clone())
        .options(options)
        .register(nothing);
    let started = Instant::now();
    let mut took = Duration::ZERO;
    worker
        .run_until(async {
            ENOUGH.notified().await;
            took = started.elapsed();
        })
        .await
        .unwrap();
    queue.database().close().await;
    [enqueue, microseconds(took) * 100.0 / wanted as f64]
}

async fn figures(engine: Engine, rows: u64) {
    let place = Place::new(engine);
    let [get, set, purge] = cache(&place, rows).await;
    place.end().await;
    let place = Place::new(engine);
    let [enqueue, fetch] = queue(&place, rows).await;
    place.end().await;
    println!(
        "{{\"get\": {get:.1}, \"set\": {set:.1}, \"purge\": {purge:.1}, \"enqueue\": {enqueue:.1}, \"fetch\": {fetch:.1}}}"
    );
}

fn main() {
    let Some(arguments) = place::figures() else {
        println!("see the head of benches/growth.rs");
        return;
    };
    let [on, rows] = &arguments[..] else {
        panic!("see the head of benches/growth.rs");
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(figures(engine(on), rows.parse().unwrap()));
}
