//! [`Cache`]: operations on keys. [`Cached`] is the handle of one key.

mod batch;
mod cached;
mod clear;
mod expiration;
mod flight;
mod hit;
pub(crate) mod lease;
mod limits;
pub(crate) mod links;
mod memo;
mod memoize;
mod memory;
mod nested;
mod purge;
mod read;
mod refresh;
mod remake;
mod remembered;
mod rows;
mod run;
mod tags;
#[cfg(feature = "worker")]
mod turn;
mod waits;
mod write;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{Stream, TryStreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use batch::{Place, Write};
pub use cached::Cached;
pub use expiration::Expiration;
pub(crate) use limits::{check_depth, check_text, decode};
use limits::{check_key, check_prefix, encode};
pub use memo::Memo;
pub(crate) use memo::unique_key;
pub use memoize::Memoize;
pub use memory::MemoryTier;
pub use purge::Purge;
#[cfg(feature = "worker")]
pub(crate) use remake::MadeBy;
pub(crate) use remake::{Remake, Remakes};
pub(crate) use remembered::Remembered;
use rows::rows_of_keys;
pub use tags::Tagged;
pub(crate) use tags::What;
#[cfg(feature = "worker")]
pub(crate) use turn::{Remember, Turn};

use crate::clock::Timestamp;
use crate::database::{Database, Id};
use crate::error::Result;

/// A cache in a database. Stateless and cheap to clone: every read sees the current row, unless
/// [`Cache::with_memory`] is asked for.
///
/// Values are anything that serialises to JSON; what is stored comes back byte for byte
/// (read a `Box<serde_json::value::RawValue>` to see it so). Keys are 1 to 1,024 bytes of UTF-8 without NUL.
/// An item is live until its deadline; one that is not live reads as absent, whether or not it has been purged.
///
/// Every operation has a form that ends in `_in` and runs in the caller's own transaction.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use larder::{Cache, Expiration};
/// use std::time::Duration;
///
/// let cache = Cache::connect("sqlite::memory:").await?;
/// cache.set("greeting", "hello").await?;
/// cache.set_with("answer", &42, Expiration::after(Duration::from_secs(60))).await?;
///
/// assert_eq!(cache.get::<String>("greeting").await?, Some("hello".to_owned()));
/// assert_eq!(cache.get::<i64>("answer").await?, Some(42));
/// assert_eq!(cache.get::<i64>("question").await?, None);
/// assert!(cache.delete("greeting").await?);
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Cache {
    place: Place,
    max_value_bytes: usize,
    lease: Duration,
    flights: Arc<flight::Flights>,
    ears: Arc<waits::Ears>,
    calls: Arc<batch::Calls>,
    memory: Option<Arc<memory::Memory>>,
}

/// The time that a live item has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// It has no deadline.
    Never,
    /// This long, in whole milliseconds; more than zero.
    Left(Duration),
}

/// What a live item carries beside its value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ItemInfo {
    /// When it was first written; overwriting a live item keeps this.
    pub created_at: DateTime<Utc>,
    /// When its value was last written; never before `created_at`.
    pub updated_at: DateTime<Utc>,
    /// Its deadline, if it has one.
    pub expires_at: Option<DateTime<Utc>>,
    /// Drawn anew at every write of the value: two reads that see the same one saw the same write.
    pub generation: i64,
    /// When it becomes stale, or became so; a memoized value is refreshed then.
    pub stale_at: Option<DateTime<Utc>>,
    /// How long its computation took, where it was memoized.
    pub cost: Option<Duration>,
    /// Its tags, in the order of their bytes.
    pub tags: Vec<String>,
    /// The keys that it was built from, in the order of their bytes.
    pub depends_on: Vec<String>,
    /// The deadline of whoever computes its next value now.
    pub lease_until: Option<DateTime<Utc>>,
    /// The error of its last refresh, where that failed.
    pub last_error: Option<String>,
    /// How many computations have failed since the value was written.
    pub failures: u32,
    /// The job that was enqueued to refresh it, computes its next value, or computed this one.
    pub job: Option<Id>,
}

/// Counts over a cache's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// All items that have a row: `expired + unexpired + forever`.
    pub total: u64,
    /// Items past their deadline, not yet purged.
    pub expired: u64,
    /// Live items with a deadline.
    pub unexpired: u64,
    /// Items without a deadline.
    pub forever: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// When the oldest item was created.
    pub oldest: Option<DateTime<Utc>>,
    /// When the newest item was created.
    pub newest: Option<DateTime<Utc>>,
}

