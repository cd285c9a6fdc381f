//! What a job says of the result that it leaves in the cache.

use std::time::Duration;

use super::check_text;
use super::memoize::Plan;
use crate::error::Result;

/// Where the result of a job is remembered, and for how long: what [`Job::memo`](crate::Job::memo) returns.
///
/// ```
/// use larder::cache::Memo;
/// use std::time::Duration;
///
/// let memo = Memo::new("report:2026-11")
///     .fresh_for(Duration::from_secs(300))
///     .stale_for(Duration::from_secs(3600))
///     .tags(["reports"]);
/// assert_eq!(memo.key(), "report:2026-11");
/// ```
#[derive(Clone, Debug)]
#[must_use = "it is the job's to return"]
pub struct Memo {
    pub(super) key: String,
    pub(super) plan: Plan,
}

impl Memo {
    /// Remembered under `key`, of 1 to 500 bytes: whatever the result depends on should be in it.
    pub fn new(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            plan: Plan::default(),
        }
    }

    /// How long the result is fresh, from the end of its computation. Unless said, until somebody invalidates it.
    pub fn fresh_for(mut self, fresh: Duration) -> Self {
        self.plan.fresh_for = Some(fresh);
        self
    }

    /// How long after that the stale result is still given to callers while a job refreshes it. Unless said, not at all.
    pub fn stale_for(mut self, stale: Duration) -> Self {
        self.plan.stale_for = stale;
        self
    }

    /// Shortens the freshness of each result by up to this share of it, at random. From 0 to 1.
    pub fn jitter(mut self, share: f64) -> Self {
        self.plan.jitter = share;
        self
    }

    /// Has a fresh result refreshed by a job before it becomes stale, by chance: the likelier the nearer that is and the
    /// longer its computation took (XFetch). 1 is the usual `beta`, a larger one refreshes earlier, 0 never does.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.plan.early = beta;
        self
    }

    /// The tags that the item carries, for [`Cache::clear_tag`](crate::Cache::clear_tag).
    pub fn tags(mut self, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.plan.links.add_tags(tags);
        self
    }

    /// The keys that the result is built from: whoever sets, deletes or clears one of them deletes the result too.
    pub fn depends_on(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.plan.links.add_dependencies(keys);
        self
    }

    /// The key in the cache.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_text("the key of a job's memo", &self.key, 1, 500)?;
        self.plan.check()
    }

    /// What the one job that computes it holds as its unique key.
    pub(crate) fn unique_key(&self) -> String {
        unique_key(&self.key)
    }
}

/// What the one job that computes the item of `key` holds as its unique key.
pub(crate) fn unique_key(key: &str) -> String {
    format!("memo:{key}")
}
