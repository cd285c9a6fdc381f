//! The operations of [`Cache`] in the caller's transaction: what each does, once.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::limits::{self, check_key, check_prefix, decode, encode, prefix_end};
use super::{Cache, CacheStats, Expiration, ItemInfo, Ttl};
use crate::clock::Timestamp;
use crate::database::{JsonText, Sql, Tx, query};
use crate::error::{Error, Result};

/// Keys read at once by a stream of keys.
pub(super) const PAGE: i64 = 1_000;
/// Rows deleted at once by a clear outside a transaction: some milliseconds of work.
const CLEAR_BATCH: i64 = 1_000;
/// Items, and bytes of them, in one statement of a batch.
const CHUNK_ITEMS: usize = 5_000;
const CHUNK_BYTES: usize = 8 * 1024 * 1024;

impl Cache {
    /// [`Cache::get`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::get`], and where the transaction is of the other engine.
    pub async fn get_in<'c, T: DeserializeOwned>(
        &self,
        tx: impl Into<Tx<'c>>,
        key: &str,
    ) -> Result<Option<T>> {
        check_key(key)?;
        let mut tx = self.database.own(tx)?;
        let row: Option<(JsonText,)> = query!(
            self.database,
            tx,
            fetch_optional,
            Sql::CacheGet,
            &*self.namespace,
            key,
            self.now()
        )?;
        row.map(|(value,)| decode(key, &value.0)).transpose()
    }

    /// [`Cache::get_many`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::get_many`], and where the transaction is of the other engine.
    pub async fn get_many_in<'c, T: DeserializeOwned>(
        &self,
        tx: impl Into<Tx<'c>>,
        keys: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<HashMap<String, T>> {
        let keys = rows_of_keys(keys)?;
        let mut tx = self.database.own(tx)?;
        let rows: Vec<(String, JsonText)> = query!(
            self.database,
            tx,
            fetch_all,
            Sql::CacheGetMany,
            &*self.namespace,
            &keys,
            self.now()
        )?;
        rows.into_iter()
            .map(|(key, value)| decode(&key, &value.0).map(|value| (key, value)))
            .collect()
    }

    /// [`Cache::set_with`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::set_with`], and where the transaction is of the other engine.
    pub async fn set_in<'c, T: Serialize + ?Sized>(
        &self,
        tx: impl Into<Tx<'c>>,
        key: &str,
        value: &T,
        expiration: impl Into<Expiration>,
    ) -> Result<()> {
        let value = JsonText(encode(key, value, self.max_value_bytes)?);
        let now = self.now();
        let deadline = expiration.into().deadline(now)?;
        let mut tx = self.database.own(tx)?;
        query!(
            self.database,
            tx,
            execute,
            Sql::CacheSet,
            &*self.namespace,
            key,
            &value,
            deadline.at,
            new_generation(),
            now,
            deadline.keep
        )?;
        Ok(())
    }

    /// [`Cache::set_many`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::set_many`], and where the transaction is of the other engine.
    pub async fn set_many_in<'c, T: Serialize>(
        &self,
        tx: impl Into<Tx<'c>>,
        items: impl IntoIterator<Item = (impl AsRef<str>, T)>,
        expiration: impl Into<Expiration>,
    ) -> Result<()> {
        // Sorted, so that two callers who write the same keys lock them in the same order.
        let mut texts = BTreeMap::new();
        for (key, value) in items {
            let text = encode(key.as_ref(), &value, self.max_value_bytes)?;
            texts.insert(key.as_ref().to_owned(), text);
        }
        let now = self.now();
        let deadline = expiration.into().deadline(now)?;
        let mut tx = self.database.own(tx)?;
        for rows in chunks(texts)? {
            query!(
                self.database,
                tx,
                execute,
                Sql::CacheSetMany,
                &*self.namespace,
                &rows,
                deadline.at,
                new_generation(),
                now,
                deadline.keep
            )?;
        }
        Ok(())
    }

    /// [`Cache::add`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::add`], and where the transaction is of the other engine.
    pub async fn add_in<'c, T: Serialize + ?Sized>(
        &self,
        tx: impl Into<Tx<'c>>,
        key: &str,
        value: &T,
        expiration: impl Into<Expiration>,
    ) -> Result<bool> {
        let value = JsonText(encode(key, value, self.max_value_bytes)?);
        let now = self.now();
        let deadline = expiration.into().deadline(now)?;
        let mut tx = self.database.own(tx)?;
        let added = query!(
            self.database,
            tx,
            execute,
            Sql::CacheAdd,
            &*self.namespace,
            key,
            &value,
            deadline.at,
            new_generation(),
            now
        )?;
        Ok(added > 0)
    }

    /// [`Cache::delete`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::delete`], and where the transaction is of the other engine.
    pub async fn delete_in<'c>(&self, tx: impl Into<Tx<'c>>, key: &str) -> Result<bool> {
        check_key(key)?;
        let mut tx = self.database.own(tx)?;
        Ok(query!(
            self.database,
            tx,
            execute,
            Sql::CacheDelete,
            &*self.namespace,
            key
        )? > 0)
    }

    /// [`Cache::delete_many`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::delete_many`], and where the transaction is of the other engine.
    pub async fn delete_many_in<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        keys: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<u64> {
        let keys = rows_of_keys(keys)?;
        let mut tx = self.database.own(tx)?;
        query!(
            self.database,
            tx,
            execute,
            Sql::CacheDeleteMany,
            &*self.namespace,
            &keys
        )
    }

    /// [`Cache::exists`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::exists`], and where the transaction is of the other engine.
    pub async fn exists_in<'c>(&self, tx: impl Into<Tx<'c>>, key: &str) -> Result<bool> {
        let now = self.now();
        Ok(self
            .deadline_of(&mut self.database.own(tx)?, key, now)
            .await?
            .is_some())
    }

    /// [`Cache::touch`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::touch`], and where the transaction is of the other engine.
    pub async fn touch_in<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        key: &str,
        expiration: impl Into<Expiration>,
    ) -> Result<bool> {
        check_key(key)?;
        let now = self.now();
        let deadline = expiration.into().deadline(now)?;
        let mut tx = self.database.own(tx)?;
        if deadline.keep {
            return Ok(self.deadline_of(&mut tx, key, now).await?.is_some());
        }
        let touched = query!(
            self.database,
            tx,
            execute,
            Sql::CacheTouch,
            &*self.namespace,
            key,
            now,
            deadline.at
        )?;
        Ok(touched > 0)
    }

    /// [`Cache::increment`] in the caller's transaction, which stays usable after an error of the value.
    ///
    /// # Errors
    /// As [`Cache::increment`], and where the transaction is of the other engine.
    pub async fn increment_in<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        key: &str,
        delta: i64,
        expiration: impl Into<Expiration>,
    ) -> Result<i64> {
        check_key(key)?;
        if !(-limits::MAX_COUNTER..=limits::MAX_COUNTER).contains(&delta) {
            return Err(Error::not_a_counter(format!(
                "cannot add {delta} to a counter: a counter is an integer of at most 18 digits"
            )));
        }
        let now = self.now();
        let deadline = expiration.into().deadline(now)?;
        let mut tx = self.database.own(tx)?;
        let row: Option<(i64,)> = query!(
            self.database,
            tx,
            fetch_optional,
            Sql::CacheIncrement,
            &*self.namespace,
            key,
            delta,
            deadline.at,
            new_generation(),
            now
        )?;
        row.map(|(value,)| value).ok_or_else(|| {
            Error::not_a_counter(format!(
                "cannot add {delta} to key {key:?}: its value and the sum must be integers of at most 18 digits; \
                 set it to one, or delete it"
            ))
        })
    }

    /// [`Cache::decrement`] in the caller's transaction, which stays usable after an error of the value.
    ///
    /// # Errors
    /// As [`Cache::decrement`], and where the transaction is of the other engine.
    pub async fn decrement_in<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        key: &str,
        delta: i64,
        expiration: impl Into<Expiration>,
    ) -> Result<i64> {
        // The one delta without a negative is refused as it stands: no counter is so large.
        self.increment_in(tx, key, delta.checked_neg().unwrap_or(delta), expiration)
            .await
    }

    /// [`Cache::ttl`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::ttl`], and where the transaction is of the other engine.
    pub async fn ttl_in<'c>(&self, tx: impl Into<Tx<'c>>, key: &str) -> Result<Option<Ttl>> {
        let now = self.now();
        let deadline = self
            .deadline_of(&mut self.database.own(tx)?, key, now)
            .await?;
        Ok(deadline.map(|at| at.map_or(Ttl::Never, |at| Ttl::Left(at.since(now)))))
    }

    /// [`Cache::info`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::info`], and where the transaction is of the other engine.
    pub async fn info_in<'c>(&self, tx: impl Into<Tx<'c>>, key: &str) -> Result<Option<ItemInfo>> {
        Ok(self.read_in(tx, key).await?.map(|(_, info)| info))
    }

    /// The text and the rest of a live item.
    pub(super) async fn read_in<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        key: &str,
    ) -> Result<Option<(String, ItemInfo)>> {
        type Row = (JsonText, Option<Timestamp>, Timestamp, Timestamp, i64);
        check_key(key)?;
        let mut tx = self.database.own(tx)?;
        let row: Option<Row> = query!(
            self.database,
            tx,
            fetch_optional,
            Sql::CacheRead,
            &*self.namespace,
            key,
            self.now()
        )?;
        Ok(
            row.map(|(value, expires_at, created_at, updated_at, generation)| {
                let info = ItemInfo {
                    created_at: created_at.into(),
                    updated_at: updated_at.into(),
                    expires_at: expires_at.map(Into::into),
                    generation,
                };
                (value.0, info)
            }),
        )
    }

    /// One page of [`Cache::keys`] after `last`, in the caller's transaction.
    pub(super) async fn keys_page<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        prefix: &str,
        last: &str,
    ) -> Result<Vec<String>> {
        check_prefix(prefix)?;
        let (from, end) = (
            if last.is_empty() { prefix } else { last },
            prefix_end(prefix),
        );
        let mut tx = self.database.own(tx)?;
        let rows: Vec<(String,)> = query!(
            self.database,
            tx,
            fetch_all,
            Sql::CacheKeys,
            &*self.namespace,
            from,
            last,
            &end,
            self.now(),
            PAGE
        )?;
        Ok(rows.into_iter().map(|(key,)| key).collect())
    }

    /// All of [`Cache::keys`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::clear_prefix_in`].
    pub async fn keys_in<'c>(&self, tx: impl Into<Tx<'c>>, prefix: &str) -> Result<Vec<String>> {
        let mut tx = self.database.own(tx)?;
        let mut keys: Vec<String> = Vec::new();
        loop {
            let last = keys.last().map_or("", String::as_str);
            let page = self.keys_page(tx.reborrow(), prefix, last).await?;
            let done = page.len() < PAGE as usize;
            keys.extend(page);
            if done {
                return Ok(keys);
            }
        }
    }

    /// [`Cache::clear_prefix`] in the caller's transaction, in one statement.
    ///
    /// # Errors
    /// Where no key can have the prefix, the database fails or the transaction is of the other engine.
    pub async fn clear_prefix_in<'c>(&self, tx: impl Into<Tx<'c>>, prefix: &str) -> Result<u64> {
        check_prefix(prefix)?;
        let mut tx = self.database.own(tx)?;
        let end = prefix_end(prefix);
        query!(
            self.database,
            tx,
            execute,
            Sql::CacheClearRange,
            &*self.namespace,
            prefix,
            &end
        )
    }

    /// [`Cache::clear_all`] in the caller's transaction, in one statement.
    ///
    /// # Errors
    /// As [`Cache::clear_prefix_in`].
    pub async fn clear_all_in<'c>(&self, tx: impl Into<Tx<'c>>) -> Result<u64> {
        self.clear_prefix_in(tx, "").await
    }

    /// [`Cache::clear_expired`] in the caller's transaction, in one statement. An item that another transaction holds
    /// is left.
    ///
    /// # Errors
    /// As [`Cache::clear_prefix_in`].
    pub async fn clear_expired_in<'c>(&self, tx: impl Into<Tx<'c>>) -> Result<u64> {
        let mut tx = self.database.own(tx)?;
        query!(
            self.database,
            tx,
            execute,
            Sql::CachePurgeNamespace,
            self.now(),
            i64::MAX,
            &*self.namespace
        )
    }

    /// [`Cache::stats`] in the caller's transaction.
    ///
    /// # Errors
    /// Where the database fails or the transaction is of the other engine.
    pub async fn stats_in<'c>(&self, tx: impl Into<Tx<'c>>) -> Result<CacheStats> {
        type Row = (
            i64,
            i64,
            i64,
            i64,
            i64,
            Option<Timestamp>,
            Option<Timestamp>,
        );
        let mut tx = self.database.own(tx)?;
        let row: Row = query!(
            self.database,
            tx,
            fetch_one,
            Sql::CacheStats,
            &*self.namespace,
            self.now()
        )?;
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        Ok(CacheStats {
            total: count(row.0),
            expired: count(row.1),
            unexpired: count(row.2),
            forever: count(row.3),
            bytes: count(row.4),
            oldest: row.5.map(Into::into),
            newest: row.6.map(Into::into),
        })
    }

    /// Deletes a range of keys in short batches, each from one key to another, so that it ends though others write.
    pub(super) async fn clear_range(&self, from: &str, end: &str) -> Result<u64> {
        let (mut from, mut deleted) = (from.to_owned(), 0);
        loop {
            let mut connection = self.database.write().await?;
            let mut tx = connection.tx();
            let boundary: Option<(String,)> = query!(
                self.database,
                tx,
                fetch_optional,
                Sql::CacheRangeEnd,
                &*self.namespace,
                &from,
                end,
                CLEAR_BATCH
            )?;
            let until = boundary.as_ref().map_or(end, |(key,)| key);
            deleted += query!(
                self.database,
                tx,
                execute,
                Sql::CacheClearRange,
                &*self.namespace,
                &from,
                until
            )?;
            match boundary {
                Some((key,)) => from = key,
                None => return Ok(deleted),
            }
        }
    }

    /// The namespaces that hold an item.
    pub(super) async fn namespaces(&self) -> Result<Vec<String>> {
        let mut connection = self.database.read().await?;
        let mut tx = connection.tx();
        let rows: Vec<(String,)> = query!(self.database, tx, fetch_all, Sql::CacheNamespaces)?;
        Ok(rows.into_iter().map(|(name,)| name).collect())
    }

    /// The deadline of a live item: `None` where there is none, `Some(None)` where it has no deadline.
    async fn deadline_of(
        &self,
        tx: &mut Tx<'_>,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<Option<Timestamp>>> {
        check_key(key)?;
        let row: Option<(Option<Timestamp>,)> = query!(
            self.database,
            tx,
            fetch_optional,
            Sql::CacheDeadline,
            &*self.namespace,
            key,
            now
        )?;
        Ok(row.map(|(deadline,)| deadline))
    }
}