impl Cache {
    /// The default of [`Cache::with_max_value_bytes`]: 16 MiB.
    pub const DEFAULT_MAX_VALUE_BYTES: usize = 16 * 1024 * 1024;
    /// The default of [`Cache::with_lease`]: 30 s.
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);

    /// The cache in the database at `url`, whose tables are laid if it has none.
    ///
    /// # Errors
    /// As [`Database::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self::new(Database::connect(url).await?))
    }

    /// The cache in `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self {
            place: Place {
                database,
                namespace: "".into(),
            },
            max_value_bytes: Self::DEFAULT_MAX_VALUE_BYTES,
            lease: Self::DEFAULT_LEASE,
            flights: Arc::default(),
            ears: Arc::default(),
            calls: Arc::default(),
            memory: None,
        }
    }

    /// This cache with another limit of a value's JSON, in bytes.
    #[must_use]
    pub fn with_max_value_bytes(mut self, bytes: usize) -> Self {
        self.max_value_bytes = bytes;
        self
    }

    /// This cache with another lease: how long whoever computes a value for [`Cache::memoize`] may be silent until
    /// somebody else computes it. It is renewed while they compute; only one that has died or hangs lets it end.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(3));
        self
    }

    /// A cache of its own in the same database: every operation stays inside it, and those of the root outside.
    ///
    /// # Errors
    /// Where `name` is longer than 128 bytes or holds a NUL. The empty name is the root.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let cache = larder::Cache::connect("sqlite::memory:").await?;
    /// let tenant = cache.namespace("tenant-7")?;
    /// tenant.set("key", &1).await?;
    /// assert!(!cache.exists("key").await?);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    pub fn namespace(&self, name: &str) -> Result<Self> {
        check_text("a namespace", name, 0, 128)?;
        Ok(Self {
            place: Place {
                database: self.place.database.clone(),
                namespace: name.into(),
            },
            ..self.clone()
        })
    }

    /// The database that it is in.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.place.database
    }

    fn now(&self) -> Timestamp {
        self.place.database.clock().now()
    }

    /// The deadline of a live item, and the instant at which it was live.
    async fn deadline(&self, key: &str) -> Result<(Option<Option<Timestamp>>, Timestamp)> {
        check_key(key)?;
        let (found, now) = self.calls.deadlines.read(self, key).await?;
        Ok((found.map(|(deadline,)| deadline), now))
    }

    /// The handle of one key.
    #[must_use]
    pub fn cached<T>(&self, key: impl Into<String>) -> Cached<T> {
        Cached::new(self.clone(), key.into())
    }

    /// The value of `key`, or `None` where there is no live item. A stored `null` is a hit.
    ///
    /// # Errors
    /// Where the key is not valid, the stored value does not fit `T`, or the database fails.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        check_key(key)?;
        if let Some(memory) = &self.memory {
            return self.get_kept(memory, key).await;
        }
        let (found, _) = self.calls.gets.read(self, key).await?;
        match found {
            Some((Some(text),)) => decode(key, &text.0).map(Some),
            Some((None,)) => Box::pin(self.get_large(key)).await,
            None => Ok(None),
        }
    }

    async fn get_large<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.get_in(self.place.database.read().await?.tx(), key)
            .await
    }

    /// The values of those of `keys` that have a live item, in one statement.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn get_many<T: DeserializeOwned>(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<HashMap<String, T>> {
        self.get_many_of(rows_of_keys(keys)?).await
    }

    /// Stores `value`; a live item keeps its deadline, a new or expired one gets none.
    ///
    /// # Errors
    /// Where the key is not valid, the value does not serialise or is too large or too deep, or the database fails.
    /// Nothing is then stored.
    pub async fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<()> {
        self.set_with(key, value, Expiration::Keep).await
    }

    /// Stores `value` until `expiration`.
    ///
    /// # Errors
    /// As [`Cache::set`], and where the deadline is out of range.
    pub async fn set_with<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        expiration: impl Into<Expiration>,
    ) -> Result<()> {
        let text = encode(key, value, self.max_value_bytes)?;
        let deadline = expiration.into().deadline(self.now())?;
        let _writing = self.writing([key]);
        let write = Write::Set {
            key: key.to_owned(),
            text,
            at: deadline.at,
            keep: deadline.keep,
        };
        self.calls.writes.ask(&self.place, write).await?;
        Ok(())
    }

    /// Stores many items until `expiration`, all or none. Where a key comes twice, the last wins.
    ///
    /// # Errors
    /// As [`Cache::set_with`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let cache = larder::Cache::connect("sqlite::memory:").await?;
    /// cache.set_many([("a", 1), ("b", 2), ("a", 3)], larder::Expiration::Never).await?;
    /// assert_eq!(cache.get_many::<i64>(["a", "b", "c"]).await?, [("a".into(), 3), ("b".into(), 2)].into());
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    pub async fn set_many<T: Serialize>(
        &self,
        items: impl IntoIterator<Item = (impl AsRef<str>, T)>,
        expiration: impl Into<Expiration>,
    ) -> Result<()> {
        let items: Vec<_> = items.into_iter().collect();
        let _writing = self.writing(items.iter().map(|(key, _)| key));
        let mut transaction = self.place.database.begin_briefly().await?;
        self.set_many_in(&mut transaction, items, expiration)
            .await?;
        transaction.commit().await
    }

    /// Stores `value` only if there is no live item, and returns whether it did. Of many that race, one wins.
    /// [`Expiration::Keep`] means no deadline here.
    ///
    /// # Errors
    /// As [`Cache::set_with`].
    pub async fn add<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        expiration: impl Into<Expiration>,
    ) -> Result<bool> {
        self.add_in(
            self.place.database.write().await?.tx(),
            key,
            value,
            expiration,
        )
        .await
    }

    /// Stores `value` only if the live item is still of `generation`, or only if there is none where that is `None`, and
    /// returns whether it did. Of many that race, one wins. The generation is in [`Cache::info`] and
    /// [`Cached::generation`].
    ///
    /// # Errors
    /// As [`Cache::set_with`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::{Cache, Expiration};
    ///
    /// let cache = Cache::connect("sqlite::memory:").await?;
    /// assert!(cache.set_if("key", "first", None, Expiration::Never).await?);
    /// let seen = cache.info("key").await?.unwrap().generation;
    /// cache.set("key", "somebody else's").await?;
    /// assert!(!cache.set_if("key", "second", seen, Expiration::Never).await?);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    pub async fn set_if<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        generation: impl Into<Option<i64>>,
        expiration: impl Into<Expiration>,
    ) -> Result<bool> {
        let mut connection = self.place.database.write().await?;
        self.set_if_in(connection.tx(), key, value, generation, expiration)
            .await
    }

    /// Deletes the item, and returns whether there was a row, live or not. What was built from it goes too.
    ///
    /// # Errors
    /// Where the key is not valid or the database fails.
    pub async fn delete(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        let _writing = self.writing([key]);
        let key = key.to_owned();
        self.calls
            .writes
            .ask(&self.place, Write::Delete { key })
            .await
    }

    /// Deletes many items in one statement, and returns how many rows there were, live or not.
    ///
    /// # Errors
    /// As [`Cache::delete`].
    pub async fn delete_many(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<u64> {
        let keys: Vec<_> = keys.into_iter().collect();
        let mut connection = self.place.database.write().await?;
        let rows = self.delete_rows(&mut connection.tx(), keys).await?;
        Ok(write::count_items(&rows))
    }

    /// Whether there is a live item.
    ///
    /// # Errors
    /// Where the key is not valid or the database fails.
    pub async fn exists(&self, key: &str) -> Result<bool> {
        Ok(self.deadline(key).await?.0.is_some())
    }

    /// Gives a live item another deadline without rewriting its value, and returns whether there was one.
    ///
    /// # Errors
    /// Where the key is not valid, the deadline is out of range, or the database fails.
    pub async fn touch(&self, key: &str, expiration: impl Into<Expiration>) -> Result<bool> {
        self.touch_in(self.place.database.write().await?.tx(), key, expiration)
            .await
    }

    /// Adds `delta` to a counter in one atomic statement, and returns its new value. A missing or expired key starts
    /// at `delta` with `expiration`; a live one keeps its deadline; a stored `null` counts as 0.
    ///
    /// # Errors
    /// Where the stored value or the new one is not an integer of at most 18 digits
    /// ([`is_not_a_counter`](crate::Error::is_not_a_counter)), and as [`Cache::touch`]. Nothing is then changed.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let cache = larder::Cache::connect("sqlite::memory:").await?;
    /// assert_eq!(cache.increment("visits", 1, 3600).await?, 1);
    /// assert_eq!(cache.increment("visits", 10, 3600).await?, 11);
    /// assert_eq!(cache.decrement("visits", 1, 3600).await?, 10);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    pub async fn increment(
        &self,
        key: &str,
        delta: i64,
        expiration: impl Into<Expiration>,
    ) -> Result<i64> {
        self.increment_in(
            self.place.database.write().await?.tx(),
            key,
            delta,
            expiration,
        )
        .await
    }

    /// Takes `delta` from a counter, as [`Cache::increment`] adds it.
    ///
    /// # Errors
    /// As [`Cache::increment`].
    pub async fn decrement(
        &self,
        key: &str,
        delta: i64,
        expiration: impl Into<Expiration>,
    ) -> Result<i64> {
        self.decrement_in(
            self.place.database.write().await?.tx(),
            key,
            delta,
            expiration,
        )
        .await
    }

    /// The time that a live item has left, or `None` where there is none.
    ///
    /// # Errors
    /// Where the key is not valid or the database fails.
    pub async fn ttl(&self, key: &str) -> Result<Option<Ttl>> {
        let (deadline, now) = self.deadline(key).await?;
        Ok(deadline.map(|at| read::ttl(at, now)))
    }

    /// What a live item carries beside its value.
    ///
    /// # Errors
    /// Where the key is not valid or the database fails.
    pub async fn info(&self, key: &str) -> Result<Option<ItemInfo>> {
        self.info_in(self.place.database.read().await?.tx(), key)
            .await
    }

    /// The keys of live items that begin with `prefix`, in the order of their bytes. They are read in pages, by key:
    /// no cursor is held, and a key that is added or deleted meanwhile may or may not be among them. Its items are
    /// errors where no key can have the prefix, or the database fails.
    pub fn keys(&self, prefix: &str) -> impl Stream<Item = Result<String>> + use<> {
        let start = (self.clone(), prefix.to_owned(), String::new(), false);
        futures::stream::try_unfold(start, |(cache, prefix, last, done)| async move {
            if done {
                return Ok::<_, crate::Error>(None);
            }
            let mut connection = cache.place.database.read().await?;
            let page = cache.keys_page(connection.tx(), &prefix, &last).await?;
            drop(connection);
            let (done, last) = (
                page.len() < read::PAGE as usize,
                page.last().cloned().unwrap_or_default(),
            );
            let keys = futures::stream::iter(page.into_iter().map(Ok));
            Ok(Some((keys, (cache, prefix, last, done))))
        })
        .try_flatten()
    }

    /// Deletes every item whose key begins with `prefix`, and returns how many rows there were. It goes in short
    /// batches, so that no other writer waits for long.
    ///
    /// # Errors
    /// Where no key can have the prefix, or the database fails; the batches before stay deleted.
    pub async fn clear_prefix(&self, prefix: &str) -> Result<u64> {
        check_prefix(prefix)?;
        self.clear_range(prefix, &limits::prefix_end(prefix)).await
    }

    /// Deletes the items past their deadline, and returns how many; see [`Cache::purge`] for more to choose.
    ///
    /// # Errors
    /// As [`Cache::clear_prefix`].
    pub async fn clear_expired(&self) -> Result<u64> {
        self.purge().run().await
    }

    /// Deletes every item, and returns how many rows there were. The root leaves namespaces alone.
    ///
    /// # Errors
    /// As [`Cache::clear_prefix`].
    pub async fn clear_all(&self) -> Result<u64> {
        self.clear_prefix("").await
    }

    /// Deletes every item of the root and of every namespace, and returns how many rows there were.
    ///
    /// # Errors
    /// As [`Cache::clear_prefix`].
    pub async fn clear_all_namespaces(&self) -> Result<u64> {
        let mut deleted = 0;
        for name in self.namespaces().await? {
            deleted += self.namespace(&name)?.clear_all().await?;
        }
        Ok(deleted)
    }

    /// Deleting expired items, with choices: which namespaces, and who is told of the progress.
    pub fn purge(&self) -> Purge<'_> {
        Purge::new(self)
    }

    /// Counts over this namespace, in one scan of it.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn stats(&self) -> Result<CacheStats> {
        self.stats_in(self.place.database.read().await?.tx()).await
    }
}
