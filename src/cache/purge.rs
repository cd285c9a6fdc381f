//! Deleting expired items in short batches, so that no writer waits for long.

use std::fmt;
use std::time::{Duration, Instant};

use super::Cache;
use crate::clock::Timestamp;
use crate::database::{Connection, Database, JsonText, Sql, Tx, query};
use crate::error::{Error, Result};

/// The first batch, and the bounds that later ones are fitted to.
const FIRST_BATCH: usize = 500;
/// The first one of a connection that knows neither the statement nor any page yet.
const COLD_BATCH: usize = 100;
const LEAST_BATCH: usize = 20;
const MOST_BATCH: usize = 5_000;

/// How long a batch may take, about. SQLite has one writer. Those of other processes look for the end of the batch at 1, 3 and
/// 8 ms: what they meet is a pause.
const ONE_WRITER: Duration = Duration::from_millis(3);
/// The pause after a batch. Timers are late by up to a millisecond, and 2 ms are enough.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest, while the disk has not taken what was written.
const LONG_PAUSE: Duration = Duration::from_millis(30);
/// On PostgreSQL a batch holds up those who want its very rows, and those who want its processor: a system may leave them
/// waiting for a process that has much to do, for several milliseconds each time, although another processor is idle.
const MANY_WRITERS: Duration = Duration::from_millis(2);
/// So many expired rows are sorted at once, some 8 bytes each.
const LISTED: usize = 500_000;
/// And so many listed by one read, which keeps what is written meanwhile from being folded.
const LISTED_AT_ONCE: usize = 50_000;
/// After so many batches the log is folded, in the place of a pause: what is left of it for a writer to fold is little.
const FOLD: u64 = 2;

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
        if self.cache.database().has_many_writers() {
            return self.by_deadline(now).await;
        }
        let database = self.cache.database().aside();
        let deleted = self.by_place(&database, now).await;
        database.close_apart_from(self.cache.database()).await;
        deleted
    }

    /// From the oldest deadline on, passing by what others hold; on one connection as long as others have some.
    async fn by_deadline(&mut self, now: Timestamp) -> Result<u64> {
        let (mut deleted, mut batch, mut from) = (0, FIRST_BATCH, Timestamp::MIN);
        let mut kept = None;
        loop {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.cache.database().write().await?,
            };
            let started = Instant::now();
            let (found, count, last) = self.delete_batch(&mut connection, now, batch, from).await?;
            let took = started.elapsed();
            let database = self.cache.database();
            kept = database.can_spare_a_connection().then_some(connection);
            deleted += count;
            self.tell(deleted);
            // Of those that were found some may have been renewed since, or be kept by somebody's trigger.
            if found < batch as u64 || count == 0 {
                return Ok(deleted);
            }
            // What was deleted leaves entries in the index, which the next batch need not pass.
            from = last.unwrap_or(from);
            batch = fitted(MANY_WRITERS, batch, took);
        }
    }

    /// Where they lie in the file: neighbours share pages, and each page that a batch touches is written anew.
    async fn by_place(&mut self, database: &Database, now: Timestamp) -> Result<u64> {
        let (mut deleted, mut batches, mut size) = (0, 0_u64, COLD_BATCH);
        let mut after = (Timestamp::MIN, 0);
        loop {
            let listed = list_in_pieces(database, now, after, LISTED, LISTED_AT_ONCE).await?;
            let Some((mut places, last)) = listed else {
                return Ok(deleted);
            };
            after = last;
            let is_last = places.len() < LISTED;
            places.sort_unstable();
            let mut rest = places.as_slice();
            while !rest.is_empty() {
                let (batch, others) = rest.split_at(size.min(rest.len()));
                rest = others;
                let (count, took) = self.delete_places(database, now, batch).await?;
                deleted += count;
                batches += 1;
                self.tell(deleted);
                if rest.is_empty() && is_last {
                    return Ok(deleted);
                }
                size = fitted(ONE_WRITER, size, took);
                let is_folded_aside = self.cache.database().have_log_looked_at();
                if !is_folded_aside && batches.is_multiple_of(FOLD) {
                    database.fold_log().await?;
                } else {
                    let database = self.cache.database();
                    pause(|| database.have_log_looked_at() && database.is_log_behind()).await;
                }
            }
        }
    }

    fn tell(&mut self, deleted: u64) {
        if let Some(progress) = &mut self.progress {
            progress(deleted);
        }
    }

    /// What computations left that came to nothing; in all namespaces, since nobody can see them.
    async fn delete_vacant(&self, now: Timestamp) -> Result<()> {
        let database = self.cache.database();
        let (target, pauses) = if database.has_many_writers() {
            (MANY_WRITERS, false)
        } else {
            (ONE_WRITER, true)
        };
        let mut batch = FIRST_BATCH;
        loop {
            let mut connection = database.write().await?;
            let started = Instant::now();
            let most = i64::try_from(batch).unwrap_or(i64::MAX);
            let mut tx = connection.tx();
            let count = query!(database, tx, execute, Sql::CachePurgeVacant, now, most)?;
            drop(connection);
            if count < batch as u64 {
                return Ok(());
            }
            batch = fitted(target, batch, started.elapsed());
            if pauses {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Deletes items of up to `batch` that are found, and returns how many were found, how many of these it deleted, and the
    /// last of their deadlines.
    async fn delete_batch(
        &self,
        connection: &mut Connection,
        now: Timestamp,
        batch: usize,
        from: Timestamp,
    ) -> Result<(u64, u64, Option<Timestamp>)> {
        let database = self.cache.database();
        let batch = i64::try_from(batch).unwrap_or(i64::MAX);
        let mut tx = connection.tx();
        let (found, count, last, _): (i64, i64, Option<Timestamp>, String) = query!(
            database,
            tx,
            fetch_one,
            Sql::CachePurge,
            now,
            batch,
            from,
            self.namespace()
        )?;
        let counted = |count| u64::try_from(count).unwrap_or(0);
        Ok((counted(found), counted(count), last))
    }

    /// The one that is purged, where it is not all of them.
    fn namespace(&self) -> Option<&str> {
        (!self.all_namespaces).then_some(&*self.cache.place.namespace)
    }

    /// Deletes those of the rows that may go still, and returns how many these were and how long others were held up.
    async fn delete_places(
        &self,
        database: &Database,
        now: Timestamp,
        places: &[i64],
    ) -> Result<(u64, Duration)> {
        let places = JsonText(serde_json::json!(places).to_string());
        let mut transaction = database.begin_at_once().await?;
        let started = Instant::now();
        let mut tx = Tx::from(&mut transaction);
        let count = query!(
            database,
            tx,
            execute,
            Sql::CachePurgePlaces,
            now,
            places,
            self.namespace()
        )?;
        transaction.commit_quietly().await?;
        Ok((count, started.elapsed()))
    }
}

/// Lets others write, and the disk take what was written.
async fn pause(is_behind: impl Fn() -> bool) {
    let began = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(PAUSE).await;
        if !is_behind() || began.elapsed() >= LONG_PAUSE {
            return;
        }
    }
}

/// As [`list`], `at_once` by one read; up to as many more as `most`.
async fn list_in_pieces(
    database: &Database,
    now: Timestamp,
    mut after: (Timestamp, i64),
    most: usize,
    at_once: usize,
) -> Result<Option<(Vec<i64>, (Timestamp, i64))>> {
    let mut places = Vec::new();
    while places.len() < most
        && let Some((more, last)) = list(database, now, after, at_once).await?
    {
        places.extend(more);
        after = last;
    }
    Ok((!places.is_empty()).then_some((places, after)))
}

/// Where so many items lie that have expired, by their deadlines, and deadline and place of the last of them; of those that
/// come after one such. None where there are no more.
async fn list(
    database: &Database,
    now: Timestamp,
    after: (Timestamp, i64),
    most: usize,
) -> Result<Option<(Vec<i64>, (Timestamp, i64))>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut connection = database.read().await?;
    let mut tx = connection.tx();
    let (places, deadline): (String, Option<Timestamp>) = query!(
        database,
        tx,
        fetch_one,
        Sql::CacheExpiredPlaces,
        now,
        after.0,
        after.1,
        most
    )?;
    let places: Vec<i64> = serde_json::from_str(&places)
        .map_err(|error| Error::invalid(format!("SQLite lists rows by no numbers: {error}")))?;
    let last = deadline.zip(places.last().copied());
    Ok(last.map(|last| (places, last)))
}

