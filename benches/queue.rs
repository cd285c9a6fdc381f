//! Fetching and finishing jobs that do nothing: from an empty table, from one with a million finished jobs, and from one
//! with 300,000 that are due tomorrow, round by round in turn. `cargo bench --bench queue` prints how the full ones
//! compare with the empty one, by the median of the ratios within a round.
//!
//! `LARDER_BENCH_ROWS=10000` makes the tables smaller, `LARDER_BENCH_JOBS=500` the runs, `LARDER_BENCH_ROUNDS=5` has
//! fewer of them, `LARDER_BENCH_CONCURRENCY=256` more jobs at once, and `LARDER_BENCH_ENGINE` one of sqlite and postgres.
//! PostgreSQL is measured where `LARDER_TEST_POSTGRES_URL` names one. With `--figures` each round's rates are lines of JSON.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod place;

use std::time::{Duration, Instant};

use larder::database::{Database, Engine};
use larder::queue::{JobId, NewJob};
use larder::worker::WorkerOptions;
use larder::{Job, JobError, Queue, Worker};
use place::{Jobs, Place};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

#[derive(Serialize, Deserialize)]
struct Nothing {}

impl Job for Nothing {
    const NAME: &'static str = "nothing";
    type Output = ();
}

/// What is in the table besides the jobs that are run.
#[derive(Clone, Copy, Debug)]
enum Filled {
    Empty,
    Finished,
    Waiting,
}

/// A table of its own, gone when it ends.
struct Table {
    place: Place,
    database: Database,
}

impl Table {
    async fn new(engine: Engine, filled: Filled, rows: u64) -> Self {
        let place = Place::new(engine);
        let database = place.connect().await;
        match filled {
            Filled::Empty => {}
            Filled::Finished => place.fill_jobs(rows, Jobs::Finished).await,
            Filled::Waiting => place.fill_jobs(rows * 3 / 10, Jobs::Waiting).await,
        }
        Self { place, database }
    }

    /// How long a worker takes for so many jobs, from its start to its end.
    async fn run(&self, jobs: u64) -> Duration {
        let queue = Queue::new(self.database.clone());
        let new = (0..jobs).map(|_| NewJob::new(&Nothing {}));
        let enqueued = queue.enqueue_many(new).await.unwrap();
        let mut options = WorkerOptions::default();
        options.once = true;
        options.concurrency = usize::try_from(number("LARDER_BENCH_CONCURRENCY", 16)).unwrap();
        let worker = Worker::new(self.database.clone())
            .options(options)
            .register(async |_: Nothing| Ok::<_, JobError>(()));
        let started = Instant::now();
        worker.run_until(std::future::pending()).await.unwrap();
        let took = started.elapsed();
        let first: JobId = enqueued.iter().map(|enqueued| enqueued.id).min().unwrap();
        let delete = format!("DELETE FROM {{}}job WHERE id >= '{first}'");
        self.place.execute(&delete).await;
        took
    }
}

/// A number from the environment.
fn number(name: &str, unless_said: u64) -> u64 {
    std::env::var(name).map_or(unless_said, |text| text.parse().unwrap())
}

/// The median of what is not empty.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs each table in turn, so that whatever else the machine does meets all of them alike.
async fn measure(engine: Engine, rows: u64, jobs: u64, rounds: u64) {
    let mut tables = Vec::new();
    for filled in [Filled::Empty, Filled::Finished, Filled::Waiting] {
        tables.push((filled, Table::new(engine, filled, rows).await, Vec::new()));
    }
    if engine == Engine::Postgres {
        // What the filling left to be written is no business of the runs.
        tables[0].1.place.execute("CHECKPOINT").await;
    }
    for round in 0..=rounds {
        // Whoever begins a round is not always the same one either.
        tables.rotate_left(1);
        for (_, table, runs) in &mut tables {
            let took = table.run(jobs).await.as_secs_f64();
            if round > 0 {
                runs.push(took);
            }
        }
    }
    tables.sort_by_key(|(filled, ..)| *filled as u8);
    if place::figures().is_some() {
        return print(tables, jobs).await;
    }
    let empty = tables[0].2.clone();
    for (filled, table, runs) in tables {
        #[allow(clippy::cast_precision_loss)]
        let per_second = jobs as f64 / median(runs.iter().copied());
        let ratios: Vec<f64> = empty
            .iter()
            .zip(&runs)
            .map(|(empty, run)| empty / run)
            .collect();
        let mut sorted = ratios.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted[sorted.len() / 4], sorted[sorted.len() * 3 / 4]);
        let ratio = median(ratios.into_iter());
        println!(
            "{engine:?} {filled:?}: {per_second:.0} jobs/s, {ratio:.2} times the empty table's rate (half of the rounds: {low:.2} to {high:.2})"
        );
        table.place.end().await;
    }
}

/// The rates of each round, a line each.
async fn print(tables: Vec<(Filled, Table, Vec<f64>)>, jobs: u64) {
    for (filled, table, runs) in tables {
        for run in runs {
            #[allow(clippy::cast_precision_loss)]
            let rate = jobs as f64 / run;
            println!("{{\"filled\": \"{filled:?}\", \"rate\": {rate:.1}}}");
        }
        table.place.end().await;
    }
}

fn main() {
    let (rows, jobs, rounds) = (
        number("LARDER_BENCH_ROWS", 1_000_000),
        number("LARDER_BENCH_JOBS", 2_000),
        number("LARDER_BENCH_ROUNDS", 40),
    );
    let runtime = Runtime::new().unwrap();
    let wanted = std::env::var("LARDER_BENCH_ENGINE").unwrap_or_default();
    let postgres = std::env::var_os("LARDER_TEST_POSTGRES_URL").is_some();
    if wanted != "postgres" {
        runtime.block_on(measure(Engine::Sqlite, rows, jobs, rounds));
    }
    if wanted != "sqlite" && postgres {
        runtime.block_on(measure(Engine::Postgres, rows, jobs, rounds));
    }
}
