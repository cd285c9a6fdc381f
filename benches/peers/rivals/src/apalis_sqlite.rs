//! apalis-sqlite: jobs that do nothing, enqueued while a worker waits that has run some already, until each is written
//! down as done.

use std::error::Error;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use apalis::prelude::WorkerBuilderExt;
use apalis_core::backend::TaskSink;
use apalis_core::backend::ext::BackendExt;
use apalis_core::error::BoxDynError;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_sqlite::{Config, SqliteStorage};
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

#[derive(Debug, Serialize, Deserialize)]
struct Nothing {}

async fn nothing(_: Nothing) -> Result<(), BoxDynError> {
    Ok(())
}

/// So many jobs run before those that are counted.
const WARM: u64 = 2_000;
/// How many jobs it fetches at once decides its rate; the best is taken.
const BATCHES: [usize; 3] = [10, 100, 1_000];

pub async fn jobs(folder: &Path, jobs: u64, concurrency: usize) -> Result<String, BoxDynError> {
    let mut best = Duration::MAX;
    for batch in BATCHES {
        best = best.min(once(folder, jobs, concurrency.max(batch), batch).await?);
    }
    Ok(crate::line::of_rate(jobs, best))
}

async fn once(
    folder: &Path,
    jobs: u64,
    concurrency: usize,
    batch: usize,
) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let folder = tempfile::tempdir_in(folder)?;
    let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
    let options = SqliteConnectOptions::from_str(&url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(30));
    let pool: SqlitePool = SqlitePoolOptions::new()
        .max_connections(4)
        .connect_with(options)
        .await?;
    SqliteStorage::migrations().run(&pool).await?;
    // With this index the time to write a job down as done grows with the jobs that are done.
    sqlx::query("DROP INDEX IF EXISTS LIdx")
        .execute(&pool)
        .await?;

    let config = Config::default()
        .queue("nothing")
        .batch_size(batch)
        .lock_tasks(false);
    let storage = SqliteStorage::<Nothing>::new(&pool).with_config(config);
    let mut sink = storage.clone();
    let worker = WorkerBuilder::new("nothing")
        .backend(storage.poll_with_interval(Duration::from_millis(5)))
        .concurrency(concurrency)
        .build(nothing);
    let running = tokio::spawn(worker.run());
    let mut took = Duration::ZERO;
    for (count, all) in [(WARM, WARM), (jobs, WARM + jobs)] {
        // One statement.
        sink.push_bulk((0..count).map(|_| Nothing {}).collect())
            .await?;
        let started = Instant::now();
        while done(&pool).await? < all {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        took = started.elapsed();
    }
    running.abort();
    Ok(took)
}

async fn done(pool: &SqlitePool) -> Result<u64, sqlx::Error> {
    let done: i64 = sqlx::query_scalar("SELECT count(*) FROM Jobs WHERE status = 'Done'")
        .fetch_one(pool)
        .await?;
    Ok(done.unsigned_abs())
}
