//! Computing a value once: in one process, with its errors, panics and hand-overs.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use larder::{Cache, Error, Expiration, Result};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::support::{both_engines, eventually, noon};

const MINUTE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(30);

/// A computation that counts how often it runs, and ends when it is let.
#[derive(Clone, Default)]
struct Probe {
    runs: Arc<AtomicUsize>,
    began: Arc<Notify>,
    gate: Option<Arc<Semaphore>>,
}

impl Probe {
    fn gated() -> Self {
        Self {
            gate: Some(Arc::new(Semaphore::new(0))),
            ..Self::default()
        }
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    /// Lets one computation end.
    fn let_end(&self) {
        self.gate.as_ref().unwrap().add_permits(1);
    }

    async fn run(self, value: &'static str) -> String {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.began.notify_one();
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        value.to_owned()
    }
}

async fn get(cache: &Cache, probe: &Probe, value: &'static str) -> Result<String> {
    let probe = probe.clone();
    cache
        .memoize("key")
        .fresh_for(MINUTE)
        .stale_for(MINUTE)
        .get_or_compute(move || probe.run(value))
        .await
}

fn start(
    cache: &Cache,
    probe: &Probe,
    value: &'static str,
) -> tokio::task::JoinHandle<Result<String>> {
    let (cache, probe) = (cache.clone(), probe.clone());
    tokio::spawn(async move { get(&cache, &probe, value).await })
}

async fn began(probe: &Probe) {
    tokio::time::timeout(LONG, probe.began.notified())
        .await
        .unwrap();
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap()
}

both_engines! {
    async fn a_value_is_computed_once_and_then_fresh(db) {
        let cache = db.cache().await;
        let probe = Probe::default();
        assert_eq!(get(&cache, &probe, "one").await.unwrap(), "one");
        assert_eq!(get(&cache, &probe, "two").await.unwrap(), "one");
        db.advance_millis(59_999);
        assert_eq!(get(&cache, &probe, "two").await.unwrap(), "one");
        assert_eq!(probe.runs(), 1);
        assert_eq!(cache.get::<String>("key").await.unwrap().as_deref(), Some("one"));
        let info = cache.info("key").await.unwrap().unwrap();
        assert_eq!(info.stale_at, Some(noon() + TimeDelta::minutes(1)));
        assert_eq!(info.expires_at, Some(noon() + TimeDelta::minutes(2)));
        assert!(info.cost.is_some() && info.lease_until.is_none() && info.last_error.is_none());
    }

    async fn freshness_counts_from_the_end_of_computing(db) {
        let cache = db.cache().await;
        let probe = Probe::gated();
        let task = start(&cache, &probe, "value");
        began(&probe).await;
        db.advance(10);
        probe.let_end();
        within(task).await.unwrap().unwrap();
        let info = cache.info("key").await.unwrap().unwrap();
        assert_eq!(info.stale_at, Some(noon() + TimeDelta::seconds(70)));
    }

    async fn a_value_without_freshness_stays_until_it_is_invalidated(db) {
        let cache = db.cache().await;
        assert_eq!(cache.memoize("key").get_or_compute(|| async { 1 }).await.unwrap(), 1);
        db.advance(1_000_000_000);
        assert_eq!(cache.memoize("key").get_or_compute(|| async { 2 }).await.unwrap(), 1);
        assert!(cache.delete("key").await.unwrap());
        assert_eq!(cache.memoize("key").get_or_compute(|| async { 3 }).await.unwrap(), 3);
    }

    async fn a_null_is_a_value(db) {
        let cache = db.cache().await;
        assert_eq!(cache.memoize("key").get_or_compute(|| async { None::<i64> }).await.unwrap(), None);
        assert_eq!(cache.memoize("key").get_or_compute(|| async { Some(1) }).await.unwrap(), None);
    }

    async fn of_many_tasks_one_computes_and_all_are_served(db) {
        let cache = db.cache().await;
        let probe = Probe::gated();
        let first = start(&cache, &probe, "value");
        began(&probe).await;
        let tasks: Vec<_> = (0..20).map(|_| start(&cache, &probe, "another")).collect();
        // A clone and a cache of its own in the same process: flights of their own, one lease.
        let other = start(&Cache::new(cache.database().clone()), &probe, "another");
        probe.let_end();
        assert_eq!(within(first).await.unwrap().unwrap(), "value");
        for task in tasks {
            assert_eq!(within(task).await.unwrap().unwrap(), "value");
        }
        assert_eq!(within(other).await.unwrap().unwrap(), "value");
        assert_eq!(probe.runs(), 1);
    }

    async fn a_key_that_is_computed_is_absent_and_counted_nowhere(db) {
        let cache = db.cache().await;
        let probe = Probe::gated();
        let task = start(&cache, &probe, "value");
        began(&probe).await;
        assert_eq!(cache.get::<String>("key").await.unwrap(), None);
        assert!(!cache.exists("key").await.unwrap());
        assert_eq!(cache.info("key").await.unwrap(), None);
        assert!(!cache.touch("key", 60).await.unwrap());
        assert_eq!(cache.stats().await.unwrap(), Default::default());
        assert_eq!(cache.purge().count().await.unwrap(), 0);
        // Neither a purge nor the passing of time takes the lease.
        db.advance(29);
        assert_eq!(cache.clear_expired().await.unwrap(), 0);
        probe.let_end();
        within(task).await.unwrap().unwrap();
        assert_eq!(cache.get::<String>("key").await.unwrap().as_deref(), Some("value"));
        for clear in ["delete", "delete_many", "clear_prefix", "clear_tag", "clear_all"] {
            cache.clear_all().await.unwrap();
            let task = start(&cache, &probe, "value");
            began(&probe).await;
            let deleted = match clear {
                "delete" => u64::from(cache.delete("key").await.unwrap()),
                "delete_many" => cache.delete_many(["key"]).await.unwrap(),
                "clear_prefix" => cache.clear_prefix("k").await.unwrap(),
                "clear_tag" => cache.clear_tag("none").await.unwrap(),
                _ => cache.clear_all().await.unwrap(),
            };
            assert_eq!(deleted, 0, "{clear}");
            probe.let_end();
            within(task).await.unwrap().unwrap();
        }
    }

    async fn an_error_reaches_every_waiter_and_is_not_kept(db) {
        let cache = db.cache().await;
        let gate = Arc::new(Semaphore::new(0));
        let began = Arc::new(Notify::new());
        let attempt = |cache: Cache| {
            let (gate, began) = (gate.clone(), began.clone());
            tokio::spawn(async move {
                let compute = move || async move {
                    began.notify_one();
                    gate.acquire().await.unwrap().forget();
                    "forty-two".parse::<u32>()
                };
                cache.memoize("key").fresh_for(MINUTE).get_or_try_compute(compute).await
            })
        };
        let first = attempt(cache.clone());
        within(began.notified()).await;
        let waiter = attempt(cache.clone());
        // Of another cache: it learns of the failure by way of the database.
        let elsewhere = attempt(Cache::new(cache.database().clone()));
        while Arc::strong_count(&gate) < 4 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.add_permits(1);
        for task in [first, waiter] {
            let error: Error = within(task).await.unwrap().unwrap_err();
            assert!(error.is_failed_computation() && !error.is_transient() && !error.is_invalid(), "{error}");
            assert_eq!(error.to_string(), "computing key \"key\" failed: invalid digit found in string");
            assert!(error.source().unwrap().is::<std::num::ParseIntError>());
        }
        let error = within(elsewhere).await.unwrap().unwrap_err();
        assert!(error.is_failed_computation() && error.source().is_none());
        assert_eq!(error.to_string(), "computing key \"key\" failed: invalid digit found in string");
        let value = cache.memoize("key").get_or_try_compute(|| async { "42".parse::<u32>() }).await.unwrap();
        assert_eq!(value, 42);
    }

    async fn an_error_is_kept_for_as_long_as_is_asked(db) {
        let cache = db.cache().await;
        let ask = async |result: Result<u32, &'static str>| {
            cache.memoize("key").cache_errors_for(MINUTE).get_or_try_compute(move || async move { result }).await
        };
        assert_eq!(ask(Err("no")).await.unwrap_err().to_string(), "computing key \"key\" failed: no");
        db.advance_millis(59_999);
        assert_eq!(ask(Ok(1)).await.unwrap_err().to_string(), "computing key \"key\" failed: no");
        assert_eq!(cache.get::<u32>("key").await.unwrap(), None);
        assert_eq!(cache.clear_expired().await.unwrap(), 0, "a purge leaves it");
        assert!(ask(Ok(1)).await.is_err());
        db.advance_millis(1);
        assert_eq!(ask(Ok(2)).await.unwrap(), 2);
        // Whoever writes or invalidates the key ends the error too.
        for invalidate in [true, false] {
            cache.delete("key").await.unwrap();
            ask(Err("no")).await.unwrap_err();
            if invalidate {
                cache.delete("key").await.unwrap();
                assert_eq!(ask(Ok(3)).await.unwrap(), 3);
            } else {
                cache.set("key", &4).await.unwrap();
                assert_eq!(ask(Ok(3)).await.unwrap(), 4);
            }
        }
    }

