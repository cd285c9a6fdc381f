//! larder's cache in a worker of apalis's own, over its storages for SQLite and PostgreSQL: `Cache` is plain `Data`.
//!
//! `cargo run --example stock_apalis_worker` runs it on SQLite in a temporary folder; with a PostgreSQL URL as its
//! argument it runs there.
#![allow(clippy::print_stdout, missing_docs)]

use std::time::Duration;

use apalis_core::backend::TaskSink;
use apalis_core::backend::ext::BackendExt;
use apalis_core::error::BoxDynError;
use apalis_core::task::data::Data;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use larder::{Cache, Expiration};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Square {
    of: i64,
}

/// A handler as apalis knows them. What it works out is kept in larder's cache.
async fn square(job: Square, cache: Data<Cache>, worker: WorkerContext) -> Result<(), BoxDynError> {
    let key = format!("square:{}", job.of);
    cache
        .set_with(
            &key,
            &(job.of * job.of),
            Expiration::after(Duration::from_secs(3600)),
        )
        .await?;
    worker.stop()?;
    Ok(())
}

async fn on_sqlite() -> Result<Option<i64>, BoxDynError> {
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite://{}", directory.path().join("app.db").display());
    let cache = Cache::connect(&url).await?;

    let pool = sqlx::SqlitePool::connect(&url).await?;
    // Beside the application's own migrations, and larder's, in one file.
    let mut migrations = SqliteStorage::migrations();
    migrations.dangerous_set_table_name("_apalis_migrations");
    migrations.run(&pool).await?;
    let mut storage = SqliteStorage::<Square>::new(&pool);
    storage.push(Square { of: 12 }).await?;

    WorkerBuilder::new("squares")
        .backend(storage.poll_with_interval(Duration::from_millis(50)))
        .data(cache.clone())
        .build(square)
        .run()
        .await?;
    Ok(cache.get("square:12").await?)
}

async fn on_postgres(url: &str) -> Result<Option<i64>, BoxDynError> {
    let cache = Cache::connect(url).await?;
    let pool = sqlx::PgPool::connect(url).await?;
    PostgresStorage::setup(&pool).await?;
    let mut storage = PostgresStorage::<Square>::new(&pool);
    storage.push(Square { of: 12 }).await?;

    WorkerBuilder::new(format!("squares-{}", uuid::Uuid::now_v7()))
        .backend(storage.poll_with_interval(Duration::from_millis(50)))
        .data(cache.clone())
        .build(square)
        .run()
        .await?;
    Ok(cache.get("square:12").await?)
}

#[tokio::main]
async fn main() -> Result<(), BoxDynError> {
    let found = match std::env::args().nth(1) {
        Some(url) => on_postgres(&url).await?,
        None => on_sqlite().await?,
    };
    println!("the cache holds {found:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    #[tokio::test(flavor = "multi_thread")]
    async fn a_stock_worker_on_sqlite_has_the_cache() {
        assert_eq!(super::on_sqlite().await.ok().flatten(), Some(144));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stock_worker_on_postgres_has_the_cache()
    -> Result<(), apalis_core::error::BoxDynError> {
        // A database of its own, since apalis's storage has tables of fixed names.
        let url = std::env::var("LARDER_TEST_POSTGRES_URL")?;
        let name = format!("larder_{}", uuid::Uuid::now_v7().simple());
        let admin = sqlx::PgPool::connect(&url).await?;
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&admin)
            .await?;
        let mut own = url::Url::parse(&url)?;
        own.set_path(&name);
        let found = super::on_postgres(own.as_str()).await;
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "DROP DATABASE {name} WITH (FORCE)"
        )))
        .execute(&admin)
        .await?;
        assert_eq!(found?, Some(144));
        Ok(())
    }
}
