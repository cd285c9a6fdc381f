//! Keeping in memory what was read of late, for a stated time at most.

mod ear;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::Cache;
use super::batch::Columns;
use super::hit::hit;
use super::limits::decode;
use crate::clock::Timestamp;
use crate::database::{Id, JsonText, Sql};
use crate::error::Result;
use ear::Ear;
use store::{Entry, Moment, Store};

/// How much [`Cache::with_memory`] keeps, and for how long.
///
/// ```
/// use larder::cache::MemoryTier;
/// use std::time::Duration;
///
/// let tier = MemoryTier::default().items(1_000).max_staleness(Duration::from_millis(200));
/// assert_ne!(tier, MemoryTier::default());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryTier {
    items: u64,
    bytes: u64,
    max_staleness: Duration,
}

impl Default for MemoryTier {
    fn default() -> Self {
        Self {
            items: Self::DEFAULT_ITEMS,
            bytes: Self::DEFAULT_BYTES,
            max_staleness: Self::DEFAULT_MAX_STALENESS,
        }
    }
}

impl MemoryTier {
    /// The default of [`MemoryTier::items`]: 10,000.
    pub const DEFAULT_ITEMS: u64 = 10_000;
    /// The default of [`MemoryTier::bytes`]: 64 MiB.
    pub const DEFAULT_BYTES: u64 = 64 * 1024 * 1024;
    /// The default of [`MemoryTier::max_staleness`]: 1 s.
    pub const DEFAULT_MAX_STALENESS: Duration = Duration::from_secs(1);

    /// The most items that are kept.
    #[must_use]
    pub fn items(mut self, items: u64) -> Self {
        self.items = items;
        self
    }

    /// The most bytes that they come to: of keys, of values, and about what it takes to keep them.
    #[must_use]
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// How long after it was overwritten or deleted, wherever in the fleet, a value may still be read here.
    #[must_use]
    pub fn max_staleness(mut self, time: Duration) -> Self {
        self.max_staleness = time;
        self
    }
}

/// What all clones of a cache keep.
#[derive(Debug)]
pub(super) struct Memory {
    store: Arc<Store>,
    ear: Ear,
}

/// Held while this process writes. When it is dropped, nothing is kept any more of what was written, and whoever began to
/// read that before then keeps nothing of it either. So it need not be known whether a write that failed was one.
#[must_use = "it is to be held until the write is over"]
pub(crate) struct Writing<'a> {
    memory: &'a Memory,
    /// None where it may be anything.
    names: Option<Vec<(&'a str, String)>>,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let Some(names) = &self.names else {
            return self.memory.store.forget_all();
        };
        for (namespace, key) in names {
            self.memory.store.forget(namespace, key);
        }
    }
}

/// The columns of an [`Entry`].
pub(super) struct Kept;

impl Columns for Kept {
    const EACH: Sql = Sql::CacheKeepEach;
    // Of SQLite, where nothing is kept.
    const HERE: Sql = Sql::MemoReadHere;
    type Row = (
        Option<JsonText>,
        i64,
        Option<Timestamp>,
        Option<i64>,
        Option<Timestamp>,
        Option<Id>,
        Option<Timestamp>,
        bool,
    );
}

/// A live item of the database.
pub(super) enum Filled {
    Item(Arc<Entry>),
    /// Its value is to be read on its own, and is not kept.
    Large,
}

