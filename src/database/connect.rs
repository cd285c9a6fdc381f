//! Opening a database by its URL.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqlitePool};
use tokio::sync::Mutex as Turns;
use url::Url;

use super::answer::patience;
use super::fold::TOO_LONG;
use super::here::Here;
use super::migrate::SchemaPolicy;
use super::pipeline::Pipelines;
use super::redact::redact_url;
use super::sql::{Engine, Statements};
use super::untested::{may_be_kept, may_be_lent};
use super::{Database, Inner, Pool};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// How to open a database.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use larder::database::DatabaseOptions;
/// use std::time::Duration;
///
/// let database = DatabaseOptions::new("sqlite::memory:").acquire_timeout(Duration::from_secs(1)).connect().await?;
/// let cache = larder::Cache::new(database);
/// assert!(!cache.exists("key").await?);
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct DatabaseOptions {
    url: String,
    busy_timeout: Duration,
    acquire_timeout: Duration,
    max_connections: u32,
    schema: String,
    prepared: bool,
    policy: SchemaPolicy,
    clock: Clock,
}

/// Without the password.
impl fmt::Debug for DatabaseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseOptions")
            .field("url", &redact_url(&self.url))
            .finish_non_exhaustive()
    }
}

impl DatabaseOptions {
    /// The defaults for `url`: `sqlite://FILE` (relative to the working directory), `sqlite::memory:`, or
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            busy_timeout: Duration::from_secs(10),
            acquire_timeout: Duration::from_secs(5),
            max_connections: 10,
            schema: "public".to_owned(),
            prepared: true,
            policy: SchemaPolicy::CreateIfEmpty,
            clock: Clock::system(),
        }
    }

    /// SQLite: how long a statement waits for another writer, 10 s unless said.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// How long a call waits for a connection before it fails with a transient error, 5 s unless said. On PostgreSQL a read or
    /// an enqueue that is not answered in this time is sent again by another connection, and a server has four times as
    /// long for any statement.
    #[must_use]
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout;
        self
    }

    /// PostgreSQL: the most connections that are open at once, 10 unless said. Of four or more one is for reads that come
    /// together, where they need not be encrypted: by a socket, on this machine, or with `sslmode=disable`.
    #[must_use]
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// PostgreSQL: the schema that holds larder's tables, `public` unless said. It is made if it is not there.
    #[must_use]
    pub fn schema(mut self, schema: &str) -> Self {
        schema.clone_into(&mut self.schema);
        self
    }

    /// PostgreSQL: whether statements are prepared by name, as they are unless said. Say no behind a PgBouncer in
    /// transaction mode that does not follow prepared statements.
    #[must_use]
    pub fn prepared(mut self, prepared: bool) -> Self {
        self.prepared = prepared;
        self
    }

    /// What to do about the tables: lay them if there are none, unless said.
    #[must_use]
    pub fn schema_policy(mut self, policy: SchemaPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Where "now" comes from: the system's clock, unless said.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Whether it names an SQLite file that is not there yet: opening the database would make it.
    #[must_use]
    pub fn would_create_file(&self) -> bool {
        matches!(engine_of(&self.url), Ok(Engine::Sqlite))
            && !is_memory(&self.url)
            && may_create(&self.url)
            && SqliteConnectOptions::from_str(&self.url)
                .is_ok_and(|options| !options.get_filename().exists())
    }

    /// Opens the database.
    ///
    /// # Errors
    /// As [`Database::connect`].
    pub async fn connect(self) -> Result<Database> {
        let engine = engine_of(&self.url)?;
        let (pool, pipelines) = match engine {
            Engine::Sqlite => (self.open_sqlite().await?, Pipelines::default()),
            Engine::Postgres => self.open_postgres().await?,
        };
        let statements = Statements::render(engine, &self.schema);
        let database = Database {
            inner: Arc::new(Inner {
                pool,
                pipelines: Arc::new(pipelines),
                statements,
                schema: self.schema,
                clock: self.clock,
                prepared: self.prepared,
                enqueued: tokio::sync::watch::Sender::default(),
                cancelled: tokio::sync::watch::Sender::default(),
                #[cfg(feature = "worker")]
                shared: Arc::default(),
            }),
        };
        database.measure_clock().await?;
        database.apply(self.policy).await?;
        Ok(database)
    }

    async fn open_sqlite(&self) -> Result<Pool> {
        let options = SqliteConnectOptions::from_str(&self.url)
            .map_err(|_| Error::invalid("the database URL is not valid: write sqlite://FILE, for example sqlite://larder.db"))?
            .busy_timeout(self.busy_timeout)
            .disable_statement_logging();
        if is_memory(&self.url) {
            // Each connection to :memory: would be a database of its own.
            let options = options.in_memory(true).shared_cache(false);
            let pool = SqlitePoolOptions::new()
                .max_connections(1)
                .acquire_timeout(self.acquire_timeout)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_with(options)
                .await?;
            return Ok(Pool::Sqlite {
                read: pool.clone(),
                write: pool,
                in_memory: true,
                turn: None,
                here: None,
            });
        }
        let file = options.get_filename().to_owned();
        let may_create = may_create(&self.url);
        if may_create {
            create_private(&file)?;
        }
        let turn = Arc::default();
        let here = self.here(&file, &turn)?;
        let mut options = options
            .create_if_missing(may_create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
        if here.is_some() {
            options = options.pragma("wal_autocheckpoint", TOO_LONG.to_string());
        }
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(self.acquire_timeout.max(self.busy_timeout))
        };
        let write = connect_sqlite(pool(1), &options, self.busy_timeout, &file).await?;
        let read = pool(4).connect_lazy_with(options);
        Ok(Pool::Sqlite {
            read,
            write,
            in_memory: false,
            turn: Some(turn),
            here,
        })
    }

    /// Where no option of the URL asks for what only the pool's connections know of.
    fn here(&self, file: &Path, turn: &Arc<Turns<()>>) -> Result<Option<Arc<Here>>> {
        if self.url.contains('?') {
            return Ok(None);
        }
        // It is opened when it is first used, and the working directory may be another one then.
        let file = std::path::absolute(file).map_err(|error| {
            Error::invalid(format!(
                "cannot tell where the SQLite file {} is: {error}; name it by its whole path",
                file.display()
            ))
        })?;
        Ok(Some(Arc::new(Here::new(file, turn.clone()))))
    }

    async fn open_postgres(&self) -> Result<(Pool, Pipelines)> {
        let mut options = PgConnectOptions::from_str(&self.url)
            .map_err(|_| Error::invalid(format!("the database URL {} is not valid: write postgres://USER:PASSWORD@HOST:PORT/DATABASE", redact_url(&self.url))))?
            .application_name("larder")
            // PgBouncer refuses a start with settings that it does not know, and larder keeps no floats.
            .extra_float_digits(None)
            .disable_statement_logging();
        if !self.prepared {
            options = options.statement_cache_capacity(0);
        }
        let limit = patience(self.acquire_timeout);
        let piped = Pipelines::share(&options, self.prepared, self.max_connections);
        let pool = PgPoolOptions::new()
            .max_connections(self.max_connections - piped)
            .acquire_timeout(self.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, _| Box::pin(async { Ok(may_be_lent(connection).await) }))
            .after_release(move |connection, _| Box::pin(may_be_kept(connection, limit)))
            .connect_with(options)
            .await?;
        let pipelines = match piped {
            0 => Pipelines::default(),
            _ => Pipelines::beside(&pool, password_of(&self.url)),
        };
        Ok((Pool::Postgres(pool), pipelines))
    }
}

