//! Fetching and finishing jobs that do nothing: from an empty table, from one with a million finished jobs, and from one
//! with 300,000 that are due tomorrow, round by round in turn. `cargo bench --bench queue` prints how the full ones
//! compare with the empty one, by the median of the ratios within a round.
//!
//! `LARDER_BENCH_ROWS=10000` makes the tables smaller, `LARDER_BENCH_JOBS=500` the runs, `LARDER_BENCH_ROUNDS=5` has
//! fewer of them, `LARDER_BENCH_CONCURRENCY=256` more jobs at once, and `LARDER_BENCH_ENGINE` one of sqlite and postgres.
//! PostgreSQL is measured where `LARDER_TEST_POSTGRES_URL` names one.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::time::{Duration, Instant};

use larder::database::{Database, DatabaseOptions, Engine};
use larder::queue::{JobId, NewJob};
use larder::worker::WorkerOptions;
use larder::{Job, JobError, Queue, Worker};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
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

/// A table of its own, gone when it is dropped.
struct Table {
    url: String,
    schema: String,
    database: Database,
    _directory: tempfile::TempDir,
}

impl Table {
    async fn new(engine: Engine, filled: Filled, rows: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = match engine {
            Engine::Sqlite => format!("sqlite://{}", directory.path().join("bench.db").display()),
            Engine::Postgres => std::env::var("LARDER_TEST_POSTGRES_URL").unwrap(),
        };
        let schema = format!("bench {}", uuid::Uuid::now_v7().simple());
        let options = DatabaseOptions::new(&url).schema(&schema);
        let table = Self {
            url,
            schema,
            database: options.connect().await.unwrap(),
            _directory: directory,
        };
        let (count, status) = match filled {
            Filled::Empty => return table,
            Filled::Finished => (rows, "done"),
            Filled::Waiting => (rows * 3 / 10, "queued"),
        };
        table.fill(count, status).await;
        table
    }

    async fn fill(&self, count: u64, status: &str) {
        let finished = status == "done";
        let (series, id, at, no) = match self.database.engine() {
            Engine::Sqlite => (
                format!(
                    "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT {count})"
                ),
                "printf('00000000-0000-7000-8000-%012d', n)",
                "(CAST(unixepoch('subsec') * 1000 AS INTEGER) + OFFSET * 1000 + n)",
                "0",
            ),
            Engine::Postgres => (
                format!("WITH n AS (SELECT generate_series(1, {count}) AS n)"),
                "CAST('00000000-0000-7000-8000-' || lpad(CAST(n AS text), 12, '0') AS uuid)",
                "(clock_timestamp() + (OFFSET + n / 1000.0) * interval '1 second')",
                "FALSE",
            ),
        };
        let at = at.replace("OFFSET", if finished { "-86400" } else { "86400" });
        let ended = if finished { at.as_str() } else { "NULL" };
        self.execute(&format!(
            "{series} INSERT INTO {{}}job (id, name, queue, status, due, priority, attempt, max_attempts, run_at, created_at, finished_at, payload) \
             SELECT {id}, 'nothing', 'default', '{status}', {no}, 0, 1, 20, {at}, {at}, {ended}, '{{}}' FROM n",
        ).replace("'{}' FROM", "'{ }' FROM"))
        .await;
        // As autovacuum does in the life of a table.
        if self.database.engine() == Engine::Postgres {
            self.execute("VACUUM {}job").await;
        }
        self.execute("ANALYZE").await;
    }

    /// `{}` is the schema's prefix.
    async fn execute(&self, sql: &str) {
        match self.database.engine() {
            Engine::Sqlite => {
                let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
                let sql = AssertSqlSafe(sql.replace("{}", ""));
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Engine::Postgres => {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                let sql = AssertSqlSafe(sql.replace("{}", &format!("\"{}\".", self.schema)));
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
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
        self.execute(&format!("DELETE FROM {{}}job WHERE id >= '{first}'"))
            .await;
        took
    }

    async fn end(self) {
        if self.database.engine() == Engine::Postgres {
            self.execute(&format!("DROP SCHEMA \"{}\" CASCADE", self.schema))
                .await;
        }
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
        tables[0].1.execute("CHECKPOINT").await;
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
        table.end().await;
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
