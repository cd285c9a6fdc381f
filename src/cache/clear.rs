//! Clearing ranges of keys, in the caller's transaction or in short batches.

use super::Cache;
use super::limits::{check_prefix, prefix_end};
use crate::clock::Timestamp;
use crate::database::{Sql, Tx, query};
use crate::error::Result;

/// Rows deleted at once by a clear outside a transaction: some milliseconds of work.
const CLEAR_BATCH: i64 = 1_000;

impl Cache {
    /// [`Cache::clear_prefix`] in the caller's transaction, in one statement. Also a computation that begins before the
    /// transaction commits does not write back.
    ///
    /// # Errors
    /// Where no key can have the prefix, the database fails or the transaction is of the other engine.
    pub async fn clear_prefix_in<'c>(&self, tx: impl Into<Tx<'c>>, prefix: &str) -> Result<u64> {
        check_prefix(prefix)?;
        let _writing = self.writing_anything();
        let mut tx = self.place.database.own(tx)?;
        self.place
            .database
            .hold(&mut tx, &self.scope_of_namespace())
            .await?;
        self.delete_range(&mut tx, prefix, &prefix_end(prefix))
            .await
    }

    /// Deletes the rows of a range of keys in one statement, and returns how many items they were.
    async fn delete_range(&self, tx: &mut Tx<'_>, from: &str, end: &str) -> Result<u64> {
        let rows: Vec<(bool,)> = query!(
            self.place.database,
            tx,
            fetch_all,
            Sql::CacheClearRange,
            &*self.place.namespace,
            from,
            end
        )?;
        Ok(rows.iter().filter(|(vacant,)| !vacant).count() as u64)
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
        let mut tx = self.place.database.own(tx)?;
        query!(
            self.place.database,
            tx,
            execute,
            Sql::CachePurgeNamespace,
            self.now(),
            i64::MAX,
            &*self.place.namespace,
            Timestamp::MIN
        )
    }

    /// Deletes a range of keys in short batches, each from one key to another, so that it ends though others write.
    pub(super) async fn clear_range(&self, from: &str, end: &str) -> Result<u64> {
        let _writing = self.writing_anything();
        let (mut from, mut deleted) = (from.to_owned(), 0);
        loop {
            let mut connection = self.place.database.write().await?;
            let mut tx = connection.tx();
            let boundary: Option<(String,)> = query!(
                self.place.database,
                tx,
                fetch_optional,
                Sql::CacheRangeEnd,
                &*self.place.namespace,
                &from,
                end,
                CLEAR_BATCH
            )?;
            let until = boundary.as_ref().map_or(end, |(key,)| key);
            deleted += self.delete_range(&mut tx, &from, until).await?;
            match boundary {
                Some((key,)) => from = key,
                None => return Ok(deleted),
            }
        }
    }
}