    async fn a_cancelled_leader_hands_over_to_a_waiter(db) {
        let cache = db.cache().await;
        let probe = Probe::gated();
        let first = start(&cache, &probe, "first");
        began(&probe).await;
        let second = start(&cache, &probe, "second");
        let third = start(&Cache::new(cache.database().clone()), &probe, "second");
        first.abort();
        assert!(within(first).await.unwrap_err().is_cancelled());
        began(&probe).await;
        assert_eq!(probe.runs(), 2);
        probe.let_end();
        assert_eq!(within(second).await.unwrap().unwrap(), "second");
        assert_eq!(within(third).await.unwrap().unwrap(), "second");
        assert_eq!(probe.runs(), 2);
    }

    async fn a_panicking_leader_hands_over_to_a_waiter(db) {
        let cache = db.cache().await;
        let (fail, failing) = oneshot::channel::<()>();
        let began = Arc::new(Notify::new());
        let leader = tokio::spawn({
            let (cache, began) = (cache.clone(), began.clone());
            async move {
                let compute = move || async move {
                    began.notify_one();
                    failing.await.unwrap();
                    panic!("as it is to");
                };
                cache.memoize("key").get_or_compute::<String, _, _>(compute).await
            }
        });
        within(began.notified()).await;
        let probe = Probe::default();
        let waiter = start(&cache, &probe, "value");
        fail.send(()).unwrap();
        assert!(within(leader).await.unwrap_err().is_panic());
        assert_eq!(within(waiter).await.unwrap().unwrap(), "value");
        assert_eq!(probe.runs(), 1);
    }

