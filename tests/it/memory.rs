//! Items in the memory of the process. PostgreSQL alone has them: what only it can show is tested there alone.

use std::time::Duration;

use futures::future::BoxFuture;
use larder::cache::{Cache, MemoryTier};
use larder::{Cached, Expiration, Larder, Queue};
use sqlx::postgres::PgListener;

use crate::support::{TestDatabase, both_engines, eventually, run};

const NEVER: Expiration = Expiration::Never;
const HOUR: Duration = Duration::from_secs(3_600);
/// Far more than it takes to hear.
const DEADLINE: Duration = Duration::from_secs(30);

/// A cache that keeps items for an hour, by the test's clock and by the machine's.
async fn kept(db: &TestDatabase) -> Cache {
    let tier = MemoryTier::default().max_staleness(HOUR);
    db.cache().await.with_memory(tier)
}

/// Keeps anybody from asking the database to tell what is written.
async fn silence(db: &TestDatabase) {
    if !db.is_sqlite() {
        db.execute("ALTER SEQUENCE {}cached_item_watch MAXVALUE 2")
            .await;
    }
}

async fn get(cache: &Cache, key: &str) -> Option<i64> {
    cache.get(key).await.unwrap()
}

/// Waits until the database tells what is written.
async fn is_told(db: &TestDatabase) {
    eventually("the database tells what is written", DEADLINE, async || {
        db.number("SELECT last_value FROM {}cached_item_watch")
            .await
            > 1
    })
    .await;
}

/// What a kind of write is called, the key and the value that are there after it, and the write.
type Kind = (
    &'static str,
    &'static str,
    Option<i64>,
    fn(Cache) -> BoxFuture<'static, ()>,
);

macro_rules! kinds {
    ($($cache:ident, $key:literal becomes $value:expr => $write:expr;)*) => {
        &[$((stringify!($write), $key, $value, |$cache: Cache| Box::pin(async move { $write; })),)*]
    };
}

const KINDS: &[Kind] = kinds! {
    cache, "key" becomes Some(2) => cache.set("key", &2).await.unwrap();
    cache, "key" becomes None => cache.set_with("key", &2, -1).await.unwrap();
    cache, "key" becomes Some(2) => cache.set_many([("key", 2), ("other", 2)], NEVER).await.unwrap();
    cache, "key" becomes None => assert!(cache.delete("key").await.unwrap());
    cache, "key" becomes None => assert_eq!(cache.delete_many(["key", "absent"]).await.unwrap(), 1);
    cache, "key" becomes None => assert!(cache.touch("key", -1).await.unwrap());
    cache, "key" becomes Some(5) => assert_eq!(cache.increment("key", 4, NEVER).await.unwrap(), 5);
    cache, "key" becomes None => assert_eq!(cache.clear_prefix("k").await.unwrap(), 1);
    cache, "key" becomes None => assert!(cache.clear_all().await.unwrap() > 1);
    cache, "key" becomes None => assert!(cache.clear_all_namespaces().await.unwrap() > 1);
    cache, "key" becomes Some(2) => cache.tagged(["tag"]).set("key", &2, NEVER).await.unwrap();
    cache, "key" becomes Some(2) => cache.tagged(["tag"]).set_many([("key", 2)], NEVER).await.unwrap();
    cache, "linked" becomes None => assert!(cache.clear_tag("tag").await.unwrap() > 0);
    cache, "linked" becomes None => cache.set("base", &2).await.unwrap();
    cache, "linked" becomes None => assert!(cache.delete("base").await.unwrap());
    cache, "key" becomes Some(2) => {
        let seen = cache.info("key").await.unwrap().unwrap().generation;
        assert!(cache.set_if("key", &2, seen, NEVER).await.unwrap());
    };
    cache, "key" becomes Some(2) => {
        cache.touch("key", -1).await.unwrap();
        assert!(cache.add("key", &2, NEVER).await.unwrap());
    };
    cache, "key" becomes Some(2) => {
        cache.touch("key", -1).await.unwrap();
        assert!(cache.tagged(["tag"]).add("key", &2, NEVER).await.unwrap());
    };
    cache, "key" becomes Some(2) => {
        let mut handle: Cached<i64> = cache.cached("key");
        handle.set(&2).await.unwrap();
    };
    cache, "key" becomes Some(2) => {
        cache.touch("key", -1).await.unwrap();
        cache.memoize("key").get_or_compute(|| async { 2 }).await.unwrap();
    };
    cache, "key" becomes Some(2) => {
        let mut tx = cache.database().begin().await.unwrap();
        cache.set_in(&mut tx, "key", &2, NEVER).await.unwrap();
        cache.delete_in(&mut tx, "base").await.unwrap();
        tx.commit().await.unwrap();
    };
    cache, "linked" becomes None => {
        let larder = Larder::of(cache.clone(), Queue::new(cache.database().clone()));
        larder.rewarming().clear_tag("tag").await.unwrap();
    };
};

