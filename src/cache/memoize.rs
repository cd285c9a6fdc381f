//! Computing a value once, over tasks, processes and hosts.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Cache;
use super::flight::{Leader, Part, Waited};
use super::lease::{Asker, Failure, Freshness, Lease, Taken};
use super::limits::{check_key, decode, encode};
use super::links::Links;
use super::nested;
use super::refresh::refreshes_early;
use super::waits::Patience;
use crate::clock::Timestamp;
use crate::database::{Id, JsonText, Sql, query};
use crate::error::{Error, Result};

/// How long a caller waits for others, unless it says.
const WAIT: Duration = Duration::from_secs(60);
/// The pause after the first refresh that failed; it doubles with each that follows, up to the longest.
const FIRST_RETRY: TimeDelta = TimeDelta::seconds(1);
const LONGEST_RETRY: TimeDelta = TimeDelta::seconds(60);

/// A value that is computed once and shared by the fleet; made by [`Cache::memoize`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use larder::Cache;
/// use std::time::Duration;
///
/// async fn build_report() -> Vec<u32> {
///     vec![3, 1, 4] // after some time
/// }
///
/// let cache = Cache::connect("sqlite::memory:").await?;
/// let report = cache
///     .memoize("report:2026-11")
///     .fresh_for(Duration::from_secs(300))
///     .stale_for(Duration::from_secs(3600))
///     .get_or_compute(|| build_report())
///     .await?;
/// assert_eq!(report, [3, 1, 4]);
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
///
/// - **Fresh**: the value is returned, for the price of a [`get`](Cache::get).
/// - **Stale**, past `fresh_for` and within `stale_for`: it is returned at once, and one refresh runs over the fleet, in
///   the background of this process. While refreshes fail the stale value is served on, and the next is tried after a
///   pause of 1 s that doubles up to a minute. The error is on the item ([`Cache::info`]).
/// - **Absent**: one caller of the whole fleet computes it; the others wait and are given what comes of it. One that
///   panics, is cancelled or dies hands over to another, at the latest when its lease ends
///   ([`Cache::with_lease`]).
///
/// A value is written back only if nobody has written or invalidated its key, a tag or a key that it depends on since
/// its computation began, also if they did so in a transaction that commits later. Where somebody has, the caller is
/// given the newer value if there is one, else what it computed itself; those who waited compute anew.
///
/// The closure may run as a task of its own, and so owns what it uses: `move` what it needs into it. What it calls may
/// memoize other keys; asking for its own is an error.
#[derive(Clone, Debug)]
#[must_use = "nothing is read or computed until `get_or_compute` or `get_or_try_compute`"]
pub struct Memoize<'a> {
    cache: &'a Cache,
    key: &'a str,
    plan: Plan,
}

/// What holds for a value and its computation.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) fresh_for: Option<Duration>,
    pub(super) stale_for: Duration,
    pub(super) jitter: f64,
    early: f64,
    errors_for: Option<Duration>,
    wait: Duration,
    corrupt_is_miss: bool,
    pub(super) links: Links,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            fresh_for: None,
            stale_for: Duration::ZERO,
            jitter: 0.0,
            early: 0.0,
            errors_for: None,
            wait: WAIT,
            corrupt_is_miss: false,
            links: Links::default(),
        }
    }
}

impl Cache {
    /// The value of `key`, computed once over the fleet where it is absent: see [`Memoize`].
    pub fn memoize<'a>(&'a self, key: &'a str) -> Memoize<'a> {
        Memoize {
            cache: self,
            key,
            plan: Plan::default(),
        }
    }
}

