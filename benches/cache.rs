//! Getting and setting items with 1, 16, 64 and 256 callers at once, and memoized values that are there against plain
//! ones: `cargo bench --bench cache`.
//!
//! `cargo bench --bench cache -- --figures ENGINE WORK CALLERS SECONDS` prints one line of JSON instead, for
//! `benches/peers/run.sh`. PostgreSQL is measured where `LARDER_TEST_POSTGRES_URL` names one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod load;
mod place;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use larder::database::Engine;
use load::{Enough, Store, Took, Work};
use tokio::runtime::Runtime;

const WORKS: [(Work, &str, &[u64]); 6] = [
    (Work::Get, "get", &[1, 16, 64, 256]),
    (Work::Set, "set", &[1, 16, 64, 256]),
    (Work::GetOrCompute, "get_or_compute", &[1, 64]),
    (Work::GetHot, "get_hot", &[1, 16]),
    (Work::GetHotMemory, "get_hot_memory", &[1, 16]),
    (Work::PlainSet, "plain_set", &[]),
];

const ENGINES: [(Engine, &str); 2] = [(Engine::Sqlite, "sqlite"), (Engine::Postgres, "postgres")];

/// The rate and the spread of one load, in microseconds. The first call of all, which opens connections, is on its own.
async fn figures(engine: Engine, work: Work, callers: u64, time: Duration) {
    let store = Arc::new(Store::new(engine).await);
    let cold = store.run(work, 1, Enough::Calls(1)).await.each;
    for (stretch, counts) in [(time / 4, false), (time, true)] {
        let until = Enough::Until(Instant::now() + stretch);
        let Took {
            each: mut took,
            all,
        } = store.run(work, callers, until).await;
        took.sort_unstable();
        let at =
            |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1e3;
        if counts {
            println!(
                "{{\"rate\": {:.1}, \"median\": {:.2}, \"p99\": {:.2}, \"cold\": {:.2}}}",
                took.len() as f64 / all.as_secs_f64(),
                at(0.5),
                at(0.99),
                cold[0].as_nanos() as f64 / 1e3
            );
        }
    }
    store.end().await;
}

fn main() {
    let runtime = Runtime::new().unwrap();
    let arguments: Vec<_> = std::env::args().collect();
    if let Some(at) = arguments
        .iter()
        .position(|argument| argument == "--figures")
    {
        let [engine, work, callers, seconds] = &arguments[at + 1..at + 5] else {
            panic!("--figures ENGINE WORK CALLERS SECONDS");
        };
        let engine = ENGINES.iter().find(|(_, name)| name == engine).unwrap().0;
        let work = WORKS.iter().find(|(_, name, _)| name == work).unwrap().0;
        let time = Duration::from_secs_f64(seconds.parse().unwrap());
        runtime.block_on(figures(engine, work, callers.parse().unwrap(), time));
        return;
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    for (engine, name) in ENGINES {
        if engine == Engine::Postgres && std::env::var_os("LARDER_TEST_POSTGRES_URL").is_none() {
            continue;
        }
        let store = Arc::new(runtime.block_on(Store::new(engine)));
        for (work, what, callers) in WORKS {
            let mut group = criterion.benchmark_group(format!("{name}/{what}"));
            group.throughput(Throughput::Elements(1));
            for callers in callers {
                group.bench_function(format!("{callers} callers"), |bencher| {
                    bencher.iter_custom(|count| {
                        let run = store.run(work, *callers, Enough::Calls(count));
                        runtime.block_on(run).all
                    });
                });
            }
            group.finish();
        }
        runtime.block_on(store.end());
    }
    criterion.final_summary();
}