/// Has 1 under each of the keys.
async fn seed(cache: &Cache) {
    for key in ["key", "base"] {
        cache.set_with(key, &1, NEVER).await.unwrap();
    }
    let linked = cache.tagged(["tag"]).depends_on(["base"]);
    linked.set("linked", &1, NEVER).await.unwrap();
}

both_engines! {
    async fn own_writes_of_every_kind_are_seen_at_once(db) {
        let cache = kept(db).await;
        silence(db).await;
        for (what, key, value, write) in KINDS {
            seed(&cache).await;
            for _ in 0..2 {
                for key in ["key", "base", "linked"] {
                    assert_eq!(get(&cache, key).await, Some(1), "{key}, before {what}");
                }
            }
            write(cache.clone()).await;
            for _ in 0..2 {
                assert_eq!(get(&cache, key).await, *value, "{what}");
            }
        }
        let tenant = cache.namespace("tenant").unwrap();
        tenant.set("key", &1).await.unwrap();
        cache.set("key", &2).await.unwrap();
        assert_eq!((get(&tenant, "key").await, get(&cache, "key").await), (Some(1), Some(2)));
        tenant.clear_all().await.unwrap();
        assert_eq!((get(&tenant, "key").await, get(&cache, "key").await), (None, Some(2)));
    }

    async fn an_item_does_not_outlive_its_deadline(db) {
        let cache = kept(db).await;
        cache.set_with("key", &1, 60).await.unwrap();
        assert_eq!(get(&cache, "key").await, Some(1));
        db.advance(59);
        assert_eq!(get(&cache, "key").await, Some(1));
        db.advance(1);
        assert_eq!(get(&cache, "key").await, None);
    }

    async fn a_memoized_value_is_refreshed_when_it_is_stale(db) {
        let cache = kept(db).await;
        let compute = async |value: i64| {
            let memo = cache.memoize("key").fresh_for(Duration::from_secs(60)).stale_for(HOUR);
            memo.get_or_compute(move || async move { value }).await.unwrap()
        };
        assert_eq!((compute(1).await, compute(2).await, compute(3).await), (1, 1, 1));
        db.advance(60);
        assert_eq!(compute(4).await, 1, "it is stale, and refreshed in the background");
        eventually("it is refreshed", DEADLINE, async || compute(5).await == 4).await;
        assert_eq!(compute(6).await, 4);
        cache.tagged(["tag"]).set("other", &1, NEVER).await.unwrap();
        let mut memo = cache.memoize("tagged").tags(["tag"]).stale_for(HOUR).fresh_for(HOUR);
        memo = memo.wait_timeout(DEADLINE);
        assert_eq!(memo.get_or_compute(|| async { 1 }).await.unwrap(), 1);
        assert_eq!(get(&cache, "tagged").await, Some(1));
        cache.mark_tag_stale("tag").await.unwrap();
        eventually("what was marked stale is refreshed", DEADLINE, async || {
            let memo = cache.memoize("tagged").tags(["tag"]).stale_for(HOUR).fresh_for(HOUR);
            memo.get_or_compute(|| async { 2 }).await.unwrap() == 2
        })
        .await;
    }

    async fn what_is_large_and_what_is_absent_is_read_from_the_row(db) {
        let cache = kept(db).await;
        silence(db).await;
        // As random as it takes: PostgreSQL compresses.
        let ids = std::iter::repeat_with(|| uuid::Uuid::now_v7().to_string());
        let large: String = ids.take(20_000).collect();
        cache.set("large", &large).await.unwrap();
        assert_eq!(cache.get::<String>("large").await.unwrap(), Some(large));
        assert_eq!(get(&cache, "absent").await, None);
        let other = db.cache().await;
        other.set("large", "small").await.unwrap();
        other.set("absent", &1).await.unwrap();
        assert_eq!(cache.get::<String>("large").await.unwrap().as_deref(), Some("small"));
        assert_eq!(get(&cache, "absent").await, Some(1));
        let wrong = cache.get::<bool>("absent").await.unwrap_err();
        assert!(wrong.is_corrupt() && cache.get::<bool>("absent").await.is_err());
    }
}

/// On SQLite each read sees the row.
#[test]
fn a_hit_asks_nobody_until_the_bound_on_postgres() {
    run(TestDatabase::postgres, async |db| {
        let cache = kept(db).await;
        silence(db).await;
        cache.set("key", &1).await.unwrap();
        let memoized = async |cache: &Cache| {
            let memo = cache.memoize("key");
            memo.get_or_compute(|| async { 0 }).await.unwrap()
        };
        assert_eq!(get(&cache, "key").await, Some(1));
        db.execute("UPDATE {}cached_item SET value = '2'").await;
        db.advance(3_599);
        assert_eq!(
            (get(&cache, "key").await, memoized(&cache).await),
            (Some(1), 1)
        );
        // What says that it reads the row does.
        let mut tx = cache.database().begin().await.unwrap();
        assert_eq!(cache.get_in::<i64>(&mut tx, "key").await.unwrap(), Some(2));
        tx.rollback().await.unwrap();
        assert_eq!(cache.get_many::<i64>(["key"]).await.unwrap()["key"], 2);
        assert_eq!(cache.cached::<i64>("key").value().await.unwrap(), Some(&2));
        assert_eq!(get(&cache, "key").await, Some(1));
        db.advance(1);
        assert_eq!(
            (memoized(&cache).await, get(&cache, "key").await),
            (2, Some(2))
        );
    });
}

