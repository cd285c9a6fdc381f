//! Connections to PostgreSQL that one task keeps while it goes on.
//!
//! A pool asks each connection whether it is there before it lends it and when it is given back, and hands out another
//! one each time. A worker's statements are few and each has to be planned by each connection, so that those who ask
//! all the time keep theirs. It is given back at the first error.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::answer::Patience;
use super::{Connection, Database, Engine, Loan, Tx};
use crate::error::Result;

/// A connection that was not used for so long is asked whether it is there, as a pool does.
const IDLE: Duration = Duration::from_millis(100);
/// However much it is used, a connection is given back to the pool after this; the pool ends those that are old.
const LONGEST: Duration = Duration::from_secs(300);

/// A connection, since when it has been kept, and when it was used last.
struct Used {
    connection: Connection,
    since: Instant,
    last: Instant,
}

/// The connections of one task; no more than it uses at once.
pub(crate) struct Kept {
    database: Database,
    idle: Mutex<Vec<Used>>,
}

/// One of them. Dropped, it goes back to the pool.
pub(crate) struct Lent {
    pub(crate) connection: Connection,
    since: Instant,
}

impl Lent {
    /// What `work` gives in a transaction of PostgreSQL with these settings that comes to its end without a pause, and is committed
    /// then; on SQLite, by itself.
    pub(crate) async fn in_transaction<T>(
        &mut self,
        database: &Database,
        settings: &[&str],
        work: impl AsyncFnOnce(Tx<'_>) -> Result<T>,
    ) -> Result<T> {
        let Loan::Postgres(connection) = &mut self.connection.inner else {
            return work(self.connection.tx()).await;
        };
        let mut transaction =
            sqlx::Connection::begin_with(&mut **connection, database.brief(settings)).await?;
        let given = work(Tx::from(&mut transaction)).await?;
        transaction.commit().await?;
        Ok(given)
    }
}

impl Kept {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            idle: Mutex::default(),
        }
    }

    /// One to read by: one that is there already, or one of the pool's.
    pub(crate) async fn read(&self, now: Instant) -> Result<Lent> {
        if let Some(lent) = self.kept(now).await {
            return Ok(lent);
        }
        let connection = self.database.read().await?;
        Ok(Lent {
            connection,
            since: now,
        })
    }

    /// One to write by.
    pub(crate) async fn write(&self, now: Instant) -> Result<Lent> {
        if let Some(lent) = self.kept(now).await {
            return Ok(lent);
        }
        let connection = self.database.write().await?;
        Ok(Lent {
            connection,
            since: now,
        })
    }

    async fn kept(&self, now: Instant) -> Option<Lent> {
        let mut used = self.lock().pop()?;
        if now.saturating_duration_since(used.since) >= LONGEST {
            return None;
        }
        used.connection.patience = Patience::of_this_task();
        let idle = now.saturating_duration_since(used.last);
        if idle >= IDLE && !used.connection.is_there().await {
            return None;
        }
        Some(Lent {
            connection: used.connection,
            since: used.since,
        })
    }

    /// Keeps a connection on which all went well. One to SQLite holds the turn to write, and is given back at once.
    pub(crate) fn keep(&self, lent: Lent, now: Instant) {
        if self.database.engine() == Engine::Postgres {
            self.lock().push(Used {
                connection: lent.connection,
                since: lent.since,
                last: now,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Used>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sqlx::{AssertSqlSafe, Row, raw_sql};

    use super::*;
    use crate::database::{DatabaseOptions, Tx};

    async fn ask(lent: &mut Lent, sql: &str) -> String {
        let Tx::Postgres(connection) = lent.connection.tx() else {
            unreachable!()
        };
        let sql = AssertSqlSafe(sql.to_owned());
        let rows = raw_sql(sql).fetch_all(connection).await.unwrap();
        rows.first().map_or(String::new(), |row| row.get(0))
    }

    /// Which of the server's processes it is.
    async fn backend(lent: &mut Lent) -> String {
        ask(lent, "SELECT CAST(pg_backend_pid() AS text)").await
    }

    // PostgreSQL's alone: for SQLite, see below.
    #[tokio::test]
    async fn a_connection_is_kept_until_it_is_old_or_its_server_has_gone() {
        let url = std::env::var("LARDER_TEST_POSTGRES_URL")
            .expect("LARDER_TEST_POSTGRES_URL names no PostgreSQL");
        let schema = format!("test {}", uuid::Uuid::now_v7().simple());
        let options = DatabaseOptions::new(&url).schema(&schema);
        let kept = Kept::new(options.connect().await.unwrap());
        let start = Instant::now();
        let mut first = kept.write(start).await.unwrap();
        let mut second = kept.read(start).await.unwrap();
        let (one, other) = (backend(&mut first).await, backend(&mut second).await);
        assert_ne!(one, other, "it is in use");

        kept.keep(first, start);
        let mut again = kept.read(start + IDLE / 2).await.unwrap();
        assert_eq!(backend(&mut again).await, one);
        let end = format!("SELECT CAST(pg_terminate_backend({one}) AS text)");
        assert_eq!(ask(&mut second, &end).await, "true");
        kept.keep(again, start);
        let mut anew = kept.write(start + IDLE).await.unwrap();
        assert_ne!(backend(&mut anew).await, one, "that one has gone");

        kept.keep(anew, start);
        drop(kept.write(start + LONGEST).await.unwrap());
        assert!(kept.lock().is_empty(), "it was old");
        let drop_schema = format!("DROP SCHEMA \"{schema}\" CASCADE");
        ask(&mut second, &drop_schema).await;
    }

    // SQLite's alone: there a connection that writes is everybody's turn.
    #[tokio::test]
    async fn no_connection_to_a_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("test.db").display());
        let database = Database::connect(&url).await.unwrap();
        let kept = Kept::new(database.clone());
        let now = Instant::now();
        let lent = kept.write(now).await.unwrap();
        kept.keep(lent, now);
        assert!(kept.lock().is_empty());
        drop(database.write().await.unwrap());
    }
}