/// As sqlx finds it, but for what is in a file of passwords.
pub(super) fn password_of(url: &str) -> Option<String> {
    let mut url = Url::parse(url).ok()?;
    let named = url.query_pairs().filter(|(name, _)| name == "password");
    let named = named.last().map(|(_, password)| password.into_owned());
    // What else it has is not to be taken for a password.
    url.set_path("");
    url.set_query(None);
    url.set_fragment(None);
    let written = || {
        let config = tokio_postgres::Config::from_str(url.as_str()).ok()?;
        let password = config.get_password()?;
        String::from_utf8(password.to_vec()).ok()
    };
    named
        .or_else(written)
        .or_else(|| std::env::var("PGPASSWORD").ok())
}

fn engine_of(url: &str) -> Result<Engine> {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "sqlite" => Ok(Engine::Sqlite),
        "postgres" | "postgresql" if url[scheme.len()..].starts_with("://") => {
            Url::parse(url).map_err(|error| {
                Error::invalid(format!(
                    "the database URL {} is not valid ({error}): write postgres://USER:PASSWORD@HOST:PORT/DATABASE, with odd characters percent-encoded",
                    redact_url(url)
                ))
            })?;
            Ok(Engine::Postgres)
        }
        _ => Err(Error::invalid(format!(
            "the database URL {} names no engine that larder knows: it must begin with sqlite: or postgres://",
            redact_url(url)
        ))),
    }
}

fn is_memory(url: &str) -> bool {
    url.contains(":memory:") || url.contains("mode=memory")
}

/// An SQLite file that does not exist is made for its owner alone; SQLite gives its log the same permissions.
fn create_private(file: &Path) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Ok(_) => Ok(()),
        Err(_) if file.is_dir() => Err(Error::invalid(format!(
            "cannot open the SQLite file {}: it is a folder; name a file in it",
            file.display()
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::invalid(format!(
            "cannot create the SQLite file {}: {error}; choose a folder that exists and can be written",
            file.display()
        ))),
    }
}

/// How long an open is tried again for a fault that is no lock.
const FAULT_PATIENCE: Duration = Duration::from_millis(500);

/// The change to WAL wants the file for itself and fails at once, whatever the busy timeout, where processes open it
/// together for the first time.
async fn connect_sqlite(
    pool: SqlitePoolOptions,
    options: &SqliteConnectOptions,
    timeout: Duration,
    file: &Path,
) -> Result<SqlitePool> {
    let started = Instant::now();
    loop {
        let error = match pool.clone().connect_with(options.clone()).await {
            Ok(pool) => return Ok(pool),
            Err(error) => error,
        };
        // A lock goes away. Another fault may come of the race itself, and is not waited for as long.
        let patience = if is_lock(&error) {
            timeout
        } else {
            timeout.min(FAULT_PATIENCE)
        };
        let error = Error::from(error);
        if !error.is_transient() || started.elapsed() >= patience {
            return Err(Error::invalid(format!(
                "cannot open the SQLite file {}: {error}; see who may read and write it and its folder, or name another file",
                file.display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether somebody else holds the database: SQLite's primary result codes 5, busy, and 6, locked.
fn is_lock(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<i32>().ok())
        .is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// Whether the URL lets a file be made that is not there.
fn may_create(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    !query
        .split('&')
        .any(|option| matches!(option, "mode=ro" | "mode=rw"))
}
