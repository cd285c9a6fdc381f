//! Connections whose other end is gone without a word. PostgreSQL alone: SQLite has no network.

use std::sync::Arc;
use std::time::Duration;

use larder::database::DatabaseOptions;
use larder::queue::JobStatus;
use larder::{Cache, Queue, Worker};
use sqlx::{Connection, PgConnection};
use tokio::sync::Semaphore;

use crate::proxy::Proxy;
use crate::support::{TestDatabase, run};
use crate::work::{
    Probe, becomes, eventually, gated, give_back, lively, probe, start, without_polling,
};

pub(crate) async fn through(db: &TestDatabase, proxy: &Proxy) -> larder::database::Database {
    DatabaseOptions::new(&proxy.url)
        .schema(&db.schema)
        .clock(db.clock.clone())
        .acquire_timeout(Duration::from_millis(300))
        .connect()
        .await
        .unwrap()
}

/// How many statements of others wait for a lock of this test's tables.
pub(crate) async fn waiting(db: &TestDatabase) -> i64 {
    db.number(&format!(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'",
        db.schema.trim_start_matches("Test ")
    ))
    .await
}

pub(crate) async fn lock_table<'c>(
    db: &TestDatabase,
    other: &'c mut PgConnection,
    table: &str,
) -> sqlx::Transaction<'c, sqlx::Postgres> {
    let mut lock = other.begin().await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "LOCK TABLE \"{}\".{table} IN ACCESS EXCLUSIVE MODE",
        db.schema
    )))
    .execute(&mut *lock)
    .await
    .unwrap();
    lock
}

#[test]
fn statements_whose_answers_never_come_are_given_up_and_asked_again() {
    run(TestDatabase::postgres, async |db| {
        let proxy = Proxy::before(&db.url).await;
        let queue = Queue::new(db.open().await);
        let gate = Arc::new(Semaphore::new(0));
        let handler = {
            let gate = gate.clone();
            move |job: Probe| gated(gate.clone(), job)
        };
        let worker = start(
            Worker::new(through(db, &proxy).await)
                .options(lively())
                .register(handler),
        );
        let first = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, first, JobStatus::Running).await;

        // Its outcome, the next look and the rescue are asked for, and wait; then the network goes.
        let mut other = PgConnection::connect(&db.url).await.unwrap();
        let lock = lock_table(db, &mut other, "job").await;
        gate.add_permits(2);
        eventually("three tasks wait for the table", async || {
            waiting(db).await >= 3
        })
        .await;
        proxy.silence();
        lock.rollback().await.unwrap();

        assert_eq!(becomes(&queue, first, JobStatus::Done).await.attempt, 1);
        let second = queue.enqueue(&probe(2)).await.unwrap().id;
        assert_eq!(becomes(&queue, second, JobStatus::Done).await.attempt, 1);
        assert!(worker.is_at_work());
        worker.end().await;
    });
}

#[test]
fn what_goes_out_by_a_connection_that_is_gone_is_sent_again_by_another() {
    run(TestDatabase::postgres, async |db| {
        let proxy = Proxy::before(&db.url).await;
        let options = DatabaseOptions::new(&proxy.url).schema(&db.schema);
        let options = options
            .acquire_timeout(Duration::from_millis(300))
            .max_connections(1);
        let database = options.connect().await.unwrap();
        let (cache, queue) = (Cache::new(database.clone()), Queue::new(database));
        cache.set("key", &1).await.unwrap();
        let theirs = format!("query LIKE '%{}%' AND pid <> pg_backend_pid()", &db.schema);
        let lose = async |round| match round {
            0 => {
                proxy.cut();
                let left = format!("SELECT COUNT(*) FROM pg_stat_activity WHERE {theirs}");
                eventually("its connection is closed", async || {
                    db.number(&left).await == 0
                })
                .await;
                proxy.mend();
            }
            // The server says so before it hangs up.
            _ => {
                let ended = db
                    .number(&format!(
                        "SELECT COUNT(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE {theirs}"
                    ))
                    .await;
                assert_eq!(ended, 1);
            }
        };
        for round in 0..4 {
            lose(round).await;
            let found = cache.get::<i64>("key").await;
            assert_eq!(found.unwrap(), Some(1), "round {round}");
            lose(round).await;
            let told = queue.enqueue(&probe(round)).await;
            assert!(told.unwrap().inserted, "round {round}");
        }
        // Nobody says so at all.
        for when in ["at once", "as a transaction is given back"] {
            let transaction = match when {
                "at once" => None,
                _ => Some(cache.database().begin().await.unwrap()),
            };
            proxy.silence();
            drop(transaction);
            eventually(when, async || {
                let found = cache.get::<i64>("key").await;
                found.is_ok_and(|found| found == Some(1))
            })
            .await;
        }
        let jobs = db.number("SELECT COUNT(*) FROM {}job").await;
        assert_eq!(jobs, 4, "each is there once");
    });
}

#[test]
fn notifications_that_fell_silent_come_back() {
    run(TestDatabase::postgres, async |db| {
        let proxy = Proxy::before(&db.url).await;
        let queue = Queue::new(db.open().await);
        let worker = start(
            Worker::new(through(db, &proxy).await)
                .options(without_polling())
                .register(give_back),
        );
        let first = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, first, JobStatus::Done).await;
        proxy.silence();
        let second = queue.enqueue(&probe(2)).await.unwrap().id;
        becomes(&queue, second, JobStatus::Done).await;
        worker.end().await;
    });
}

#[test]
fn calls_that_went_out_together_and_are_never_answered_are_given_up_and_leave_their_keys_to_others()
{
    run(TestDatabase::postgres, async |db| {
        let proxy = Proxy::before(&db.url).await;
        let cache = Cache::new(through(db, &proxy).await);
        let mut other = PgConnection::connect(&db.url).await.unwrap();
        let lock = lock_table(db, &mut other, "cached_item").await;
        let call = |at: usize| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let key = format!("key {}", at % 8);
                if at < 8 {
                    cache.set(&key, &at).await
                } else {
                    cache.get::<usize>(&key).await.map(drop)
                }
            })
        };
        let calls: Vec<_> = (0..16).map(call).collect();
        // One of each kind is alone, and the others follow it.
        eventually("four statements wait for the table", async || {
            waiting(db).await >= 4
        })
        .await;
        proxy.silence();
        lock.rollback().await.unwrap();
        let given_up = async {
            for (at, call) in calls.into_iter().enumerate() {
                match call.await.unwrap() {
                    // Sent again by a connection that was tested.
                    Ok(()) => assert!(at >= 8, "a set is sent once"),
                    Err(error) => assert!(error.is_transient(), "{error}"),
                }
            }
        };
        let limit = Duration::from_secs(15);
        tokio::time::timeout(limit, given_up).await.unwrap();
        // Connections that nobody used are found out one by one.
        for at in 0..16 {
            eventually("nobody has the key", async || {
                call(at).await.unwrap().is_ok()
            })
            .await;
        }
    });
}
