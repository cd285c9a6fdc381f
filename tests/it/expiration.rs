//! When items end: the deadlines that a write may name.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use larder::cache::Ttl;
use larder::{Cache, Expiration};

use crate::support::{both_engines, noon};

async fn deadline(cache: &Cache, key: &str) -> Option<DateTime<Utc>> {
    cache.info(key).await.unwrap().unwrap().expires_at
}

both_engines! {
    async fn keep_keeps_the_deadline_of_a_live_item_alone(db) {
        let cache = db.cache().await;
        let set = async |many: bool, value: i64, expiration: Expiration| {
            if many {
                cache.set_many([("key", value)], expiration).await.unwrap();
            } else {
                cache.set_with("key", &value, expiration).await.unwrap();
            }
        };
        for many in [false, true] {
            cache.delete("key").await.unwrap();
            set(many, 1, Expiration::Keep).await;
            assert_eq!(deadline(&cache, "key").await, None, "a new item gets none");
            let end = Some(DateTime::from(cache.database().clock().now()) + TimeDelta::seconds(60));
            set(many, 2, 60.into()).await;
            db.advance(30);
            set(many, 3, Expiration::Keep).await;
            assert_eq!(deadline(&cache, "key").await, end, "a live item keeps its own");
            db.advance(30);
            set(many, 4, Expiration::Keep).await;
            assert_eq!(deadline(&cache, "key").await, None, "an expired item gets none");
            set(many, 5, 60.into()).await;
            set(many, 6, Expiration::Never).await;
            assert_eq!(deadline(&cache, "key").await, None);
            assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(6));
        }
        assert_eq!(Expiration::default(), Expiration::Keep);
    }

    async fn zero_and_negative_times_store_an_item_that_is_expired(db) {
        let cache = db.cache().await;
        let expirations =
            [Expiration::from(0), (-1).into(), TimeDelta::days(-400_000).into(), Duration::ZERO.into(), noon().into()];
        for (number, expiration) in expirations.into_iter().enumerate() {
            let key = format!("key:{number}");
            cache.set(&key, &1).await.unwrap();
            cache.set_with(&key, &2, expiration).await.unwrap();
            assert!(!cache.exists(&key).await.unwrap(), "{expiration:?}");
            assert!(cache.add(&key, &3, expiration).await.unwrap());
            cache.set_many([(&key, 4)], expiration).await.unwrap();
            assert_eq!(cache.increment(&key, 5, expiration).await.unwrap(), 5);
            assert!(!cache.exists(&key).await.unwrap());
            let rows = db.number("SELECT COUNT(*) FROM {}cached_item").await;
            assert_eq!(rows, 1 + i64::try_from(number).unwrap());
        }
    }

    async fn a_relative_time_beyond_thirty_days_stays_relative(db) {
        let cache = db.cache().await;
        let days = |days: i64| days * 86_400;
        cache.set_with("key", &1, days(31)).await.unwrap();
        assert_eq!(deadline(&cache, "key").await, Some(noon() + TimeDelta::days(31)));
        db.advance(days(31) - 1);
        assert!(cache.exists("key").await.unwrap());
        db.advance(1);
        assert!(!cache.exists("key").await.unwrap());
        cache.set_with("key", &1, Duration::from_secs(86_400 * 365 * 1_000)).await.unwrap();
        db.advance(days(365 * 999));
        assert!(cache.exists("key").await.unwrap());
    }

    async fn instants_are_floored_to_whole_milliseconds(db) {
        let cache = db.cache().await;
        cache.set_with("at", &1, noon() + TimeDelta::microseconds(1_999)).await.unwrap();
        cache.set_with("after", &1, Duration::from_nanos(1_999_999)).await.unwrap();
        cache.set_with("touched", &1, 60).await.unwrap();
        assert!(cache.touch("touched", noon() + TimeDelta::nanoseconds(1_999_999)).await.unwrap());
        for key in ["at", "after", "touched"] {
            assert_eq!(deadline(&cache, key).await, Some(noon() + TimeDelta::milliseconds(1)), "{key}");
            assert_eq!(cache.ttl(key).await.unwrap(), Some(Ttl::Left(Duration::from_millis(1))));
        }
        cache.set_with("now", &1, Duration::from_nanos(999_999)).await.unwrap();
        assert!(!cache.exists("now").await.unwrap());
        let before_1970 = DateTime::from_timestamp(-1, 999_999_999).unwrap();
        cache.set_with("past", &1, before_1970).await.unwrap();
        assert_eq!(db.number(&millis_of("past", db.is_sqlite())).await, -1);
    }

    async fn deadlines_reach_from_the_year_1_to_9999_and_no_farther(db) {
        let cache = db.cache().await;
        let first: DateTime<Utc> = "0001-01-01T00:00:00Z".parse().unwrap();
        let last: DateTime<Utc> = "9999-12-31T23:59:59.999Z".parse().unwrap();
        cache.set_with("last", &1, last).await.unwrap();
        assert_eq!(deadline(&cache, "last").await, Some(last));
        cache.set_with("first", &1, first).await.unwrap();
        assert_eq!(db.number(&millis_of("first", db.is_sqlite())).await, first.timestamp_millis());
        let too_far = [
            Expiration::After(TimeDelta::MAX),
            Expiration::After(TimeDelta::MIN),
            Expiration::after(Duration::MAX),
            Expiration::from(i64::MAX),
            Expiration::from(i64::MIN),
            Expiration::At(DateTime::<Utc>::MAX_UTC),
            Expiration::At(DateTime::<Utc>::MIN_UTC),
            Expiration::At(last + TimeDelta::milliseconds(1)),
            Expiration::At(first - TimeDelta::nanoseconds(1)),
        ];
        for expiration in too_far {
            let mut transaction = cache.database().begin().await.unwrap();
            let tx = &mut transaction;
            let errors = [
                cache.set_in(&mut *tx, "last", &2, expiration).await.unwrap_err(),
                cache.set_many_in(&mut *tx, [("last", 2)], expiration).await.unwrap_err(),
                cache.add_in(&mut *tx, "new", &2, expiration).await.unwrap_err(),
                cache.touch_in(&mut *tx, "last", expiration).await.unwrap_err(),
                cache.increment_in(&mut *tx, "last", 1, expiration).await.unwrap_err(),
            ];
            for error in errors {
                assert!(error.is_invalid(), "{expiration:?}");
            }
            transaction.commit().await.unwrap();
            assert_eq!(cache.get::<i64>("last").await.unwrap(), Some(1));
            assert!(!cache.exists("new").await.unwrap());
        }
    }

    async fn every_kind_of_time_to_live_comes_to_its_deadline(db) {
        let cache = db.cache().await;
        let minute = Some(noon() + TimeDelta::seconds(60));
        let half = Some(noon() + TimeDelta::milliseconds(500));
        let cases: [(Expiration, Option<DateTime<Utc>>); 10] = [
            (Expiration::Never, None),
            (60.into(), minute),
            (Duration::from_secs(60).into(), minute),
            (Expiration::after(Duration::from_secs(60)), minute),
            (TimeDelta::minutes(1).into(), minute),
            ((noon() + TimeDelta::seconds(60)).into(), minute),
            (Expiration::from_secs_f64(60.0).unwrap(), minute),
            (Expiration::from_secs_f64(0.5).unwrap(), half),
            (Expiration::from_secs_f64(0.500_999).unwrap(), half),
            (TimeDelta::milliseconds(500).into(), half),
        ];
        for (expiration, expected) in cases {
            cache.set_with("set", &1, expiration).await.unwrap();
            cache.set_many([("many", 1)], expiration).await.unwrap();
            cache.set("touched", &1).await.unwrap();
            assert!(cache.touch("touched", expiration).await.unwrap());
            cache.delete_many(["added", "counter"]).await.unwrap();
            assert!(cache.add("added", &1, expiration).await.unwrap());
            cache.increment("counter", 1, expiration).await.unwrap();
            cache.cached::<i64>("cached").set_with(&1, expiration).await.unwrap();
            for key in ["set", "many", "touched", "added", "counter", "cached"] {
                assert_eq!(deadline(&cache, key).await, expected, "{key} {expiration:?}");
            }
        }
    }
}

fn millis_of(key: &str, sqlite: bool) -> String {
    let column = if sqlite {
        "expires_at"
    } else {
        "CAST(EXTRACT(EPOCH FROM expires_at) * 1000 AS bigint)"
    };
    format!("SELECT {column} FROM {{}}cached_item WHERE key = '{key}'")
}

#[test]
fn seconds_that_are_no_number_are_refused() {
    for seconds in [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::MIN,
        1e18,
        -1e18,
        4.1e11,
    ] {
        assert!(
            Expiration::from_secs_f64(seconds).unwrap_err().is_invalid(),
            "{seconds}"
        );
    }
    for (seconds, milliseconds) in [
        (0.0, 0),
        (-0.0, 0),
        (-0.0001, -1),
        (0.0009, 0),
        (1.5, 1_500),
        (-1.5, -1_500),
    ] {
        let expected = Expiration::After(TimeDelta::milliseconds(milliseconds));
        assert_eq!(
            Expiration::from_secs_f64(seconds).unwrap(),
            expected,
            "{seconds}"
        );
    }
}
