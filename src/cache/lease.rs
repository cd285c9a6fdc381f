//! The right to compute one key, held by one caller of the whole fleet until a deadline.
//!
//! The lease stands on the item's own row, which is vacant where there was no item. So whoever sets, deletes or clears the
//! item ends the lease with the same statement and under the same lock, and writing back asks for nothing but that the
//! row still names the computation. Expiry, touch and purge leave the lease alone.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::Cache;
use super::links::Links;
use super::write::new_generation;
use crate::clock::Timestamp;
use crate::database::{Id, JsonText, Sql, Tx, query};
use crate::error::{Error, Result};

/// The longest error that is kept, in characters.
const LONGEST_ERROR: usize = 2_000;

/// A computation that failed: what everybody who waited for it is told.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(error: Box<dyn StdError + Send + Sync>) -> Self {
        Self {
            message: error.to_string(),
            source: Some(Arc::from(error)),
        }
    }

    /// One of another process, of which the message alone is known, or a panic.
    pub(crate) fn told(message: String) -> Self {
        Self {
            message,
            source: None,
        }
    }

    pub(crate) fn message(&self) -> String {
        self.message.chars().take(LONGEST_ERROR).collect()
    }

    pub(crate) fn into_error(self, key: &str) -> Error {
        let message = format!("computing key {key:?} failed: {}", self.message);
        Error::computation(message, self.source)
    }
}

/// A lease that was taken. [`Cache::write_back`] and [`Cache::fail`] end it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    /// Drawn anew for each computation.
    pub(crate) holder: Id,
    /// How many computations have failed since the last value.
    pub(crate) failures: i32,
    /// Whether the item has tags or dependencies, of before or of this computation.
    linked: bool,
}

/// Who asks for a lease.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asker {
    /// A computation that is known to be over.
    pub(crate) previous: Option<Id>,
    /// The one whose failure the caller shares.
    pub(crate) awaited: Option<Id>,
    /// The job that computes, where it is one.
    pub(crate) job: Option<Id>,
    /// Whether what that job holds already is an earlier attempt's, which is over.
    pub(crate) takes_over: bool,
}

/// What came of asking for a lease.
#[derive(Debug)]
pub(crate) enum Taken {
    Lease(Lease),
    /// Somebody has written the item: its JSON.
    Value(Arc<str>),
    /// The error that stands for a value, or that of the computation that was waited for.
    Failure(Failure),
    /// This computation holds it.
    Held(Id),
    /// The row changed between the questions: ask again.
    Changed,
}

/// How long what was computed is good for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Freshness {
    pub(crate) stale_at: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
}

/// What a computation gives, and what is kept beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Computed<'a> {
    pub(crate) value: &'a JsonText,
    pub(crate) freshness: Freshness,
    pub(crate) cost: Duration,
    pub(crate) links: &'a Links,
    /// Where a job made it: what [`MadeBy`](super::MadeBy) says of that, as JSON.
    pub(crate) made_by: Option<&'a JsonText>,
}

