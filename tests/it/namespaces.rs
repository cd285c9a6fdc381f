//! Namespaces keep to themselves.

use futures::TryStreamExt;
use larder::{Cache, Expiration};

use crate::support::both_engines;

const NEVER: Expiration = Expiration::Never;

async fn keys(cache: &Cache) -> Vec<String> {
    cache.keys("").try_collect().await.unwrap()
}

both_engines! {
    async fn no_operation_leaves_its_namespace(db) {
        let root = db.cache().await;
        let one = root.namespace("one").unwrap();
        // Names that only a comparison of bytes tells apart.
        let others = ["", "One", "on", "one ", "one%", "o_e"].map(|name| root.namespace(name).unwrap());
        for other in &others {
            other.set_with("key", "other", 60).await.unwrap();
            other.set("counter", &1).await.unwrap();
        }
        assert_eq!(one.get::<String>("key").await.unwrap(), None);
        assert!(one.get_many::<String>(["key", "counter"]).await.unwrap().is_empty());
        assert!(!one.exists("key").await.unwrap());
        assert_eq!(one.ttl("key").await.unwrap(), None);
        assert_eq!(one.info("key").await.unwrap(), None);
        assert!(keys(&one).await.is_empty());
        assert!(!one.touch("key", NEVER).await.unwrap());
        assert!(!one.delete("key").await.unwrap());
        assert_eq!(one.delete_many(["key", "counter"]).await.unwrap(), 0);
        assert_eq!(one.clear_prefix("k").await.unwrap(), 0);
        assert_eq!(one.clear_all().await.unwrap(), 0);
        assert_eq!(one.stats().await.unwrap().total, 0);
        assert_eq!(one.cached::<String>("key").value().await.unwrap(), None);
        assert!(one.add("key", "one", NEVER).await.unwrap());
        assert_eq!(one.increment("counter", 5, NEVER).await.unwrap(), 5);
        one.set("key", "one").await.unwrap();
        one.set_many([("many", "one")], NEVER).await.unwrap();
        for other in &others {
            assert_eq!(other.get::<String>("key").await.unwrap().as_deref(), Some("other"));
            assert_eq!(other.get::<i64>("counter").await.unwrap(), Some(1));
            assert_eq!(keys(other).await, ["counter", "key"]);
        }
        assert_eq!(keys(&one).await, ["counter", "key", "many"]);
        let again = others[2].namespace("one").unwrap();
        assert_eq!(keys(&again).await.len(), 3, "a namespace of a namespace is one of the same database");
    }

    async fn expired_items_are_purged_in_their_namespace_alone_unless_all_are_asked_for(db) {
        let root = db.cache().await;
        let caches = [root.clone(), root.namespace("one").unwrap(), root.namespace("two").unwrap()];
        for cache in &caches {
            cache.set_with("old", &1, -1).await.unwrap();
            cache.set("live", &1).await.unwrap();
        }
        assert_eq!(root.purge().count().await.unwrap(), 3);
        assert_eq!(caches[1].clear_expired().await.unwrap(), 1);
        let mut transaction = root.database().begin().await.unwrap();
        assert_eq!(caches[1].clear_expired_in(&mut transaction).await.unwrap(), 0);
        assert_eq!(caches[2].clear_expired_in(&mut transaction).await.unwrap(), 1);
        transaction.rollback().await.unwrap();
        assert_eq!(root.purge().all_namespaces().run().await.unwrap(), 2);
        for cache in &caches {
            assert_eq!(keys(cache).await, ["live"]);
        }
    }

    async fn clear_all_of_the_root_leaves_namespaces_unless_all_are_asked_for(db) {
        let root = db.cache().await;
        let (one, two) = (root.namespace("one").unwrap(), root.namespace("two").unwrap());
        for cache in [&root, &one, &two] {
            cache.set_many([("a", 1), ("b", 2)], NEVER).await.unwrap();
        }
        assert_eq!(root.clear_all().await.unwrap(), 2);
        assert_eq!((keys(&one).await.len(), keys(&two).await.len()), (2, 2));
        root.set("a", &1).await.unwrap();
        let mut transaction = root.database().begin().await.unwrap();
        assert_eq!(root.clear_all_in(&mut transaction).await.unwrap(), 1);
        transaction.commit().await.unwrap();
        assert_eq!(one.clear_all().await.unwrap(), 2);
        assert_eq!(keys(&two).await.len(), 2);
        root.set("a", &1).await.unwrap();
        assert_eq!(root.clear_all_namespaces().await.unwrap(), 3);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}cached_item").await, 0);
    }

    async fn a_namespace_is_at_most_a_hundred_and_twenty_eight_bytes_without_nul(db) {
        let root = db.cache().await;
        for name in ["n".repeat(128), "\u{1F980}".repeat(32), "'\"%".to_owned()] {
            let cache = root.namespace(&name).unwrap();
            cache.set("key", &1).await.unwrap();
            assert_eq!(keys(&cache).await, ["key"]);
            assert_eq!(cache.clear_all().await.unwrap(), 1);
        }
        for name in ["n".repeat(129), "\u{1F980}".repeat(33), "a\0b".to_owned()] {
            assert!(root.namespace(&name).unwrap_err().is_invalid());
        }
    }
}
