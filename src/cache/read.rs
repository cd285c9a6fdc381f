//! The reading operations of [`Cache`], in the caller's transaction.

use std::collections::HashMap;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::limits::{check_key, check_prefix, decode, prefix_end};
use super::rows::rows_of_keys;
use super::{Cache, CacheStats, ItemInfo, Ttl};
use crate::clock::Timestamp;
use crate::database::{Id, JsonText, Sql, Tx, Untested, query, within};
use crate::error::Result;

/// What is left until a deadline.
pub(super) fn ttl(deadline: Option<Timestamp>, now: Timestamp) -> Ttl {
    deadline.map_or(Ttl::Never, |at| Ttl::Left(at.since(now)))
}

/// Keys read at once by a stream of keys.
pub(super) const PAGE: i64 = 1_000;

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
        let mut tx = self.place.database.own(tx)?;
        let row: Option<(JsonText,)> = query!(
            self.place.database,
            tx,
            fetch_optional,
            Sql::CacheGet,
            &*self.place.namespace,
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
        self.many_of(self.place.database.own(tx)?, &keys).await
    }

    /// [`Cache::get_many`] of keys that are written as rows.
    pub(super) async fn get_many_of<T: DeserializeOwned>(
        &self,
        keys: JsonText,
    ) -> Result<HashMap<String, T>> {
        let database = &self.place.database;
        let mut connection = Untested::to_read(database).await?;
        loop {
            let limit = connection.limit(database, keys.0.len());
            let tx = connection.tx(database).await?;
            let read = within(limit, self.many_of(tx, &keys)).await;
            if let Some(found) = connection.take(read)? {
                return Ok(found);
            }
        }
    }

    async fn many_of<T: DeserializeOwned>(
        &self,
        mut tx: Tx<'_>,
        keys: &JsonText,
    ) -> Result<HashMap<String, T>> {
        let rows: Vec<(String, JsonText)> = query!(
            self.place.database,
            tx,
            fetch_all,
            Sql::CacheGetMany,
            &*self.place.namespace,
            keys,
            self.now()
        )?;
        rows.into_iter()
            .map(|(key, value)| decode(&key, &value.0).map(|value| (key, value)))
            .collect()
    }

    /// [`Cache::exists`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::exists`], and where the transaction is of the other engine.
    pub async fn exists_in<'c>(&self, tx: impl Into<Tx<'c>>, key: &str) -> Result<bool> {
        let now = self.now();
        Ok(self
            .deadline_of(&mut self.place.database.own(tx)?, key, now)
            .await?
            .is_some())
    }

    /// [`Cache::ttl`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::ttl`], and where the transaction is of the other engine.
    pub async fn ttl_in<'c>(&self, tx: impl Into<Tx<'c>>, key: &str) -> Result<Option<Ttl>> {
        let now = self.now();
        let deadline = self
            .deadline_of(&mut self.place.database.own(tx)?, key, now)
            .await?;
        Ok(deadline.map(|at| ttl(at, now)))
    }

    /// [`Cache::info`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::info`], and where the transaction is of the other engine.
    pub async fn info_in<'c>(&self, tx: impl Into<Tx<'c>>, key: &str) -> Result<Option<ItemInfo>> {
        Ok(self.read_in(tx, key).await?.map(|(_, info)| info))
    }

    /// All of [`Cache::keys`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::clear_prefix_in`].
    pub async fn keys_in<'c>(&self, tx: impl Into<Tx<'c>>, prefix: &str) -> Result<Vec<String>> {
        let mut tx = self.place.database.own(tx)?;
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
        let mut tx = self.place.database.own(tx)?;
        let row: Row = query!(
            self.place.database,
            tx,
            fetch_one,
            Sql::CacheStats,
            &*self.place.namespace,
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

    /// The text and the rest of a live item.
    pub(super) async fn read_in<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        key: &str,
    ) -> Result<Option<(String, ItemInfo)>> {
        type Row = (
            JsonText,
            Option<Timestamp>,
            Timestamp,
            Timestamp,
            i64,
            Option<Timestamp>,
            Option<i64>,
            Option<Timestamp>,
            Option<String>,
            i32,
            bool,
            Option<Id>,
        );
        check_key(key)?;
        let mut tx = self.place.database.own(tx)?;
        let row: Option<Row> = query!(
            self.place.database,
            tx,
            fetch_optional,
            Sql::CacheRead,
            &*self.place.namespace,
            key,
            self.now()
        )?;
        let Some(row) = row else {
            return Ok(None);
        };
        let (
            value,
            expires_at,
            created_at,
            updated_at,
            generation,
            stale_at,
            cost,
            lease_until,
            last_error,
            failures,
            linked,
            job,
        ) = row;
        let (tags, depends_on) = if linked {
            self.links_of(&mut tx, key).await?
        } else {
            (Vec::new(), Vec::new())
        };
        let info = ItemInfo {
            created_at: created_at.into(),
            updated_at: updated_at.into(),
            expires_at: expires_at.map(Into::into),
            generation,
            stale_at: stale_at.map(Into::into),
            cost: cost
                .and_then(|cost| u64::try_from(cost).ok())
                .map(Duration::from_micros),
            tags,
            depends_on,
            lease_until: lease_until.map(Into::into),
            last_error,
            failures: u32::try_from(failures).unwrap_or(0),
            job,
        };
        Ok(Some((value.0, info)))
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
        let mut tx = self.place.database.own(tx)?;
        let rows: Vec<(String,)> = query!(
            self.place.database,
            tx,
            fetch_all,
            Sql::CacheKeys,
            &*self.place.namespace,
            from,
            last,
            &end,
            self.now(),
            PAGE
        )?;
        Ok(rows.into_iter().map(|(key,)| key).collect())
    }

    /// The namespaces that hold an item.
    pub(super) async fn namespaces(&self) -> Result<Vec<String>> {
        let mut connection = self.place.database.read().await?;
        let mut tx = connection.tx();
        let rows: Vec<(String,)> =
            query!(self.place.database, tx, fetch_all, Sql::CacheNamespaces)?;
        Ok(rows.into_iter().map(|(name,)| name).collect())
    }

    /// The deadline of a live item: `None` where there is none, `Some(None)` where it has no deadline.
    pub(super) async fn deadline_of(
        &self,
        tx: &mut Tx<'_>,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<Option<Timestamp>>> {
        check_key(key)?;
        let row: Option<(Option<Timestamp>,)> = query!(
            self.place.database,
            tx,
            fetch_optional,
            Sql::CacheDeadline,
            &*self.place.namespace,
            key,
            now
        )?;
        Ok(row.map(|(deadline,)| deadline))
    }
}