    async fn a_cancelled_leader_leaves_nothing_to_wait_for(db) {
        let cache = db.cache().await;
        let probe = Probe::gated();
        let leader = start(&cache, &probe, "first");
        began(&probe).await;
        leader.abort();
        within(leader).await.unwrap_err();
        eventually("the lease is given back", LONG, async || {
            db.number("SELECT COUNT(*) FROM {}cached_item WHERE holder IS NOT NULL").await == 0
        }).await;
        cache.clear_expired().await.unwrap();
        assert_eq!(db.number("SELECT COUNT(*) FROM {}cached_item").await, 0);
    }

    async fn who_waits_too_long_is_told_so(db) {
        let cache = db.cache().await;
        let probe = Probe::gated();
        let leader = start(&cache, &probe, "value");
        began(&probe).await;
        for cache in [cache.clone(), Cache::new(cache.database().clone())] {
            let waiting = cache.memoize("key").wait_timeout(Duration::from_millis(50));
            let error = within(waiting.get_or_compute(|| async { "another".to_owned() })).await.unwrap_err();
            assert!(error.is_timeout() && !error.is_invalid() && !error.is_transient(), "{error}");
            assert!(error.to_string().contains("\"key\"") && error.to_string().contains("wait_timeout"), "{error}");
        }
        probe.let_end();
        assert_eq!(within(leader).await.unwrap().unwrap(), "value");
    }

