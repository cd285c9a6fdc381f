//! Leading: what the one task of this process does that computes a key, or waits for another process that does.

use std::error::Error as StdError;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Cache;
use super::flight::Leader;
use super::lease::{Asker, Computed, Failure, Lease, Taken};
use super::limits::{decode, encode};
use super::memoize::Plan;
use super::nested;
use super::waits::Patience;
use crate::database::{Id, JsonText};
use crate::error::Result;

/// The pause after the first refresh that failed; it doubles with each that follows, up to the longest.
const FIRST_RETRY: TimeDelta = TimeDelta::seconds(1);
const LONGEST_RETRY: TimeDelta = TimeDelta::seconds(60);

/// What one who leads for this process does.
pub(super) struct Run {
    pub(super) cache: Cache,
    pub(super) key: String,
    pub(super) plan: Plan,
    pub(super) leader: Leader,
    /// The generation of what is to be replaced, where there is something.
    pub(super) seen: Option<i64>,
}

/// What a leader has when the questions are over.
enum Turn {
    Computes(Lease),
    Told(Result<Arc<str>, Failure>, Instant),
}

impl Run {
    /// The value, computed here or elsewhere.
    pub(super) async fn lead<T, E, F, Fut>(mut self, compute: F, patience: &Patience) -> Result<T>
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
        let computed = Computed {
            value: &text,
            freshness,
            cost,
            links: &self.plan.links,
            made_by: None,
        };
        let written = self.cache.write_back(&self.key, lease, computed).await;
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
    pub(super) async fn refresh<T, E, F, Fut>(mut self, compute: F)
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

/// The pause before the next refresh, after so many that failed.
fn pause_after(failures: i32) -> TimeDelta {
    let doublings = u32::try_from(failures).unwrap_or(0).min(6);
    (FIRST_RETRY * 2_i32.pow(doublings)).min(LONGEST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_after_a_failed_refresh_doubles_up_to_a_minute() {
        let pauses: Vec<i64> = (0..8)
            .map(|failures| pause_after(failures).num_seconds())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause_after(i32::MAX).num_seconds(), 60);
    }
}
