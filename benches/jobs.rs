//! The queue beside its peers, for `benches/peers/run.sh`: `cargo bench --bench jobs -- --figures` and one of
//!
//! - `rate ENGINE JOBS CONCURRENCY`: so many jobs that do nothing, enqueued in one transaction while a worker waits that
//!   has run some already, from its commit until each is written down as done,
//! - `enqueue ENGINE CLIENTS SECONDS`: so many clients, each enqueueing one job after the other, while somebody listens,
//! - `start ENGINE here|elsewhere COUNT MILLISECONDS`: from before a job is enqueued until its handler begins, on a worker
//!   that has nothing else to do; one job each so many milliseconds, enqueued by this process or by another,
//!
//! prints a line of JSON: rates by the second, times in microseconds.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "jobs/latency.rs"]
mod latency;
mod place;
#[path = "jobs/throughput.rs"]
mod throughput;

use larder::Job;
use place::engine;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

#[derive(Serialize, Deserialize)]
pub(crate) struct Nothing {
    /// When it was about to be enqueued, in nanoseconds since 1970.
    at: u64,
}

impl Job for Nothing {
    const NAME: &'static str = "nothing";
    type Output = ();
}

fn main() {
    let Some(arguments) = place::figures() else {
        println!("see the head of benches/jobs.rs");
        return;
    };
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().unwrap();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        match arguments[..] {
            ["rate", on, jobs, concurrency] => {
                throughput::rate(engine(on), number(jobs), number(concurrency)).await;
            }
            ["enqueue", on, clients, seconds] => {
                throughput::enqueue(engine(on), number(clients), seconds.parse().unwrap()).await;
            }
            ["start", on, by, count, milliseconds] => {
                let elsewhere = by == "elsewhere";
                latency::start(engine(on), elsewhere, number(count), number(milliseconds)).await;
            }
            ["enqueuer", url, schema, count, milliseconds] => {
                latency::enqueuer(url, schema, number(count), number(milliseconds)).await;
            }
            _ => panic!("see the head of benches/jobs.rs"),
        }
    });
}
