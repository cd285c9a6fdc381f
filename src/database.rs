//! The database: connections, transactions and statements of either engine.
//!
//! This is the only module that knows that there are two. Above it, a statement runs on a [`Tx`], whatever is behind.

mod alone;
mod anchor;
mod answer;
#[cfg(feature = "worker")]
mod arrays;
mod aside;
#[cfg(feature = "worker")]
mod bulk;
#[cfg(feature = "worker")]
mod changes;
mod columns;
mod connect;
mod element;
mod flush;
mod fold;
mod here;
#[cfg(feature = "worker")]
mod kept;
mod lock;
mod log;
mod migrate;
mod pace;
mod pipeline;
mod redact;
#[cfg(feature = "worker")]
mod replan;
#[cfg(feature = "worker")]
mod rows;
#[cfg(feature = "worker")]
mod shared;
pub(crate) mod sql;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod statements;
mod types;
mod untested;
mod wakeups;
#[cfg_attr(not(feature = "worker"), allow(dead_code))]
#[cfg(feature = "worker")]
mod watcher;
#[cfg(feature = "worker")]
mod write_events;

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres, Sqlite, SqliteConnection, SqlitePool};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};

pub(crate) use alone::Alone;
#[cfg(feature = "worker")]
pub(crate) use arrays::Column;
pub(crate) use columns::{FirstColumns, each};
pub use connect::DatabaseOptions;
pub(crate) use here::{Bind, HereRow, Parameter, Written};
#[cfg(feature = "worker")]
pub(crate) use kept::Kept;
pub use migrate::{MigrationStatus, SchemaPolicy};
pub(crate) use pipeline::{PipedColumns, Pipeline};
pub use redact::redact_url;
#[cfg(feature = "worker")]
pub(crate) use rows::{CommonText, Ids, Readable, readable};
pub use sql::Engine;
pub(crate) use sql::Sql;
pub use types::Id;
pub(crate) use types::{JsonText, Keys, RowText};
pub(crate) use untested::{Untested, within};
#[cfg(feature = "worker")]
pub(crate) use wakeups::Wakeup;
pub(crate) use wakeups::Wakeups;

use crate::clock::Clock;
use crate::error::{Error, Result};

/// A database that holds larder's tables. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Database {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Pool,
    pipelines: Arc<pipeline::Pipelines>,
    statements: sql::Statements,
    schema: String,
    clock: Clock,
    prepared: bool,
    /// Counts this process's enqueues, so that its workers wake at once.
    enqueued: tokio::sync::watch::Sender<Announced>,
    /// Counts its cancellations of jobs.
    cancelled: tokio::sync::watch::Sender<u64>,
    #[cfg(feature = "worker")]
    shared: Arc<shared::Shared>,
}

/// SQLite has one writer: a connection of its own, so that writers of this process queue up fairly and never meet
/// each other's lock. An in-memory database is one connection for everything.
#[derive(Debug)]
enum Pool {
    Sqlite {
        read: SqlitePool,
        write: SqlitePool,
        in_memory: bool,
        /// Who writes, by the pool or on their own thread. None where one connection is everybody's.
        turn: Option<Arc<Mutex<()>>>,
        here: Option<Arc<here::Here>>,
    },
    Postgres(PgPool),
}

/// The right to write, among the callers of this process.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// A connection of either engine, borrowed: what every `_in` operation runs on.
///
/// It is made from sqlx's own transactions and connections, and from larder's [`Transaction`]:
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let directory = tempfile::tempdir().unwrap();
/// # let url = format!("sqlite://{}", directory.path().join("app.db").display());
/// use larder::{Cache, Expiration};
///
/// let cache = Cache::connect(&url).await?;
/// let pool = sqlx::SqlitePool::connect(&url).await?;
///
/// // A domain write and its invalidation commit or roll back together.
/// let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
/// sqlx::query("CREATE TABLE price (cents INTEGER)").execute(&mut *tx).await?;
/// cache.delete_in(&mut tx, "prices").await?;
/// tx.commit().await?;
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
///
/// On SQLite begin such a transaction with `BEGIN IMMEDIATE` if it reads before it writes: a deferred one that meets
/// another writer fails at once, whatever the busy timeout.
#[derive(Debug)]
pub enum Tx<'c> {
    /// A connection to SQLite.
    Sqlite(&'c mut SqliteConnection),
    /// A connection to PostgreSQL.
    Postgres(&'c mut PgConnection),
}

impl Tx<'_> {
    pub(crate) fn reborrow(&mut self) -> Tx<'_> {
        match self {
            Tx::Sqlite(connection) => Tx::Sqlite(connection),
            Tx::Postgres(connection) => Tx::Postgres(connection),
        }
    }

    fn engine(&self) -> Engine {
        match self {
            Tx::Sqlite(_) => Engine::Sqlite,
            Tx::Postgres(_) => Engine::Postgres,
        }
    }
}