/// The next batch's size: what would take `target` by the pace of the last, and at most twice or half of it.
fn fitted(target: Duration, size: usize, took: Duration) -> usize {
    let took = usize::try_from(took.as_micros()).unwrap_or(usize::MAX);
    let target = usize::try_from(target.as_micros()).unwrap_or(usize::MAX);
    let fit = size.saturating_mul(target) / took.max(1);
    fit.clamp(size / 2, size * 2).clamp(LEAST_BATCH, MOST_BATCH)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // SQLite alone deletes by place.
    #[tokio::test]
    async fn what_expired_at_one_instant_is_listed_once_and_in_pieces() {
        let cache = Cache::connect("sqlite::memory:").await.unwrap();
        let items = (0..10).map(|n| (n.to_string(), n));
        cache.set_many(items.collect::<Vec<_>>(), -1).await.unwrap();
        cache.set_with("older", &1, -2).await.unwrap();
        cache.set_with("live", &1, 3_600).await.unwrap();
        let (database, now) = (cache.database(), cache.now());
        let (mut listed, mut after) = (Vec::new(), (Timestamp::MIN, 0));
        while let Some((places, last)) = list_in_pieces(database, now, after, 5, 3).await.unwrap() {
            assert!([6, 5].contains(&places.len()), "{places:?}");
            listed.extend(places);
            after = last;
        }
        assert_eq!(listed.len(), 11);
        listed.sort_unstable();
        listed.dedup();
        assert_eq!(listed.len(), 11);
        assert_eq!(cache.clear_expired().await.unwrap(), 11);
    }

    #[tokio::test]
    async fn a_pause_lasts_while_the_log_is_behind_and_ends_though_the_disk_takes_nothing() {
        let looks = std::cell::Cell::new(0);
        let look = || looks.replace(looks.get() + 1);
        pause(|| look() < 2).await;
        assert_eq!(looks.get(), 3);
        pause(|| true).await;
    }

    #[test]
    fn a_batch_is_fitted_to_the_time_that_it_takes() {
        let target = ONE_WRITER;
        assert_eq!(fitted(target, 500, target * 5 / 4), 400);
        assert_eq!(fitted(target, 500, target * 4 / 5), 625);
        assert_eq!(fitted(target, 500, target * 9), 250);
        assert_eq!(fitted(target, 500, target / 9), 1_000);
        assert_eq!(fitted(target, LEAST_BATCH, target * 2), LEAST_BATCH);
        assert_eq!(fitted(target, MOST_BATCH, Duration::ZERO), MOST_BATCH);
    }
}
