//! Connections by which something is sent before they were tested.
//!
//! A pool tests a connection before it lends it: it asks its server for a sign of life, which takes as long as a short
//! statement does. What may be sent twice goes out at once instead. Where the connection turns out to be gone, as all are
//! after a restart of the server, it is sent again by one that was tested.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::timeout;

use super::{Connection, Database, Tx, answer};
use crate::error::Result;

tokio::task_local! {
    /// For a task that wants a connection as it is: whether it was lent one that was not tested.
    static AS_IT_IS: Cell<bool>;
    /// For a task that gives a connection back and does not wait for that for ever.
    static IS_LIMITED: ();
}

/// Whether a connection that lay in the pool may be lent.
pub(super) async fn may_be_lent(connection: &mut PgConnection) -> bool {
    if AS_IT_IS.try_with(|untested| untested.set(true)).is_ok() {
        return true;
    }
    let answer = sqlx::Connection::ping(connection).await;
    if let Err(error) = &answer {
        tracing::debug!(%error, "a connection of the pool is gone, and another is opened");
    }
    answer.is_ok()
}

/// Whether a connection that is given back may lie in the pool. The pool itself waits for an answer without a limit, so that
/// one that fell silent would keep its place for as long as the network does not tell.
pub(super) async fn may_be_kept(
    connection: &mut PgConnection,
    limit: Duration,
) -> Result<bool, sqlx::Error> {
    if IS_LIMITED.try_with(|()| ()).is_ok() {
        return Ok(true);
    }
    let late = |_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into()));
    let answer = timeout(limit, sqlx::Connection::ping(connection)).await;
    answer.unwrap_or_else(late).map(|()| true)
}

/// Has a connection `returned` to the pool, or closed where that takes too long.
pub(super) async fn within_limit(limit: Duration, returned: impl Future<Output = ()>) {
    let _ = timeout(limit, IS_LIMITED.scope((), returned)).await;
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
        Self::lent(database.read()).await
    }

    /// One to write by.
    pub(crate) async fn to_write(database: &Database) -> Result<Self> {
        Self::lent(database.write()).await
    }

    async fn lent(connects: impl Future<Output = Result<Connection>>) -> Result<Self> {
        let lent = async {
            let connection = connects.await?;
            Ok(Self {
                connection: Some(connection),
                is_tested: !AS_IT_IS.with(Cell::get),
            })
        };
        AS_IT_IS.scope(Cell::new(false), lent).await
    }

    /// What it is, for a task of its own. What stays has no connection.
    #[cfg(feature = "worker")]
    pub(crate) fn moved(&mut self) -> Self {
        Self {
            connection: self.connection.take(),
            is_tested: std::mem::replace(&mut self.is_tested, true),
        }
    }

    pub(crate) async fn tx(&mut self, database: &Database) -> Result<Tx<'_>> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => database.read().await?,
        };
        Ok(self.connection.insert(connection).tx())
    }

    /// How long `bytes` that are sent by it may take before another is to be tried.
    pub(crate) fn limit(&self, database: &Database, bytes: usize) -> Option<Duration> {
        (!self.is_tested).then(|| database.untested_patience(bytes))
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
    answer::within(limit, pin!(work)).await?
}
