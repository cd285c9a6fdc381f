//! What values may be, and that they come back as they went in.

use std::collections::HashMap;

use larder::Expiration;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::{Connection, PgConnection};

use crate::support::{both_engines, raw};

const NEVER: Expiration = Expiration::Never;

/// Texts that `jsonb`, a JSON-typed column, a float or a C string would change.
const TEXTS: &[&str] = &[
    "1.0",
    "-0",
    "-0.0",
    "1234567890123456789012345678901234567890",
    "0.10000000000000000000000000000000000001",
    "1e400",
    "1E+2",
    "null",
    "true",
    "[]",
    "{}",
    r#""""#,
    r#""\u0000""#,
    r#""a\u0000b""#,
    r#""\ud800""#,
    r#""\udc00\ud800""#,
    r#""\u00e9""#,
    r#""é""#,
    "\"\u{10FFFF}\u{FFFF}\u{FEFF}\"",
    r#""\/""#,
    r#""' '' \" \\ $1 ? {item} % _""#,
    r#"{"b":1,"a":2,"b":3}"#,
    r#"{"z":1,"a":2,"":3}"#,
    r#"{"a": [1,  2],"b":	3}"#,
    "{\n  \"a\": 1\r\n}",
];

/// A JSON text that serialises as it stands, white space around it and all.
struct Verbatim(&'static str);

impl Serialize for Verbatim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const TOKEN: &str = "$serde_json::private::RawValue";
        let mut raw = serializer.serialize_struct(TOKEN, 1)?;
        raw.serialize_field(TOKEN, self.0)?;
        raw.end()
    }
}

/// A value that refuses to serialise after a part of it did.
struct Unserialisable;

impl Serialize for Unserialisable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        HashMap::from([((1, 2), 3)]).serialize(serializer)
    }
}

/// A value of as many levels, which is never built in memory.
struct Nested(usize);

impl Serialize for Nested {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 0 {
            serializer.collect_seq::<[i32; 0]>([])
        } else {
            serializer.collect_seq([Nested(self.0 - 1)])
        }
    }
}

fn nested(levels: usize) -> Box<RawValue> {
    raw(&format!("{}{}", "[".repeat(levels), "]".repeat(levels)))
}

