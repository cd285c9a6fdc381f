//! The cache on a table that is partitioned by the hash of the key, made by the statements of `docs/SCALING.md`. On
//! PostgreSQL alone: SQLite has no partitions.

use std::time::Duration;

use futures::TryStreamExt;
use larder::{Cache, Expiration};

use crate::support::{self, TestDatabase};

const NEVER: Expiration = Expiration::Never;
const MINUTE: Duration = Duration::from_secs(60);

/// The one block of SQL in the document.
fn statements() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SCALING.md");
    let document = std::fs::read_to_string(path).unwrap();
    let mut blocks = document
        .split("```sql\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0);
    let block = blocks.next().unwrap();
    assert!(blocks.next().is_none() && block.contains("PARTITION BY HASH"));
    block.to_owned()
}

async fn partition(db: &TestDatabase) {
    let path = format!("SET search_path TO \"{}\";", db.schema);
    db.execute(&format!("{path}{}", statements())).await;
}

async fn keys(cache: &Cache, prefix: &str) -> Vec<String> {
    cache.keys(prefix).try_collect().await.unwrap()
}

fn on_partitions(behaviour: impl AsyncFnOnce(&TestDatabase)) {
    support::run(TestDatabase::postgres, behaviour);
}

#[test]
fn items_and_running_applications_are_taken_along() {
    on_partitions(async |db| {
        let cache = db.cache().await;
        let items = (0..500).map(|n| (format!("item:{n}"), n));
        cache.set_many(items, NEVER).await.unwrap();
        cache
            .tagged(["tag"])
            .set("tagged", &1, NEVER)
            .await
            .unwrap();
        partition(db).await;
        assert_eq!(cache.get::<i64>("item:7").await.unwrap(), Some(7));
        assert_eq!(cache.stats().await.unwrap().total, 501);
        assert_eq!(cache.clear_tag("tag").await.unwrap(), 1);
        let partitions = db
            .number("SELECT COUNT(DISTINCT tableoid) FROM {}cached_item")
            .await;
        assert_eq!(partitions, 4);
        assert!(support::upgraded(db).await.engine() == larder::database::Engine::Postgres);
    });
}

#[test]
fn reads_and_writes_do_there_what_they_do_elsewhere() {
    on_partitions(async |db| {
        let cache = db.cache().await;
        partition(db).await;
        cache.set("a", &1).await.unwrap();
        cache.set("a", &2).await.unwrap();
        assert_eq!(cache.get::<i64>("a").await.unwrap(), Some(2));
        cache.set_with("a", &3, MINUTE).await.unwrap();
        assert!(cache.touch("a", MINUTE * 2).await.unwrap());
        assert!(!cache.add("a", &4, NEVER).await.unwrap());
        assert!(cache.add("b", &4, NEVER).await.unwrap());
        assert_eq!(cache.increment("b", 2, NEVER).await.unwrap(), 6);
        assert_eq!(cache.increment("c", 2, NEVER).await.unwrap(), 2);
        let seen = cache.info("c").await.unwrap().unwrap().generation;
        assert!(cache.set_if("c", &5, seen, NEVER).await.unwrap());
        assert!(!cache.set_if("c", &6, seen, NEVER).await.unwrap());
        assert!(cache.delete("c").await.unwrap());
        assert!(!cache.exists("c").await.unwrap());

        let items = (0..100).map(|n| (format!("many:{n:02}"), n));
        cache.set_many(items, NEVER).await.unwrap();
        let found = cache.get_many::<i64>(["many:03", "many:97", "none"]).await;
        assert_eq!(found.unwrap().len(), 2);
        // Calls that come together are one statement.
        let calls = (0..100).map(|n| {
            let cache = cache.clone();
            async move { cache.get::<i64>(&format!("many:{n:02}")).await.unwrap() }
        });
        let found = futures::future::join_all(calls).await;
        assert!(found.into_iter().eq((0..100).map(Some)));
        assert_eq!(cache.delete_many(["many:00", "many:01"]).await.unwrap(), 2);
        assert_eq!(keys(&cache, "many:0").await.len(), 8);
        assert_eq!(keys(&cache, "many:").await.last().unwrap(), "many:99");
        assert_eq!(cache.clear_prefix("many:0").await.unwrap(), 8);
        assert_eq!(cache.stats().await.unwrap().total, 92);
        let elsewhere = cache.namespace("elsewhere").unwrap();
        elsewhere.set("a", &9).await.unwrap();
        assert_eq!(cache.get::<i64>("a").await.unwrap(), Some(3));
    });
}