macro_rules! tx_from {
    ($($variant:ident($source:ty);)*) => {
        $(impl<'c> From<&'c mut $source> for Tx<'c> {
            fn from(source: &'c mut $source) -> Self {
                Tx::$variant(&mut *source)
            }
        })*
    };
}

tx_from! {
    Sqlite(SqliteConnection);
    Sqlite(sqlx::Transaction<'_, Sqlite>);
    Sqlite(PoolConnection<Sqlite>);
    Postgres(PgConnection);
    Postgres(sqlx::Transaction<'_, Postgres>);
    Postgres(PoolConnection<Postgres>);
}

/// A transaction of either engine, begun by [`Database::begin`]. Dropped without a commit, it rolls back.
#[derive(Debug)]
#[must_use = "a transaction that is not committed rolls back"]
pub struct Transaction {
    inner: OwnedTransaction,
    database: Database,
}

#[derive(Debug)]
enum OwnedTransaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>, Option<Turn>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Transaction {
    /// Makes everything done in it durable and visible.
    ///
    /// # Errors
    /// Where the database fails; nothing of it is then kept.
    pub async fn commit(self) -> Result<()> {
        let database = self.database.clone();
        self.commit_quietly().await?;
        // It may have enqueued or cancelled jobs, of which this process's workers are to hear.
        database.announce();
        database.announce_cancellation();
        Ok(())
    }

    /// [`Transaction::commit`] of what no worker of this process has to hear of.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub(crate) async fn commit_quietly(self) -> Result<()> {
        match self.inner {
            OwnedTransaction::Sqlite(tx, _turn) => {
                tx.commit().await?;
                self.database.have_log_looked_at();
            }
            OwnedTransaction::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }

    /// Undoes everything done in it.
    ///
    /// # Errors
    /// Where the database fails; nothing of it is kept all the same.
    pub async fn rollback(self) -> Result<()> {
        match self.inner {
            OwnedTransaction::Sqlite(tx, _turn) => tx.rollback().await?,
            OwnedTransaction::Postgres(tx) => tx.rollback().await?,
        }
        Ok(())
    }
}

impl<'c> From<&'c mut Transaction> for Tx<'c> {
    fn from(transaction: &'c mut Transaction) -> Self {
        match &mut transaction.inner {
            OwnedTransaction::Sqlite(tx, _) => Tx::Sqlite(&mut *tx),
            OwnedTransaction::Postgres(tx) => Tx::Postgres(&mut *tx),
        }
    }
}

/// What this process's workers were told, counted.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    pub(crate) jobs: u64,
    #[cfg(feature = "worker")]
    again: u64,
}

/// A pooled connection, on loan for one operation.
pub(crate) struct Connection {
    inner: Loan,
    patience: answer::Patience,
    /// How long its server has to say that it is well when it is given back. One that fell silent would keep its place in
    /// the pool for as long as the network does not tell.
    to_return: Option<Duration>,
}

enum Loan {
    // In this order they are given back.
    Sqlite {
        connection: PoolConnection<Sqlite>,
        turn: Option<Turn>,
        /// Who folds what it writes.
        fold: Option<fold::Fold>,
    },
    Postgres(PoolConnection<Postgres>),
}

