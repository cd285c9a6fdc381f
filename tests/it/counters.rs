//! Counters: integers of at most 18 digits, changed by one atomic statement.

use chrono::TimeDelta;
use larder::Expiration;

use crate::support::{both_engines, noon, raw};

const NEVER: Expiration = Expiration::Never;
const MOST: i64 = 999_999_999_999_999_999;

both_engines! {
    async fn a_counter_adds_and_takes(db) {
        let cache = db.cache().await;
        assert_eq!(cache.increment("key", 5, NEVER).await.unwrap(), 5);
        assert_eq!(cache.increment("key", -7, NEVER).await.unwrap(), -2);
        assert_eq!(cache.decrement("key", 3, NEVER).await.unwrap(), -5);
        assert_eq!(cache.decrement("key", -5, NEVER).await.unwrap(), 0);
        assert_eq!(cache.increment("key", 0, NEVER).await.unwrap(), 0);
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(0));
        assert_eq!(cache.decrement("new", 3, NEVER).await.unwrap(), -3);
        let mut transaction = cache.database().begin().await.unwrap();
        assert_eq!(cache.increment_in(&mut transaction, "key", 2, NEVER).await.unwrap(), 2);
        assert_eq!(cache.decrement_in(&mut transaction, "key", 1, NEVER).await.unwrap(), 1);
        transaction.commit().await.unwrap();
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(1));
    }

    async fn a_missing_or_expired_counter_starts_at_the_delta_and_a_live_one_keeps_its_deadline(db) {
        let cache = db.cache().await;
        assert_eq!(cache.increment("key", 5, 60).await.unwrap(), 5);
        let first = cache.info("key").await.unwrap().unwrap();
        assert_eq!(first.expires_at, Some(noon() + TimeDelta::seconds(60)));
        db.advance(30);
        assert_eq!(cache.increment("key", 5, 3_600).await.unwrap(), 10);
        let second = cache.info("key").await.unwrap().unwrap();
        assert_eq!((second.expires_at, second.created_at), (first.expires_at, first.created_at));
        assert_eq!(second.updated_at, noon() + TimeDelta::seconds(30));
        assert_ne!(second.generation, first.generation);
        assert_eq!(cache.increment("key", 5, NEVER).await.unwrap(), 15);
        assert_eq!(cache.info("key").await.unwrap().unwrap().expires_at, first.expires_at);
        db.advance(30);
        assert_eq!(cache.increment("key", 7, 10).await.unwrap(), 7, "an expired counter starts anew");
        let third = cache.info("key").await.unwrap().unwrap();
        assert_eq!(third.created_at, noon() + TimeDelta::seconds(60));
        assert_eq!(third.expires_at, Some(noon() + TimeDelta::seconds(70)));
        db.advance(10);
        assert_eq!(cache.increment("key", 1, Expiration::Keep).await.unwrap(), 1);
        assert_eq!(cache.info("key").await.unwrap().unwrap().expires_at, None, "Keep gives a new counter no deadline");
    }

    async fn an_expired_value_that_is_no_counter_starts_anew(db) {
        let cache = db.cache().await;
        for text in ["1.5", r#""text""#, "[]", "9999999999999999999"] {
            cache.set_with("key", &raw(text), -1).await.unwrap();
            assert_eq!(cache.increment("key", 3, NEVER).await.unwrap(), 3, "{text}");
        }
    }

    async fn what_counts_as_a_counter(db) {
        let cache = db.cache().await;
        let most = MOST.to_string();
        for (text, expected) in [("null", 5), ("0", 5), ("-0", 5), ("7", 12), ("-7", -2), ("10", 15), (&*format!("-{most}"), 5 - MOST)] {
            cache.set("key", &raw(text)).await.unwrap();
            assert_eq!(cache.increment("key", 5, NEVER).await.unwrap(), expected, "{text}");
            assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(expected));
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        let others = [
            "1.5", "1.0", "-1.0", "1e2", "1E2", "-0.0", "true", "false", "[]", "[1]", "{}", r#""""#, r#""5""#, r#""null""#,
            r#""-""#, r#""\u0000""#, r#""abc""#, r#"{"a":1}"#, "1000000000000000000", "-1000000000000000000",
            "9223372036854775807", "99999999999999999999999999999999999999999", "0.00000000000000001", &deep,
        ];
        for text in others {
            cache.set("key", &raw(text)).await.unwrap();
            for delta in [1, 0, -1] {
                let error = cache.increment("key", delta, NEVER).await.unwrap_err();
                assert!(error.is_not_a_counter() && error.is_invalid(), "{text}: {error}");
                assert!(error.to_string().contains(r#"key "key""#), "{error}");
            }
            let back = cache.get::<Box<serde_json::value::RawValue>>("key").await.unwrap().unwrap();
            assert_eq!(back.get(), text, "nothing is changed");
        }
    }

    async fn a_counter_ends_at_eighteen_digits(db) {
        let cache = db.cache().await;
        assert_eq!(cache.increment("key", MOST, NEVER).await.unwrap(), MOST);
        assert!(cache.increment("key", 1, NEVER).await.unwrap_err().is_not_a_counter());
        assert!(cache.increment("key", MOST, NEVER).await.unwrap_err().is_not_a_counter());
        assert_eq!(cache.increment("key", 0, NEVER).await.unwrap(), MOST);
        assert_eq!(cache.decrement("key", MOST, NEVER).await.unwrap(), 0);
        assert_eq!(cache.decrement("key", MOST, NEVER).await.unwrap(), -MOST);
        assert!(cache.decrement("key", 1, NEVER).await.unwrap_err().is_not_a_counter());
        assert_eq!(cache.increment("key", 1, NEVER).await.unwrap(), 1 - MOST);
        for delta in [MOST + 1, -MOST - 1, i64::MAX, i64::MIN] {
            for key in ["key", "new"] {
                assert!(cache.increment(key, delta, NEVER).await.unwrap_err().is_not_a_counter());
                assert!(cache.decrement(key, delta, NEVER).await.unwrap_err().is_not_a_counter());
            }
        }
        let message = cache.decrement("new", i64::MIN, NEVER).await.unwrap_err().to_string();
        assert!(message.contains("-9223372036854775808"), "{message}");
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(1 - MOST));
        assert!(!cache.exists("new").await.unwrap());
    }

    async fn a_failed_increment_leaves_the_transaction_usable(db) {
        let cache = db.cache().await;
        cache.set("text", "1").await.unwrap();
        cache.set("float", &1.5).await.unwrap();
        cache.set("large", &i64::MAX).await.unwrap();
        let mut transaction = cache.database().begin().await.unwrap();
        for key in ["text", "float", "large"] {
            cache.set_in(&mut transaction, &format!("before {key}"), &1, NEVER).await.unwrap();
            assert!(cache.increment_in(&mut transaction, key, 1, NEVER).await.unwrap_err().is_not_a_counter());
        }
        assert_eq!(cache.increment_in(&mut transaction, "after", 1, NEVER).await.unwrap(), 1);
        transaction.commit().await.unwrap();
        assert_eq!(cache.get_many::<i64>(["before text", "before float", "before large", "after"]).await.unwrap().len(), 4);
    }

    async fn concurrent_increments_are_all_counted(db) {
        let cache = db.cache().await;
        let tasks = (0..16).map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    cache.increment("key", 1, NEVER).await.unwrap();
                }
            })
        });
        futures::future::try_join_all(tasks).await.unwrap();
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(800));
    }
}