both_engines! {
    async fn what_goes_in_comes_out_byte_for_byte(db) {
        let cache = db.cache().await;
        for text in TEXTS {
            let value = raw(text);
            cache.set("set", &value).await.unwrap();
            cache.delete("add").await.unwrap();
            assert!(cache.add("add", &value, NEVER).await.unwrap());
            cache.set_many([("set_many", &value)], NEVER).await.unwrap();
            let mut transaction = cache.database().begin().await.unwrap();
            cache.set_in(&mut transaction, "set_in", &value, NEVER).await.unwrap();
            cache.set_many_in(&mut transaction, [("set_many_in", &value)], NEVER).await.unwrap();
            transaction.commit().await.unwrap();
            let keys = ["set", "add", "set_many", "set_in", "set_many_in"];
            for key in keys {
                let back: Box<RawValue> = cache.get(key).await.unwrap().unwrap();
                assert_eq!(back.get(), *text, "{key}");
                let mut cached = cache.cached::<Box<RawValue>>(key);
                assert_eq!(cached.value().await.unwrap().unwrap().get(), *text, "{key}");
            }
            let many = cache.get_many::<Box<RawValue>>(keys).await.unwrap();
            assert_eq!(many.len(), keys.len());
            assert!(many.values().all(|back| back.get() == *text), "{text}");
        }
    }

    async fn outer_white_space_is_trimmed_and_inner_kept(db) {
        let cache = db.cache().await;
        cache.set("set", &Verbatim(" \r\n\t[1, 2 ] \n")).await.unwrap();
        cache.set_many([("set_many", Verbatim("\n[1, 2 ]"))], NEVER).await.unwrap();
        assert!(cache.add("add", &Verbatim("[1, 2 ]\t"), NEVER).await.unwrap());
        for key in ["set", "set_many", "add"] {
            assert_eq!(cache.get::<Box<RawValue>>(key).await.unwrap().unwrap().get(), "[1, 2 ]", "{key}");
        }
    }

    async fn a_stored_null_is_a_hit(db) {
        let cache = db.cache().await;
        cache.set("key", &None::<i64>).await.unwrap();
        assert!(cache.exists("key").await.unwrap());
        assert_eq!(cache.get::<Option<i64>>("key").await.unwrap(), Some(None));
        assert_eq!(cache.get::<Option<i64>>("missing").await.unwrap(), None);
        assert_eq!(cache.get::<Value>("key").await.unwrap(), Some(Value::Null));
        let mut cached = cache.cached::<Option<i64>>("key");
        assert!(cached.exists().await.unwrap());
        assert_eq!(cached.value().await.unwrap(), Some(&None));
        assert!(!cache.add("key", &1, NEVER).await.unwrap());
        assert_eq!(cache.get_many::<Option<i64>>(["key", "missing"]).await.unwrap(), [("key".into(), None)].into());
    }

    async fn a_hundred_and_twenty_eight_levels_are_stored_and_read_as_any_type(db) {
        let cache = db.cache().await;
        let value = nested(128);
        cache.set("set", &value).await.unwrap();
        cache.set_many([("set_many", &value)], NEVER).await.unwrap();
        cache.set("typed", &Nested(127)).await.unwrap();
        for key in ["set", "set_many", "typed"] {
            assert_eq!(cache.get::<Box<RawValue>>(key).await.unwrap().unwrap().get(), value.get());
            assert_eq!(cache.get::<Value>(key).await.unwrap().unwrap().to_string(), value.get());
            assert_eq!(cache.cached::<Value>(key).value().await.unwrap().unwrap().to_string(), value.get());
        }
    }

    async fn deeper_nesting_is_a_clear_error_and_the_transaction_stays_usable(db) {
        let cache = db.cache().await;
        for levels in [129, 20_000] {
            let value = nested(levels);
            let mut transaction = cache.database().begin().await.unwrap();
            let errors = [
                cache.set_in(&mut transaction, "deep", &value, NEVER).await.unwrap_err(),
                cache.set_in(&mut transaction, "deep", &Nested(levels - 1), NEVER).await.unwrap_err(),
                cache.set_many_in(&mut transaction, [("deep", &value)], NEVER).await.unwrap_err(),
                cache.add_in(&mut transaction, "deep", &value, NEVER).await.unwrap_err(),
            ];
            for error in errors {
                assert!(error.is_invalid());
                assert_eq!(error.to_string(), r#"the value of key "deep" nests deeper than 128 levels: store a flatter one"#);
            }
            cache.set_in(&mut transaction, "flat", &levels, NEVER).await.unwrap();
            transaction.commit().await.unwrap();
            assert_eq!(cache.get::<usize>("flat").await.unwrap(), Some(levels));
            assert!(!cache.exists("deep").await.unwrap());
        }
    }

    async fn brackets_in_strings_do_not_nest(db) {
        let cache = db.cache().await;
        let value = format!("\"{}\\", "[{".repeat(1_000));
        cache.set("key", &value).await.unwrap();
        assert_eq!(cache.get::<String>("key").await.unwrap(), Some(value));
    }

    async fn the_largest_value_is_stored_and_one_byte_more_is_refused(db) {
        let cache = db.cache().await.with_max_value_bytes(10);
        cache.set("key", "12345678").await.unwrap();
        let error = cache.set("key", "123456789").await.unwrap_err();
        assert!(error.is_invalid());
        assert_eq!(
            error.to_string(),
            r#"the value of key "key" has 11 bytes of JSON, over max_value_bytes (10): store less, or raise the limit"#
        );
        assert!(cache.set_many([("key", "123456789")], NEVER).await.unwrap_err().is_invalid());
        assert!(cache.add("new", "123456789", NEVER).await.unwrap_err().is_invalid());
        assert_eq!(cache.get::<String>("key").await.unwrap().as_deref(), Some("12345678"));
        assert!(!cache.exists("new").await.unwrap());
    }

    async fn a_value_of_sixteen_mebibytes_is_stored_unless_said_otherwise(db) {
        let cache = db.cache().await;
        let value = "x".repeat(larder::Cache::DEFAULT_MAX_VALUE_BYTES - 2);
        cache.set("key", &value).await.unwrap();
        assert_eq!(cache.get::<String>("key").await.unwrap().as_ref(), Some(&value));
        cache.set_many([("many", &value)], NEVER).await.unwrap();
        assert_eq!(cache.get::<String>("many").await.unwrap(), Some(value.clone()));
        assert!(cache.set("key", &(value + "x")).await.unwrap_err().is_invalid());
    }

    async fn a_value_that_does_not_serialise_stores_nothing(db) {
        let cache = db.cache().await;
        cache.set("key", &1).await.unwrap();
        let error = cache.set("key", &Unserialisable).await.unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains(r#"key "key""#), "{error}");
        assert!(cache.add("new", &Unserialisable, NEVER).await.unwrap_err().is_invalid());
        assert!(cache.set_many([("new", Unserialisable)], NEVER).await.unwrap_err().is_invalid());
        let mut cached = cache.cached::<Wrapper>("key");
        assert!(cached.set(&Wrapper).await.unwrap_err().is_invalid());
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(1));
        assert!(!cache.exists("new").await.unwrap());
    }

    async fn a_stored_value_of_another_type_is_an_error_that_names_its_key(db) {
        let cache = db.cache().await;
        cache.set_many([("good", raw("1")), ("bad \"key\"", raw(r#"{"a":"b"}"#))], NEVER).await.unwrap();
        let errors = [
            cache.get::<i64>("bad \"key\"").await.unwrap_err(),
            cache.get_many::<i64>(["good", "bad \"key\""]).await.unwrap_err(),
            cache.cached::<i64>("bad \"key\"").value().await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.is_corrupt() && !error.is_transient() && !error.is_invalid());
            assert!(error.to_string().contains(r#"key "bad \"key\"" is not a i64"#), "{error}");
        }
        assert_eq!(cache.get::<i64>("good").await.unwrap(), Some(1));
        assert!(cache.exists("bad \"key\"").await.unwrap());
    }

    async fn a_value_that_somebody_wrote_past_larder_too_deep_to_read_is_corrupt(db) {
        let cache = db.cache().await;
        cache.set("key", &1).await.unwrap();
        db.execute(&format!("UPDATE {{}}cached_item SET value = '{}'", nested(2_000).get())).await;
        assert!(cache.get::<Value>("key").await.unwrap_err().is_corrupt());
    }

    async fn a_touch_of_a_large_value_does_not_rewrite_it(db) {
        // SQLite has no place of its own for large values: its rows and their overflow pages are one, and the
        // statement is the same.
        if db.is_sqlite() {
            return;
        }
        let cache = db.cache().await;
        // Hexadecimal noise, which no compression makes small.
        let noise: String = (0..84_375).map(|_| uuid::Uuid::from_u128(rand::random()).simple().to_string()).collect();
        cache.set_with("key", &noise, 60).await.unwrap();
        let toast = "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = '{}cached_item'::regclass";
        let before = db.number(toast).await;
        assert!(before > 1_000_000, "{before}");
        // A connection that has written nothing before: PostgreSQL counts by connection.
        let mut connection = PgConnection::connect(&db.url).await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        assert!(cache.touch_in(&mut transaction, "key", 120).await.unwrap());
        let written: i64 = sqlx::query_scalar(
            "SELECT pg_stat_get_xact_tuples_inserted(reltoastrelid) FROM pg_class JOIN pg_namespace AS n \
             ON n.oid = relnamespace WHERE relname = 'cached_item' AND nspname = $1",
        )
        .bind(&db.schema)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(written, 0);
        assert_eq!(db.number(toast).await, before);
        assert_eq!(cache.get::<String>("key").await.unwrap(), Some(noise));
    }
}

#[derive(Debug, serde::Deserialize)]
struct Wrapper;

impl Serialize for Wrapper {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Unserialisable.serialize(serializer)
    }
}
