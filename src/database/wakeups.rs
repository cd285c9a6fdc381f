//! Hearing of what other processes enqueue and cancel, by PostgreSQL's notifications.

use std::time::Duration;

use sqlx::SqlStr;
use sqlx::postgres::PgListener;

use super::{Database, Pool, Sql};
use crate::error::{Error, Result};

/// The channels of the statements that notify.
const JOBS: &str = "larder_job";
const CONTROL: &str = "larder_job_control";

/// A connection that hears what other processes enqueue and cancel.
pub(crate) struct Wakeups {
    listener: PgListener,
    prefix: String,
    probe: SqlStr,
    patience: Duration,
}

/// What a notification tells.
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
    pub(crate) async fn listen(&self) -> Result<Option<Wakeups>> {
        let Pool::Postgres(pool) = &self.inner.pool else {
            return Ok(None);
        };
        let mut listener = PgListener::connect_with(pool).await?;
        listener.ignore_pool_close_event(true);
        listener.listen_all([JOBS, CONTROL]).await?;
        Ok(Some(Wakeups {
            listener,
            prefix: format!("{}/", self.inner.schema),
            probe: self.statement(Sql::Clock),
            patience: pool.options().get_acquire_timeout(),
        }))
    }
}

impl Wakeups {
    /// Returns when somebody has told something. A connection that only listens would not notice that its other end is
    /// gone: when nothing has come for a while, it asks.
    pub(crate) async fn next(&mut self) -> Result<Wakeup> {
        loop {
            let told = tokio::time::timeout(self.patience * 2, self.listener.try_recv());
            let Ok(told) = told.await else {
                self.ask().await?;
                continue;
            };
            match told? {
                None => return Ok(Wakeup::Anything),
                Some(told) if !told.payload().starts_with(&self.prefix) => {}
                Some(told) if told.channel() == CONTROL => return Ok(Wakeup::Control),
                Some(_) => return Ok(Wakeup::Jobs),
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
