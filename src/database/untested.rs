//! Connections by which something is sent before they were tested.
//!
//! A pool tests a connection before it lends it: it asks its server for a sign of life, which takes as long as a short
//! statement does. What may be sent twice goes out at once instead. Where the connection turns out to be gone, as all are
//! after a restart of the server, it is sent again by one that was tested.

use std::future::Future;
use std::time::Duration;

use sqlx::PgConnection;

use super::{Connection, Database, Engine, Tx};
use crate::error::{Error, Result};

tokio::task_local! {
    /// Whether this task wants a connection as it is.
    static AS_IT_IS: ();
}

/// Whether a connection that lay in the pool may be lent.
pub(super) async fn may_be_lent(connection: &mut PgConnection) -> bool {
    if AS_IT_IS.try_with(|()| ()).is_ok() {
        return true;
    }
    let answer = sqlx::Connection::ping(connection).await;
    if let Err(error) = &answer {
        tracing::debug!(%error, "a connection of the pool is gone, and another is opened");
    }
    answer.is_ok()
}

/// A connection that was perhaps not tested.
pub(crate) struct Untested {
    /// None once it turned out to be gone.
    connection: Option<Connection>,
    is_tested: bool,
}

impl Untested {
    /// One to read by.
    pub(crate) async fn to_read(database: &Database) -> Result<Self> {
        let lent = AS_IT_IS.scope((), database.read()).await?;
        Ok(Self::new(lent, database))
    }

    /// One to write by.
    pub(crate) async fn to_write(database: &Database) -> Result<Self> {
        let lent = AS_IT_IS.scope((), database.write()).await?;
        Ok(Self::new(lent, database))
    }

    fn new(connection: Connection, database: &Database) -> Self {
        Self {
            connection: Some(connection),
            is_tested: database.engine() == Engine::Sqlite,
        }
    }

    pub(crate) async fn tx(&mut self, database: &Database) -> Result<Tx<'_>> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => database.read().await?,
        };
        Ok(self.connection.insert(connection).tx())
    }

    /// How long what is sent by it may take before somebody else is to be tried: as long as a test may.
    pub(crate) fn limit(&self, database: &Database) -> Option<Duration> {
        (!self.is_tested).then(|| database.acquire_timeout())
    }

    /// What came of what was sent, or `None` if that is to be sent again.
    pub(crate) fn take<T>(&mut self, sent: Result<T>) -> Result<Option<T>> {
        let was_tested = std::mem::replace(&mut self.is_tested, true);
        match sent {
            Err(error) if !was_tested && error.is_of_its_connection() => {
                self.give_up();
                Ok(None)
            }
            sent => sent.map(Some),
        }
    }

    /// Has it closed: its server does not answer.
    pub(crate) fn give_up(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.give_up();
        }
    }
}

/// What `work` gives within `limit`.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(limit) = limit else {
        return work.await;
    };
    let late = |_| Err(Error::unanswered("the connection gave no answer"));
    tokio::time::timeout(limit, work).await.unwrap_or_else(late)
}
