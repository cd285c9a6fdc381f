//! `Cached`, the handle of one key, and the snapshot that it keeps.

use std::time::Duration;

use chrono::TimeDelta;
use larder::{Cached, Expiration};
use serde_json::{Value, json};

use crate::support::{both_engines, noon};

both_engines! {
    async fn a_handle_reads_its_row_once_and_keeps_that_snapshot(db) {
        let cache = db.cache().await;
        cache.set_with("key", &1, 60).await.unwrap();
        let mut cached: Cached<i64> = cache.cached("key");
        assert_eq!(cached.key(), "key");
        assert!(cached.exists().await.unwrap());
        cache.set_with("key", &2, Expiration::Never).await.unwrap();
        assert_eq!(cached.value().await.unwrap(), Some(&1));
        cache.delete("key").await.unwrap();
        db.advance(3_600);
        assert!(cached.exists().await.unwrap());
        assert_eq!(cached.value().await.unwrap(), Some(&1));
        assert_eq!(cached.expires_at().await.unwrap(), Some(noon() + TimeDelta::seconds(60)));
        assert_eq!(cached.info().await.unwrap().unwrap().created_at, noon());
        cached.reload();
        assert_eq!(cached.value().await.unwrap(), None);
        cache.set("key", &3).await.unwrap();
        assert!(!cached.exists().await.unwrap(), "that there was nothing is a snapshot too");
        cached.reload();
        assert_eq!(cached.value().await.unwrap(), Some(&3));
    }

    async fn set_and_delete_forget_the_snapshot(db) {
        let cache = db.cache().await;
        let mut cached: Cached<i64> = cache.cached("key");
        assert!(!cached.exists().await.unwrap());
        cached.set(&1).await.unwrap();
        assert_eq!(cached.value().await.unwrap(), Some(&1));
        assert_eq!(cached.expires_at().await.unwrap(), None);
        cached.set_with(&2, Duration::from_secs(60)).await.unwrap();
        assert_eq!(cached.value().await.unwrap(), Some(&2));
        db.advance(30);
        cached.set(&3).await.unwrap();
        assert_eq!(cached.value().await.unwrap(), Some(&3));
        assert_eq!(cached.expires_at().await.unwrap(), Some(noon() + TimeDelta::seconds(60)), "`set` keeps the deadline");
        assert!(cached.delete().await.unwrap());
        assert_eq!(cached.value().await.unwrap(), None);
        assert_eq!(cached.info().await.unwrap(), None);
        assert!(!cached.delete().await.unwrap());
    }

    async fn a_handle_tells_of_an_expired_row_when_it_deletes_it(db) {
        let cache = db.cache().await;
        let mut cached: Cached<i64> = cache.cached("key");
        cached.set_with(&1, 0).await.unwrap();
        assert!(!cached.exists().await.unwrap());
        assert_eq!(cached.expires_at().await.unwrap(), None);
        assert!(cached.delete().await.unwrap());
    }

    async fn a_refused_write_keeps_what_is_stored(db) {
        let cache = db.cache().await.with_max_value_bytes(10);
        let mut cached: Cached<String> = cache.cached("key");
        cached.set(&"short".to_owned()).await.unwrap();
        assert_eq!(cached.value().await.unwrap().map(String::as_str), Some("short"));
        assert!(cached.set(&"too long for it".to_owned()).await.unwrap_err().is_invalid());
        assert_eq!(cached.value().await.unwrap().map(String::as_str), Some("short"));
    }

    async fn the_default_type_is_any_json_and_any_type_will_do(db) {
        let cache = db.cache().await;
        let mut any: Cached = cache.cached("key");
        any.set(&json!({"a": [1, null]})).await.unwrap();
        assert_eq!(any.value().await.unwrap(), Some(&json!({"a": [1, null]})));
        let mut null: Cached = cache.cached("null");
        null.set(&Value::Null).await.unwrap();
        assert!(null.exists().await.unwrap());
        assert_eq!(null.value().await.unwrap(), Some(&Value::Null));
        type Typed = std::collections::BTreeMap<String, Vec<Option<u8>>>;
        let mut typed: Cached<Typed> = cache.cached("key".to_owned());
        assert_eq!(typed.value().await.unwrap().unwrap()["a"], [Some(1), None]);
    }

    async fn a_value_of_another_type_is_an_error_at_every_read_and_can_be_deleted(db) {
        let cache = db.cache().await;
        cache.set("key", "text").await.unwrap();
        let mut cached: Cached<i64> = cache.cached("key");
        assert!(cached.exists().await.unwrap_err().is_corrupt());
        assert!(cached.value().await.unwrap_err().is_corrupt());
        assert!(cached.delete().await.unwrap());
        assert_eq!(cached.value().await.unwrap(), None);
    }

    async fn a_clone_keeps_a_snapshot_of_its_own(db) {
        let cache = db.cache().await;
        cache.set("key", &1).await.unwrap();
        let mut first: Cached<i64> = cache.cached("key");
        assert!(first.exists().await.unwrap());
        let mut second = first.clone();
        second.set(&2).await.unwrap();
        assert_eq!(first.value().await.unwrap(), Some(&1));
        assert_eq!(second.value().await.unwrap(), Some(&2));
    }
}