impl Memoize<'_> {
    /// How long a value is fresh, from the end of its computation. Unless said, until somebody invalidates it.
    pub fn fresh_for(mut self, fresh: Duration) -> Self {
        self.plan.fresh_for = Some(fresh);
        self
    }

    /// How long after that the stale value is still served while it is refreshed. Unless said, not at all.
    pub fn stale_for(mut self, stale: Duration) -> Self {
        self.plan.stale_for = stale;
        self
    }

    /// Shortens the freshness of each value by up to this share of it, at random, so that values that were computed
    /// together do not become stale together. From 0 to 1.
    pub fn jitter(mut self, share: f64) -> Self {
        self.plan.jitter = share;
        self
    }

    /// Refreshes a fresh value in the background before it becomes stale, by chance: the likelier the nearer that is and
    /// the longer its computation took (XFetch). 1 is the usual `beta`, a larger one refreshes earlier, 0 never does.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.plan.early = beta;
        self
    }

    /// Keeps the error of a computation that failed, and gives it to all who ask for so long instead of computing again.
    /// Unless said, errors reach those who wait, and are not kept. A stale value goes before an error.
    pub fn cache_errors_for(mut self, time: Duration) -> Self {
        self.plan.errors_for = Some(time);
        self
    }

    /// The tags that the item carries from the moment that computing begins, for [`Cache::clear_tag`].
    pub fn tags(mut self, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.plan.links.add_tags(tags);
        self
    }

    /// The keys that the value is built from. Whoever sets, deletes or clears one of them deletes this item too, and what
    /// was built from it in turn. A computation that writes one back does not.
    pub fn depends_on(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.plan.links.add_dependencies(keys);
        self
    }

    /// How long to wait for somebody else who computes the value, 60 s unless said. One's own computation takes as long
    /// as it takes.
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.plan.wait = timeout;
        self
    }

    /// Computes a value anew that cannot be read as the type that is asked for. Unless said, it is an error
    /// ([`is_corrupt`](crate::Error::is_corrupt)).
    pub fn recompute_corrupt(mut self) -> Self {
        self.plan.corrupt_is_miss = true;
        self
    }

    /// The cached value, or else that of `compute`.
    ///
    /// # Errors
    /// Where the key, a tag or another choice is not valid, the value does not serialise or is too large, somebody else
    /// computes it for longer than `wait_timeout` ([`is_timeout`](crate::Error::is_timeout)), `compute` asks for its own
    /// key, the stored value does not fit `T`, or the database fails before there is a value.
    pub async fn get_or_compute<T, F, Fut>(self, compute: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        self.get_or_try_compute(move || async move { Ok::<_, Infallible>(compute().await) })
            .await
    }

    /// The cached value, or else that of `compute`, which may fail. Its error reaches everybody who waits for it.
    ///
    /// # Errors
    /// As [`Memoize::get_or_compute`]; and where `compute` fails, here or elsewhere, an error that
    /// [`is_failed_computation`](crate::Error::is_failed_computation) and whose source is the one of `compute`.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use std::error::Error as _;
    ///
    /// let cache = larder::Cache::connect("sqlite::memory:").await?;
    /// let error = cache
    ///     .memoize("answer")
    ///     .get_or_try_compute(|| async { "forty-two".parse::<u32>() })
    ///     .await
    ///     .unwrap_err();
    /// assert!(error.is_failed_computation());
    /// assert!(error.source().unwrap().is::<std::num::ParseIntError>());
    ///
    /// let answer = cache.memoize("answer").get_or_try_compute(|| async { "42".parse::<u32>() }).await?;
    /// assert_eq!(answer, 42);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    pub async fn get_or_try_compute<T, E, F, Fut>(self, compute: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        check_key(self.key)?;
        let mut seen = None;
        if let Some(hit) = self.cache.hit(self.key).await? {
            match decode(self.key, &hit.value) {
                Ok(value) => {
                    if hit.wants_refresh(self.cache.now(), self.plan.early) {
                        self.refresh_in_background(compute, hit.generation)?;
                    }
                    return Ok(value);
                }
                Err(error) if error.is_corrupt() && self.plan.corrupt_is_miss => {
                    seen = Some(hit.generation);
                }
                Err(error) => return Err(error),
            }
        }
        self.plan.check()?;
        nested::check(self.cache, self.key)?;
        let patience = Patience::new(self.plan.wait);
        let mut inherited = None;
        loop {
            let (namespace, key) = (&self.cache.namespace, self.key);
            let waiter = match self.cache.flights.join(namespace, key, inherited) {
                Part::Leads(leader) => {
                    let run = self.run(leader, seen);
                    // Not held by those who only read: it is as large as the closure's own future.
                    return Box::pin(run.lead(compute, &patience)).await;
                }
                Part::Waits(waiter) => waiter,
            };
            match patience.bound(waiter.wait()).await {
                Some(Waited::For(Ok(value))) => return decode(key, &value),
                Some(Waited::For(Err(failure))) => return Err(failure.into_error(key)),
                Some(Waited::ForNothing(lease)) => inherited = lease,
                None => return Err(patience.error(key)),
            }
        }
    }

    fn run(&self, leader: Leader, seen: Option<i64>) -> Run {
        Run {
            cache: self.cache.clone(),
            key: self.key.to_owned(),
            plan: self.plan.clone(),
            leader,
            seen,
        }
    }

    /// Refreshes what was seen as `generation`, unless this process does so already.
    fn refresh_in_background<T, E, F, Fut>(&self, compute: F, generation: i64) -> Result<()>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.plan.check()?;
        nested::check(self.cache, self.key)?;
        let flights = &self.cache.flights;
        if let Part::Leads(leader) = flights.join(&self.cache.namespace, self.key, None) {
            let run = self.run(leader, Some(generation));
            tokio::spawn(run.refresh(compute));
        }
        Ok(())
    }
}

