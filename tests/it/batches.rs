//! Many items at once: one statement a call, or as many as its size asks for.

use std::collections::HashMap;

use larder::Expiration;
use serde_json::Value;

use crate::support::{both_engines, noon};

const NEVER: Expiration = Expiration::Never;

both_engines! {
    async fn many_items_are_stored_read_and_deleted(db) {
        let cache = db.cache().await;
        cache.set_many([("a", 1), ("b", 2), ("expired", 3)], 60).await.unwrap();
        cache.touch("expired", -1).await.unwrap();
        let expected: HashMap<String, i64> = [("a".to_owned(), 1), ("b".to_owned(), 2)].into();
        assert_eq!(cache.get_many::<i64>(["a", "b", "expired", "missing"]).await.unwrap(), expected);
        let info = cache.info("a").await.unwrap().unwrap();
        assert_eq!(info.expires_at, Some(noon() + chrono::TimeDelta::seconds(60)));
        assert_eq!(cache.delete_many(["a", "expired", "missing"]).await.unwrap(), 2, "live or not");
        assert_eq!(cache.get_many::<i64>(["a", "b"]).await.unwrap().len(), 1);
    }

    async fn an_empty_batch_does_nothing(db) {
        let cache = db.cache().await;
        let none: [&str; 0] = [];
        cache.set("key", &1).await.unwrap();
        cache.set_many(none.map(|key| (key, 1)), NEVER).await.unwrap();
        assert!(cache.get_many::<i64>(none).await.unwrap().is_empty());
        assert_eq!(cache.delete_many(none).await.unwrap(), 0);
        assert_eq!(cache.stats().await.unwrap().total, 1);
    }

    async fn a_key_that_comes_twice_is_taken_once_and_the_last_wins(db) {
        let cache = db.cache().await;
        for _ in 0..2 {
            cache.set_many([("a", 1), ("b", 2), ("a", 3), ("a", 4)], NEVER).await.unwrap();
            assert_eq!(cache.get::<i64>("a").await.unwrap(), Some(4));
        }
        assert_eq!(cache.get_many::<i64>(["a", "a", "b"]).await.unwrap().len(), 2);
        assert_eq!(cache.delete_many(["a", "a"]).await.unwrap(), 1);
    }

    async fn a_batch_is_stored_whole_or_not_at_all(db) {
        let cache = db.cache().await;
        cache.set("a", &0).await.unwrap();
        let too_deep: Value = (0..129).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        assert!(cache.set_many([("a", Value::from(1)), ("b", too_deep)], NEVER).await.unwrap_err().is_invalid());
        assert!(cache.set_many([("a", 1), ("", 2)], NEVER).await.unwrap_err().is_invalid());
        // A row that the database refuses in the second statement takes back the first.
        let refuse = if db.is_sqlite() {
            "CREATE TRIGGER refuse BEFORE INSERT ON cached_item WHEN NEW.key = 'z' BEGIN SELECT RAISE(ABORT, 'no'); END"
        } else {
            "ALTER TABLE {}cached_item ADD CONSTRAINT refuse CHECK (key <> 'z')"
        };
        db.execute(refuse).await;
        let items = (0..6_000).map(|n| (format!("a{n}"), 1)).chain([("z".to_owned(), 1)]);
        let error = cache.set_many(items, NEVER).await.unwrap_err();
        assert!(!error.is_transient() && !error.is_invalid(), "{error}");
        assert_eq!(cache.stats().await.unwrap().total, 1);
        assert_eq!(cache.get::<i64>("a").await.unwrap(), Some(0));
    }

    async fn more_items_than_a_statement_takes(db) {
        let cache = db.cache().await;
        for count in [5_000, 5_001, 12_345] {
            cache.set_many((0..count).map(|n| (format!("key:{n}"), n)), NEVER).await.unwrap();
            let found = cache.get_many::<i64>((0..count + 5).map(|n| format!("key:{n}"))).await.unwrap();
            assert_eq!(found.len(), usize::try_from(count).unwrap());
            assert!((0..count).all(|n| found[&format!("key:{n}")] == n));
            assert_eq!(cache.delete_many((0..count).map(|n| format!("key:{n}"))).await.unwrap(), count.unsigned_abs());
        }
    }

    async fn more_bytes_than_a_statement_takes(db) {
        let cache = db.cache().await;
        // Quotes and backslashes, which a batch escapes twice.
        let value = "\"\\".repeat(256 * 1024);
        cache.set_many((0..20).map(|n| (format!("key:{n}"), &value)), NEVER).await.unwrap();
        let found = cache.get_many::<String>((0..20).map(|n| format!("key:{n}"))).await.unwrap();
        assert_eq!(found.len(), 20);
        assert!(found.values().all(|found| *found == value));
    }

    async fn batches_that_overlap_do_not_deadlock(db) {
        let cache = db.cache().await;
        let tasks = (0..8).map(|task: u64| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for round in 0..10 {
                    let mut keys: Vec<u64> = (0..200).collect();
                    if (task + round).is_multiple_of(2) {
                        keys.reverse();
                    }
                    cache.set_many(keys.iter().map(|key| (key.to_string(), task)), NEVER).await.unwrap();
                    if round % 3 == 1 {
                        cache.delete_many(keys.iter().map(u64::to_string)).await.unwrap();
                    }
                    if round % 3 == 2 {
                        cache.clear_prefix("1").await.unwrap();
                        cache.set_many(keys.iter().map(|key| (key.to_string(), task)), -1).await.unwrap();
                        cache.clear_expired().await.unwrap();
                    }
                }
            })
        });
        futures::future::try_join_all(tasks).await.unwrap();
        assert_eq!(cache.stats().await.unwrap().total, 200, "each ends with a batch of live items");
    }
}
