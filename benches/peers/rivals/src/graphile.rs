//! graphile_worker: jobs that do nothing, enqueued in one transaction while a worker waits that has run some already,
//! from its commit until none is left in its table.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, WorkerContext,
    WorkerOptions,
};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;

/// So many jobs run before those that are counted.
const WARM: u64 = 2_000;

static RUN: AtomicU64 = AtomicU64::new(0);

#[derive(Serialize, Deserialize)]
struct Nothing {}

impl TaskHandler for Nothing {
    const IDENTIFIER: &'static str = "nothing";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        RUN.fetch_add(1, Ordering::Relaxed);
        Ok::<(), String>(())
    }
}

pub async fn jobs(
    url: &str,
    jobs: u64,
    concurrency: usize,
    local_queue: usize,
) -> Result<String, Box<dyn Error + Send + Sync>> {
    // As many connections, intervals and batches as its own benchmark has.
    let pool = PgPoolOptions::new()
        .max_connections(100)
        .connect(url)
        .await?;
    sqlx::raw_sql("SET client_min_messages = error; DROP SCHEMA IF EXISTS graphile_worker CASCADE")
        .execute(&pool)
        .await?;
    let mut options = WorkerOptions::default()
        .pg_pool(pool.clone())
        .schema("graphile_worker")
        .concurrency(concurrency)
        .poll_interval(Duration::from_millis(5))
        .complete_job_batch_delay(Duration::from_millis(5))
        .define_job::<Nothing>();
    if local_queue > 0 {
        options = options.local_queue(LocalQueueConfig::default().with_size(local_queue));
    }
    let worker = Arc::new(options.init().await?);
    let running = tokio::spawn({
        let worker = worker.clone();
        async move { worker.run().await }
    });
    let mut took = Duration::ZERO;
    for count in [WARM, jobs] {
        let specs: Vec<_> = (0..count)
            .map(|_| RawJobSpec {
                identifier: Nothing::IDENTIFIER.to_owned(),
                payload: serde_json::json!({}),
                spec: JobSpec::default(),
            })
            .collect();
        RUN.store(0, Ordering::Relaxed);
        // One statement.
        worker.create_utils().add_raw_jobs(&specs).await?;
        let started = Instant::now();
        while RUN.load(Ordering::Relaxed) < count || left(&pool).await? {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        took = started.elapsed();
    }
    worker.request_shutdown();
    running.await??;
    sqlx::raw_sql("SET client_min_messages = error; DROP SCHEMA graphile_worker CASCADE")
        .execute(&pool)
        .await?;
    Ok(crate::line::of_rate(jobs, took))
}

async fn left(pool: &sqlx::PgPool) -> Result<bool, sqlx::Error> {
    let left = "SELECT EXISTS (SELECT FROM graphile_worker._private_jobs)";
    sqlx::query_scalar(left).fetch_one(pool).await
}
