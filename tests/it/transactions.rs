//! Operations in the caller's own transaction.

use std::time::Duration;

use futures::TryStreamExt;
use larder::cache::Ttl;
use larder::database::{Transaction, Tx};
use larder::{Cache, Error, Expiration};
use sqlx::{PgPool, SqlitePool};

use crate::support::{TestDatabase, both_engines};

const NEVER: Expiration = Expiration::Never;

/// What every operation finds before [`write`].
async fn prepare(cache: &Cache) {
    cache
        .set_many(
            [
                ("set", 0),
                ("deleted", 0),
                ("one of many", 0),
                ("prefix:a", 0),
            ],
            NEVER,
        )
        .await
        .unwrap();
    cache.set_with("expired", &0, -1).await.unwrap();
    cache
        .namespace("whole")
        .unwrap()
        .set("key", &0)
        .await
        .unwrap();
}

/// Every operation that writes.
async fn write(cache: &Cache, mut tx: Tx<'_>) {
    macro_rules! tx {
        () => {
            match &mut tx {
                Tx::Sqlite(connection) => Tx::Sqlite(connection),
                Tx::Postgres(connection) => Tx::Postgres(connection),
            }
        };
    }
    cache.set_in(tx!(), "set", &1, 60).await.unwrap();
    cache
        .set_many_in(tx!(), [("set_many", 1)], NEVER)
        .await
        .unwrap();
    assert!(cache.add_in(tx!(), "add", &1, NEVER).await.unwrap());
    assert!(cache.delete_in(tx!(), "deleted").await.unwrap());
    assert_eq!(
        cache.delete_many_in(tx!(), ["one of many"]).await.unwrap(),
        1
    );
    assert_eq!(
        cache
            .increment_in(tx!(), "counter", 3, NEVER)
            .await
            .unwrap(),
        3
    );
    assert_eq!(
        cache
            .decrement_in(tx!(), "counter", 1, NEVER)
            .await
            .unwrap(),
        2
    );
    assert!(cache.touch_in(tx!(), "set", 120).await.unwrap());
    assert_eq!(cache.clear_prefix_in(tx!(), "prefix:").await.unwrap(), 1);
    assert_eq!(cache.clear_expired_in(tx!()).await.unwrap(), 1);
    assert_eq!(
        cache
            .namespace("whole")
            .unwrap()
            .clear_all_in(tx!())
            .await
            .unwrap(),
        1
    );

    // Every operation that reads sees it from within.
    assert_eq!(cache.get_in::<i64>(tx!(), "set").await.unwrap(), Some(1));
    assert_eq!(
        cache
            .get_many_in::<i64>(tx!(), ["add", "counter", "deleted"])
            .await
            .unwrap()
            .len(),
        2
    );
    assert!(cache.exists_in(tx!(), "set_many").await.unwrap());
    assert_eq!(
        cache.ttl_in(tx!(), "set").await.unwrap(),
        Some(Ttl::Left(Duration::from_secs(120)))
    );
    assert!(
        cache
            .info_in(tx!(), "set")
            .await
            .unwrap()
            .unwrap()
            .expires_at
            .is_some()
    );
    assert_eq!(
        cache.keys_in(tx!(), "").await.unwrap(),
        ["add", "counter", "set", "set_many"]
    );
    assert_eq!(cache.stats_in(tx!()).await.unwrap().total, 4);
}

async fn assert_untouched(cache: &Cache) {
    let keys: Vec<String> = cache.keys("").try_collect().await.unwrap();
    assert_eq!(keys, ["deleted", "one of many", "prefix:a", "set"]);
    assert_eq!(cache.get::<i64>("set").await.unwrap(), Some(0));
    assert_eq!(cache.ttl("set").await.unwrap(), Some(Ttl::Never));
    assert_eq!(cache.stats().await.unwrap().expired, 1);
    assert!(
        cache
            .namespace("whole")
            .unwrap()
            .exists("key")
            .await
            .unwrap()
    );
}