#[test]
fn on_sqlite_every_read_sees_the_row() {
    run(TestDatabase::sqlite, async |db| {
        let cache = kept(db).await;
        cache.set("key", &1).await.unwrap();
        assert_eq!(get(&cache, "key").await, Some(1));
        db.execute("UPDATE {}cached_item SET value = '2'").await;
        assert_eq!(get(&cache, "key").await, Some(2));
    });
}

/// SQLite tells nobody.
#[test]
fn what_others_write_is_heard_on_postgres() {
    run(TestDatabase::postgres, async |db| {
        let (cache, other) = (kept(db).await, db.cache().await);
        get(&cache, "key").await;
        is_told(db).await;
        let heard = async |what: &str, key: &str, value: Option<i64>, write: BoxFuture<'_, ()>| {
            seed(&other).await;
            let kept = async || get(&cache, key).await == Some(1);
            eventually("what is there is kept", DEADLINE, kept).await;
            write.await;
            eventually(what, DEADLINE, async || get(&cache, key).await == value).await;
        };
        for (what, key, value, write) in KINDS {
            heard(what, key, *value, write(other.clone())).await;
        }
        for (sql, value) in [
            (
                "UPDATE {}cached_item SET value = '2' WHERE key = 'key'",
                Some(2),
            ),
            (
                "UPDATE {}cached_item SET key = 'moved' WHERE key = 'key'",
                None,
            ),
            ("DELETE FROM {}cached_item", None),
            ("TRUNCATE {}cached_item", None),
        ] {
            let write = Box::pin(async {
                db.execute(sql).await;
            });
            heard(sql, "key", value, write).await;
        }
        seed(&other).await;
        eventually("it is kept", DEADLINE, async || {
            get(&cache, "key").await == Some(1)
        })
        .await;
        let mut tx = other.database().begin().await.unwrap();
        other.set_in(&mut tx, "key", &2, NEVER).await.unwrap();
        assert_eq!(get(&cache, "key").await, Some(1), "it is not committed");
        tx.commit().await.unwrap();
        eventually("it is committed", DEADLINE, async || {
            get(&cache, "key").await == Some(2)
        })
        .await;
        let odd = other.namespace("a/\"b").unwrap();
        let same = cache.namespace("a/\"b").unwrap();
        odd.set("c/d", &1).await.unwrap();
        assert_eq!(get(&same, "c/d").await, Some(1));
        odd.set("c/d", &2).await.unwrap();
        eventually("odd names are heard", DEADLINE, async || {
            get(&same, "c/d").await == Some(2)
        })
        .await;
    });
}

/// SQLite tells nobody.
#[test]
fn nothing_is_told_unless_somebody_keeps_items_on_postgres() {
    run(TestDatabase::postgres, async |db| {
        let cache = db.cache().await;
        let mut listener = PgListener::connect(&db.url).await.unwrap();
        listener.listen("larder_cache_written").await.unwrap();
        let prefix = format!("{}/", db.schema);
        let mut told = async |mark: &str| {
            db.execute(&format!(
                "SELECT pg_notify('larder_cache_written', '{prefix}{mark}')"
            ))
            .await;
            let mut told = Vec::new();
            loop {
                let next = tokio::time::timeout(DEADLINE, listener.recv())
                    .await
                    .unwrap()
                    .unwrap();
                match next.payload().strip_prefix(&prefix) {
                    Some(payload) if payload == mark => return told,
                    Some(payload) => told.push(payload.to_owned()),
                    None => {}
                }
            }
        };
        let write = async || {
            cache.set("key", &1).await.unwrap();
            cache.set("key", &2).await.unwrap();
            cache.delete("key").await.unwrap();
        };
        write().await;
        assert_eq!(told("nobody keeps items").await, Vec::<String>::new());
        let keeping = kept(db).await;
        get(&keeping, "key").await;
        is_told(db).await;
        write().await;
        // What nobody had is not told, nor what had expired long before.
        assert_eq!(
            told("somebody does").await,
            [r#"["", "key"]"#, r#"["", "key"]"#]
        );
        cache.set_with("key", &1, -3_600).await.unwrap();
        cache.set_with("key", &1, -3_600).await.unwrap();
        cache.purge().run().await.unwrap();
        assert_eq!(told("nobody had it").await, Vec::<String>::new());
        db.execute(
            "SELECT setval('{}cached_item_watch', CAST(date_part('epoch', now()) AS bigint) - 60)",
        )
        .await;
        write().await;
        assert_eq!(told("nobody renewed it").await, Vec::<String>::new());
    });
}