    async fn a_nested_call_for_the_same_key_fails_clearly(db) {
        let cache = db.cache().await;
        let inner = cache.clone();
        let compute = move || async move {
            let deeper = inner.clone();
            // By way of another key, and of another cache of the same database.
            let middle = move || async move {
                Cache::new(deeper.database().clone()).memoize("key").get_or_compute(|| async { 1 }).await
            };
            inner.memoize("middle").get_or_try_compute(middle).await
        };
        let error = within(cache.memoize("key").get_or_try_compute(compute)).await.unwrap_err();
        assert!(error.to_string().contains("asks for the key itself"), "{error}");
        let (inner, tenant) = (cache.clone(), cache.namespace("tenant").unwrap());
        let compute = move || async move {
            let other = inner.memoize("other").get_or_compute(|| async { 1 }).await?;
            Ok::<_, Error>(other + tenant.memoize("key").get_or_compute(|| async { 2 }).await?)
        };
        assert_eq!(within(cache.memoize("key").get_or_try_compute(compute)).await.unwrap(), 3);
    }

    async fn a_nested_call_of_a_refresh_fails_clearly_too(db) {
        let cache = db.cache().await;
        let stale = cache.memoize("key").fresh_for(MINUTE).stale_for(MINUTE);
        stale.clone().get_or_compute(|| async { 1 }).await.unwrap();
        db.advance(60);
        let inner = cache.clone();
        let compute = move || async move { inner.memoize("key").get_or_compute(|| async { 2 }).await };
        assert_eq!(stale.get_or_try_compute(compute).await.unwrap(), 1);
        eventually("the refresh fails", LONG, async || {
            let info = cache.info("key").await.unwrap().unwrap();
            info.last_error.is_some_and(|error| error.contains("asks for the key itself"))
        }).await;
    }

