//! A connection to PostgreSQL by which reads are sent while others are under way on it.
//!
//! sqlx sends a statement when the one before has been answered. Between the two the server's process sleeps, and to wake it
//! takes as long as some ten reads. On a pipeline it finds the next one there. It is opened once many read at
//! once, and counts among the most connections that are open. Whatever goes wrong with it, the reads go by the pool.

mod reads;
mod target;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sqlx::error::BoxDynError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgPool, SqlStr};
use tokio::runtime::{Handle, Id};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{Client, Config, NoTls, Statement};

pub(crate) use reads::PipedColumns;
use target::{config, is_doubtful, is_on_this_machine, is_plain};

use super::{Database, Sql};

/// Where fewer connections may be open, each is the pool's.
const LEAST_CONNECTIONS: u32 = 4;
/// So many lanes use it at once, of all namespaces: what one waits for holds up all that were sent after it.
const MOST_USERS: usize = 8;
/// How long the pool is enough after one was lost, and after one could not be opened.
const LOST: Duration = Duration::from_secs(1);
const REFUSED: Duration = Duration::from_secs(60);
/// Where the pool keeps connections for good.
const FOR_GOOD: Duration = Duration::from_secs(365 * 24 * 3600);

/// The pipeline of a database, if it may have one.
#[derive(Debug, Default)]
pub(super) struct Pipelines {
    to: Option<Config>,
    /// Whom to ask whether the server is on this machine, where it is not enough that its address is.
    ask: Option<PgPool>,
    patience: Duration,
    idle: Duration,
    lifetime: Duration,
    is_open: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    NotBefore(Instant),
    Opening,
    Open(Arc<Pipeline>, JoinHandle<()>),
    Ended,
}

/// One that is open.
#[derive(Debug)]
pub(crate) struct Pipeline {
    client: Client,
    statements: Mutex<HashMap<Sql, Statement>>,
    /// Its socket is read by tasks of this one, which another must not wait for.
    runtime: Id,
    used: AtomicBool,
    lost: AtomicBool,
}

impl Pipelines {
    /// What one that leads to where `options` do takes of the connections that may be open.
    pub(super) fn share(options: &PgConnectOptions, prepared: bool, connections: u32) -> u32 {
        u32::from(prepared && connections >= LEAST_CONNECTIONS && is_plain(options))
    }

    /// To where the connections of `pool` lead, by this password, which lives as they do.
    pub(super) fn beside(pool: &PgPool, password: Option<String>) -> Self {
        let (to, options) = (pool.connect_options(), pool.options());
        Self {
            to: Some(config(&to, password)),
            ask: is_doubtful(&to).then(|| pool.clone()),
            patience: options.get_acquire_timeout(),
            idle: options.get_idle_timeout().unwrap_or(FOR_GOOD),
            lifetime: options.get_max_lifetime().unwrap_or(FOR_GOOD),
            ..Self::default()
        }
    }

    /// Nothing panics while it is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that is open, if this runtime may use it.
    fn get(&self) -> Option<Arc<Pipeline>> {
        if !self.is_open.load(Ordering::Relaxed) {
            return None;
        }
        let runtime = Handle::try_current().ok()?.id();
        let mut state = self.state();
        let State::Open(pipeline, driver) = &*state else {
            return None;
        };
        if pipeline.is_lost() {
            driver.abort();
            self.close_until(&mut state, LOST);
            return None;
        }
        let may_use = pipeline.runtime == runtime && Arc::strong_count(pipeline) <= MOST_USERS;
        may_use.then(|| pipeline.clone())
    }

    /// Has one opened, if there is none and may be one.
    fn open(self: &Arc<Self>, address: SqlStr) {
        let (Some(to), Ok(runtime)) = (&self.to, Handle::try_current()) else {
            return;
        };
        let mut state = self.state();
        let may_open = match &*state {
            State::None => true,
            State::NotBefore(then) => *then <= Instant::now(),
            State::Opening | State::Open(..) | State::Ended => false,
        };
        if may_open {
            *state = State::Opening;
            // On a runtime that ends the task is dropped at once, and looks at the state.
            drop(state);
            let opening = Opening(Arc::downgrade(self));
            runtime.spawn(opening.open(to.clone(), address));
        }
    }

    /// Lets go of `pipeline`, if that is the one.
    fn forget(&self, pipeline: &Arc<Pipeline>, pause: Duration) {
        let mut state = self.state();
        if matches!(&*state, State::Open(open, _) if Arc::ptr_eq(open, pipeline)) {
            self.close_until(&mut state, pause);
        }
    }

