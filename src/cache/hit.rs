//! The one read of a memoized value that is there.

use std::time::Duration;

use super::Cache;
use super::batch::Columns;
use super::memory::Filled;
use super::refresh::refreshes_early;
use crate::clock::Timestamp;
use crate::database::{Id, JsonText, Sql, query};
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
}

/// The columns of a [`Hit`].
pub(super) struct Memoized;

impl Columns for Memoized {
    const EACH: Sql = Sql::MemoReadEach;
    const HERE: Sql = Sql::MemoReadHere;
    type Row = HitRow<Option<JsonText>>;
    type Keyed = (
        String,
        Option<JsonText>,
        i64,
        Option<Timestamp>,
        Option<i64>,
        Option<Timestamp>,
        Option<Id>,
    );

    fn split(keyed: Self::Keyed) -> (String, Self::Row) {
        let (key, value, generation, stale_at, cost, retry_at, refresh) = keyed;
        (key, (value, generation, stale_at, cost, retry_at, refresh))
    }
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
            Some((None, ..)) => self.large_hit(key).await,
            None => Ok(None),
        }
    }

    async fn large_hit(&self, key: &str) -> Result<Option<Hit>> {
        let mut connection = self.database.read().await?;
        let mut tx = connection.tx();
        let row: Option<HitRow<JsonText>> = query!(
            self.database,
            tx,
            fetch_optional,
            Sql::MemoRead,
            &*self.namespace,
            key,
            self.now()
        )?;
        Ok(row.map(hit))
    }
}