async fn assert_written(cache: &Cache) {
    let keys: Vec<String> = cache.keys("").try_collect().await.unwrap();
    assert_eq!(keys, ["add", "counter", "set", "set_many"]);
    assert_eq!(cache.get::<i64>("counter").await.unwrap(), Some(2));
    assert_eq!(
        cache.ttl("set").await.unwrap(),
        Some(Ttl::Left(Duration::from_secs(120)))
    );
    assert_eq!(cache.stats().await.unwrap().total, 4);
    assert!(
        !cache
            .namespace("whole")
            .unwrap()
            .exists("key")
            .await
            .unwrap()
    );
}

/// A transaction of the application's own pool, on either engine.
macro_rules! with_own_transaction {
    ($db:expr, |$tx:ident| $body:expr) => {
        if $db.is_sqlite() {
            let pool = SqlitePool::connect(&$db.url).await.unwrap();
            let mut $tx = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
            $body
        } else {
            let pool = PgPool::connect(&$db.url).await.unwrap();
            let mut $tx = pool.begin().await.unwrap();
            $body
        }
    };
}

async fn table(db: &TestDatabase) -> String {
    db.execute("CREATE TABLE {}price (cents INTEGER)").await;
    if db.is_sqlite() {
        "price".to_owned()
    } else {
        format!("\"{}\".price", db.schema.replace('"', "\"\""))
    }
}

