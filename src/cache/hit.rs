//! The one read of a memoized value that is there.

use std::time::Duration;

use super::Cache;
use super::batch::Columns;
use super::memory::Filled;
use super::refresh::refreshes_early;
use crate::clock::Timestamp;
use crate::database::{Bind, Id, JsonText, Sql, query};
use crate::error::Result;

/// A live item as the reader of a memoized value sees it.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    pub(super) value: String,
    pub(super) generation: i64,
    stale_at: Option<Timestamp>,
    cost: Option<i64>,
    retry_at: Option<Timestamp>,
    /// The job that was enqueued to refresh it.
    pub(super) refresh: Option<Id>,
}

impl Hit {
    pub(super) fn is_stale(&self, now: Timestamp) -> bool {
        self.stale_at.is_some_and(|stale_at| stale_at <= now)
    }

    /// Whether it is stale, or by chance is to be refreshed already.
    pub(super) fn wants_refresh(&self, now: Timestamp, beta: f64) -> bool {
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

    fn and_refresh(self, now: Timestamp, beta: f64) -> (String, Option<i64>) {
        let wants = self.wants_refresh(now, beta);
        (self.value, wants.then_some(self.generation))
    }
}

/// The value, and the generation that is to be refreshed: what most callers need, for the price of a `get`.
pub(super) struct Fresh;

impl Columns for Fresh {
    const EACH: Sql = Sql::MemoFreshEach;
    const HERE: Sql = Sql::MemoFreshHere;
    type Row = (Option<JsonText>, Option<i64>);

    fn parameters<'p>(
        namespace: &'p dyn Bind,
        key: &'p dyn Bind,
        now: &'p dyn Bind,
    ) -> [&'p dyn Bind; 3] {
        [now, namespace, key]
    }
}

/// The columns of a [`Hit`].
pub(super) struct Memoized;

impl Columns for Memoized {
    const EACH: Sql = Sql::MemoReadEach;
    const HERE: Sql = Sql::MemoReadHere;
    type Row = HitRow<Option<JsonText>>;
}

pub(super) type HitRow<V> = (
    V,
    i64,
    Option<Timestamp>,
    Option<i64>,
    Option<Timestamp>,
    Option<Id>,
);

pub(super) fn hit((value, generation, stale_at, cost, retry_at, refresh): HitRow<JsonText>) -> Hit {
    Hit {
        value: value.0,
        generation,
        stale_at,
        cost,
        retry_at,
        refresh,
    }
}

impl Cache {
    /// The live value, and the generation of which it is to be refreshed: where it is stale, or by a chance of `beta`.
    pub(super) async fn value_of(
        &self,
        key: &str,
        beta: f64,
    ) -> Result<Option<(String, Option<i64>)>> {
        if beta > 0.0 {
            // Not held by those who ask for no chance.
            let hit = Box::pin(self.hit(key)).await?;
            return Ok(hit.map(|hit| hit.and_refresh(self.now(), beta)));
        }
        match self.calls.fresh.read(self, key).await?.0 {
            Some((Some(value), to_refresh)) => Ok(Some((value.0, to_refresh))),
            Some((None, _)) => {
                let hit = Box::pin(self.large_hit(key)).await?;
                Ok(hit.map(|hit| hit.and_refresh(self.now(), beta)))
            }
            None => Ok(None),
        }
    }

    /// All of a live item.
    pub(super) async fn hit(&self, key: &str) -> Result<Option<Hit>> {
        if let Some(memory) = &self.memory {
            return match self.fill(memory, key).await? {
                Some(Filled::Item(entry)) => Ok(Some(entry.hit.clone())),
                Some(Filled::Large) => self.large_hit(key).await,
                None => Ok(None),
            };
        }
        let (found, _) = self.calls.hits.read(self, key).await?;
        match found {
            Some((Some(value), generation, stale_at, cost, retry_at, refresh)) => Ok(Some(hit((
                value, generation, stale_at, cost, retry_at, refresh,
            )))),
            Some((None, ..)) => Box::pin(self.large_hit(key)).await,
            None => Ok(None),
        }
    }

    async fn large_hit(&self, key: &str) -> Result<Option<Hit>> {
        let mut connection = self.place.database.read().await?;
        let mut tx = connection.tx();
        let row: Option<HitRow<JsonText>> = query!(
            self.place.database,
            tx,
            fetch_optional,
            Sql::MemoRead,
            &*self.place.namespace,
            key,
            self.now()
        )?;
        Ok(row.map(hit))
    }
}
