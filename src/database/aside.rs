//! Connections for one who writes much to an SQLite file, and must not keep others from writing for long.

use super::{Database, Pool, Sql, apart, query};
use crate::error::Result;

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

    /// Folds what it can of SQLite's log into the file, while others read and write.
    pub(crate) async fn fold_log(&self) -> Result<()> {
        let mut connection = self.read().await?;
        let mut tx = connection.tx();
        query!(self, tx, execute, Sql::LogFold).map(drop)
    }
}