impl Cache {
    /// This cache with items kept in the memory of this process, on PostgreSQL: a [`get`](Cache::get), or a fresh
    /// [`memoize`](Cache::memoize) without early refresh, of one that is there takes a microsecond or two and asks nobody.
    /// What is kept is shared by the cache's clones and namespaces.
    ///
    /// - A value that was overwritten or deleted is not read any more once [`MemoryTier::max_staleness`] has gone by,
    ///   whatever happens to processes and connections. An item never outlives its deadline.
    /// - What is written by way of this cache, its clones and namespaces is seen by them at once. In a transaction of your
    ///   own (`_in`) that ends with the statement: between that and the commit, what is read is kept as it was.
    /// - What others write is told by PostgreSQL when they commit, as a rule within milliseconds, also what is written
    ///   past larder. Behind a PgBouncer in transaction mode nobody is, and `max_staleness` alone holds: with
    ///   [`prepared(false)`](crate::database::DatabaseOptions::prepared) nobody listens.
    /// - Every other operation, and `_in`, reads the current row. So does `get` of a key that has no item, and of a value
    ///   that takes over 64 KiB as it is stored.
    ///
    /// While any process has this on, and for a minute after, PostgreSQL sends a notification for each item that is
    /// overwritten or deleted, and has transactions that do so commit one after the other. On SQLite it changes nothing: a read there takes microseconds as it is, and
    /// what other processes write is told to nobody.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::cache::{Cache, MemoryTier};
    ///
    /// let cache = Cache::connect("sqlite::memory:").await?.with_memory(MemoryTier::default());
    /// cache.set("greeting", "hello").await?;
    /// assert_eq!(cache.get::<String>("greeting").await?.as_deref(), Some("hello"));
    /// cache.set("greeting", "good day").await?;
    /// assert_eq!(cache.get::<String>("greeting").await?.as_deref(), Some("good day"));
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn with_memory(mut self, tier: MemoryTier) -> Self {
        self.memory = self.place.database.has_many_writers().then(|| {
            Arc::new(Memory {
                store: Arc::new(Store::new(tier.items, tier.bytes, tier.max_staleness)),
                ear: Ear::default(),
            })
        });
        self
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.now(),
            instant: std::time::Instant::now(),
        }
    }

    /// The item of `key`, where memory has it.
    async fn remembered_here(&self, memory: &Memory, key: &str) -> Option<Arc<Entry>> {
        let entry = memory
            .store
            .get(&self.place.namespace, key, || self.moment())?;
        // Whoever reads without end lets others go between.
        tokio::task::coop::consume_budget().await;
        Some(entry)
    }

    /// The live item of `key` by way of the database, which is kept unless it is written meanwhile.
    pub(super) async fn fill(&self, memory: &Memory, key: &str) -> Result<Option<Filled>> {
        memory.ear.open(&self.place.database, &memory.store);
        let noted = memory.store.note(&self.place.namespace, key, self.moment());
        let (found, _) = self.calls.kept.read(self, key).await?;
        let Some((value, generation, stale_at, cost, retry_at, refresh, expires_at, linked)) =
            found
        else {
            return Ok(None);
        };
        let Some(value) = value else {
            return Ok(Some(Filled::Large));
        };
        let hit = hit((value, generation, stale_at, cost, retry_at, refresh));
        let entry = Arc::new(Entry::new(hit, expires_at, linked, &noted));
        memory
            .store
            .keep(&noted, &self.place.namespace, key, entry.clone());
        Ok(Some(Filled::Item(entry)))
    }

    /// [`Cache::get`] by way of memory.
    pub(super) async fn get_kept<T: DeserializeOwned>(
        &self,
        memory: &Memory,
        key: &str,
    ) -> Result<Option<T>> {
        if let Some(entry) = self.remembered_here(memory, key).await {
            return decode(key, &entry.hit.value).map(Some);
        }
        match self.fill(memory, key).await? {
            Some(Filled::Item(entry)) => decode(key, &entry.hit.value).map(Some),
            Some(Filled::Large) => Box::pin(self.get_large(key)).await,
            None => Ok(None),
        }
    }

    /// The memoized value of `key`, where memory has one that wants nothing. Whether one is refreshed early is left to
    /// chance, and that is asked once, of whoever reads the row.
    pub(super) async fn fresh_here<T: DeserializeOwned>(&self, key: &str, early: f64) -> Option<T> {
        let memory = self.memory.as_deref().filter(|_| early == 0.0)?;
        let entry = self.remembered_here(memory, key).await?;
        if entry.hit.wants_refresh(self.now(), 0.0) {
            return None;
        }
        // What cannot be read is told by whoever reads the row.
        decode(key, &entry.hit.value).ok()
    }

    /// To be held while `keys` are written.
    pub(crate) fn writing(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Option<Writing<'_>> {
        let memory = self.memory.as_deref()?;
        let named = |key: &dyn AsRef<str>| (&*self.place.namespace, key.as_ref().to_owned());
        Some(Writing {
            memory,
            names: Some(keys.into_iter().map(|key| named(&key)).collect()),
        })
    }

    /// To be held while many keys are written, and which is not known.
    pub(crate) fn writing_anything(&self) -> Option<Writing<'_>> {
        let memory = self.memory.as_deref()?;
        Some(Writing {
            memory,
            names: None,
        })
    }
}
