//! The operations of `Cache` on one key, and what a live item is.

use std::time::Duration;

use chrono::TimeDelta;
use futures::TryStreamExt;
use larder::cache::Ttl;
use larder::{Cache, Expiration};

use crate::support::{TestDatabase, both_engines, noon};

const NEVER: Expiration = Expiration::Never;

/// A cache with one item, `key`, that expired a second ago and whose row is still there.
async fn with_expired_item(db: &TestDatabase) -> Cache {
    let cache = db.cache().await;
    cache.set_with("key", &"old", 60).await.unwrap();
    db.advance(61);
    cache
}

async fn keys(cache: &Cache) -> Vec<String> {
    cache.keys("").try_collect().await.unwrap()
}

both_engines! {
    async fn an_item_that_was_set_is_read_and_deleted(db) {
        let cache = db.cache().await;
        assert_eq!(cache.get::<String>("key").await.unwrap(), None);
        cache.set("key", "value").await.unwrap();
        assert_eq!(cache.get::<String>("key").await.unwrap().as_deref(), Some("value"));
        assert!(cache.exists("key").await.unwrap());
        assert_eq!(cache.ttl("key").await.unwrap(), Some(Ttl::Never));
        assert!(cache.delete("key").await.unwrap());
        assert!(!cache.delete("key").await.unwrap());
        assert!(!cache.exists("key").await.unwrap());
        assert_eq!(cache.ttl("key").await.unwrap(), None);
    }

    async fn expired_item_reads_as_absent(db) {
        let cache = with_expired_item(db).await;
        assert_eq!(cache.get::<String>("key").await.unwrap(), None);
        assert!(cache.get_many::<String>(["key"]).await.unwrap().is_empty());
        assert!(!cache.exists("key").await.unwrap());
        assert_eq!(cache.ttl("key").await.unwrap(), None);
        assert_eq!(cache.info("key").await.unwrap(), None);
        assert!(keys(&cache).await.is_empty());
        assert!(!cache.cached::<String>("key").exists().await.unwrap());
        assert_eq!(cache.cached::<String>("key").value().await.unwrap(), None);
        assert_eq!(cache.cached::<String>("key").expires_at().await.unwrap(), None);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}cached_item").await, 1, "its row is still there");
    }

    async fn an_item_is_expired_at_the_instant_of_its_deadline(db) {
        let cache = db.cache().await;
        cache.set_with("key", &1, 10).await.unwrap();
        db.advance_millis(9_999);
        assert_eq!(cache.ttl("key").await.unwrap(), Some(Ttl::Left(Duration::from_millis(1))));
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(1));
        assert_eq!(cache.clear_expired().await.unwrap(), 0);
        db.advance_millis(1);
        assert_eq!(cache.ttl("key").await.unwrap(), None);
        assert_eq!(cache.get::<i64>("key").await.unwrap(), None);
        assert!(!cache.touch("key", NEVER).await.unwrap());
        let stats = cache.stats().await.unwrap();
        assert_eq!((stats.total, stats.expired, stats.unexpired, stats.forever), (1, 1, 0, 0));
        assert_eq!(cache.clear_expired().await.unwrap(), 1);
    }

    async fn delete_tells_of_an_expired_row_too(db) {
        let cache = with_expired_item(db).await;
        assert!(cache.delete("key").await.unwrap());
        assert!(!cache.delete("key").await.unwrap());
    }

    async fn touch_does_not_revive_an_expired_item(db) {
        let cache = with_expired_item(db).await;
        assert!(!cache.touch("key", 60).await.unwrap());
        assert!(!cache.touch("key", Expiration::Keep).await.unwrap());
        assert!(!cache.exists("key").await.unwrap());
        assert!(!cache.touch("missing", 60).await.unwrap());
    }

    async fn touch_gives_another_deadline_and_leaves_the_value_alone(db) {
        let cache = db.cache().await;
        cache.set_with("key", &1, 60).await.unwrap();
        let before = cache.info("key").await.unwrap().unwrap();
        db.advance(30);
        assert!(cache.touch("key", 60).await.unwrap());
        let after = cache.info("key").await.unwrap().unwrap();
        assert_eq!(after.expires_at, Some(noon() + TimeDelta::seconds(90)));
        assert_eq!((after.created_at, after.updated_at), (before.created_at, before.updated_at));
        assert_eq!(after.generation, before.generation);
        assert!(cache.touch("key", Expiration::Keep).await.unwrap());
        assert_eq!(cache.info("key").await.unwrap(), Some(after));
        assert!(cache.touch("key", NEVER).await.unwrap());
        assert_eq!(cache.ttl("key").await.unwrap(), Some(Ttl::Never));
        assert!(cache.touch("key", 0).await.unwrap());
        assert!(!cache.exists("key").await.unwrap());
    }

    async fn add_stores_only_where_there_is_no_live_item(db) {
        let cache = db.cache().await;
        assert!(cache.add("key", &1, Expiration::Keep).await.unwrap());
        assert_eq!(cache.ttl("key").await.unwrap(), Some(Ttl::Never), "Keep means no deadline here");
        assert!(!cache.add("key", &2, 60).await.unwrap());
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(1));
        assert_eq!(cache.ttl("key").await.unwrap(), Some(Ttl::Never));
    }

    async fn add_replaces_an_expired_item_whole(db) {
        let cache = with_expired_item(db).await;
        assert!(cache.add("key", "new", 60).await.unwrap());
        assert_eq!(cache.get::<String>("key").await.unwrap().as_deref(), Some("new"));
        let info = cache.info("key").await.unwrap().unwrap();
        assert_eq!(info.created_at, noon() + TimeDelta::seconds(61));
        assert_eq!(info.updated_at, info.created_at);
        assert_eq!(info.expires_at, Some(noon() + TimeDelta::seconds(121)));
    }

    async fn of_sixteen_racing_adds_one_wins(db) {
        let cache = db.cache().await;
        for (key, expired) in [("missing", false), ("expired", true)] {
            if expired {
                cache.set_with(key, &-1, -1).await.unwrap();
            }
            let adds = (0..16).map(|number| {
                let cache = cache.clone();
                tokio::spawn(async move { cache.add(key, &number, NEVER).await.unwrap() })
            });
            let added = futures::future::try_join_all(adds).await.unwrap();
            assert_eq!(added.iter().filter(|added| **added).count(), 1, "{key}");
            let winner = i64::try_from(added.iter().position(|added| *added).unwrap()).unwrap();
            assert_eq!(cache.get::<i64>(key).await.unwrap(), Some(winner));
        }
    }

    async fn overwriting_a_live_item_keeps_its_age_and_an_expired_one_begins_anew(db) {
        let cache = db.cache().await;
        for many in [false, true] {
            let key = if many { "many" } else { "one" };
            let set = async |value: i64| {
                if many {
                    cache.set_many([(key, value)], 60).await.unwrap();
                } else {
                    cache.set_with(key, &value, 60).await.unwrap();
                }
                cache.info(key).await.unwrap().unwrap()
            };
            let first = set(1).await;
            assert_eq!(first.created_at, first.updated_at);
            db.advance(10);
            let second = set(2).await;
            assert_eq!(second.created_at, first.created_at);
            assert_eq!(second.updated_at, first.created_at + TimeDelta::seconds(10));
            assert_ne!(second.generation, first.generation);
            db.advance(3_600);
            let third = set(3).await;
            assert_eq!(third.created_at, first.created_at + TimeDelta::seconds(3_610));
            assert_eq!(third.updated_at, third.created_at);
        }
    }

    async fn updated_at_never_precedes_created_at_though_the_clock_goes_back(db) {
        let cache = db.cache().await;
        cache.set("set", &1).await.unwrap();
        cache.set("many", &1).await.unwrap();
        cache.set("counter", &1).await.unwrap();
        db.advance(-3_600);
        cache.set("set", &2).await.unwrap();
        cache.set_many([("many", 2)], Expiration::Keep).await.unwrap();
        cache.increment("counter", 1, NEVER).await.unwrap();
        for key in ["set", "many", "counter"] {
            assert_eq!(cache.get::<i64>(key).await.unwrap(), Some(2));
            let info = cache.info(key).await.unwrap().unwrap();
            assert_eq!((info.created_at, info.updated_at), (noon(), noon()), "{key}");
        }
    }

    async fn stats_count_each_item_once(db) {
        let cache = db.cache().await;
        let empty = cache.stats().await.unwrap();
        assert_eq!((empty.total, empty.bytes, empty.oldest, empty.newest), (0, 0, None, None));
        cache.set("forever", "é").await.unwrap();
        db.advance(1);
        cache.set_with("unexpired", &22, 60).await.unwrap();
        cache.set_with("expired", &333, -60).await.unwrap();
        cache.namespace("other").unwrap().set("elsewhere", &1).await.unwrap();
        let stats = cache.stats().await.unwrap();
        assert_eq!((stats.total, stats.expired, stats.unexpired, stats.forever), (3, 1, 1, 1));
        assert_eq!(stats.bytes, (7 + 4) + (9 + 2) + (7 + 3));
        assert_eq!(stats.oldest, Some(noon()));
        assert_eq!(stats.newest, Some(noon() + TimeDelta::seconds(1)));
    }
}