/// A generation is drawn, not counted: a counter would begin again when an item is deleted.
fn new_generation() -> i64 {
    rand::random()
}

/// Keys as the rows of a JSON array, each once.
fn rows_of_keys(keys: impl IntoIterator<Item = impl AsRef<str>>) -> Result<JsonText> {
    let mut unique = std::collections::BTreeSet::new();
    for key in keys {
        check_key(key.as_ref())?;
        unique.insert([key.as_ref().to_owned()]);
    }
    to_rows(&unique)
}

/// Items as the rows of JSON arrays, each array of a size that a statement takes with ease. A value travels as a
/// string: SQLite would rewrite a bare one.
fn chunks(texts: BTreeMap<String, String>) -> Result<Vec<JsonText>> {
    let (mut chunks, mut rows, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (key, text) in texts {
        bytes += key.len() + text.len();
        rows.push((key, text));
        if rows.len() >= CHUNK_ITEMS || bytes >= CHUNK_BYTES {
            chunks.push(to_rows(&rows)?);
            (rows, bytes) = (Vec::new(), 0);
        }
    }
    if !rows.is_empty() {
        chunks.push(to_rows(&rows)?);
    }
    Ok(chunks)
}

fn to_rows(rows: &impl Serialize) -> Result<JsonText> {
    serde_json::to_string(rows)
        .map(JsonText)
        .map_err(|error| Error::invalid(format!("a batch does not serialise: {error}")))
}
