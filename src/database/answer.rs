//! Giving up on a server that says nothing more: the network is cut and nobody told the connection (it is half open).

use std::future::Future;
use std::pin::Pin;
#[cfg(feature = "worker")]
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Database, Pool};
use crate::error::{Error, Result};

tokio::task_local! {
    /// Whether the work that this task is at was given up.
    static GIVEN_UP: Arc<AtomicBool>;
}

/// Tells a connection that is dropped whether that is because its server did not answer. Such a one must not go back to
/// its pool, which would wait for an answer too.
#[derive(Clone, Debug, Default)]
pub(super) struct Patience(Option<Arc<AtomicBool>>);

impl Patience {
    pub(super) fn of_this_task() -> Self {
        Self(GIVEN_UP.try_with(Arc::clone).ok())
    }

    pub(super) fn is_over(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|given_up| given_up.load(Ordering::Acquire))
    }
}

/// A server that takes connections has so many times `acquire_timeout` to answer what is asked at once.
const PATIENCE: u32 = 4;
/// It has a second more for so many bytes that it is sent.
const BYTES_A_SECOND: usize = 64 * 1024;

impl Database {
    /// How long PostgreSQL has to answer a statement of so many bytes. SQLite has no network, and its locks have their own
    /// timeout.
    pub(crate) fn patience(&self, bytes: usize) -> Option<Duration> {
        let Pool::Postgres(pool) = &self.inner.pool else {
            return None;
        };
        let acquire = pool.options().get_acquire_timeout();
        Some(patience(acquire).saturating_add(travels(bytes)))
    }

    /// How long a connection that nobody has tested has to answer what is sent by it: as long as a test may take.
    pub(super) fn untested_patience(&self, bytes: usize) -> Duration {
        self.acquire_timeout().saturating_add(travels(bytes))
    }

    /// What `work` gives that sends so many bytes, or a transient error where the server does not answer in time. The
    /// connection is then to be given up.
    pub(crate) async fn heard<T>(
        &self,
        bytes: usize,
        work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T> {
        match self.patience(bytes) {
            Some(limit) => within(limit, work).await,
            None => Ok(work.await),
        }
    }

    /// What `work` on this database gives, or a transient error where the server does not answer in time.
    #[cfg(feature = "worker")]
    pub(crate) async fn answered<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.answered_to(0, work).await
    }

    /// [`Database::answered`] of work that sends so many bytes.
    #[cfg(feature = "worker")]
    pub(crate) async fn answered_to<T>(
        &self,
        bytes: usize,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        // Large, and moved several times otherwise.
        given(self.patience(bytes), Box::pin(work)).await
    }

    /// [`Database::answered`] sooner, but no sooner than within `acquire_timeout`.
    #[cfg(feature = "worker")]
    pub(crate) async fn answered_within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let limit = self
            .patience(0)
            .map(|patience| limit.clamp(self.acquire_timeout(), patience));
        given(limit, work).await
    }
}

/// How long a server has to answer that has so long to connect.
pub(super) fn patience(acquire_timeout: Duration) -> Duration {
    acquire_timeout.saturating_mul(PATIENCE)
}

/// How long so many bytes may be on their way.
fn travels(bytes: usize) -> Duration {
    Duration::from_secs((bytes / BYTES_A_SECOND) as u64)
}

/// What `work` gives within `limit`, where it has one. The connections that it uses are closed after that.
#[cfg(feature = "worker")]
async fn given<T>(limit: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(limit) = limit else {
        return work.await;
    };
    let given_up = Arc::new(AtomicBool::new(false));
    let mut work = pin!(GIVEN_UP.scope(given_up.clone(), work));
    let done = within(limit, work.as_mut()).await;
    if done.is_err() {
        given_up.store(true, Ordering::Release);
    }
    done?
}

pub(super) async fn within<T>(
    limit: Duration,
    work: Pin<&mut impl Future<Output = T>>,
) -> Result<T> {
    tokio::time::timeout(limit, work).await.map_err(|_| {
        Error::unanswered(format!(
            "the database did not answer within {} s",
            limit.as_secs_f64()
        ))
    })
}