impl Connection {
    pub(crate) fn tx(&mut self) -> Tx<'_> {
        match &mut self.inner {
            Loan::Sqlite { connection, .. } => Tx::Sqlite(&mut *connection),
            Loan::Postgres(connection) => Tx::Postgres(&mut *connection),
        }
    }

    /// Whether its server answers. One that does not is closed.
    #[cfg(feature = "worker")]
    async fn is_there(&mut self) -> bool {
        let answer = match &mut self.inner {
            Loan::Sqlite { connection, .. } => sqlx::Connection::ping(&mut **connection).await,
            Loan::Postgres(connection) => sqlx::Connection::ping(&mut **connection).await,
        };
        if answer.is_err() {
            self.give_up();
        }
        answer.is_ok()
    }

    /// Closes it when it is dropped: its server does not answer.
    pub(crate) fn give_up(&mut self) {
        if let Loan::Postgres(connection) = &mut self.inner {
            connection.close_on_drop();
            self.to_return = None;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.patience.is_over() {
            self.give_up();
        }
        let (connection, turn, fold) = match &mut self.inner {
            Loan::Sqlite {
                connection,
                turn,
                fold,
            } => (connection, turn, fold),
            Loan::Postgres(connection) => {
                if let (Some(limit), Ok(runtime)) = (self.to_return, Handle::try_current()) {
                    runtime.spawn(untested::within_limit(limit, connection.return_to_pool()));
                }
                return;
            }
        };
        // A statement whose caller has gone may be waiting for a lock still: whoever has the turn next must not overtake it.
        if let (Some(turn), Ok(runtime)) = (turn.take(), Handle::try_current()) {
            let returned = connection.return_to_pool();
            runtime.spawn(async move {
                returned.await;
                drop(turn);
            });
        }
        if let Some(fold) = fold {
            fold.ask();
        }
    }
}

/// Runs a statement on a [`Tx`]: `query!(database, tx, fetch_optional, Sql::CacheGet, key, now)`.
/// Rows come as tuples; `execute` gives the count of rows that it changed.
macro_rules! query {
    ($database:expr, $tx:expr, execute, $statement:expr $(, $bind:expr)* $(,)?) => {{
        let statement = $database.statement($statement);
        match $tx.reborrow() {
            $crate::database::Tx::Sqlite(connection) => sqlx::query(statement)
                $(.bind($bind))*.persistent($database.prepared()).execute(connection).await.map(|done| done.rows_affected()),
            $crate::database::Tx::Postgres(connection) => {
                let prepared = $database.prepared();
                match $crate::database::Alone::on(connection, prepared).await {
                    Ok(mut alone) => {
                        let done = sqlx::query(statement)
                            $(.bind($bind))*.persistent(prepared).execute(alone.connection()).await;
                        alone.end(done.map(|done| done.rows_affected())).await
                    }
                    Err(error) => Err(error),
                }
            }
        }.map_err($crate::error::Error::from)
    }};
    // Rows that end with their key, each as it comes.
    ($database:expr, $tx:expr, each($seen:expr), $statement:expr $(, $bind:expr)* $(,)?) => {{
        let statement = $database.statement($statement);
        match $tx.reborrow() {
            $crate::database::Tx::Sqlite(connection) => {
                let rows = sqlx::query(statement)$(.bind($bind))*.persistent($database.prepared());
                $crate::database::each(rows.fetch(connection), $seen).await
            }
            $crate::database::Tx::Postgres(connection) => {
                let prepared = $database.prepared();
                match $crate::database::Alone::on(connection, prepared).await {
                    Ok(mut alone) => {
                        let rows = sqlx::query(statement)$(.bind($bind))*.persistent(prepared);
                        let told = $crate::database::each(rows.fetch(alone.connection()), $seen).await;
                        alone.end(told).await
                    }
                    Err(error) => Err(error),
                }
            }
        }.map_err($crate::error::Error::from)
    }};
    ($database:expr, $tx:expr, $method:ident, $statement:expr $(, $bind:expr)* $(,)?) => {{
        let statement = $database.statement($statement);
        match $tx.reborrow() {
            $crate::database::Tx::Sqlite(connection) => sqlx::query_as(statement)
                $(.bind($bind))*.persistent($database.prepared()).$method(connection).await,
            $crate::database::Tx::Postgres(connection) => {
                let prepared = $database.prepared();
                match $crate::database::Alone::on(connection, prepared).await {
                    Ok(mut alone) => {
                        let rows = sqlx::query_as(statement)
                            $(.bind($bind))*.persistent(prepared).$method(alone.connection()).await;
                        alone.end(rows).await
                    }
                    Err(error) => Err(error),
                }
            }
        }.map_err($crate::error::Error::from)
    }};
}
pub(crate) use query;

