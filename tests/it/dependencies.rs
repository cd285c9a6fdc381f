//! What was built from a key goes with it.

use std::sync::Arc;
use std::time::Duration;

use larder::{Cache, Expiration};
use tokio::sync::{Notify, Semaphore};

use crate::support::{both_engines, eventually};

const NEVER: Expiration = Expiration::Never;
const MINUTE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(30);

/// `key`, built from others; its value is its own name.
async fn build(cache: &Cache, key: &'static str, from: &[&'static str]) {
    let memoize = cache
        .memoize(key)
        .fresh_for(MINUTE)
        .stale_for(MINUTE)
        .depends_on(from.iter().copied());
    memoize
        .get_or_compute(move || async move { key.to_owned() })
        .await
        .unwrap();
}

async fn live(cache: &Cache) -> Vec<String> {
    use futures::TryStreamExt;
    cache.keys("").try_collect().await.unwrap()
}

both_engines! {
    async fn whatever_writes_or_invalidates_a_key_takes_along_what_was_built_from_it(db) {
        let cache = db.cache().await;
        for way in ["set", "set_many", "add", "increment", "set_if", "delete", "delete_many", "clear_prefix", "clear_tag"] {
            if way == "clear_tag" {
                cache.tagged(["tag"]).set("source", &1, NEVER).await.unwrap();
            } else if way != "add" {
                cache.set("source", &1).await.unwrap();
            }
            cache.set("bystander", &1).await.unwrap();
            build(&cache, "built", &["source"]).await;
            build(&cache, "far", &["built"]).await;
            assert_eq!(cache.info("far").await.unwrap().unwrap().depends_on, ["built"]);
            match way {
                "set" => cache.set("source", &2).await.unwrap(),
                "set_many" => cache.set_many([("source", 2)], NEVER).await.unwrap(),
                "add" => assert!(cache.add("source", &2, NEVER).await.unwrap()),
                "increment" => assert_eq!(cache.increment("source", 1, NEVER).await.unwrap(), 2),
                "set_if" => {
                    let seen = cache.info("source").await.unwrap().unwrap().generation;
                    assert!(cache.set_if("source", &2, seen, NEVER).await.unwrap());
                }
                "delete" => assert!(cache.delete("source").await.unwrap()),
                "delete_many" => assert_eq!(cache.delete_many(["source"]).await.unwrap(), 1),
                "clear_prefix" => assert_eq!(cache.clear_prefix("so").await.unwrap(), 1),
                _ => assert_eq!(cache.clear_tag("tag").await.unwrap(), 1),
            }
            cache.delete("source").await.unwrap();
            assert_eq!(live(&cache).await, ["bystander"], "{way}");
            assert_eq!(db.number("SELECT COUNT(*) FROM {}cached_item_link").await, 0, "{way}");
        }
    }

    async fn cycles_end(db) {
        let cache = db.cache().await;
        for invalidate in ["delete", "set"] {
            build(&cache, "a", &["b", "a"]).await;
            build(&cache, "b", &["c"]).await;
            build(&cache, "c", &["a"]).await;
            build(&cache, "d", &["c"]).await;
            if invalidate == "delete" {
                assert!(cache.delete("b").await.unwrap());
                assert!(live(&cache).await.is_empty());
            } else {
                cache.set("b", "set").await.unwrap();
                assert_eq!(live(&cache).await, ["b"]);
                assert_eq!(cache.get::<String>("b").await.unwrap().as_deref(), Some("set"));
                assert!(cache.info("b").await.unwrap().unwrap().depends_on.is_empty());
            }
        }
    }

    async fn a_long_chain_goes_as_a_whole(db) {
        let cache = db.cache().await;
        cache.set("0", &0).await.unwrap();
        for n in 1..200 {
            let (key, from) = (n.to_string(), (n - 1).to_string());
            cache.tagged([""; 0]).depends_on([from]).set(&key, &n, NEVER).await.unwrap();
        }
        assert_eq!(live(&cache).await.len(), 200);
        assert_eq!(cache.clear_prefix("0").await.unwrap(), 1);
        assert!(live(&cache).await.is_empty());
    }

    async fn a_key_that_is_not_there_yet_can_be_built_from(db) {
        let cache = db.cache().await;
        build(&cache, "built", &["absent"]).await;
        assert_eq!(cache.stats().await.unwrap().total, 1);
        cache.clear_expired().await.unwrap();
        cache.set("absent", &1).await.unwrap();
        assert_eq!(live(&cache).await, ["absent"]);
        build(&cache, "built", &["void"]).await;
        cache.clear_expired().await.unwrap();
        assert!(!cache.delete("void").await.unwrap(), "there was nothing");
        assert_eq!(live(&cache).await, ["absent"]);
        // When nothing is built from it any more, nothing is left of it.
        build(&cache, "built", &["void"]).await;
        cache.delete("built").await.unwrap();
        cache.clear_expired().await.unwrap();
        assert_eq!(db.number("SELECT COUNT(*) FROM {}cached_item").await, 1);
    }

    async fn touch_expiry_and_purge_take_nothing_along(db) {
        let cache = db.cache().await;
        cache.set_with("source", &1, 10).await.unwrap();
        build(&cache, "built", &["source"]).await;
        cache.touch("source", 20).await.unwrap();
        db.advance(20);
        cache.clear_expired().await.unwrap();
        cache.purge().all_namespaces().run().await.unwrap();
        assert_eq!(live(&cache).await, ["built"]);
        cache.set("source", &2).await.unwrap();
        assert_eq!(live(&cache).await, ["source"]);
        // Once what was built is gone, the expired one is as any other.
        cache.set_with("source", &1, -1).await.unwrap();
        build(&cache, "built", &["source"]).await;
        assert_eq!(cache.clear_expired().await.unwrap(), 0);
        cache.delete("built").await.unwrap();
        assert_eq!(cache.clear_expired().await.unwrap(), 1);
    }

    async fn a_computation_that_writes_back_takes_nothing_along(db) {
        let cache = db.cache().await;
        let inner = cache.clone();
        let compute = move || async move {
            let source: i64 = inner.memoize("source").fresh_for(MINUTE).get_or_compute(|| async { 20 }).await?;
            Ok::<_, larder::Error>(source + 1)
        };
        let built = cache.memoize("built").depends_on(["source"]).get_or_try_compute(compute).await.unwrap();
        assert_eq!(built, 21);
        assert_eq!(live(&cache).await, ["built", "source"]);
        db.advance(60);
        assert_eq!(cache.memoize("source").get_or_compute(|| async { 30 }).await.unwrap(), 30);
        assert_eq!(live(&cache).await, ["built", "source"]);
    }

    async fn a_computation_does_not_write_back_once_what_it_is_built_from_was_written(db) {
        let cache = db.cache().await;
        let (gate, began) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
        for way in ["set", "delete", "far"] {
            cache.clear_all().await.unwrap();
            cache.set("source", &1).await.unwrap();
            build(&cache, "middle", &["source"]).await;
            let task = tokio::spawn({
                let (cache, gate, began) = (cache.clone(), gate.clone(), began.clone());
                async move {
                    cache.memoize("built").depends_on(["middle"]).get_or_compute(move || async move {
                        began.notify_one();
                        gate.acquire().await.unwrap().forget();
                        1
                    }).await.unwrap()
                }
            });
            began.notified().await;
            match way {
                "set" => cache.set("middle", &2).await.unwrap(),
                "delete" => assert!(cache.delete("middle").await.unwrap()),
                _ => assert!(cache.delete("source").await.unwrap()),
            }
            gate.add_permits(1);
            assert_eq!(task.await.unwrap(), 1);
            assert_eq!(cache.get::<i64>("built").await.unwrap(), None, "{way}");
        }
    }

    async fn an_item_that_is_set_can_be_built_from_others_until_it_is_set_without(db) {
        let cache = db.cache().await;
        cache.set("source", &1).await.unwrap();
        cache.tagged(["tag"]).depends_on(["source"]).set("built", &1, NEVER).await.unwrap();
        cache.set("built", &2).await.unwrap();
        let info = cache.info("built").await.unwrap().unwrap();
        assert_eq!((info.tags.as_slice(), info.depends_on.len()), (["tag".to_owned()].as_slice(), 0));
        cache.set("source", &2).await.unwrap();
        assert_eq!(live(&cache).await, ["built", "source"]);
        cache.tagged(["tag"]).depends_on(["source"]).set("built", &1, NEVER).await.unwrap();
        cache.delete("source").await.unwrap();
        assert!(live(&cache).await.is_empty());
    }

    async fn a_rolled_back_write_takes_nothing_along(db) {
        let cache = db.cache().await;
        cache.set("source", &1).await.unwrap();
        build(&cache, "built", &["source"]).await;
        let mut transaction = cache.database().begin().await.unwrap();
        cache.set_in(&mut transaction, "source", &2, NEVER).await.unwrap();
        assert!(!cache.exists_in(&mut transaction, "built").await.unwrap());
        transaction.rollback().await.unwrap();
        assert_eq!(live(&cache).await, ["built", "source"]);
    }

    async fn keys_that_are_set_together_are_all_there_though_one_was_built_from_another(db) {
        let cache = db.cache().await;
        for (source, built) in [("a", "b"), ("b", "a")] {
            cache.clear_all().await.unwrap();
            cache.set(source, &1).await.unwrap();
            build(&cache, built, &[source]).await;
            build(&cache, "far", &[built]).await;
            cache.set_many([("a", 2), ("b", 2)], NEVER).await.unwrap();
            assert_eq!(live(&cache).await, ["a", "b"]);
        }
    }

    async fn namespaces_depend_on_nothing_of_each_other(db) {
        let cache = db.cache().await;
        let tenant = cache.namespace("tenant").unwrap();
        for cache in [&cache, &tenant] {
            cache.set("source", &1).await.unwrap();
            build(cache, "built", &["source"]).await;
        }
        tenant.delete("source").await.unwrap();
        assert_eq!(live(&cache).await, ["built", "source"]);
        assert!(live(&tenant).await.is_empty());
    }

    async fn marking_a_tag_stale_marks_what_was_built_from_its_items(db) {
        let cache = db.cache().await;
        cache.tagged(["tag"]).set("source", &1, NEVER).await.unwrap();
        build(&cache, "built", &["source"]).await;
        build(&cache, "far", &["built", "far"]).await;
        assert_eq!(cache.mark_tag_stale("tag").await.unwrap(), 1);
        let now = Some(crate::support::noon());
        for key in ["source", "built", "far"] {
            assert_eq!(cache.info(key).await.unwrap().unwrap().stale_at, now, "{key}");
        }
        let memoize = cache.memoize("far").fresh_for(MINUTE);
        assert_eq!(memoize.get_or_compute(|| async { "new".to_owned() }).await.unwrap(), "far");
        eventually("it is refreshed", LONG, async || {
            cache.get::<String>("far").await.unwrap().as_deref() == Some("new")
        }).await;
    }
}