impl Cache {
    /// Takes the lease of `key`, unless somebody holds it, or has written the item since generation `seen` was read.
    pub(crate) async fn take_lease(
        &self,
        key: &str,
        links: &Links,
        seen: Option<i64>,
        asker: Asker,
    ) -> Result<Taken> {
        let now = self.now();
        let holder = Id(Uuid::now_v7());
        let until = self.lease_until(now);
        let take = async |mut tx: Tx<'_>| -> Result<Option<(i32, bool)>> {
            query!(
                self.place.database,
                tx,
                fetch_optional,
                Sql::LeaseTake,
                &*self.place.namespace,
                key,
                new_generation(),
                now,
                holder,
                until,
                asker.previous,
                seen,
                !links.is_empty(),
                asker.awaited,
                asker.job,
                asker.job.filter(|_| asker.takes_over)
            )
        };
        // What has links is kept otherwise than what has none.
        let _writing = (!links.is_empty()).then(|| self.writing([key]));
        let taken = if links.is_empty() {
            take(self.place.database.write().await?.tx()).await?
        } else {
            // Whoever clears a tag from now on meets the computation too.
            let mut transaction = self.place.database.begin().await?;
            let taken = take((&mut transaction).into()).await?;
            if taken.is_some() {
                let mut tx = Tx::from(&mut transaction);
                self.add_links(&mut tx, links, [key]).await?;
            }
            transaction.commit().await?;
            // A write of one of them from now on meets the computation; one that is under way is waited for. Not before,
            // since whoever invalidates holds that row first and this one after.
            if taken.is_some() {
                self.need(links.dependencies()).await?;
            }
            taken
        };
        if let Some((failures, linked)) = taken {
            return Ok(Taken::Lease(Lease {
                holder,
                failures,
                linked,
            }));
        }
        self.why_not(key, asker.awaited).await
    }

    async fn why_not(&self, key: &str, awaited: Option<Id>) -> Result<Taken> {
        type Row = (
            Option<JsonText>,
            Option<Id>,
            Option<Id>,
            Option<String>,
            bool,
        );
        let mut connection = self.place.database.read().await?;
        let mut tx = connection.tx();
        let row: Option<Row> = query!(
            self.place.database,
            tx,
            fetch_optional,
            Sql::LeaseState,
            &*self.place.namespace,
            key,
            self.now()
        )?;
        Ok(match row {
            Some((Some(value), ..)) => Taken::Value(value.0.into()),
            Some((None, _, failed, Some(error), stands))
                if stands || failed.is_some() && failed == awaited =>
            {
                Taken::Failure(Failure::told(error))
            }
            Some((None, Some(holder), ..)) => Taken::Held(holder),
            Some((None, None, ..)) | None => Taken::Changed,
        })
    }

    fn lease_until(&self, now: Timestamp) -> Timestamp {
        now.saturating_add(TimeDelta::from_std(self.lease).unwrap_or(TimeDelta::MAX))
    }

    /// Whether no open transaction has cleared what `key` falls under. One that had, before the lease was taken, may not
    /// have met it; one that does from now on will.
    pub(crate) async fn is_unclaimed(&self, links: &Links) -> Result<bool> {
        let scopes: Vec<String> = std::iter::once(self.scope_of_namespace())
            .chain(links.tags().map(|tag| self.scope_of_tag(tag)))
            .collect();
        self.place
            .database
            .is_free(scopes.iter().map(String::as_str))
            .await
    }

    pub(super) fn scope_of_namespace(&self) -> String {
        format!("namespace\0{}", self.place.namespace)
    }

    pub(super) fn scope_of_tag(&self, tag: &str) -> String {
        format!("tag\0{}\0{tag}", self.place.namespace)
    }

    /// Moves the lease's deadline, and returns whether it is still held.
    pub(crate) async fn renew_lease(&self, key: &str, lease: Lease) -> Result<bool> {
        let until = self.lease_until(self.now());
        let mut connection = self.place.database.write().await?;
        let mut tx = connection.tx();
        let renewed = query!(
            self.place.database,
            tx,
            execute,
            Sql::LeaseRenew,
            &*self.place.namespace,
            key,
            lease.holder,
            until
        )?;
        Ok(renewed > 0)
    }

    /// Gives the lease back; who waits for it may take it at once.
    pub(crate) async fn release_lease(&self, key: &str, lease: Lease) -> Result<()> {
        let mut connection = self.place.database.write().await?;
        let mut tx = connection.tx();
        let _: Option<(i32,)> = query!(
            self.place.database,
            tx,
            fetch_optional,
            Sql::LeaseRelease,
            &*self.place.namespace,
            key,
            lease.holder
        )?;
        Ok(())
    }

    /// Ends the lease with a value, and returns whether it was still held: where not, somebody has written or
    /// invalidated the item meanwhile, or taken the lease over, and nothing is changed.
    pub(crate) async fn write_back(
        &self,
        key: &str,
        lease: Lease,
        computed: Computed<'_>,
    ) -> Result<bool> {
        let _writing = self.writing([key]);
        if !lease.linked {
            let mut connection = self.place.database.write().await?;
            return self
                .write_back_in(&mut connection.tx(), key, lease, computed)
                .await;
        }
        let mut transaction = self.place.database.begin().await?;
        let mut tx = Tx::from(&mut transaction);
        let written = self.write_back_in(&mut tx, key, lease, computed).await?;
        transaction.commit().await?;
        Ok(written)
    }

    /// [`Cache::write_back`] in the caller's transaction.
    async fn write_back_in(
        &self,
        tx: &mut Tx<'_>,
        key: &str,
        lease: Lease,
        computed: Computed<'_>,
    ) -> Result<bool> {
        let Computed {
            value,
            freshness,
            cost,
            links,
            made_by,
        } = computed;
        let cost = i64::try_from(cost.as_micros()).unwrap_or(i64::MAX);
        let written: Option<(i32,)> = query!(
            self.place.database,
            tx,
            fetch_optional,
            Sql::LeaseWriteBack,
            &*self.place.namespace,
            key,
            lease.holder,
            value,
            freshness.expires_at,
            freshness.stale_at,
            cost,
            new_generation(),
            self.now(),
            !links.is_empty(),
            made_by
        )?;
        if written.is_some() && lease.linked {
            self.keep_links(tx, links, [key]).await?;
        }
        Ok(written.is_some())
    }

    /// Ends the lease with an error, which is kept on the item. The next refresh may come at `retry_at`; until
    /// `error_until` the error stands for a value.
    pub(crate) async fn fail(
        &self,
        key: &str,
        lease: Lease,
        failure: &Failure,
        retry_at: Timestamp,
        error_until: Option<Timestamp>,
    ) -> Result<()> {
        let mut connection = self.place.database.write().await?;
        let mut tx = connection.tx();
        let _: Option<(i32,)> = query!(
            self.place.database,
            tx,
            fetch_optional,
            Sql::LeaseFail,
            &*self.place.namespace,
            key,
            lease.holder,
            failure.message().replace('\0', " "),
            retry_at,
            error_until
        )?;
        Ok(())
    }

    /// Renews the lease at a third of its time until the guard is dropped, in a task of its own: a computation that does
    /// not yield must not cost itself the lease. One that was not ended is then given back.
    pub(crate) fn keep_lease(&self, key: &str, lease: Lease) -> KeptLease {
        let (cache, owned) = (self.clone(), key.to_owned());
        let renewals = tokio::spawn(async move {
            let mut pause = cache.lease / 3;
            loop {
                tokio::time::sleep(pause).await;
                match cache.renew_lease(&owned, lease).await {
                    Ok(true) => pause = cache.lease / 3,
                    Ok(false) => return,
                    Err(error) => {
                        tracing::warn!(key = %owned, %error, "a lease is not renewed yet");
                        pause = cache.lease / 30;
                    }
                }
            }
        });
        KeptLease {
            cache: self.clone(),
            key: key.to_owned(),
            lease: Some(lease),
            renewals: renewals.abort_handle(),
        }
    }
}

/// A lease that is renewed, and given back where its computation panics or is cancelled.
#[derive(Debug)]
pub(crate) struct KeptLease {
    cache: Cache,
    key: String,
    lease: Option<Lease>,
    renewals: AbortHandle,
}

impl KeptLease {
    /// Leaves the lease to the caller, who ends it.
    pub(crate) fn end(mut self) {
        self.lease = None;
    }
}

impl Drop for KeptLease {
    fn drop(&mut self) {
        self.renewals.abort();
        let (Some(lease), Ok(runtime)) = (self.lease, tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (cache, key) = (self.cache.clone(), std::mem::take(&mut self.key));
        runtime.spawn(async move {
            if let Err(error) = cache.release_lease(&key, lease).await {
                tracing::warn!(%key, %error, "a lease is not given back, and ends at its deadline");
            }
        });
    }
}
