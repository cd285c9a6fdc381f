//! Deleting expired items in short batches, so that no writer waits for long.

use std::fmt;
use std::time::{Duration, Instant};

use super::Cache;
use crate::clock::Timestamp;
use crate::database::{Sql, query};
use crate::error::Result;

/// The first batch, and the bounds that later ones are fitted to.
const FIRST_BATCH: i64 = 500;
const LEAST_BATCH: i64 = 100;
const MOST_BATCH: i64 = 5_000;
/// How long a batch may take: what another writer waits for at the most, about.
const TARGET: Duration = Duration::from_millis(5);
/// The pause between two batches, in which other writers have their turn.
const PAUSE: Duration = Duration::from_millis(2);

/// Deleting expired items; made by [`Cache::purge`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let cache = larder::Cache::connect("sqlite::memory:").await?;
/// cache.set_with("old", &1, -1).await?;
/// cache.namespace("tenant-7")?.set_with("old", &1, -1).await?;
/// assert_eq!(cache.purge().all_namespaces().run().await?, 2);
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[must_use = "a purge does nothing until it is run"]
pub struct Purge<'a> {
    cache: &'a Cache,
    all_namespaces: bool,
    progress: Option<Box<dyn FnMut(u64) + Send + Sync + 'a>>,
}

impl fmt::Debug for Purge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Purge")
            .field("all_namespaces", &self.all_namespaces)
            .finish_non_exhaustive()
    }
}

impl<'a> Purge<'a> {
    pub(super) fn new(cache: &'a Cache) -> Self {
        Self {
            cache,
            all_namespaces: false,
            progress: None,
        }
    }

    /// In the root and every namespace, as the daemon purges.
    pub fn all_namespaces(mut self) -> Self {
        self.all_namespaces = true;
        self
    }

    /// Tells `progress` after each batch how many items were deleted so far.
    pub fn on_progress(mut self, progress: impl FnMut(u64) + Send + Sync + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// How many items are past their deadline in all namespaces now.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn count(&self) -> Result<u64> {
        let database = self.cache.database();
        let mut connection = database.read().await?;
        let mut tx = connection.tx();
        let (count,): (i64,) = query!(
            database,
            tx,
            fetch_one,
            Sql::CacheCountExpired,
            self.cache.now()
        )?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Deletes what had expired when it began, and returns how many items that were. An item that is renewed meanwhile
    /// stays; one that another transaction holds, that somebody computes or that others are built from is left for the
    /// next purge.
    ///
    /// # Errors
    /// Where the database fails; the batches before stay deleted.
    pub async fn run(mut self) -> Result<u64> {
        let now = self.cache.now();
        self.delete_vacant(now).await?;
        let (mut deleted, mut batch) = (0, FIRST_BATCH);
        loop {
            let started = Instant::now();
            let count = self.delete_batch(now, batch).await?;
            deleted += count;
            if let Some(progress) = &mut self.progress {
                progress(deleted);
            }
            if count < batch.unsigned_abs() {
                return Ok(deleted);
            }
            batch = fitted(batch, started.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What computations left that came to nothing; in all namespaces, since nobody can see them.
    async fn delete_vacant(&self, now: Timestamp) -> Result<()> {
        let database = self.cache.database();
        let mut connection = database.write().await?;
        query!(
            database,
            connection.tx(),
            execute,
            Sql::CachePurgeVacant,
            now
        )
        .map(drop)
    }

    async fn delete_batch(&self, now: Timestamp, batch: i64) -> Result<u64> {
        let database = self.cache.database();
        let mut connection = database.write().await?;
        let mut tx = connection.tx();
        if self.all_namespaces {
            return query!(database, tx, execute, Sql::CachePurge, now, batch);
        }
        query!(
            database,
            tx,
            execute,
            Sql::CachePurgeNamespace,
            now,
            batch,
            &*self.cache.namespace
        )
    }
}

/// The next batch's size: doubled or halved towards [`TARGET`].
fn fitted(batch: i64, took: Duration) -> i64 {
    if took > TARGET {
        (batch / 2).max(LEAST_BATCH)
    } else if took < TARGET / 2 {
        (batch * 2).min(MOST_BATCH)
    } else {
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_fitted_to_the_time_that_it_takes() {
        assert_eq!(fitted(500, TARGET * 2), 250);
        assert_eq!(fitted(500, TARGET / 4), 1_000);
        assert_eq!(fitted(500, TARGET * 3 / 4), 500);
        assert_eq!(fitted(LEAST_BATCH, TARGET * 2), LEAST_BATCH);
        assert_eq!(fitted(MOST_BATCH, Duration::ZERO), MOST_BATCH);
    }
}
