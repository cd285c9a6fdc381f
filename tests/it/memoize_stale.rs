//! Stale values: served at once, refreshed once, and kept while the refresh fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder::{Cache, Result};
use tokio::sync::Semaphore;

use crate::support::{both_engines, eventually};

const MINUTE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(30);

async fn get(
    cache: &Cache,
    value: Result<i64, &'static str>,
    runs: &Arc<AtomicUsize>,
) -> Result<i64> {
    let runs = runs.clone();
    let compute = move || async move {
        runs.fetch_add(1, Ordering::SeqCst);
        value
    };
    cache
        .memoize("key")
        .fresh_for(MINUTE)
        .stale_for(MINUTE)
        .get_or_try_compute(compute)
        .await
}

async fn becomes(cache: &Cache, value: i64) {
    eventually("the value is refreshed", LONG, async || {
        cache.get::<i64>("key").await.unwrap() == Some(value)
    })
    .await;
}

async fn fails_with(cache: &Cache, error: &str) {
    eventually("the refresh fails", LONG, async || {
        let info = cache.info("key").await.unwrap().unwrap();
        info.last_error.as_deref() == Some(error) && info.lease_until.is_none()
    })
    .await;
}

both_engines! {
    async fn a_stale_hit_returns_at_once_and_refreshes_in_the_background(db) {
        let (cache, runs) = (db.cache().await, Arc::default());
        assert_eq!(get(&cache, Ok(1), &runs).await.unwrap(), 1);
        db.advance(60);
        assert_eq!(get(&cache, Ok(2), &runs).await.unwrap(), 1);
        becomes(&cache, 2).await;
        assert_eq!(get(&cache, Ok(3), &runs).await.unwrap(), 2);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        db.advance(120);
        assert_eq!(get(&cache, Ok(4), &runs).await.unwrap(), 4, "past its hard deadline it is a miss");
    }

    async fn many_stale_hits_refresh_once(db) {
        let cache = db.cache().await;
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let others: Vec<_> = (0..3).map(|_| Cache::new(cache.database().clone())).collect();
        let ask = |cache: &Cache, value: i64| {
            let (cache, runs, gate) = (cache.clone(), runs.clone(), gate.clone());
            async move {
                let compute = move || async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                    value
                };
                cache.memoize("key").fresh_for(MINUTE).stale_for(MINUTE).get_or_compute(compute).await.unwrap()
            }
        };
        gate.add_permits(1);
        assert_eq!(ask(&cache, 1).await, 1);
        db.advance(90);
        for _ in 0..3 {
            for other in &others {
                assert_eq!(ask(other, 2).await, 1);
            }
        }
        eventually("one begins", LONG, async || runs.load(Ordering::SeqCst) == 2).await;
        assert_eq!(ask(&cache, 3).await, 1);
        gate.add_permits(10);
        becomes(&cache, 2).await;
        assert_eq!(ask(&others[0], 4).await, 2);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    async fn a_refresh_skips_where_somebody_has_written(db) {
        let (cache, runs) = (db.cache().await, Arc::default());
        get(&cache, Ok(1), &runs).await.unwrap();
        db.advance(60);
        // What the refresh asks for first waits for this transaction, and finds the row written.
        let database = cache.database().clone();
        let mut transaction = database.begin().await.unwrap();
        cache.set_in(&mut transaction, "key", &9, 600).await.unwrap();
        assert_eq!(get(&cache, Ok(2), &runs).await.unwrap(), 1);
        transaction.commit().await.unwrap();
        eventually("the refresh is over", LONG, async || Arc::strong_count(&runs) == 1).await;
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(get(&cache, Ok(3), &runs).await.unwrap(), 9);
    }

    async fn while_a_refresh_fails_the_stale_value_is_served_until_its_hard_deadline(db) {
        let (cache, runs) = (db.cache().await, Arc::default());
        get(&cache, Ok(1), &runs).await.unwrap();
        db.advance(60);
        assert_eq!(get(&cache, Err("no"), &runs).await.unwrap(), 1);
        fails_with(&cache, "no").await;
        // The next is tried after a second, the one after after two.
        assert_eq!(get(&cache, Err("again"), &runs).await.unwrap(), 1);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        db.advance(1);
        assert_eq!(get(&cache, Err("again"), &runs).await.unwrap(), 1);
        fails_with(&cache, "again").await;
        db.advance(1);
        assert_eq!(get(&cache, Ok(2), &runs).await.unwrap(), 1);
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        db.advance_millis(57_999);
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(1));
        db.advance_millis(1);
        // A miss waits for nothing, and has the error for itself.
        assert!(get(&cache, Err("gone"), &runs).await.unwrap_err().is_failed_computation());
        assert_eq!(get(&cache, Ok(3), &runs).await.unwrap(), 3);
        let info = cache.info("key").await.unwrap().unwrap();
        assert_eq!(info.last_error, None, "a value ends the error");
    }

    async fn a_panic_in_a_refresh_is_contained_and_kept_as_its_error(db) {
        let (cache, runs) = (db.cache().await, Arc::default());
        get(&cache, Ok(1), &runs).await.unwrap();
        db.advance(60);
        let stale = cache.memoize("key").fresh_for(MINUTE).stale_for(MINUTE);
        assert_eq!(stale.get_or_compute::<i64, _, _>(|| async { panic!("as it is to") }).await.unwrap(), 1);
        fails_with(&cache, "it panicked: as it is to").await;
        db.advance(1);
        assert_eq!(get(&cache, Ok(2), &runs).await.unwrap(), 1);
        becomes(&cache, 2).await;
    }

    async fn a_fresh_value_is_refreshed_early_where_chance_and_its_cost_say_so(db) {
        let cache = db.cache().await;
        let ask = async |beta: f64, value: i64| {
            let compute = move || async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                value
            };
            cache.memoize("key").fresh_for(MINUTE).early_refresh(beta).get_or_compute(compute).await.unwrap()
        };
        assert_eq!(ask(0.0, 1).await, 1);
        for _ in 0..20 {
            assert_eq!(ask(0.0, 2).await, 1);
        }
        // It took 2 ms, and has a minute left: beta so large makes it all but certain.
        assert_eq!(ask(1e12, 2).await, 1);
        becomes(&cache, 2).await;
    }

    async fn an_item_that_was_set_is_fresh_as_long_as_it_lives(db) {
        let (cache, runs) = (db.cache().await, Arc::default());
        cache.set_with("key", &1, 600).await.unwrap();
        db.advance(599);
        assert_eq!(get(&cache, Ok(2), &runs).await.unwrap(), 1);
        assert_eq!(runs.load(Ordering::SeqCst), 0);
        // Set in place of a stale one, it is not stale.
        cache.clear_all().await.unwrap();
        get(&cache, Ok(1), &runs).await.unwrap();
        db.advance(60);
        cache.set("key", &5).await.unwrap();
        assert_eq!(get(&cache, Ok(2), &runs).await.unwrap(), 5);
        assert_eq!(cache.info("key").await.unwrap().unwrap().stale_at, None);
    }
}
