//! A change of the application's own row, the invalidation of what was cached of it, and the job that builds it anew: all
//! three in one transaction. They happen together, or not at all.
//!
//! `cargo run --example rolling_invalidation` runs it on SQLite in a temporary folder; with a PostgreSQL URL as its
//! argument it runs there.
#![allow(clippy::print_stdout, missing_docs)]

use std::time::Duration;

use larder::database::{Database, DatabaseOptions};
use larder::queue::JobFilter;
use larder::{Cache, Job, Queue};
use serde::{Deserialize, Serialize};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Debug, Serialize, Deserialize)]
struct RefreshReport {
    shop: u32,
}

impl Job for RefreshReport {
    const NAME: &'static str = "refresh_report";
    type Output = ();
}

/// The report of a shop: computed once, whoever asks, until one of its prices changes.
async fn report(cache: &Cache, shop: u32, cents: i64) -> larder::Result<String> {
    cache
        .memoize(&format!("report:{shop}"))
        .fresh_for(Duration::from_secs(3600))
        .tags([format!("shop:{shop}")])
        .get_or_compute(move || async move { format!("the price is {cents} cents") })
        .await
}

/// What is to be seen from outside: the price, the cached report, and the jobs that wait.
type Seen = (i64, Option<String>, usize);

/// The same steps on a pool of either engine; both are the application's own.
macro_rules! change_price {
    ($pool:expr, $database:expr, $prefix:expr) => {{
        let (pool, database, prefix): (_, Database, &str) = ($pool, $database, $prefix);
        let (cache, queue) = (Cache::new(database.clone()), Queue::new(database));
        let sql = |text: &str| sqlx::AssertSqlSafe(text.replace("{}", prefix));
        sqlx::query(sql("CREATE TABLE {}price (shop INTEGER, cents BIGINT)")).execute(&pool).await?;
        sqlx::query(sql("INSERT INTO {}price VALUES (7, 995)")).execute(&pool).await?;
        report(&cache, 7, 995).await?;

        let mut seen: Vec<Seen> = Vec::new();
        for commit in [false, true] {
            // On SQLite: `pool.begin_with("BEGIN IMMEDIATE")`, where a transaction reads before it writes.
            let mut tx = pool.begin().await?;
            sqlx::query(sql("UPDATE {}price SET cents = 1250 WHERE shop = 7")).execute(&mut *tx).await?;
            cache.clear_tag_in(&mut tx, "shop:7").await?;
            queue.enqueue(&RefreshReport { shop: 7 }).unique_key("shop:7").in_tx(&mut tx).await?;
            if commit {
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }

            let (cents,): (i64,) = sqlx::query_as(sql("SELECT cents FROM {}price")).fetch_one(&pool).await?;
            let cached = cache.get("report:7").await?;
            let waiting = queue.list(&JobFilter::default()).await?;
            seen.push((cents, cached, waiting.len()));
        }
        assert_eq!(report(&cache, 7, seen[1].0).await?, "the price is 1250 cents");
        seen
    }};
}

async fn on_sqlite() -> Outcome<Vec<Seen>> {
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite://{}", directory.path().join("app.db").display());
    let database = Database::connect(&url).await?;
    Ok(change_price!(
        sqlx::SqlitePool::connect(&url).await?,
        database,
        ""
    ))
}

/// In a schema of its own, which is gone afterwards.
async fn on_postgres(url: &str) -> Outcome<Vec<Seen>> {
    let pool = sqlx::PgPool::connect(url).await?;
    let schema = format!("larder_example_{}", uuid::Uuid::now_v7().simple());
    let database = DatabaseOptions::new(url).schema(&schema).connect().await?;
    let seen =
        async { Outcome::Ok(change_price!(pool.clone(), database, &format!("{schema}."))) }.await;
    let drop_schema = sqlx::AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"));
    sqlx::query(drop_schema).execute(&pool).await?;
    seen
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let seen = match std::env::args().nth(1) {
        Some(url) => on_postgres(&url).await?,
        None => on_sqlite().await?,
    };
    for (what, (cents, report, jobs)) in ["rolled back", "committed"].iter().zip(seen) {
        let report = report.unwrap_or_else(|| "none".to_owned());
        println!("{what}: {cents} cents, cached report: {report}, jobs that wait: {jobs}");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn together_or_not_at_all(seen: &[Seen]) {
        let before = (995, Some("the price is 995 cents".to_owned()), 0);
        assert_eq!(seen, [before, (1250, None, 1)]);
    }

    #[tokio::test]
    async fn on_sqlite_all_three_happen_or_none() {
        together_or_not_at_all(&on_sqlite().await.unwrap());
    }

    #[tokio::test]
    async fn on_postgres_all_three_happen_or_none() {
        let url = std::env::var("LARDER_TEST_POSTGRES_URL")
            .expect("LARDER_TEST_POSTGRES_URL names no PostgreSQL");
        together_or_not_at_all(&on_postgres(&url).await.unwrap());
    }
}
