//! Connections for one who writes much to an SQLite file, and must not keep others from writing for long.

use std::time::{Duration, Instant};

use super::{Database, Pool, Sql, Transaction, apart, query};
use crate::error::Result;

/// SQLite's own wait for a lock grows from 1 to 100 ms, and whoever writes without a pause leaves it for some microseconds:
/// for so long it is tried again at once, and then each millisecond.
const EAGER: Duration = Duration::from_millis(2);
/// As a pool's `busy_timeout`.
const PATIENCE: Duration = Duration::from_secs(10);

impl Database {
    /// The same SQLite file by two connections of its own, to be closed by [`Database::close_apart_from`]. Its writes take turns
    /// with those of this process. It keeps more pages, so that one which many rows share is written once a batch, and it
    /// leaves the log as it is: whoever writes much sees to that between batches, when nobody waits for it.
    pub(crate) fn aside(&self) -> Self {
        let Pool::Sqlite {
            read,
            write,
            in_memory: false,
            turn,
            ..
        } = &self.inner.pool
        else {
            return self.clone();
        };
        let options = (*write.connect_options())
            .clone()
            .pragma("cache_size", "-16000")
            .busy_timeout(Duration::ZERO)
            .pragma("wal_autocheckpoint", "0");
        self.over(Pool::Sqlite {
            read: apart(read, 1),
            write: write
                .options()
                .clone()
                .min_connections(0)
                .connect_lazy_with(options),
            in_memory: false,
            turn: turn.clone(),
            here: None,
        })
    }

    /// [`Database::begin`] as soon as nobody else writes, for one that is [`Database::aside`].
    pub(crate) async fn begin_at_once(&self) -> Result<Transaction> {
        let started = Instant::now();
        loop {
            let error = match self.begin().await {
                Ok(transaction) => return Ok(transaction),
                Err(error) => error,
            };
            let waited = started.elapsed();
            if !error.is_transient() || waited >= PATIENCE {
                return Err(error);
            }
            if waited < EAGER {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Folds what it can of SQLite's log into the file, while others read and write.
    pub(crate) async fn fold_log(&self) -> Result<()> {
        let mut connection = self.read().await?;
        let mut tx = connection.tx();
        query!(self, tx, execute, Sql::LogFold).map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // SQLite alone has one writer.
    #[tokio::test]
    async fn who_writes_aside_waits_for_another_process_and_begins_when_that_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        let database = Database::connect(&url).await.unwrap();
        let other = Database::connect(&url).await.unwrap();
        let held = other.begin().await.unwrap();
        let aside = database.aside();
        let mut begins = std::pin::pin!(aside.begin_at_once());
        let waits = tokio::time::timeout(EAGER * 10, &mut begins).await;
        assert!(waits.is_err(), "nobody gave it the lock: {waits:?}");
        held.commit().await.unwrap();
        begins.await.unwrap().commit().await.unwrap();
        aside.close_apart_from(&database).await;
    }
}
