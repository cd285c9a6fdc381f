//! The writing operations of [`Cache`], in the caller's transaction.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::limits::{self, check_key, encode};
use super::rows::{chunks, rows_of_keys};
use super::{Cache, Expiration};
use crate::database::{JsonText, Sql, Tx, query};
use crate::error::{Error, Result};

impl Cache {
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
        let mut tx = self.place.database.own(tx)?;
        self.set_linked_in(&mut tx, key, value, expiration.into(), false)
            .await
    }

    /// `linked` says that the item is about to be given tags or dependencies.
    pub(super) async fn set_linked_in<T: Serialize + ?Sized>(
        &self,
        tx: &mut Tx<'_>,
        key: &str,
        value: &T,
        expiration: Expiration,
        linked: bool,
    ) -> Result<()> {
        let value = JsonText(encode(key, value, self.max_value_bytes)?);
        let now = self.now();
        let deadline = expiration.deadline(now)?;
        let _writing = self.writing([key]);
        query!(
            self.place.database,
            tx,
            execute,
            Sql::CacheSet,
            &*self.place.namespace,
            key,
            &value,
            deadline.at,
            new_generation(),
            now,
            deadline.keep,
            linked
        )?;
        Ok(())
    }

    /// [`Cache::set_if`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::set_if`], and where the transaction is of the other engine.
    pub async fn set_if_in<'c, T: Serialize + ?Sized>(
        &self,
        tx: impl Into<Tx<'c>>,
        key: &str,
        value: &T,
        generation: impl Into<Option<i64>>,
        expiration: impl Into<Expiration>,
    ) -> Result<bool> {
        let Some(generation) = generation.into() else {
            return self.add_in(tx, key, value, expiration).await;
        };
        let value = JsonText(encode(key, value, self.max_value_bytes)?);
        let now = self.now();
        let deadline = expiration.into().deadline(now)?;
        let mut tx = self.place.database.own(tx)?;
        let _writing = self.writing([key]);
        let written = query!(
            self.place.database,
            tx,
            execute,
            Sql::CacheSetIf,
            &*self.place.namespace,
            key,
            &value,
            deadline.at,
            new_generation(),
            now,
            deadline.keep,
            generation
        )?;
        Ok(written > 0)
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
        let mut tx = self.place.database.own(tx)?;
        self.set_many_linked_in(&mut tx, items, expiration.into(), false)
            .await
    }

    /// `linked` says that the items are about to be given tags or dependencies.
    pub(super) async fn set_many_linked_in<T: Serialize>(
        &self,
        tx: &mut Tx<'_>,
        items: impl IntoIterator<Item = (impl AsRef<str>, T)>,
        expiration: Expiration,
        linked: bool,
    ) -> Result<()> {
        // Sorted, so that two callers who write the same keys lock them in the same order.
        let mut texts = BTreeMap::new();
        for (key, value) in items {
            let text = encode(key.as_ref(), &value, self.max_value_bytes)?;
            texts.insert(key.as_ref().to_owned(), text);
        }
        let now = self.now();
        let deadline = expiration.deadline(now)?;
        let _writing = self.writing(texts.keys());
        for rows in chunks(texts, deadline.at)? {
            query!(
                self.place.database,
                tx,
                execute,
                Sql::CacheSetMany,
                &*self.place.namespace,
                &rows,
                new_generation(),
                now,
                deadline.keep,
                linked
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
        let mut tx = self.place.database.own(tx)?;
        self.add_linked_in(&mut tx, key, value, expiration.into(), false)
            .await
    }

    /// `linked` says that the item is about to be given tags or dependencies.
    pub(super) async fn add_linked_in<T: Serialize + ?Sized>(
        &self,
        tx: &mut Tx<'_>,
        key: &str,
        value: &T,
        expiration: Expiration,
        linked: bool,
    ) -> Result<bool> {
        let value = JsonText(encode(key, value, self.max_value_bytes)?);
        let now = self.now();
        let deadline = expiration.deadline(now)?;
        let _writing = self.writing([key]);
        let added = query!(
            self.place.database,
            tx,
            execute,
            Sql::CacheAdd,
            &*self.place.namespace,
            key,
            &value,
            deadline.at,
            new_generation(),
            now,
            linked
        )?;
        Ok(added > 0)
    }

    /// [`Cache::delete`] in the caller's transaction. Also a computation of the key that begins before the transaction
    /// commits does not write back.
    ///
    /// # Errors
    /// As [`Cache::delete`], and where the transaction is of the other engine.
    pub async fn delete_in<'c>(&self, tx: impl Into<Tx<'c>>, key: &str) -> Result<bool> {
        check_key(key)?;
        let mut tx = self.place.database.own(tx)?;
        let row = self.delete_row(&mut tx, key).await?;
        if row.is_none() {
            self.vacate(&mut tx, [key]).await?;
        }
        Ok(row == Some(false))
    }

    /// Deletes the row, and returns whether it was vacant.
    pub(super) async fn delete_row(&self, tx: &mut Tx<'_>, key: &str) -> Result<Option<bool>> {
        check_key(key)?;
        let _writing = self.writing([key]);
        let row: Option<(bool,)> = query!(
            self.place.database,
            tx,
            fetch_optional,
            Sql::CacheDelete,
            &*self.place.namespace,
            key
        )?;
        Ok(row.map(|(vacant,)| vacant))
    }

    /// [`Cache::delete_many`] in the caller's transaction. Also a computation of a key that begins before the transaction
    /// commits does not write back.
    ///
    /// # Errors
    /// As [`Cache::delete_many`], and where the transaction is of the other engine.
    pub async fn delete_many_in<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        keys: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<u64> {
        let mut keys: BTreeSet<String> = keys
            .into_iter()
            .map(|key| key.as_ref().to_owned())
            .collect();
        let mut tx = self.place.database.own(tx)?;
        let rows = self.delete_rows(&mut tx, &keys).await?;
        for (key, _) in &rows {
            keys.remove(key);
        }
        self.vacate(&mut tx, &keys).await?;
        Ok(count_items(&rows))
    }

    /// Deletes the rows, and returns the key of each and whether it was vacant.
    pub(super) async fn delete_rows(
        &self,
        tx: &mut Tx<'_>,
        keys: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Vec<(String, bool)>> {
        let keys: Vec<_> = keys.into_iter().collect();
        let _writing = self.writing(&keys);
        let keys = rows_of_keys(keys)?;
        query!(
            self.place.database,
            tx,
            fetch_all,
            Sql::CacheDeleteMany,
            &*self.place.namespace,
            &keys
        )
    }

    /// Leaves a vacant row for each key that has none, until the next purge, where others may write while this
    /// transaction is open: whoever would compute the key waits for it to end, and not only for a row that it deleted.
    async fn vacate(
        &self,
        tx: &mut Tx<'_>,
        keys: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<()> {
        let mut keys = keys.into_iter().peekable();
        if keys.peek().is_none() || !self.place.database.has_many_writers() {
            return Ok(());
        }
        let keys = rows_of_keys(keys)?;
        query!(
            self.place.database,
            tx,
            execute,
            Sql::ItemVacate,
            &*self.place.namespace,
            &keys,
            new_generation(),
            self.now()
        )?;
        Ok(())
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
        let mut tx = self.place.database.own(tx)?;
        if deadline.keep {
            return Ok(self.deadline_of(&mut tx, key, now).await?.is_some());
        }
        let _writing = self.writing([key]);
        let touched = query!(
            self.place.database,
            tx,
            execute,
            Sql::CacheTouch,
            &*self.place.namespace,
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
        let mut tx = self.place.database.own(tx)?;
        let _writing = self.writing([key]);
        let row: Option<(i64,)> = query!(
            self.place.database,
            tx,
            fetch_optional,
            Sql::CacheIncrement,
            &*self.place.namespace,
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
}

/// Vacant rows are none that anybody knows of.
pub(super) fn count_items(rows: &[(String, bool)]) -> u64 {
    rows.iter().filter(|(_, vacant)| !vacant).count() as u64
}

/// A generation is drawn, not counted: a counter would begin again when an item is deleted.
pub(super) fn new_generation() -> i64 {
    rand::random()
}