impl Plan {
    pub(super) fn check(&self) -> Result<()> {
        self.links.check()?;
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(Error::invalid(format!(
                "jitter is {}: it is a share, from 0 to 1",
                self.jitter
            )));
        }
        if !(self.early >= 0.0 && self.early.is_finite()) {
            return Err(Error::invalid(format!(
                "early_refresh is {}: beta is 0 or more, and 1 as a rule",
                self.early
            )));
        }
        Ok(())
    }

    /// How long a value is good for whose computation ends `now`.
    pub(super) fn freshness(&self, now: Timestamp, chance: f64) -> Freshness {
        let after = |from: Timestamp, time: Duration| {
            from.saturating_add(TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX))
        };
        let stale_at = self.fresh_for.map(|fresh| {
            let share = 1.0 - self.jitter * chance;
            after(now, fresh.mul_f64(share.clamp(0.0, 1.0)))
        });
        Freshness {
            stale_at,
            expires_at: stale_at.map(|stale_at| after(stale_at, self.stale_for)),
        }
    }
}

/// The pause before the next refresh, after so many that failed.
fn pause_after(failures: i32) -> TimeDelta {
    let doublings = u32::try_from(failures).unwrap_or(0).min(6);
    (FIRST_RETRY * 2_i32.pow(doublings)).min(LONGEST_RETRY)
}

/// A live item as the reader of a memoized value sees it.
pub(super) struct Hit {
    pub(super) value: String,
    pub(super) generation: i64,
    stale_at: Option<Timestamp>,
    cost: Option<i64>,
    retry_at: Option<Timestamp>,
}

impl Hit {
    pub(super) fn is_stale(&self, now: Timestamp) -> bool {
        self.stale_at.is_some_and(|stale_at| stale_at <= now)
    }

    fn wants_refresh(&self, now: Timestamp, beta: f64) -> bool {
        let Some(stale_at) = self.stale_at else {
            return false;
        };
        if self.retry_at.is_some_and(|retry_at| retry_at > now) {
            return false;
        }
        let cost = Duration::from_micros(u64::try_from(self.cost.unwrap_or(0)).unwrap_or(0));
        // From 0 exclusive, whose logarithm there is none, to 1.
        stale_at <= now
            || beta > 0.0
                && refreshes_early(stale_at.since(now), beta, cost, 1.0 - rand::random::<f64>())
    }
}

