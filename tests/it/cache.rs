//! The operations of `Cache`.

use larder::Expiration;
use serde_json::value::RawValue;

use crate::support::both_engines;

both_engines! {
    async fn what_goes_in_comes_out_byte_for_byte(db) {
        let cache = db.cache().await;
        for text in ["1.0", "1234567890123456789012345678901234567890", r#""\u0000""#, r#"{"b":1,"a":2,"b":3}"#, "1e400", "null", r#"{"a": [1,  2]}"#] {
            let raw = RawValue::from_string(text.to_owned()).unwrap();
            cache.set("one", &raw).await.unwrap();
            cache.set_many([("many", &raw)], Expiration::Never).await.unwrap();
            for key in ["one", "many"] {
                let back: Box<RawValue> = cache.get(key).await.unwrap().unwrap();
                assert_eq!(back.get(), text, "{key}");
            }
        }
        assert_eq!(cache.increment("c", 5, Expiration::Never).await.unwrap(), 5);
        assert_eq!(cache.increment("c", -7, Expiration::Never).await.unwrap(), -2);
        assert!(cache.increment("one", 1, Expiration::Never).await.unwrap_err().is_not_a_counter());
        assert_eq!(cache.stats().await.unwrap().total, 3);
        assert_eq!(cache.clear_all().await.unwrap(), 3);
    }
}
