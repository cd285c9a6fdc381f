//! Tags: what carries them, what keeps them, and what clearing one takes along.

use std::sync::Arc;
use std::time::Duration;

use larder::cache::Tagged;
use larder::{Cache, Expiration};
use tokio::sync::{Notify, Semaphore};

use crate::support::{TestDatabase, both_engines, eventually};

const NEVER: Expiration = Expiration::Never;
const MINUTE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(30);

async fn tags(cache: &Cache, key: &str) -> Vec<String> {
    cache
        .info(key)
        .await
        .unwrap()
        .map_or_else(Vec::new, |info| info.tags)
}

async fn links(db: &TestDatabase) -> i64 {
    db.number("SELECT COUNT(*) FROM {}cached_item_link").await
}

both_engines! {
    async fn clearing_a_tag_deletes_exactly_the_items_that_carry_it(db) {
        let cache = db.cache().await;
        cache.tagged(["a", "b", "a"]).set("ab", &1, NEVER).await.unwrap();
        cache.tagged(["a"]).set_many([("a1", 1), ("a2", 2), ("a1", 3)], NEVER).await.unwrap();
        cache.tagged(["a"]).set("expired", &1, -1).await.unwrap();
        assert!(cache.tagged(["A"]).add("upper", &1, NEVER).await.unwrap());
        cache.set("plain", &1).await.unwrap();
        assert_eq!(tags(&cache, "ab").await, ["a", "b"]);
        assert_eq!(cache.get::<i64>("a1").await.unwrap(), Some(3));
        assert_eq!(cache.clear_tag("b").await.unwrap(), 1);
        assert_eq!(cache.clear_tag("a").await.unwrap(), 3, "live or not, as of `delete`");
        assert_eq!(cache.clear_tag("a").await.unwrap(), 0);
        assert_eq!(cache.clear_tag("none").await.unwrap(), 0);
        assert_eq!(cache.get_many::<i64>(["upper", "plain", "a1", "ab"]).await.unwrap().len(), 2);
        assert_eq!(links(db).await, 1);
    }

    async fn a_tag_of_many_items_is_cleared_in_batches_and_counted(db) {
        let cache = db.cache().await;
        cache.tagged(["many"]).set_many((0..2_500).map(|n| (format!("item:{n}"), n)), NEVER).await.unwrap();
        cache.set("other", &1).await.unwrap();
        let mut transaction = cache.database().begin().await.unwrap();
        assert_eq!(cache.clear_tag_in(&mut transaction, "many").await.unwrap(), 2_500);
        transaction.rollback().await.unwrap();
        assert_eq!(cache.mark_tag_stale("many").await.unwrap(), 2_500);
        assert_eq!(cache.clear_tag("many").await.unwrap(), 2_500);
        assert_eq!((cache.stats().await.unwrap().total, links(db).await), (1, 0));
    }

    async fn set_that_names_tags_replaces_them_and_set_that_names_none_keeps_them(db) {
        let cache = db.cache().await;
        let tagged: Tagged<'_> = cache.tagged(["a", "b"]);
        tagged.set("key", &1, 600).await.unwrap();
        cache.set("key", &2).await.unwrap();
        cache.set_with("key", &3, 600).await.unwrap();
        cache.set_many([("key", 4)], 600).await.unwrap();
        cache.increment("key", 1, NEVER).await.unwrap();
        cache.touch("key", 700).await.unwrap();
        let generation = cache.info("key").await.unwrap().unwrap().generation;
        assert!(cache.set_if("key", &5, generation, Expiration::Keep).await.unwrap());
        assert!(!cache.tagged(["c"]).add("key", &6, NEVER).await.unwrap());
        assert_eq!(tags(&cache, "key").await, ["a", "b"]);
        cache.tagged(["b", "c"]).set("key", &7, NEVER).await.unwrap();
        assert_eq!(tags(&cache, "key").await, ["b", "c"]);
        cache.tagged([""; 0]).set("key", &8, NEVER).await.unwrap();
        assert!(tags(&cache, "key").await.is_empty());
        assert_eq!(links(db).await, 0);
    }

    async fn an_item_that_expired_or_was_deleted_comes_back_without_its_tags(db) {
        let cache = db.cache().await;
        type Write = (&'static str, i64);
        for (write, expires) in [("set", -1), ("set_many", -1), ("add", -1), ("increment", -1), ("set", 600)] as [Write; 5] {
            cache.tagged(["old"]).set("key", &1, expires).await.unwrap();
            if expires > 0 {
                assert!(cache.delete("key").await.unwrap());
            }
            match write {
                "set" => cache.set("key", &2).await.unwrap(),
                "set_many" => cache.set_many([("key", 2)], 60).await.unwrap(),
                "add" => assert!(cache.add("key", &2, 60).await.unwrap()),
                _ => assert_eq!(cache.increment("key", 1, 60).await.unwrap(), 1),
            }
            assert!(tags(&cache, "key").await.is_empty(), "{write}");
            assert_eq!((links(db).await, cache.clear_tag("old").await.unwrap()), (0, 0), "{write}");
            cache.delete("key").await.unwrap();
        }
    }

    async fn whatever_deletes_an_item_deletes_its_tags(db) {
        let cache = db.cache().await;
        for way in ["delete", "delete_many", "clear_prefix", "clear_all", "clear_expired", "purge", "sql"] {
            cache.tagged(["a", "b"]).set("key", &1, -1).await.unwrap();
            assert_eq!(links(db).await, 2);
            match way {
                "delete" => assert!(cache.delete("key").await.unwrap()),
                "delete_many" => assert_eq!(cache.delete_many(["key"]).await.unwrap(), 1),
                "clear_prefix" => assert_eq!(cache.clear_prefix("k").await.unwrap(), 1),
                "clear_all" => assert_eq!(cache.clear_all().await.unwrap(), 1),
                "clear_expired" => assert_eq!(cache.clear_expired().await.unwrap(), 1),
                "purge" => assert_eq!(cache.purge().all_namespaces().run().await.unwrap(), 1),
                // Past larder, by somebody without foreign keys.
                _ => assert_eq!(db.execute("DELETE FROM {}cached_item").await, 1),
            }
            assert_eq!(links(db).await, 0, "{way}");
        }
    }

    async fn a_tag_stays_in_its_namespace(db) {
        let root = db.cache().await;
        let (one, two) = (root.namespace("one").unwrap(), root.namespace("two").unwrap());
        for cache in [&root, &one, &two] {
            cache.tagged(["tag"]).set("key", &1, NEVER).await.unwrap();
        }
        assert_eq!(one.clear_tag("tag").await.unwrap(), 1);
        assert_eq!(two.mark_tag_stale("tag").await.unwrap(), 1);
        assert!(root.info("key").await.unwrap().unwrap().stale_at.is_none());
        assert!(!one.exists("key").await.unwrap());
        assert!(two.exists("key").await.unwrap());
        assert_eq!((tags(&root, "key").await.len(), tags(&two, "key").await.len()), (1, 1));
    }

    async fn tags_and_clearing_them_roll_back_with_the_transaction(db) {
        let cache = db.cache().await;
        cache.tagged(["old"]).set("key", &1, NEVER).await.unwrap();
        let mut transaction = cache.database().begin().await.unwrap();
        cache.tagged(["new"]).set_in(&mut transaction, "key", &2, NEVER).await.unwrap();
        assert!(cache.tagged(["new"]).add_in(&mut transaction, "other", &2, NEVER).await.unwrap());
        cache.tagged(["new"]).set_many_in(&mut transaction, [("third", 2)], NEVER).await.unwrap();
        assert_eq!(cache.clear_tag_in(&mut transaction, "old").await.unwrap(), 0);
        assert_eq!(cache.mark_tag_stale_in(&mut transaction, "new").await.unwrap(), 3);
        assert_eq!(cache.clear_tag_in(&mut transaction, "new").await.unwrap(), 3);
        transaction.rollback().await.unwrap();
        assert_eq!(tags(&cache, "key").await, ["old"]);
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(1));
        assert_eq!(links(db).await, 1);
    }

    async fn a_tag_is_one_to_two_hundred_and_fifty_five_bytes_without_nul(db) {
        let cache = db.cache().await;
        for tag in ["t".repeat(255), "'\"%_ \u{1F980}".to_owned()] {
            cache.tagged([&tag]).set("key", &1, NEVER).await.unwrap();
            assert_eq!(cache.clear_tag(&tag).await.unwrap(), 1);
        }
        for tag in [String::new(), "t".repeat(256), "a\0b".to_owned()] {
            assert!(cache.tagged([&tag]).set("key", &1, NEVER).await.unwrap_err().is_invalid());
            assert!(cache.tagged([&tag]).set_many([("key", 1)], NEVER).await.unwrap_err().is_invalid());
            assert!(cache.tagged([&tag]).add("key", &1, NEVER).await.unwrap_err().is_invalid());
            assert!(cache.clear_tag(&tag).await.unwrap_err().is_invalid());
            assert!(cache.mark_tag_stale(&tag).await.unwrap_err().is_invalid());
        }
        assert_eq!((cache.stats().await.unwrap().total, links(db).await), (0, 0));
    }

    async fn a_memoized_item_carries_the_tags_of_its_last_computation(db) {
        let cache = db.cache().await;
        let get = async |tags: &[&str], value: i64| {
            let memoize = cache.memoize("key").fresh_for(MINUTE).stale_for(MINUTE).tags(tags.iter().copied());
            memoize.get_or_compute(move || async move { value }).await.unwrap()
        };
        get(&["a", "b"], 1).await;
        assert_eq!(tags(&cache, "key").await, ["a", "b"]);
        db.advance(60);
        get(&["b", "c"], 2).await;
        eventually("it is refreshed", LONG, async || cache.get::<i64>("key").await.unwrap() == Some(2)).await;
        assert_eq!(tags(&cache, "key").await, ["b", "c"]);
        assert_eq!(cache.clear_tag("a").await.unwrap(), 0);
        assert_eq!(cache.clear_tag("c").await.unwrap(), 1);
        get(&[], 3).await;
        assert!(tags(&cache, "key").await.is_empty());
    }

    async fn marking_a_tag_stale_serves_what_there_is_and_refreshes_it(db) {
        let cache = db.cache().await;
        let get = async |value: i64| {
            let memoize = cache.memoize("key").fresh_for(MINUTE).stale_for(MINUTE).tags(["tag"]);
            memoize.get_or_compute(move || async move { value }).await.unwrap()
        };
        get(1).await;
        let before = cache.info("key").await.unwrap().unwrap();
        cache.tagged(["tag"]).set("expired", &1, -1).await.unwrap();
        assert_eq!(cache.mark_tag_stale("tag").await.unwrap(), 1, "of live ones");
        let info = cache.info("key").await.unwrap().unwrap();
        assert_eq!(info.expires_at, before.expires_at);
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(1));
        assert_eq!(get(2).await, 1);
        eventually("it is refreshed", LONG, async || cache.get::<i64>("key").await.unwrap() == Some(2)).await;
    }

    async fn a_computation_that_declares_a_tag_does_not_write_back_once_it_is_cleared(db) {
        let cache = db.cache().await;
        let (gate, began) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
        let compute = |key: &'static str, value: i64| {
            let (cache, gate, began) = (cache.clone(), gate.clone(), began.clone());
            tokio::spawn(async move {
                let memoize = cache.memoize(key).fresh_for(MINUTE).stale_for(MINUTE).tags(["tag"]);
                memoize.get_or_compute(move || async move {
                    began.notify_one();
                    gate.acquire().await.unwrap().forget();
                    value
                }).await.unwrap()
            })
        };
        // Of a key that is absent, by clearing and by marking; and a refresh, by marking.
        for mark in [false, true] {
            let task = compute("key", 1);
            began.notified().await;
            let count = if mark { cache.mark_tag_stale("tag").await } else { cache.clear_tag("tag").await };
            assert_eq!(count.unwrap(), 0, "there is nothing yet");
            gate.add_permits(1);
            assert_eq!(task.await.unwrap(), 1, "the caller is given what it computed");
            assert_eq!(cache.get::<i64>("key").await.unwrap(), None);
        }
        gate.add_permits(1);
        assert_eq!(compute("key", 2).await.unwrap(), 2);
        began.notified().await;
        db.advance(60);
        assert_eq!(compute("key", 3).await.unwrap(), 2);
        began.notified().await;
        assert_eq!(cache.mark_tag_stale("tag").await.unwrap(), 1);
        gate.add_permits(1);
        // The refresh came too late to count; the next one does.
        eventually("another refresh writes", LONG, async || {
            gate.add_permits(1);
            compute("key", 4).await.unwrap();
            cache.get::<i64>("key").await.unwrap() == Some(4)
        }).await;
    }
}