    fn close_until(&self, state: &mut State, pause: Duration) {
        self.is_open.store(false, Ordering::Relaxed);
        *state = State::NotBefore(Instant::now() + pause);
    }

    /// Closes it for good.
    pub(super) async fn close(&self) {
        let state = std::mem::replace(&mut *self.state(), State::Ended);
        self.is_open.store(false, Ordering::Relaxed);
        if let State::Open(pipeline, driver) = state {
            // It ends with the last who uses it.
            drop(pipeline);
            let abort = driver.abort_handle();
            if tokio::time::timeout(self.patience, driver).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// One that is being opened. Its task may be dropped with its runtime.
struct Opening(Weak<Pipelines>);

impl Opening {
    async fn open(self, to: Config, address: SqlStr) {
        let Some((patience, ask)) = (self.0.upgrade()).map(|all| (all.patience, all.ask.clone()))
        else {
            return;
        };
        let connects = async {
            match ask {
                Some(pool) if !is_on_this_machine(&pool, address).await? => Ok(None),
                _ => Ok::<_, BoxDynError>(Some(to.connect(NoTls).await?)),
            }
        };
        let connected = tokio::time::timeout(patience, connects).await;
        let Some(pipelines) = self.0.upgrade() else {
            return;
        };
        let mut state = pipelines.state();
        if !matches!(*state, State::Opening) {
            return;
        }
        let (client, connection) = match connected {
            Ok(Ok(Some(connected))) => connected,
            Ok(Ok(None)) => {
                tracing::debug!("reads go by the pool alone: the server is on another machine");
                *state = State::Ended;
                return;
            }
            Ok(Err(error)) => {
                tracing::debug!(error, "reads go by the pool alone");
                let pause = if is_refusal(&*error) { REFUSED } else { LOST };
                return pipelines.close_until(&mut state, pause);
            }
            Err(_) => return pipelines.close_until(&mut state, LOST),
        };
        let pipeline = Arc::new(Pipeline {
            client,
            statements: Mutex::default(),
            runtime: Handle::current().id(),
            used: AtomicBool::new(true),
            lost: AtomicBool::new(false),
        });
        let watched = (self.0.clone(), Arc::downgrade(&pipeline));
        let driver = tokio::spawn(drive(
            connection,
            watched,
            pipelines.idle,
            pipelines.lifetime,
        ));
        pipelines.is_open.store(true, Ordering::Relaxed);
        *state = State::Open(pipeline, driver);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(pipelines) = self.0.upgrade() {
            let mut state = pipelines.state();
            if matches!(*state, State::Opening) {
                pipelines.close_until(&mut state, LOST);
            }
        }
    }
}

/// Whether there will be none as long as nobody changes something, and it is not the network or a server that begins.
fn is_refusal(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    let Some(error) = error.downcast_ref::<tokio_postgres::Error>() else {
        return false;
    };
    let passes = match error.code() {
        Some(state) => state.code().starts_with("57P"),
        None => {
            error.is_closed()
                || error
                    .source()
                    .is_some_and(|source| source.is::<io::Error>())
        }
    };
    !passes
}

/// Sends and receives until the connection has ended, which is when nobody has its client any more.
async fn drive(
    connection: impl Future<Output = Result<(), tokio_postgres::Error>>,
    (pipelines, pipeline): (Weak<Pipelines>, Weak<Pipeline>),
    idle: Duration,
    lifetime: Duration,
) {
    let opened = Instant::now();
    let mut connection = pin!(connection);
    let forget = |pause| {
        if let (Some(pipelines), Some(pipeline)) = (pipelines.upgrade(), pipeline.upgrade()) {
            pipelines.forget(&pipeline, pause);
        }
    };
    loop {
        match tokio::time::timeout(idle.min(lifetime), connection.as_mut()).await {
            Ok(ended) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "lost the connection that reads go by");
                }
                return forget(LOST);
            }
            Err(_) => {
                let Some(used) = (pipeline.upgrade())
                    .map(|pipeline| pipeline.used.swap(false, Ordering::Relaxed))
                else {
                    // It was let go of long ago, and its server does not answer.
                    return;
                };
                if opened.elapsed() >= lifetime || !used {
                    forget(Duration::ZERO);
                }
            }
        }
    }
}

impl Database {
    /// The pipeline, if one is open and of this runtime.
    pub(crate) fn pipeline(&self) -> Option<Arc<Pipeline>> {
        self.inner.pipelines.get()
    }

    /// Has a pipeline opened, if there is none and may be one.
    pub(crate) fn open_pipeline(&self) {
        let address = self.statement(Sql::ServerAddress);
        self.inner.pipelines.open(address);
    }
}