#[test]
fn expired_items_read_as_absent_there_and_are_purged() {
    on_partitions(async |db| {
        let cache = db.cache().await;
        partition(db).await;
        let items = (0..1_500).map(|n| (format!("item:{n}"), n));
        cache.set_many(items, MINUTE).await.unwrap();
        cache.set("kept", &1).await.unwrap();
        db.advance(60);
        assert_eq!(cache.get::<i64>("item:3").await.unwrap(), None);
        assert!(cache.add("item:3", &3, NEVER).await.unwrap());
        assert_eq!(cache.purge().count().await.unwrap(), 1_499);
        assert_eq!(cache.purge().all_namespaces().run().await.unwrap(), 1_499);
        assert_eq!(keys(&cache, "").await, ["item:3", "kept"]);
    });
}

#[test]
fn a_purge_there_passes_by_the_row_that_somebody_holds_and_none_that_lies_like_it() {
    on_partitions(async |db| {
        let cache = db.cache().await;
        partition(db).await;
        // Each partition has a first row, a second, and so on.
        let items = (0..200).map(|n| (format!("item:{n}"), n));
        cache.set_many(items, MINUTE).await.unwrap();
        db.advance(60);
        let mut transaction = cache.database().begin().await.unwrap();
        cache
            .add_in(&mut transaction, "item:7", &7, MINUTE)
            .await
            .unwrap();
        let purge = cache.purge().all_namespaces().run();
        let limit = std::time::Duration::from_secs(30);
        let purged = tokio::time::timeout(limit, purge).await;
        assert_eq!(purged.expect("it waits for the row").unwrap(), 199);
        transaction.rollback().await.unwrap();
        assert_eq!(cache.clear_expired().await.unwrap(), 1);
    });
}

#[test]
fn tags_and_dependencies_take_along_there_what_they_should() {
    on_partitions(async |db| {
        let cache = db.cache().await;
        partition(db).await;
        let tagged = (0..40).map(|n| (format!("tagged:{n}"), n));
        cache.tagged(["tag"]).set_many(tagged, NEVER).await.unwrap();
        for write in ["set", "set_many", "delete", "clear_tag"] {
            cache.tagged(["of"]).set("source", &1, NEVER).await.unwrap();
            for (key, from) in [("built", "source"), ("far", "built")] {
                let memo = cache.memoize(key).fresh_for(MINUTE).depends_on([from]);
                let made = memo.get_or_compute(move || async move { key.to_owned() });
                assert_eq!(made.await.unwrap(), key);
            }
            match write {
                "set" => cache.set("source", &2).await.unwrap(),
                "set_many" => cache.set_many([("source", 2)], NEVER).await.unwrap(),
                "delete" => assert!(cache.delete("source").await.unwrap()),
                _ => assert_eq!(cache.clear_tag("of").await.unwrap(), 1),
            }
            assert!(!cache.exists("far").await.unwrap(), "{write}");
            cache.delete("source").await.unwrap();
        }
        assert_eq!(cache.mark_tag_stale("tag").await.unwrap(), 40);
        assert_eq!(cache.clear_tag("tag").await.unwrap(), 40);
        assert_eq!(
            db.number("SELECT COUNT(*) FROM {}cached_item_link").await,
            0
        );
    });
}

#[test]
fn a_value_is_computed_once_there_and_kept_unless_it_was_invalidated_meanwhile() {
    on_partitions(async |db| {
        let cache = db.cache().await;
        partition(db).await;
        let compute = |value: i64| {
            let memo = cache.memoize("memo").fresh_for(MINUTE).stale_for(MINUTE);
            memo.get_or_compute(move || async move { value })
        };
        let both = futures::future::join(compute(1), compute(2)).await;
        assert_eq!(both.0.unwrap(), both.1.unwrap());
        let first: i64 = cache.get("memo").await.unwrap().unwrap();
        assert_eq!(compute(3).await.unwrap(), first);
        db.advance(121);
        assert_eq!(compute(4).await.unwrap(), 4);
        cache.delete("memo").await.unwrap();
        let invalidating = cache.clone();
        let memo = cache.memoize("memo").fresh_for(MINUTE);
        let made = memo.get_or_compute(move || async move {
            invalidating.delete("memo").await.unwrap();
            5
        });
        assert_eq!(made.await.unwrap(), 5);
        assert!(!cache.exists("memo").await.unwrap());
    });
}
