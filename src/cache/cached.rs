//! The handle of one key.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::limits::decode;
use super::{Cache, Expiration, ItemInfo};
use crate::error::Result;

/// The handle of one key: it reads its row once, at first use, and keeps that snapshot until `set`, `delete` or
/// `reload`. Made by [`Cache::cached`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use larder::{Cache, Expiration};
/// use std::time::Duration;
///
/// let cache = Cache::connect("sqlite::memory:").await?;
/// let mut report = cache.cached::<Vec<u32>>("report:2026-11");
/// if !report.exists().await? {
///     report.set_with(&vec![1, 2, 3], Expiration::after(Duration::from_secs(60))).await?;
/// }
/// assert_eq!(report.value().await?, Some(&vec![1, 2, 3]));
/// assert!(report.delete().await?);
/// assert_eq!(report.value().await?, None);
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Cached<T = serde_json::Value> {
    cache: Cache,
    key: String,
    snapshot: Option<Snapshot<T>>,
}

/// What the row was when it was read.
type Snapshot<T> = Option<(T, ItemInfo)>;

impl<T> Cached<T> {
    pub(super) fn new(cache: Cache, key: String) -> Self {
        Self {
            cache,
            key,
            snapshot: None,
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Forgets the snapshot; the next read queries again.
    pub fn reload(&mut self) {
        self.snapshot = None;
    }
}

impl<T: DeserializeOwned> Cached<T> {
    /// Whether there is a live item.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn exists(&mut self) -> Result<bool> {
        Ok(self.read().await?.is_some())
    }

    /// The value, or `None` where there is no live item.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn value(&mut self) -> Result<Option<&T>> {
        Ok(self.read().await?.as_ref().map(|(value, _)| value))
    }

    /// The deadline, or `None` where there is no live item or it has none.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn expires_at(&mut self) -> Result<Option<DateTime<Utc>>> {
        Ok(self.info().await?.and_then(|info| info.expires_at))
    }

    /// What the item carries beside its value, or `None` where there is no live item.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn info(&mut self) -> Result<Option<&ItemInfo>> {
        Ok(self.read().await?.as_ref().map(|(_, info)| info))
    }

    /// The generation of the value, or `None` where there is no live item, for [`Cached::set_if`].
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn generation(&mut self) -> Result<Option<i64>> {
        Ok(self.info().await?.map(|info| info.generation))
    }

    async fn read(&mut self) -> Result<&Snapshot<T>> {
        let snapshot = match self.snapshot.take() {
            Some(snapshot) => snapshot,
            None => {
                let mut connection = self.cache.place.database.read().await?;
                match self.cache.read_in(connection.tx(), &self.key).await? {
                    Some((text, info)) => Some((decode(&self.key, &text)?, info)),
                    None => None,
                }
            }
        };
        Ok(self.snapshot.insert(snapshot))
    }
}

impl<T: Serialize> Cached<T> {
    /// Stores `value`; a live item keeps its deadline, a new or expired one gets none.
    ///
    /// # Errors
    /// As [`Cache::set`].
    pub async fn set(&mut self, value: &T) -> Result<()> {
        self.set_with(value, Expiration::Keep).await
    }

    /// Stores `value` until `expiration`.
    ///
    /// # Errors
    /// As [`Cache::set_with`].
    pub async fn set_with(&mut self, value: &T, expiration: impl Into<Expiration>) -> Result<()> {
        self.reload();
        self.cache.set_with(&self.key, value, expiration).await
    }

    /// Stores `value` only if the live item is still of `generation`, or only if there is none where that is `None`, and
    /// returns whether it did; a live item keeps its deadline, a new one gets none.
    ///
    /// # Errors
    /// As [`Cache::set_if`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let cache = larder::Cache::connect("sqlite::memory:").await?;
    /// let mut names = cache.cached::<Vec<String>>("names");
    /// loop {
    ///     let seen = names.generation().await?;
    ///     let mut with_ada = names.value().await?.cloned().unwrap_or_default();
    ///     with_ada.push("Ada".to_owned());
    ///     if names.set_if(&with_ada, seen).await? {
    ///         break; // nobody wrote in between
    ///     }
    /// }
    /// assert_eq!(names.value().await?, Some(&vec!["Ada".to_owned()]));
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    pub async fn set_if(&mut self, value: &T, generation: impl Into<Option<i64>>) -> Result<bool> {
        self.reload();
        self.cache
            .set_if(&self.key, value, generation, Expiration::Keep)
            .await
    }
}

impl<T> Cached<T> {
    /// Deletes the item, and returns whether there was a row, live or not.
    ///
    /// # Errors
    /// As [`Cache::delete`].
    pub async fn delete(&mut self) -> Result<bool> {
        self.reload();
        self.cache.delete(&self.key).await
    }
}
