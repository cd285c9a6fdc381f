//! Computing a value once, over tasks, processes and hosts.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::time::Duration;

use chrono::TimeDelta;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Cache;
use super::flight::{Leader, Part, Waited};
use super::lease::Freshness;
use super::limits::{check_key, decode};
use super::links::Links;
use super::nested;
use super::run::Run;
use super::waits::Patience;
use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// How long a caller waits for others, unless it says.
const WAIT: Duration = Duration::from_secs(60);
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
/// memoize other keys; asking for its own is an error, and from a task that it spawned a wait that times out.
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
    pub(super) early: f64,
    pub(super) errors_for: Option<Duration>,
    pub(super) wait: Duration,
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
        if let Some(value) = self.cache.fresh_here(self.key, self.plan.early).await {
            return Ok(value);
        }
        let mut seen = None;
        if let Some((text, to_refresh)) = self.cache.value_of(self.key, self.plan.early).await? {
            match decode(self.key, &text) {
                Ok(value) => {
                    if let Some(generation) = to_refresh {
                        self.refresh_in_background(compute, generation)?;
                    }
                    return Ok(value);
                }
                Err(error) if error.is_corrupt() && self.plan.corrupt_is_miss => {
                    // It may be another one by now.
                    if let Some(hit) = Box::pin(self.cache.hit(self.key)).await? {
                        if let Ok(value) = decode(self.key, &hit.value) {
                            return Ok(value);
                        }
                        seen = Some(hit.generation);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.plan.check()?;
        nested::check(self.cache, self.key)?;
        let patience = Patience::new(self.plan.wait);
        let mut inherited = None;
        loop {
            let (namespace, key) = (&self.cache.place.namespace, self.key);
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
        if let Part::Leads(leader) = flights.join(&self.cache.place.namespace, self.key, None) {
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
            let share = (1.0 - self.jitter * chance).clamp(0.0, 1.0);
            // Nearly for ever by nearly 1 may come to more than there is.
            let shortened = Duration::try_from_secs_f64(fresh.as_secs_f64() * share);
            after(
                now,
                shortened.map_or(fresh, |shortened| shortened.min(fresh)),
            )
        });
        Freshness {
            stale_at,
            expires_at: stale_at.map(|stale_at| after(stale_at, self.stale_for)),
        }
    }
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
}
