//! apalis-postgres: so many clients, each enqueueing one job after the other, while somebody listens.

use std::time::{Duration, Instant};

use apalis_core::backend::TaskSink;
use apalis_core::error::BoxDynError;
use apalis_postgres::PostgresStorage;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgListener, PgPoolOptions};

#[derive(Debug, Serialize, Deserialize)]
struct Nothing {}

pub async fn enqueue(url: &str, clients: u32, seconds: f64) -> Result<String, BoxDynError> {
    // Its migrations notify of each job that is due.
    let pool = PgPoolOptions::new()
        .max_connections(clients.max(10))
        .connect(url)
        .await?;
    clear(&pool).await?;
    PostgresStorage::setup(&pool).await?;
    let mut listener = PgListener::connect(url).await?;
    listener.listen("apalis::job::insert").await?;
    let listening = tokio::spawn(async move { while listener.recv().await.is_ok() {} });
    let mut line = String::new();
    for stretch in [seconds / 4.0, seconds] {
        let started = Instant::now();
        let until = started + Duration::from_secs_f64(stretch);
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let mut storage = PostgresStorage::<Nothing>::new(&pool);
                tokio::spawn(async move {
                    let mut took = Vec::new();
                    while Instant::now() < until {
                        let began = Instant::now();
                        storage.push(Nothing {}).await?;
                        took.push(began.elapsed());
                    }
                    Ok::<_, BoxDynError>(took)
                })
            })
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await??);
        }
        line = crate::line::of_calls(took, started.elapsed());
    }
    listening.abort();
    clear(&pool).await?;
    Ok(line)
}

async fn clear(pool: &sqlx::PgPool) -> Result<(), BoxDynError> {
    sqlx::raw_sql("SET client_min_messages = error; DROP SCHEMA IF EXISTS apalis CASCADE")
        .execute(pool)
        .await?;
    Ok(())
}
