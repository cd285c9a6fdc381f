//! Computing an item by a job: what an attempt does before its handler, and after it.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::lease::{Asker, Computed, Failure, Freshness, KeptLease, Lease, Taken};
use super::limits::encode;
use super::{Cache, MadeBy, Memo, nested};
use crate::database::{Id, JsonText};
use crate::error::{Error, Result};

/// What is an attempt's to do.
pub(crate) enum Turn {
    /// Nothing: there is a fresh value, of this JSON.
    Fresh(String),
    Computes(Box<Computation>),
}

/// What a handler says of the result that it is about to return, in place of its memo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remember {
    /// It is fresh for so long, and then stale for so long.
    For { fresh: Duration, stale: Duration },
    /// It is its job's alone.
    Not,
}

/// The right to compute an item, until it is kept, has failed, or is dropped.
pub(crate) struct Computation {
    cache: Cache,
    memo: Memo,
    lease: Lease,
    kept: KeptLease,
    started: Instant,
}

impl Cache {
    /// Waits until `job` may compute the item, or need not any more: a fresh value is as good, unless the job was enqueued
    /// to refresh that. A lease of its earlier attempt is no obstacle where the attempt `takes_over`.
    pub(crate) async fn turn_of(&self, memo: &Memo, job: Id, takes_over: bool) -> Result<Turn> {
        let mut pauses = None;
        loop {
            let seen = match self.hit(&memo.key).await? {
                Some(hit) if !hit.is_stale(self.now()) && hit.refresh != Some(job) => {
                    return Ok(Turn::Fresh(hit.value));
                }
                old => old.map(|hit| hit.generation),
            };
            let asker = Asker {
                job: Some(job),
                takes_over,
                ..Asker::default()
            };
            match self
                .take_lease(&memo.key, &memo.plan.links, seen, asker)
                .await?
            {
                Taken::Lease(lease) => {
                    let kept = self.keep_lease(&memo.key, lease);
                    while !self.is_unclaimed(&memo.plan.links).await? {
                        let pause = Duration::from_millis(rand::random_range(1..=10));
                        tokio::time::sleep(pause).await;
                    }
                    return Ok(Turn::Computes(Box::new(Computation {
                        cache: self.clone(),
                        memo: memo.clone(),
                        lease,
                        kept,
                        started: Instant::now(),
                    })));
                }
                Taken::Failure(failure) => return Err(failure.into_error(&memo.key)),
                // Somebody else computes it, or has just written it.
                Taken::Value(_) | Taken::Held(_) | Taken::Changed => {}
            }
            let pauses = pauses.get_or_insert_with(|| self.pauses(&memo.key));
            pauses.next().await;
        }
    }
}

impl Computation {
    /// What the computation gives, which must not ask for the item itself.
    pub(crate) async fn run<T>(&self, computation: impl Future<Output = T>) -> T {
        nested::scope(&self.cache, &self.memo.key, computation).await
    }

    /// Keeps the JSON that was computed for as long as the memo says, or `remember` in its place, and returns whether it
    /// may be: where not, somebody has written or invalidated the item since the computation began.
    pub(crate) async fn keep(
        self,
        json: &str,
        remember: Option<Remember>,
        made_by: &MadeBy,
    ) -> Result<bool> {
        let cost = self.started.elapsed();
        let now = self.cache.now();
        let Memo { key, mut plan } = self.memo;
        if let Some(Remember::For { fresh, stale }) = remember {
            plan.fresh_for = Some(fresh);
            plan.stale_for = stale;
        }
        let mut freshness = plan.freshness(now, rand::random());
        let mut json = json;
        if remember == Some(Remember::Not) {
            // What is there has been superseded: nothing takes its place, under the same fence.
            json = "null";
            freshness = Freshness {
                stale_at: Some(now),
                expires_at: Some(now),
            };
        }
        let value: &RawValue = serde_json::from_str(json)
            .map_err(|error| Error::invalid(format!("the value of key {key:?}: {error}")))?;
        let text = JsonText(encode(&key, value, self.cache.max_value_bytes)?);
        // What is not remembered was made by nobody who could make it again.
        let made_by = match remember {
            Some(Remember::Not) => None,
            _ => Some(made_by.to_json()?),
        };
        let computed = Computed {
            value: &text,
            freshness,
            cost,
            links: &plan.links,
            made_by: made_by.as_ref(),
        };
        let written = self.cache.write_back(&key, self.lease, computed).await?;
        self.kept.end();
        Ok(written)
    }

    /// Keeps the error on the item. The job itself knows when it is tried again.
    pub(crate) async fn fail(self, message: String) {
        let Memo { key, .. } = &self.memo;
        let now = self.cache.now();
        let failure = Failure::told(message);
        match self.cache.fail(key, self.lease, &failure, now, None).await {
            Ok(()) => self.kept.end(),
            Err(error) => tracing::warn!(%key, %error, "the error of a computation is not kept"),
        }
    }
}
