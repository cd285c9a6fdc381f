//! The one error of the crate: a message that names the thing and the remedy, and predicates to act on.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The result of larder's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of larder failed.
///
/// It is opaque: ask its predicates what to do, and show its message to people.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let cache = larder::Cache::connect("sqlite::memory:").await?;
/// let error = cache.set("", &1).await.unwrap_err();
/// assert!(error.is_invalid() && !error.is_transient());
/// assert_eq!(error.to_string(), "a key must be 1 to 1,024 bytes of UTF-8 without NUL; this one is empty");
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Computation,
    TimedOut,
    Invalid,
    NotACounter,
    Corrupt,
    SchemaMismatch,
    Transient,
    Unanswered,
    Database,
}

impl Error {
    /// An error of the caller's input: `message` names the thing and the remedy in one line.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn not_a_counter(message: impl Into<String>) -> Self {
        Self::new(Kind::NotACounter, message)
    }

    pub(crate) fn corrupt(
        message: impl Into<String>,
        source: impl StdError + Send + Sync + 'static,
    ) -> Self {
        Self {
            source: Some(Arc::new(source)),
            ..Self::new(Kind::Corrupt, message)
        }
    }

    pub(crate) fn transient(message: impl Into<String>) -> Self {
        Self::new(Kind::Transient, message)
    }

    /// Of a server that did not answer in the time that it was given.
    pub(crate) fn unanswered(message: impl Into<String>) -> Self {
        Self::new(Kind::Unanswered, message)
    }

    pub(crate) fn schema_mismatch(message: impl Into<String>) -> Self {
        Self::new(Kind::SchemaMismatch, message)
    }

    /// The failure of a computation, whose own error everybody who waited for it is given to see.
    pub(crate) fn computation(
        message: impl Into<String>,
        source: Option<Arc<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            source,
            ..Self::new(Kind::Computation, message)
        }
    }

    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Self::new(Kind::TimedOut, message)
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// Whether the same call may succeed later: the database is away, busy or restarting.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Transient | Kind::Unanswered)
    }

    /// Whether the caller's input was refused: a key, a value, a deadline, a URL. Nothing was changed.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self.kind, Kind::Invalid | Kind::NotACounter)
    }

    /// Whether `increment` or `decrement` met a value that is not an integer of at most 18 digits,
    /// or would have made one. The caller's transaction stays usable.
    #[must_use]
    pub fn is_not_a_counter(&self) -> bool {
        self.kind == Kind::NotACounter
    }

    /// Whether the database refused because somebody else has what may be there once.
    pub(crate) fn is_unique_violation(&self) -> bool {
        self.of_sqlx()
            .and_then(sqlx::Error::as_database_error)
            .is_some_and(|error| error.is_unique_violation())
    }

    /// Whether the database answered, and said no.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.of_sqlx(), Some(sqlx::Error::Database(_)))
    }

    /// Whether it refused for what it was given, so that a part of that may pass. A statement that somebody cancelled, or
    /// that took too long, is none.
    pub(crate) fn is_of_its_contents(&self) -> bool {
        self.is_refusal() && !self.is_transient() && !self.is_cut_short()
    }

    /// Whether the server ended the statement before its end, by a timeout of its own or since somebody asked for that.
    pub(crate) fn is_cut_short(&self) -> bool {
        self.has_code(&["57014"])
    }

    /// Whether it took longer than it may, so that a part of it may pass.
    #[cfg(feature = "worker")]
    pub(crate) fn took_too_long(&self) -> bool {
        self.kind == Kind::Unanswered || self.is_cut_short()
    }

    /// Whether a row of its answer is no row of that kind, so that those of a part may be good.
    pub(crate) fn is_of_its_answer(&self) -> bool {
        let error = self.of_sqlx();
        matches!(
            error,
            Some(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
        )
    }

    /// Whether others were in its way, who may not be in that of a part: a serialisation failure, a deadlock, a lock that
    /// took too long to wait for.
    pub(crate) fn is_conflict(&self) -> bool {
        self.has_code(&["40001", "40P01"]) || self.is_lock_timeout()
    }

    /// Whether somebody else had a lock for longer than it was to be waited for.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        self.has_code(&["55P03"])
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        let error = self.of_sqlx().and_then(sqlx::Error::as_database_error);
        error
            .and_then(|error| error.code())
            .is_some_and(|code| codes.contains(&&*code))
    }

    /// Whether the connection is gone: cut, silent, or closed by the server. SQLSTATE classes 08 and 57P.
    pub(crate) fn is_of_its_connection(&self) -> bool {
        match self.of_sqlx() {
            None => self.kind == Kind::Unanswered,
            Some(sqlx::Error::Io(_)) => true,
            Some(sqlx::Error::Database(error)) => error
                .code()
                .is_some_and(|code| code.starts_with("08") || code.starts_with("57P")),
            _ => false,
        }
    }

    /// Whether no connection came in time.
    pub(crate) fn is_timeout_of_the_pool(&self) -> bool {
        matches!(self.of_sqlx(), Some(sqlx::Error::PoolTimedOut))
    }

    fn of_sqlx(&self) -> Option<&sqlx::Error> {
        self.source.as_deref()?.downcast_ref()
    }

    /// Whether the closure that was to compute a value failed: here, in another task, or in another process. Its own
    /// error is the [`source`](std::error::Error::source) of this one, to be downcast, unless it failed in another
    /// process, of which the message alone is known.
    #[must_use]
    pub fn is_failed_computation(&self) -> bool {
        self.kind == Kind::Computation
    }

    /// Whether somebody else computes the value, and was not done within `wait_timeout`.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind == Kind::TimedOut
    }

    /// Whether a stored value does not fit the type that was asked for.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        self.kind == Kind::Corrupt
    }

    /// Whether the database's tables are missing, older or newer than this version of larder.
    #[must_use]
    pub fn is_schema_mismatch(&self) -> bool {
        self.kind == Kind::SchemaMismatch
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let kind = if is_transient(&error) {
            Kind::Transient
        } else {
            Kind::Database
        };
        let message = match &error {
            sqlx::Error::PoolTimedOut => {
                "the database gave no connection within acquire_timeout: it is away, or all connections are in use"
                    .to_owned()
            }
            sqlx::Error::Database(database) => format!("the database refused: {}", database.message()),
            other => format!("the database failed: {other}"),
        };
        Self {
            source: Some(Arc::new(error)),
            ..Self::new(kind, message)
        }
    }
}

/// PostgreSQL's SQLSTATE classes and SQLite's primary result codes that a later try may not meet.
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            if database
                .try_downcast_ref::<sqlx::sqlite::SqliteError>()
                .is_some()
            {
                // 5 busy, 6 locked, 8 read-only, 10 I/O, 13 full, 14 cannot open.
                let primary = code.parse::<i32>().map_or(0, |code| code & 0xff);
                matches!(primary, 5 | 6 | 8 | 10 | 13 | 14)
            } else {
                // Connection, insufficient resources, operator intervention, rollback, lock, read-only.
                code.starts_with("08")
                    || code.starts_with("53")
                    || code.starts_with("57P")
                    || matches!(&*code, "40001" | "40P01" | "55P03" | "25006" | "25P03")
            }
        }
        _ => false,
    }
}