impl Cache {
    pub(super) async fn hit(&self, key: &str) -> Result<Option<Hit>> {
        type Row = (
            JsonText,
            i64,
            Option<Timestamp>,
            Option<i64>,
            Option<Timestamp>,
        );
        let mut connection = self.database.read().await?;
        let mut tx = connection.tx();
        let row: Option<Row> = query!(
            self.database,
            tx,
            fetch_optional,
            Sql::MemoRead,
            &*self.namespace,
            key,
            self.now()
        )?;
        Ok(
            row.map(|(value, generation, stale_at, cost, retry_at)| Hit {
                value: value.0,
                generation,
                stale_at,
                cost,
                retry_at,
            }),
        )
    }
}

/// What one who leads for this process does.
struct Run {
    cache: Cache,
    key: String,
    plan: Plan,
    leader: Leader,
    /// The generation of what is to be replaced, where there is something.
    seen: Option<i64>,
}

/// What a leader has when the questions are over.
enum Turn {
    Computes(Lease),
    Told(Result<Arc<str>, Failure>, Instant),
}

impl Run {
    /// The value, computed here or elsewhere.
    async fn lead<T, E, F, Fut>(mut self, compute: F, patience: &Patience) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        match self.turn(patience).await? {
            Turn::Computes(lease) => self.compute(lease, compute, patience).await,
            Turn::Told(Ok(value), asked) => {
                let decoded = decode(&self.key, &value);
                self.leader.finish(Ok(value), asked);
                decoded
            }
            Turn::Told(Err(failure), asked) => {
                self.leader.finish(Err(failure.clone()), asked);
                Err(failure.into_error(&self.key))
            }
        }
    }

    /// The lease, or what came of somebody else's.
    async fn turn(&mut self, patience: &Patience) -> Result<Turn> {
        let mut awaited: Option<Id> = None;
        let mut pauses = None;
        loop {
            let asked = Instant::now();
            match self.take(awaited).await? {
                Taken::Lease(lease) => return Ok(Turn::Computes(lease)),
                Taken::Value(value) => return Ok(Turn::Told(Ok(value), asked)),
                Taken::Failure(failure) => return Ok(Turn::Told(Err(failure), asked)),
                Taken::Held(holder) => awaited = Some(holder),
                Taken::Changed => continue,
            }
            // It is listened to before the next question, so that nothing is missed in between.
            let pauses = pauses.get_or_insert_with(|| self.cache.pauses(&self.key));
            if patience.bound(pauses.next()).await.is_none() {
                return Err(patience.error(&self.key));
            }
        }
    }

    async fn take(&self, awaited: Option<Id>) -> Result<Taken> {
        self.cache
            .take_lease(
                &self.key,
                &self.plan.links,
                self.seen,
                Asker {
                    previous: self.leader.inherited,
                    awaited,
                    ..Asker::default()
                },
            )
            .await
    }

    async fn compute<T, E, F, Fut>(
        mut self,
        lease: Lease,
        compute: F,
        patience: &Patience,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.leader.lease = Some(lease.holder);
        let kept = self.cache.keep_lease(&self.key, lease);
        while !self.cache.is_unclaimed(&self.plan.links).await? {
            let pause = tokio::time::sleep(Duration::from_millis(rand::random_range(1..=10)));
            if patience.bound(pause).await.is_none() {
                return Err(patience.error(&self.key));
            }
        }
        let started = Instant::now();
        let computed = nested::scope(&self.cache, &self.key, compute()).await;
        let cost = started.elapsed();
        match computed {
            Ok(value) => match encode(&self.key, &value, self.cache.max_value_bytes) {
                Ok(text) => {
                    kept.end();
                    self.write_back(lease, value, text, cost).await
                }
                Err(error) => {
                    kept.end();
                    let failure = Failure::told(error.to_string());
                    self.fail(lease, failure).await;
                    Err(error)
                }
            },
            Err(error) => {
                kept.end();
                let failure = Failure::new(error.into());
                let error = failure.clone().into_error(&self.key);
                self.fail(lease, failure).await;
                Err(error)
            }
        }
    }

    async fn write_back<T: DeserializeOwned>(
        self,
        lease: Lease,
        value: T,
        text: String,
        cost: Duration,
    ) -> Result<T> {
        let freshness = self.plan.freshness(self.cache.now(), rand::random());
        let (asked, text) = (Instant::now(), JsonText(text));
        let written = self
            .cache
            .write_back(&self.key, lease, &text, freshness, cost, &self.plan.links)
            .await;
        match written {
            Ok(true) => {
                self.leader.finish(Ok(text.0.into()), asked);
                return Ok(value);
            }
            // Those who wait ask for themselves.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(key = %self.key, %error, "a computed value is not kept");
                return Ok(value);
            }
        }
        match self.cache.hit(&self.key).await? {
            Some(newer) => decode(&self.key, &newer.value),
            None => Ok(value),
        }
    }

    /// Keeps the error on the item, and tells it to those who wait.
    async fn fail(self, lease: Lease, failure: Failure) {
        let now = self.cache.now();
        let errors_for = self
            .plan
            .errors_for
            .map(|time| now.saturating_add(TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX)));
        let retry_at = now.saturating_add(pause_after(lease.failures));
        let retry_at = errors_for.map_or(retry_at, |until| until.max(retry_at));
        let kept = self
            .cache
            .fail(&self.key, lease, &failure, retry_at, errors_for)
            .await;
        if let Err(error) = kept {
            tracing::warn!(key = %self.key, %error, "the error of a computation is not kept");
        }
        self.leader.finish(Err(failure), Instant::now());
    }

    /// Computes in the background, unless somebody else does. Nobody hears of an error but the item and the log.
    async fn refresh<T, E, F, Fut>(mut self, compute: F)
    where
        T: Serialize + DeserializeOwned,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let lease = match self.take(None).await {
            Ok(Taken::Lease(lease)) => lease,
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(key = %self.key, %error, "a stale value is not refreshed");
                return;
            }
        };
        self.leader.lease = Some(lease.holder);
        let key = self.key.clone();
        let patience = Patience::new(self.plan.wait);
        // A panic is the error of this refresh, and no other task's.
        let contained = move || async move {
            match AssertUnwindSafe(async { compute().await })
                .catch_unwind()
                .await
            {
                Ok(result) => result.map_err(Into::into),
                Err(panic) => Err(panic_message(&*panic).into()),
            }
        };
        let refreshed: Result<T> = self
            .compute::<T, Box<dyn StdError + Send + Sync>, _, _>(lease, contained, &patience)
            .await;
        if let Err(error) = refreshed {
            tracing::warn!(%key, %error, "a stale value is not refreshed");
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.map_or_else(
        || "it panicked".to_owned(),
        |text| format!("it panicked: {text}"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn freshness_counts_from_the_end_of_computing_and_jitter_shortens_it() {
        let now = Timestamp::from_millis(1_000_000).unwrap();
        let cache_free = |fresh: Option<u64>, stale: u64, jitter: f64, chance: f64| {
            let plan = Plan {
                fresh_for: fresh.map(Duration::from_millis),
                stale_for: Duration::from_millis(stale),
                jitter,
                early: 0.0,
                errors_for: None,
                wait: WAIT,
                corrupt_is_miss: false,
                links: Links::default(),
            };
            let freshness = plan.freshness(now, chance);
            let after = |at: Option<Timestamp>| at.map(|at| at.as_millis() - now.as_millis());
            (after(freshness.stale_at), after(freshness.expires_at))
        };
        assert_eq!(
            cache_free(Some(1_000), 500, 0.0, 0.9),
            (Some(1_000), Some(1_500))
        );
        assert_eq!(
            cache_free(Some(1_000), 500, 0.2, 0.5),
            (Some(900), Some(1_400))
        );
        assert_eq!(cache_free(Some(1_000), 0, 1.0, 1.0), (Some(0), Some(0)));
        assert_eq!(cache_free(None, 500, 0.5, 0.5), (None, None));
    }

    #[test]
    fn the_pause_after_a_failed_refresh_doubles_up_to_a_minute() {
        let pauses: Vec<i64> = (0..8)
            .map(|failures| pause_after(failures).num_seconds())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause_after(i32::MAX).num_seconds(), 60);
    }
}
