//! The writing operations of [`Cache`], in the caller's transaction.

use std::collections::BTreeMap;

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
}

/// A generation is drawn, not counted: a counter would begin again when an item is deleted.
fn new_generation() -> i64 {
    rand::random()
}
