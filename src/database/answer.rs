//! Giving up on a server that says nothing more: the network is cut and nobody told the connection (it is half open).

use std::future::Future;
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

impl Database {
    /// What `work` on this database gives, or a transient error where the server does not answer in time.
    /// SQLite has no network, and its locks have their own timeout.
    pub(crate) async fn answered<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.answered_within(Duration::MAX, work).await
    }

    /// [`Database::answered`] sooner, but no sooner than within `acquire_timeout`.
    pub(crate) async fn answered_within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Pool::Postgres(pool) = &self.inner.pool else {
            return work.await;
        };
        let acquire = pool.options().get_acquire_timeout();
        let limit = limit.clamp(acquire, acquire.saturating_mul(PATIENCE));
        let given_up = Arc::new(AtomicBool::new(false));
        let mut work = pin!(GIVEN_UP.scope(given_up.clone(), work));
        match tokio::time::timeout(limit, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                given_up.store(true, Ordering::Release);
                Err(Error::transient(format!(
                    "the database did not answer within {} s",
                    limit.as_secs_f64()
                )))
            }
        }
    }
}
