//! Reads that are sent while others are under way on their connection. PostgreSQL alone: SQLite reads on the caller's own
//! thread.

use std::time::Duration;

use futures::future::join_all;
use larder::Cache;
use larder::cache::{MemoryTier, Ttl};
use larder::database::{DatabaseOptions, Transaction};

use crate::proxy::Proxy;
use crate::support::{TestDatabase, run};
use crate::work::{eventually, within};

/// The least that may be open where one of them is a pipeline.
const CONNECTIONS: u32 = 4;

async fn cache(db: &TestDatabase, url: &str, connections: u32) -> Cache {
    let options = DatabaseOptions::new(url).schema(&db.schema);
    let options = options
        .clock(db.clock.clone())
        .acquire_timeout(Duration::from_millis(300))
        .max_connections(connections);
    Cache::new(options.connect().await.unwrap())
}

/// As many gets at once as make them gather.
async fn many(cache: &Cache) {
    try_many(cache).await.unwrap();
}

async fn try_many(cache: &Cache) -> larder::Result<()> {
    let keys: Vec<_> = (0..16).map(|key| key.to_string()).collect();
    let gets = join_all(keys.iter().map(|key| cache.get::<i64>(key))).await;
    for (key, found) in keys.iter().zip(gets) {
        assert_eq!(found?, key.parse().ok().filter(|key| *key < 8));
    }
    Ok(())
}

async fn fill(cache: &Cache) {
    for key in 0..8_i64 {
        cache.set(&key.to_string(), &key).await.unwrap();
    }
}

/// All of the pool's connections.
async fn all_of_the_pool(cache: &Cache) -> Option<Vec<Transaction>> {
    let begin = (1..CONNECTIONS).map(|_| cache.database().begin());
    let begun = join_all(begin).await;
    let begun: Result<Vec<_>, _> = begun.into_iter().collect();
    let more = cache.database().begin().await;
    begun.ok().filter(|_| more.is_err())
}

/// Connections that have sent something of larder's and wait for more.
async fn idle(db: &TestDatabase) -> i64 {
    db.number(&format!(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE '%{}%' AND pid <> pg_backend_pid()",
        &db.schema
    ))
    .await
}

/// Waits until there is a connection beside those of the pool, by which gathered reads go, and beside so many that nobody
/// has any more.
async fn is_piped(db: &TestDatabase, cache: &Cache, left: i64) {
    eventually("a pipeline is open", async || {
        if try_many(cache).await.is_err() {
            return false;
        }
        let Some(_pool) = all_of_the_pool(cache).await else {
            return false;
        };
        idle(db).await > left
    })
    .await;
}

#[test]
fn reads_of_every_kind_go_by_it() {
    run(TestDatabase::postgres, async |db| {
        let cache = cache(db, &db.url, CONNECTIONS).await;
        fill(&cache).await;
        let tier = MemoryTier::default().max_staleness(Duration::from_nanos(1));
        let kept = cache.clone().with_memory(tier);
        is_piped(db, &cache, 0).await;
        for _ in 0..8 {
            let keys: Vec<_> = (0..16).map(|key| key.to_string()).collect();
            let there = join_all(keys.iter().map(|key| cache.exists(key))).await;
            let left = join_all(keys.iter().map(|key| cache.ttl(key))).await;
            for (key, (there, left)) in there.into_iter().zip(left).enumerate() {
                assert_eq!(there.unwrap(), key < 8);
                assert_eq!(left.unwrap(), (key < 8).then_some(Ttl::Never));
            }
            let memoized = keys.iter().map(|key| {
                let (cache, key) = (&cache, key.clone());
                async move {
                    let name = format!("memo:{key}");
                    cache.memoize(&name).get_or_compute(async move || key).await
                }
            });
            for (key, value) in join_all(memoized).await.into_iter().enumerate() {
                assert_eq!(value.unwrap(), key.to_string());
            }
            many(&kept).await;
        }
    });
}

#[test]
fn reads_on_a_pipeline_that_is_lost_go_by_the_pool_and_then_by_another_pipeline() {
    run(TestDatabase::postgres, async |db| {
        let proxy = Proxy::before(&db.url).await;
        let cache = cache(db, &proxy.url, CONNECTIONS).await;
        fill(&cache).await;
        let theirs = format!("query LIKE '%{}%' AND pid <> pg_backend_pid()", &db.schema);
        let mut left = 0;
        for round in ["cut", "ended", "silent"] {
            is_piped(db, &cache, left).await;
            let reader = {
                let cache = cache.clone();
                tokio::spawn(async move {
                    for _ in 0..100 {
                        many(&cache).await;
                    }
                })
            };
            match round {
                "cut" => {
                    let left = format!("SELECT COUNT(*) FROM pg_stat_activity WHERE {theirs}");
                    reader.await.unwrap();
                    proxy.cut();
                    eventually("its connections are closed", async || {
                        db.number(&left).await == 0
                    })
                    .await;
                    proxy.mend();
                }
                "ended" => {
                    let end = format!(
                        "SELECT COUNT(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE {theirs}"
                    );
                    assert!(db.number(&end).await > 0);
                    reader.await.unwrap();
                }
                _ => {
                    reader.await.unwrap();
                    proxy.silence();
                    left = idle(db).await;
                    // Who waits behind one that asks there for as long as for a connection is told so.
                    eventually("they are answered", async || try_many(&cache).await.is_ok()).await;
                }
            }
            within(many(&cache)).await;
        }
        is_piped(db, &cache, left).await;
    });
}

#[test]
fn it_is_closed_with_the_database_and_none_is_opened_after_that() {
    run(TestDatabase::postgres, async |db| {
        let cache = cache(db, &db.url, CONNECTIONS).await;
        fill(&cache).await;
        is_piped(db, &cache, 0).await;
        cache.database().close().await;
        let theirs = format!("query LIKE '%{}%' AND pid <> pg_backend_pid()", &db.schema);
        let left = format!("SELECT COUNT(*) FROM pg_stat_activity WHERE {theirs}");
        eventually("its connections are closed", async || {
            db.number(&left).await == 0
        })
        .await;
        assert!(cache.get::<i64>("1").await.is_err());
    });
}

#[test]
fn where_few_connections_may_be_open_each_is_the_pools() {
    run(TestDatabase::postgres, async |db| {
        let cache = cache(db, &db.url, CONNECTIONS - 1).await;
        fill(&cache).await;
        for _ in 0..100 {
            many(&cache).await;
        }
        let begin = (1..CONNECTIONS).map(|_| cache.database().begin());
        let transactions = join_all(begin).await;
        assert!(transactions.iter().all(Result::is_ok));
        assert_eq!(idle(db).await, 0);
    });
}

#[test]
fn callers_who_give_up_early_on_a_server_that_is_silent_are_answered_in_the_end() {
    run(TestDatabase::postgres, async |db| {
        let proxy = Proxy::before(&db.url).await;
        let cache = cache(db, &proxy.url, CONNECTIONS).await;
        fill(&cache).await;
        is_piped(db, &cache, 0).await;
        proxy.silence();
        eventually("a lone read is answered", async || {
            let briefly = Duration::from_millis(100);
            let get = tokio::time::timeout(briefly, cache.get::<i64>("1"));
            get.await
                .is_ok_and(|found| found.is_ok_and(|found| found == Some(1)))
        })
        .await;
    });
}