impl Database {
    /// Opens the database at `url` with the default [`DatabaseOptions`], and lays its tables if it is empty.
    ///
    /// # Errors
    /// Where the URL is not one of SQLite or PostgreSQL, the database cannot be reached, or its tables are older or
    /// newer than this version of larder.
    pub async fn connect(url: &str) -> Result<Self> {
        DatabaseOptions::new(url).connect().await
    }

    /// Which engine it runs on.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self.inner.pool {
            Pool::Sqlite { .. } => Engine::Sqlite,
            Pool::Postgres(_) => Engine::Postgres,
        }
    }

    /// The fleet's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Begins a transaction for `_in` operations. On SQLite it takes the write lock at once.
    ///
    /// # Errors
    /// Where the database gives no connection or lock in time.
    pub async fn begin(&self) -> Result<Transaction> {
        let inner = match &self.inner.pool {
            Pool::Sqlite { write, .. } => {
                let turn = self.turn().await?;
                OwnedTransaction::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?, turn)
            }
            Pool::Postgres(pool) => OwnedTransaction::Postgres(pool.begin().await?),
        };
        Ok(Transaction {
            inner,
            database: self.clone(),
        })
    }

    /// [`Database::begin`] of what comes to its end without a pause. PostgreSQL ends it when it hears no more of it: a
    /// process that is stopped, or cut off, must not keep what others wait for.
    pub(crate) async fn begin_briefly(&self) -> Result<Transaction> {
        let Pool::Postgres(pool) = &self.inner.pool else {
            return self.begin().await;
        };
        let begun = pool.begin_with(self.brief(&[])).await?;
        Ok(Transaction {
            inner: OwnedTransaction::Postgres(begun),
            database: self.clone(),
        })
    }

    /// How PostgreSQL begins such a transaction, with `settings` of its own.
    fn brief(&self, settings: &[&str]) -> sqlx::AssertSqlSafe<String> {
        let patience = self.acquire_timeout().as_millis() * 2;
        let patience = format!("idle_in_transaction_session_timeout = {patience}");
        let settings = [&*patience].into_iter().chain(settings.iter().copied());
        let settings: String = settings.map(|set| format!("; SET LOCAL {set}")).collect();
        // Each statement is to see what those before it have waited for, whatever the default of the role or the database is.
        sqlx::AssertSqlSafe(format!("BEGIN ISOLATION LEVEL READ COMMITTED{settings}"))
    }

    /// The same database with connections of its own, for those who must not wait until others give theirs back. They
    /// are opened when they are first used. A database in memory has one connection, and shares it.
    pub(crate) fn apart(&self, connections: u32) -> Self {
        let pool = match &self.inner.pool {
            Pool::Sqlite {
                in_memory: true, ..
            } => return self.clone(),
            Pool::Sqlite {
                read, write, here, ..
            } => {
                let turn = Arc::default();
                let here = here.as_ref();
                Pool::Sqlite {
                    read: apart(read, connections),
                    write: apart(write, 1),
                    in_memory: false,
                    here: here.map(|here| Arc::new(here.apart(Arc::clone(&turn)))),
                    turn: Some(turn),
                }
            }
            Pool::Postgres(pool) => Pool::Postgres(apart(pool, connections)),
        };
        self.over(pool)
    }

    /// The same database by other connections.
    fn over(&self, pool: Pool) -> Self {
        Self {
            inner: Arc::new(Inner {
                pool,
                pipelines: Arc::default(),
                statements: sql::Statements::render(self.engine(), &self.inner.schema),
                schema: self.inner.schema.clone(),
                clock: self.inner.clock.clone(),
                prepared: self.inner.prepared,
                enqueued: self.inner.enqueued.clone(),
                cancelled: self.inner.cancelled.clone(),
                #[cfg(feature = "worker")]
                shared: self.inner.shared.clone(),
            }),
        }
    }

    /// Closes its connections and waits until they are closed. On SQLite the last one folds the write-ahead log into
    /// the file.
    pub async fn close(&self) {
        match &self.inner.pool {
            Pool::Sqlite {
                read, write, here, ..
            } => {
                // One that reads only cannot fold the log: it must not be the last.
                if let Some(here) = here {
                    here.close().await;
                }
                read.close().await;
                write.close().await;
            }
            Pool::Postgres(pool) => {
                futures::join!(self.inner.pipelines.close(), pool.close());
            }
        }
    }

    /// Whether it is an SQLite database that lives as long as its one connection.
    #[cfg(feature = "worker")]
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(
            self.inner.pool,
            Pool::Sqlite {
                in_memory: true,
                ..
            }
        )
    }

    /// Closes its connections, unless they are those of `other`.
    pub(crate) async fn close_apart_from(&self, other: &Self) {
        if !Arc::ptr_eq(&self.inner, &other.inner) {
            self.close().await;
        }
    }

    pub(crate) async fn read(&self) -> Result<Connection> {
        Ok(self.lent(match &self.inner.pool {
            Pool::Sqlite { read, .. } => Loan::Sqlite {
                connection: read.acquire().await?,
                turn: None,
                fold: None,
            },
            Pool::Postgres(pool) => Loan::Postgres(pool.acquire().await?),
        }))
    }

    pub(crate) async fn write(&self) -> Result<Connection> {
        let turn = self.turn().await?;
        self.write_in(turn).await
    }

    /// [`Database::write`] of one who has the turn.
    pub(crate) async fn write_in(&self, turn: Option<Turn>) -> Result<Connection> {
        Ok(self.lent(match &self.inner.pool {
            Pool::Sqlite { write, .. } => Loan::Sqlite {
                connection: write.acquire().await?,
                turn,
                fold: self.shared_here().map(|here| here.fold.clone()),
            },
            Pool::Postgres(pool) => Loan::Postgres(pool.acquire().await?),
        }))
    }

    fn lent(&self, inner: Loan) -> Connection {
        Connection {
            inner,
            patience: answer::Patience::of_this_task(),
            to_return: self.patience(0),
        }
    }

    /// The turn to write, where there are turns.
    pub(crate) async fn turn(&self) -> Result<Option<Turn>> {
        let Pool::Sqlite {
            turn: Some(turn), ..
        } = &self.inner.pool
        else {
            return Ok(None);
        };
        if let Ok(turn) = turn.clone().try_lock_owned() {
            return Ok(Some(turn));
        }
        let turn = turn.clone().lock_owned();
        match tokio::time::timeout(self.acquire_timeout(), turn).await {
            Ok(turn) => Ok(Some(turn)),
            Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
        }
    }

    /// Whether one of PostgreSQL's connections may be kept: others have some, and nobody waits for them to come back.
    pub(crate) fn can_spare_a_connection(&self) -> bool {
        match &self.inner.pool {
            Pool::Sqlite { .. } => false,
            Pool::Postgres(pool) => {
                let opens_more = pool.size() < pool.options().get_max_connections();
                !pool.is_closed() && (opens_more || pool.num_idle() > 0)
            }
        }
    }

    /// How long a call waits for a connection.
    pub(crate) fn acquire_timeout(&self) -> Duration {
        match &self.inner.pool {
            Pool::Sqlite { read, .. } => read.options().get_acquire_timeout(),
            Pool::Postgres(pool) => pool.options().get_acquire_timeout(),
        }
    }

    /// Tells this database apart from others of the process.
    pub(crate) fn identity(&self) -> usize {
        Arc::as_ptr(&self.inner).addr()
    }

    /// Whether another transaction may write while one is open.
    pub(crate) fn has_many_writers(&self) -> bool {
        self.engine() == Engine::Postgres
    }

    /// Makes [`Database::is_free`] say no of `scope` until the transaction ends.
    pub(crate) async fn hold(&self, tx: &mut Tx<'_>, scope: &str) -> Result<()> {
        if self.has_many_writers() {
            query!(self, tx, execute, Sql::ScopeHold, self.scope(scope))?;
        }
        Ok(())
    }

    /// Whether no open transaction holds any of `scopes`. Two who ask together may both be told no.
    pub(crate) async fn is_free(&self, scopes: impl IntoIterator<Item = &str>) -> Result<bool> {
        if !self.has_many_writers() {
            return Ok(true);
        }
        let scopes: Vec<_> = scopes
            .into_iter()
            .map(|scope| format!("[{}]", self.scope(scope)))
            .collect();
        let rows = JsonText(format!("[{}]", scopes.join(",")));
        let mut connection = self.read().await?;
        let mut tx = connection.tx();
        let (busy,): (i64,) = query!(self, tx, fetch_one, Sql::ScopeBusy, &rows)?;
        Ok(busy == 0)
    }

    /// The number that stands for a scope over all processes: FNV-1a of its text and the schema's.
    pub(crate) fn scope(&self, scope: &str) -> i64 {
        let bytes = self.inner.schema.bytes().chain([0]).chain(scope.bytes());
        bytes
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            })
            .cast_signed()
    }

    /// The caller's connection, checked to be of this database's engine.
    pub(crate) fn own<'c>(&self, tx: impl Into<Tx<'c>>) -> Result<Tx<'c>> {
        let tx = tx.into();
        if tx.engine() == self.engine() {
            return Ok(tx);
        }
        Err(Error::invalid(format!(
            "the transaction is {:?}'s and this larder is on {:?}: use a transaction of the same database",
            tx.engine(),
            self.engine()
        )))
    }

    pub(crate) fn statement(&self, statement: Sql) -> sqlx::SqlStr {
        self.inner.statements.get(statement)
    }

    pub(crate) fn prepared(&self) -> bool {
        self.inner.prepared
    }

    /// Wakes this process's workers: a job of its own was enqueued.
    pub(crate) fn announce(&self) {
        self.inner.enqueued.send_modify(|told| told.jobs += 1);
    }

    /// The same of a job that was there before, and may start at once or later.
    #[cfg(feature = "worker")]
    pub(crate) fn announce_again(&self) {
        self.inner.enqueued.send_modify(|told| told.again += 1);
    }

    /// Changes whenever [`Database::announce`] is called.
    #[cfg(feature = "worker")]
    pub(crate) fn announcements(&self) -> tokio::sync::watch::Receiver<Announced> {
        self.inner.enqueued.subscribe()
    }

    /// Wakes this process's workers: a job was cancelled, and may run here.
    pub(crate) fn announce_cancellation(&self) {
        self.inner.cancelled.send_modify(|count| *count += 1);
    }

    /// Changes whenever [`Database::announce_cancellation`] is called.
    #[cfg(feature = "worker")]
    pub(crate) fn cancellations(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.cancelled.subscribe()
    }

    /// Measures how far the database's clock is ahead of this machine's: the midpoint of the quickest of three round
    /// trips. SQLite's clock is this machine's.
    ///
    /// # Errors
    /// Where the database fails.
    pub(crate) async fn measure_clock(&self) -> Result<()> {
        if self.engine() == Engine::Sqlite {
            return Ok(());
        }
        let mut connection = self.read().await?;
        let mut tx = connection.tx();
        let mut best: Option<(Duration, i64)> = None;
        for _ in 0..3 {
            let (before, started) = (chrono::Utc::now(), std::time::Instant::now());
            let (theirs,): (crate::clock::Timestamp,) = query!(self, tx, fetch_one, Sql::Clock)?;
            let trip = started.elapsed();
            let midpoint =
                before.timestamp_millis() + i64::try_from(trip.as_millis() / 2).unwrap_or(0);
            if best.is_none_or(|(quickest, _)| trip < quickest) {
                best = Some((trip, theirs.as_millis() - midpoint));
            }
        }
        if let Some((_, offset)) = best {
            self.inner.clock.set_offset_millis(offset);
        }
        Ok(())
    }
}

fn apart<DB: sqlx::Database>(pool: &sqlx::Pool<DB>, connections: u32) -> sqlx::Pool<DB> {
    let options = pool.options().clone();
    options
        .min_connections(0)
        .max_connections(connections)
        .connect_lazy_with((*pool.connect_options()).clone())
}
