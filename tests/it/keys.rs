//! What keys may be, their order, and the ranges that a prefix names.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use larder::{Cache, Expiration};

use crate::support::both_engines;

const NEVER: Expiration = Expiration::Never;

/// Every text of one to three of these, which meet at the edges of LIKE, of collations and of UTF-8.
fn awkward_keys() -> Vec<String> {
    const PARTS: [&str; 7] = ["a", "A", "%", "_", "\u{D7FF}", "\u{E000}", "\u{10FFFF}"];
    let longer = |keys: &[String]| -> Vec<String> {
        keys.iter()
            .flat_map(|key| PARTS.iter().map(move |part| format!("{key}{part}")))
            .collect()
    };
    let one = longer(&[String::new()]);
    let two = longer(&one);
    let three = longer(&two);
    [one, two, three].concat()
}

async fn keys(cache: &Cache, prefix: &str) -> Vec<String> {
    cache.keys(prefix).try_collect().await.unwrap()
}

both_engines! {
    async fn a_key_is_one_to_a_thousand_and_twenty_four_bytes_without_nul(db) {
        let cache = db.cache().await;
        let longest = ["k".repeat(1_024), "\u{1F980}".repeat(256)];
        for key in [&"k".to_owned()].into_iter().chain(&longest) {
            cache.set(key, &1).await.unwrap();
            assert_eq!(cache.get::<i64>(key).await.unwrap(), Some(1));
        }
        let too_long = ["k".repeat(1_025), "\u{1F980}".repeat(257)];
        let bad = ["", "\0", "a\0b", &too_long[0], &too_long[1]];
        for key in bad {
            let mut transaction = cache.database().begin().await.unwrap();
            let tx = &mut transaction;
            let errors = [
                cache.get_in::<i64>(&mut *tx, key).await.unwrap_err(),
                cache.get_many_in::<i64>(&mut *tx, [key]).await.unwrap_err(),
                cache.set_in(&mut *tx, key, &1, NEVER).await.unwrap_err(),
                cache.set_many_in(&mut *tx, [("good", 1), (key, 1)], NEVER).await.unwrap_err(),
                cache.add_in(&mut *tx, key, &1, NEVER).await.unwrap_err(),
                cache.delete_in(&mut *tx, key).await.unwrap_err(),
                cache.delete_many_in(&mut *tx, ["k", key]).await.unwrap_err(),
                cache.exists_in(&mut *tx, key).await.unwrap_err(),
                cache.touch_in(&mut *tx, key, NEVER).await.unwrap_err(),
                cache.touch_in(&mut *tx, key, Expiration::Keep).await.unwrap_err(),
                cache.increment_in(&mut *tx, key, 1, NEVER).await.unwrap_err(),
                cache.decrement_in(&mut *tx, key, 1, NEVER).await.unwrap_err(),
                cache.ttl_in(&mut *tx, key).await.unwrap_err(),
                cache.info_in(&mut *tx, key).await.unwrap_err(),
            ];
            for error in errors {
                assert!(error.is_invalid(), "{error}");
                assert!(error.to_string().starts_with("a key must be 1 to 1,024 bytes of UTF-8 without NUL; this one "));
            }
            assert_eq!(cache.stats_in(tx).await.unwrap().total, 3, "nothing changed and the transaction is usable");
            assert!(cache.cached::<i64>(key).value().await.unwrap_err().is_invalid());
        }
    }

    async fn keys_hold_any_text_and_are_case_sensitive(db) {
        let cache = db.cache().await;
        let odd = [
            "key", "KEY", "Key", "'", "\"", "''; DROP TABLE cached_item; --", "%", "_", "\\", "$1", "{item}", " ", "\n",
            "\u{1F980}", "e\u{301}", "\u{e9}", "\u{FEFF}", "\u{FFFE}", "a:b/c?d", "[\"key\"]", "0", "null", "\u{200B}",
        ];
        cache.set_many(odd.iter().map(|key| (key, key)), NEVER).await.unwrap();
        assert_eq!(cache.stats().await.unwrap().total, odd.len() as u64);
        for key in odd {
            assert_eq!(cache.get::<String>(key).await.unwrap().as_deref(), Some(key));
            cache.set(key, &1).await.unwrap();
            assert_eq!(cache.get_many::<i64>([key]).await.unwrap(), [(key.to_owned(), 1)].into());
            assert_eq!(keys(&cache, key).await[0], key);
        }
        assert_eq!(cache.delete_many(odd).await.unwrap(), odd.len() as u64);
    }

    async fn keys_come_in_the_order_of_their_bytes_and_a_prefix_is_a_range_of_them(db) {
        let cache = db.cache().await;
        let mut all = awkward_keys();
        cache.set_many(all.iter().map(|key| (key, 1)), NEVER).await.unwrap();
        all.sort();
        assert_eq!(keys(&cache, "").await, all);
        for prefix in awkward_keys().iter().filter(|key| key.chars().count() < 3) {
            let expected: Vec<_> = all.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
            assert_eq!(keys(&cache, prefix).await, expected, "{prefix:?}");
            let mut transaction = cache.database().begin().await.unwrap();
            assert_eq!(cache.keys_in(&mut transaction, prefix).await.unwrap(), expected);
            let deleted = cache.clear_prefix_in(&mut transaction, prefix).await.unwrap();
            assert_eq!(deleted, expected.len() as u64, "{prefix:?}");
            let left: Vec<_> = all.iter().filter(|key| !key.starts_with(prefix)).cloned().collect();
            assert_eq!(cache.keys_in(&mut transaction, "").await.unwrap(), left);
            transaction.rollback().await.unwrap();
        }
    }

    async fn clear_prefix_deletes_what_begins_with_it_and_nothing_else(db) {
        let cache = db.cache().await;
        let other = cache.namespace("other").unwrap();
        for cache in [&cache, &other] {
            cache.set_many(["a", "a%", "a%b", "a%c", "ab", "b"].map(|key| (key, 1)), NEVER).await.unwrap();
        }
        cache.set_with("a%expired", &1, -1).await.unwrap();
        assert_eq!(cache.clear_prefix("a%").await.unwrap(), 4);
        assert_eq!(keys(&cache, "").await, ["a", "ab", "b"]);
        assert_eq!(other.stats().await.unwrap().total, 6);
        assert_eq!(cache.clear_prefix("a%").await.unwrap(), 0);
        assert_eq!(cache.clear_prefix("\u{10FFFF}").await.unwrap(), 0);
        assert_eq!(cache.clear_prefix("").await.unwrap(), 3);
    }

    async fn a_clear_of_many_batches_deletes_each_key_once(db) {
        let cache = db.cache().await;
        for count in [999, 1_000, 1_001, 2_500] {
            cache.set_many((0..count).map(|n| (format!("many:{n:05}"), n)), NEVER).await.unwrap();
            cache.set_many([("many9", 1), ("a", 1)], NEVER).await.unwrap();
            assert_eq!(cache.clear_prefix("many:").await.unwrap(), count);
            assert_eq!(keys(&cache, "").await, ["a", "many9"]);
        }
    }

    async fn keys_are_read_in_pages(db) {
        let cache = db.cache().await;
        for count in [999_usize, 1_000, 1_001, 2_500] {
            cache.clear_all().await.unwrap();
            let expected: Vec<_> = (0..count).map(|n| format!("key:{n:05}")).collect();
            cache.set_many(expected.iter().map(|key| (key, 1)), NEVER).await.unwrap();
            cache.set_many([("a", 1), ("z", 1)], NEVER).await.unwrap();
            assert_eq!(keys(&cache, "key:").await, expected);
            let mut transaction = cache.database().begin().await.unwrap();
            assert_eq!(cache.keys_in(&mut transaction, "key:").await.unwrap(), expected);
        }
    }

    async fn a_stream_of_keys_holds_no_connection(db) {
        let database = db.options().max_connections(1).acquire_timeout(Duration::from_millis(500)).connect().await.unwrap();
        let cache = Cache::new(database);
        cache.set_many((0..2_500).map(|n| (format!("{n:05}"), n)), NEVER).await.unwrap();
        // More streams than connections, each in the midst of its first page.
        let mut streams: Vec<_> = (0..8).map(|_| Box::pin(cache.keys(""))).collect();
        for stream in &mut streams {
            assert_eq!(stream.next().await.unwrap().unwrap(), "00000");
        }
        cache.delete("01500").await.unwrap();
        assert_eq!(cache.get::<i64>("00000").await.unwrap(), Some(0));
        for stream in streams {
            assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap().len(), 2_498);
        }
    }

    async fn a_prefix_that_no_key_can_have_is_refused(db) {
        let cache = db.cache().await;
        let long = "k".repeat(1_025);
        for prefix in ["\0", "a\0", &long] {
            let streamed = cache.keys(prefix).try_collect::<Vec<_>>().await.unwrap_err();
            let cleared = cache.clear_prefix(prefix).await.unwrap_err();
            let mut transaction = cache.database().begin().await.unwrap();
            let listed_in = cache.keys_in(&mut transaction, prefix).await.unwrap_err();
            let cleared_in = cache.clear_prefix_in(&mut transaction, prefix).await.unwrap_err();
            for error in [streamed, cleared, listed_in, cleared_in] {
                assert!(error.is_invalid(), "{error}");
            }
        }
        assert!(keys(&cache, &"k".repeat(1_024)).await.is_empty());
        assert_eq!(cache.clear_prefix(&"\u{10FFFF}".repeat(256)).await.unwrap(), 0);
    }

    async fn the_table_refuses_what_larder_refuses(db) {
        let cache = db.cache().await;
        let now = if db.is_sqlite() { "0" } else { "now()" };
        let insert = |namespace: &str, key: &str| {
            format!(
                "INSERT INTO {{}}cached_item (namespace, key, value, generation, created_at, updated_at) \
                 VALUES ({namespace}, {key}, '1', 0, {now}, {now})"
            )
        };
        let (longest, too_long) = ("k".repeat(1_024), "k".repeat(1_025));
        let wide = "\u{1F980}".repeat(257);
        for key in ["''", &format!("'{too_long}'"), &format!("'{wide}'"), "'a' || char(0)", "NULL"] {
            assert!(db.try_execute(&insert("''", key)).await.is_err(), "{key}");
        }
        for namespace in [&format!("'{}'", "n".repeat(129)), "'a' || char(0)", "NULL"] {
            assert!(db.try_execute(&insert(namespace, "'key'")).await.is_err(), "{namespace}");
        }
        assert_eq!(cache.stats().await.unwrap().total, 0);
        db.execute(&insert(&format!("'{}'", "n".repeat(128)), &format!("'{longest}'"))).await;
        assert_eq!(cache.namespace(&"n".repeat(128)).unwrap().get::<i64>(&longest).await.unwrap(), Some(1));
    }
}
