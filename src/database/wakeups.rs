//! Hearing of what other processes enqueue, cancel and compute, by PostgreSQL's notifications.

use std::time::Duration;

use sqlx::SqlStr;
use sqlx::postgres::{PgListener, PgNotification};

use super::{Database, Pool, Sql};
use crate::error::{Error, Result};

/// The channels of the statements that notify.
#[cfg(feature = "worker")]
const JOBS: &str = "larder_job";
#[cfg(feature = "worker")]
const CONTROL: &str = "larder_job_control";
const ITEMS: &str = "larder_cache";
const WRITES: &str = "larder_cache_written";

/// A connection that hears what other processes do.
pub(crate) struct Wakeups {
    listener: PgListener,
    prefix: String,
    probe: SqlStr,
    patience: Duration,
}

/// What a notification tells a worker.
#[cfg(feature = "worker")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// A job was enqueued.
    Jobs,
    /// A job that may run was cancelled.
    Control,
    /// The connection was lost and made anew: anything may have happened.
    Anything,
}

impl Database {
    /// Every wake-up that another process sends when it enqueues or cancels. `None` on SQLite, which has no such thing.
    #[cfg(feature = "worker")]
    pub(crate) async fn listen(&self) -> Result<Option<Wakeups>> {
        self.listen_to(&[JOBS, CONTROL]).await
    }

    /// Every item that another process is done with computing. `None` on SQLite.
    pub(crate) async fn listen_to_items(&self) -> Result<Option<Wakeups>> {
        self.listen_to(&[ITEMS]).await
    }

    /// Every item that was overwritten or deleted, as a JSON array of its namespace and key; none of them says all.
    /// `None` on SQLite.
    pub(crate) async fn listen_to_writes(&self) -> Result<Option<Wakeups>> {
        self.listen_to(&[WRITES]).await
    }

    async fn listen_to(&self, channels: &[&str]) -> Result<Option<Wakeups>> {
        let Pool::Postgres(pool) = &self.inner.pool else {
            return Ok(None);
        };
        let mut listener = PgListener::connect_with(pool).await?;
        listener.ignore_pool_close_event(true);
        listener.listen_all(channels.iter().copied()).await?;
        Ok(Some(Wakeups {
            listener,
            prefix: format!("{}/", self.inner.schema),
            probe: self.statement(Sql::Clock),
            patience: pool.options().get_acquire_timeout(),
        }))
    }
}

impl Wakeups {
    /// Returns when somebody has enqueued or cancelled something.
    #[cfg(feature = "worker")]
    pub(crate) async fn next(&mut self) -> Result<Wakeup> {
        Ok(match self.told().await? {
            None => Wakeup::Anything,
            Some(told) if told.channel() == CONTROL => Wakeup::Control,
            Some(_) => Wakeup::Jobs,
        })
    }

    /// The next item that somebody is done with, or `None` where the connection was lost and made anew.
    pub(crate) async fn next_item(&mut self) -> Result<Option<String>> {
        let told = self.told().await?;
        Ok(told.and_then(|told| {
            told.payload()
                .strip_prefix(&self.prefix)
                .map(ToOwned::to_owned)
        }))
    }

    /// What the next notification says, or `None` where the connection was lost and made anew. A connection that only
    /// listens would not notice that its other end is gone: when nothing has come for a while, it asks.
    async fn told(&mut self) -> Result<Option<PgNotification>> {
        loop {
            let told = tokio::time::timeout(self.patience * 2, self.listener.try_recv());
            let Ok(told) = told.await else {
                self.ask().await?;
                continue;
            };
            match told? {
                Some(told) if !told.payload().starts_with(&self.prefix) => {}
                told => return Ok(told),
            }
        }
    }

    async fn ask(&mut self) -> Result<()> {
        let ask = sqlx::query(self.probe.clone()).execute(&mut self.listener);
        match tokio::time::timeout(self.patience, ask).await {
            Ok(answer) => Ok(answer.map(drop)?),
            Err(_) => Err(Error::transient("the database no longer answers")),
        }
    }
}