both_engines! {
    async fn a_commit_makes_everything_visible_at_once(db) {
        let cache = db.cache().await;
        prepare(&cache).await;
        let mut transaction = cache.database().begin().await.unwrap();
        write(&cache, Tx::from(&mut transaction)).await;
        assert_untouched(&cache).await;
        transaction.commit().await.unwrap();
        assert_written(&cache).await;
    }

    async fn a_rollback_undoes_everything(db) {
        let cache = db.cache().await;
        prepare(&cache).await;
        let mut transaction = cache.database().begin().await.unwrap();
        write(&cache, Tx::from(&mut transaction)).await;
        transaction.rollback().await.unwrap();
        assert_untouched(&cache).await;
        let mut dropped: Transaction = cache.database().begin().await.unwrap();
        write(&cache, Tx::from(&mut dropped)).await;
        drop(dropped);
        // The next writer waits for the connection that is rolled back.
        assert_eq!(cache.increment("other", 1, -1).await.unwrap(), 1);
        assert_eq!(cache.delete_many(["other"]).await.unwrap(), 1);
        assert_untouched(&cache).await;
    }

    async fn the_applications_transaction_commits_its_rows_and_the_cache_together(db) {
        let cache = db.cache().await;
        let insert = format!("INSERT INTO {} VALUES (1)", table(db).await);
        prepare(&cache).await;
        with_own_transaction!(db, |tx| {
            sqlx::query(sqlx::AssertSqlSafe(insert.clone())).execute(&mut *tx).await.unwrap();
            write(&cache, (&mut tx).into()).await;
            tx.rollback().await.unwrap();
        });
        assert_untouched(&cache).await;
        assert_eq!(db.number("SELECT COUNT(*) FROM {}price").await, 0);
        with_own_transaction!(db, |tx| {
            sqlx::query(sqlx::AssertSqlSafe(insert.clone())).execute(&mut *tx).await.unwrap();
            write(&cache, (&mut tx).into()).await;
            tx.commit().await.unwrap();
        });
        assert_written(&cache).await;
        assert_eq!(db.number("SELECT COUNT(*) FROM {}price").await, 1);
    }

    async fn a_connection_and_a_transaction_in_a_transaction_will_do(db) {
        let cache = db.cache().await;
        macro_rules! check {
            ($pool:expr) => {{
                let pool = $pool;
                let mut connection = pool.acquire().await.unwrap();
                cache.set_in(&mut connection, "pooled", &1, NEVER).await.unwrap();
                cache.set_in(&mut *connection, "plain", &1, NEVER).await.unwrap();
                drop(connection);
                let mut outer = pool.begin().await.unwrap();
                cache.set_in(&mut outer, "outer", &1, NEVER).await.unwrap();
                let mut inner = sqlx::Acquire::begin(&mut *outer).await.unwrap();
                cache.set_in(&mut inner, "inner", &1, NEVER).await.unwrap();
                inner.rollback().await.unwrap();
                outer.commit().await.unwrap();
            }};
        }
        if db.is_sqlite() {
            check!(SqlitePool::connect(&db.url).await.unwrap());
        } else {
            check!(PgPool::connect(&db.url).await.unwrap());
        }
        assert_eq!(cache.get_many::<i64>(["pooled", "plain", "outer", "inner"]).await.unwrap().len(), 3);
        assert!(!cache.exists("inner").await.unwrap());
    }

    async fn a_transaction_of_the_other_engine_is_a_clear_error(db) {
        let cache = db.cache().await;
        let memory = SqlitePool::connect("sqlite::memory:").await.unwrap();
        let postgres = std::env::var("LARDER_TEST_POSTGRES_URL").unwrap();
        let (mut sqlite_tx, mut postgres_tx);
        let mut wrong = if db.is_sqlite() {
            let pool = PgPool::connect(&postgres).await.unwrap();
            postgres_tx = pool.begin().await.unwrap();
            Tx::from(&mut postgres_tx)
        } else {
            sqlite_tx = memory.begin().await.unwrap();
            Tx::from(&mut sqlite_tx)
        };
        macro_rules! tx {
            () => {
                match &mut wrong {
                    Tx::Sqlite(connection) => Tx::Sqlite(connection),
                    Tx::Postgres(connection) => Tx::Postgres(connection),
                }
            };
        }
        let errors: Vec<Error> = vec![
            cache.get_in::<i64>(tx!(), "key").await.unwrap_err(),
            cache.get_many_in::<i64>(tx!(), ["key"]).await.unwrap_err(),
            cache.set_in(tx!(), "key", &1, NEVER).await.unwrap_err(),
            cache.set_many_in(tx!(), [("key", 1)], NEVER).await.unwrap_err(),
            cache.add_in(tx!(), "key", &1, NEVER).await.unwrap_err(),
            cache.delete_in(tx!(), "key").await.unwrap_err(),
            cache.delete_many_in(tx!(), ["key"]).await.unwrap_err(),
            cache.exists_in(tx!(), "key").await.unwrap_err(),
            cache.touch_in(tx!(), "key", NEVER).await.unwrap_err(),
            cache.increment_in(tx!(), "key", 1, NEVER).await.unwrap_err(),
            cache.ttl_in(tx!(), "key").await.unwrap_err(),
            cache.info_in(tx!(), "key").await.unwrap_err(),
            cache.keys_in(tx!(), "").await.unwrap_err(),
            cache.clear_prefix_in(tx!(), "").await.unwrap_err(),
            cache.clear_expired_in(tx!()).await.unwrap_err(),
            cache.stats_in(tx!()).await.unwrap_err(),
        ];
        let (theirs, ours) = if db.is_sqlite() { ("Postgres", "Sqlite") } else { ("Sqlite", "Postgres") };
        for error in errors {
            assert!(error.is_invalid());
            let expected = format!("the transaction is {theirs}'s and this larder is on {ours}: use a transaction of the same database");
            assert_eq!(error.to_string(), expected);
        }
    }

    async fn larders_own_transaction_takes_the_write_lock_at_once(db) {
        // PostgreSQL locks rows, and takes them as they come.
        if !db.is_sqlite() {
            return;
        }
        let cache = db.cache().await;
        let mut transaction = cache.database().begin().await.unwrap();
        assert_eq!(cache.get_in::<i64>(&mut transaction, "key").await.unwrap(), None);
        // Nobody else wrote between the read and the write: a deferred transaction would fail here.
        let error = db.try_execute("PRAGMA busy_timeout = 0; CREATE TABLE other (id INTEGER)").await.unwrap_err();
        assert!(error.to_string().contains("locked"), "{error}");
        cache.set_in(&mut transaction, "key", &1, NEVER).await.unwrap();
        transaction.commit().await.unwrap();
    }
}