    async fn a_corrupt_value_is_an_error_or_a_miss_as_the_caller_chose(db) {
        let cache = db.cache().await;
        cache.set("key", "text").await.unwrap();
        let error = cache.memoize("key").get_or_compute(|| async { 1 }).await.unwrap_err();
        assert!(error.is_corrupt() && error.to_string().contains("\"key\""), "{error}");
        assert_eq!(cache.memoize("key").recompute_corrupt().get_or_compute(|| async { 1 }).await.unwrap(), 1);
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(1));
    }

    async fn a_value_that_cannot_be_stored_is_an_error_and_nothing_is(db) {
        let cache = db.cache().await.with_max_value_bytes(10);
        let compute = || async { "much too long".to_owned() };
        let error = cache.memoize("key").get_or_compute(compute).await.unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains("max_value_bytes"), "{error}");
        assert_eq!(cache.memoize("key").get_or_compute(|| async { "short".to_owned() }).await.unwrap(), "short");
    }

    async fn choices_that_mean_nothing_are_refused(db) {
        let cache = db.cache().await;
        let errors = [
            cache.memoize("").get_or_compute(|| async { 1 }).await,
            cache.memoize("key").jitter(1.5).get_or_compute(|| async { 1 }).await,
            cache.memoize("key").early_refresh(-1.0).get_or_compute(|| async { 1 }).await,
            cache.memoize("key").early_refresh(f64::NAN).get_or_compute(|| async { 1 }).await,
            cache.memoize("key").tags([""]).get_or_compute(|| async { 1 }).await,
            cache.memoize("key").depends_on(["a\0b"]).get_or_compute(|| async { 1 }).await,
        ];
        for error in errors {
            assert!(error.unwrap_err().is_invalid());
        }
        assert_eq!(db.number("SELECT COUNT(*) FROM {}cached_item").await, 0);
    }

    async fn a_namespace_computes_for_itself(db) {
        let cache = db.cache().await;
        let tenant = cache.namespace("tenant").unwrap();
        let probe = Probe::default();
        assert_eq!(get(&cache, &probe, "root").await.unwrap(), "root");
        assert_eq!(get(&tenant, &probe, "tenant").await.unwrap(), "tenant");
        assert_eq!(get(&tenant.namespace("").unwrap(), &probe, "other").await.unwrap(), "root");
        assert_eq!(tenant.clear_all().await.unwrap(), 1);
        assert_eq!(get(&cache, &probe, "other").await.unwrap(), "root");
        assert_eq!(probe.runs(), 2);
    }

    async fn a_lease_that_its_dead_holder_left_is_taken_over_at_its_deadline(db) {
        let cache = db.cache().await;
        cache.set_with("key", &"old", Expiration::after(Duration::ZERO)).await.unwrap();
        let dead = "019aabcd-0000-7000-8000-000000000000";
        let until = if db.is_sqlite() { (noon() + TimeDelta::seconds(30)).timestamp_millis().to_string() }
            else { format!("'{}'", (noon() + TimeDelta::seconds(30)).to_rfc3339()) };
        db.execute(&format!("UPDATE {{}}cached_item SET holder = '{dead}', lease_until = {until}")).await;
        let probe = Probe::default();
        let waiter = start(&cache, &probe, "value");
        db.advance_millis(29_999);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((probe.runs(), waiter.is_finished()), (0, false));
        db.advance_millis(1);
        assert_eq!(within(waiter).await.unwrap().unwrap(), "value");
        assert_eq!(probe.runs(), 1);
    }

    async fn a_holder_that_lost_its_lease_does_not_write_back(db) {
        // So slow in renewing that it loses it.
        let cache = db.cache().await.with_lease(Duration::from_secs(3600));
        let (slow, quick) = (Probe::gated(), Probe::default());
        let holder = start(&cache, &slow, "late");
        began(&slow).await;
        db.advance(3600);
        let other = Cache::new(cache.database().clone());
        assert_eq!(get(&other, &quick, "in time").await.unwrap(), "in time");
        slow.let_end();
        // It is given the newer value.
        assert_eq!(within(holder).await.unwrap().unwrap(), "in time");
        assert_eq!(cache.get::<String>("key").await.unwrap().as_deref(), Some("in time"));
    }

    async fn a_lease_is_renewed_while_it_is_wanted(db) {
        let cache = db.cache().await.with_lease(Duration::from_millis(60));
        let probe = Probe::gated();
        let holder = start(&cache, &probe, "value");
        began(&probe).await;
        // The clock moves on by more than the lease, a step at a time; each step is seen by a renewal.
        for _ in 0..4 {
            db.advance_millis(50);
            let now = cache.database().clock().now().as_millis() + 60;
            let renewed = if db.is_sqlite() {
                format!("SELECT COUNT(*) FROM {{}}cached_item WHERE lease_until >= {now}")
            } else {
                format!("SELECT COUNT(*) FROM {{}}cached_item WHERE lease_until >= to_timestamp({now} / 1000.0)")
            };
            eventually("it is renewed", LONG, async || db.number(&renewed).await == 1).await;
        }
        let error = Cache::new(cache.database().clone()).memoize("key").wait_timeout(Duration::from_millis(30))
            .get_or_compute(|| async { String::new() }).await.unwrap_err();
        assert!(error.is_timeout());
        probe.let_end();
        assert_eq!(within(holder).await.unwrap().unwrap(), "value");
        assert_eq!(probe.runs(), 1);
    }
}
