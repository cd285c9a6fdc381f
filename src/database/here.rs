//! SQLite on the caller's own thread.
//!
//! A statement on one item takes some microseconds; to hand it to another thread and back takes ten times as long. So
//! what is small is done here, and never waits: a lock that somebody holds, a large value, and a disk that is slow are left
//! to threads that may wait, and the folding of the write-ahead log into the file to one of its own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
#[cfg(feature = "worker")]
use std::time::SystemTime;
use std::time::{Duration, Instant};

pub(crate) use rusqlite::ToSql as Bind;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use tokio::sync::Mutex as Turns;

use super::anchor::Anchor;
#[cfg(feature = "worker")]
use super::bulk::Bulk;
use super::fold::Fold;
use super::pace::Pace;
#[cfg(feature = "worker")]
use super::watcher::Watcher;
use super::{Database, Pool, Sql, Turn, lock, log};

/// Connections that are kept for the next who reads. More are open only while more threads read at once.
const KEPT: usize = 8;
/// A statement's parameter: its name, and what it stands for.
pub(crate) type Parameter = (&'static str, Box<dyn Bind + Send>);

/// Before a write while the log is longer than the disk has taken.
const PAUSE: Duration = Duration::from_millis(1);

/// A row that is read here.
pub(crate) trait HereRow:
    Sized + for<'r> TryFrom<&'r rusqlite::Row<'r>, Error = rusqlite::Error>
{
}

impl<T> HereRow for T where
    T: Sized + for<'r> TryFrom<&'r rusqlite::Row<'r>, Error = rusqlite::Error>
{
}

/// The connections of callers' threads to one file.
#[derive(Debug)]
pub(super) struct Here {
    file: PathBuf,
    readers: Mutex<Vec<Connection>>,
    anchor: Anchor,
    writer: Mutex<Option<Connection>>,
    #[cfg(feature = "worker")]
    bulk: Bulk,
    /// Who watches for changes, and how many there were before.
    #[cfg(feature = "worker")]
    watcher: Mutex<(u64, Option<Watcher>)>,
    pub(super) fold: Fold,
    closed: AtomicBool,
    pace: Pace,
}

impl Here {
    pub(super) fn new(file: PathBuf, turn: Arc<Turns<()>>) -> Self {
        Self {
            fold: Fold::new(file.clone(), turn),
            file,
            readers: Mutex::default(),
            anchor: Anchor::default(),
            writer: Mutex::default(),
            #[cfg(feature = "worker")]
            bulk: Bulk::default(),
            #[cfg(feature = "worker")]
            watcher: Mutex::default(),
            closed: AtomicBool::new(false),
            pace: Pace::new(),
        }
    }

    /// The same file with connections of its own.
    pub(super) fn apart(&self, turn: Arc<Turns<()>>) -> Self {
        Self::new(self.file.clone(), turn)
    }

    /// Gives up its connections, for good.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.anchor.close();
        #[cfg(feature = "worker")]
        {
            self.bulk.close();
            drop(held(&self.watcher).1.take());
        }
        let readers = std::mem::take(&mut *held(&self.readers));
        let writer = held(&self.writer).take();
        drop((readers, writer));
        self.fold.close().await;
    }

    /// The file, the connection for statements on many rows, and who folds what they write.
    #[cfg(feature = "worker")]
    pub(super) fn bulk(&self) -> (PathBuf, Bulk, Fold) {
        (self.file.clone(), self.bulk.clone(), self.fold.clone())
    }

    /// What `work` gives on a connection that reads, or `None` where it is left to the pool.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        let began = self.pace.begin()?;
        self.anchor
            .count(Instant::now, || self.open(OpenFlags::SQLITE_OPEN_READ_ONLY));
        let kept = held(&self.readers).pop();
        let connection = match kept {
            Some(connection) => connection,
            None => self.open(OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        let done = work(&connection);
        self.pace.end(began);
        // A failure is the pool's to tell, which tries again and waits for locks.
        let row = done.ok()?;
        let mut readers = held(&self.readers);
        if readers.len() < KEPT && !self.closed.load(Ordering::SeqCst) {
            readers.push(connection);
        }
        Some(row)
    }

    /// What came of `work` on the connection that writes. The caller has the turn of this process's writers.
    fn write(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Written {
        let Some(began) = self.pace.begin() else {
            return Written::ToWait;
        };
        if self.fold.is_too_long() {
            return Written::NotHere;
        }
        if self.fold.is_behind() {
            return Written::ToWait;
        }
        let Some(connection) = self.writer() else {
            return Written::NotHere;
        };
        let written = work(&connection);
        self.pace.end(began);
        self.wrote(connection);
        match written {
            Ok(()) => Written::Here,
            Err(error) if is_busy(&error) => Written::ToWait,
            Err(_) => Written::NotHere,
        }
    }

    /// Whether `work` was done, on a thread that may wait.
    pub(super) fn write_patiently(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> bool {
        if self.fold.is_too_long() {
            return false;
        }
        if self.fold.is_behind() {
            thread::sleep(PAUSE);
        }
        let Some(connection) = self.writer() else {
            return false;
        };
        let done = connection
            .busy_handler(Some(lock::look_again_patiently))
            .and_then(|()| work(&connection));
        if connection.busy_handler(None).is_ok() {
            self.wrote(connection);
        }
        done.is_ok()
    }

    fn writer(&self) -> Option<Connection> {
        let kept = held(&self.writer).take();
        kept.or_else(|| {
            let connection = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            log::count(&connection);
            Some(connection)
        })
    }

    /// Keeps the connection for the next who writes.
    fn wrote(&self, connection: Connection) {
        let mut writer = held(&self.writer);
        if !self.closed.load(Ordering::SeqCst) {
            *writer = Some(connection);
        }
        drop(writer);
        self.fold.wrote(log::written());
    }

    /// Which version of the file there is, as a connection sees it that never writes.
    #[cfg(feature = "worker")]
    pub(super) fn version(&self) -> Option<Version> {
        let mut held = held(&self.watcher);
        let (watchers, watcher) = &mut *held;
        if watcher.is_none() {
            *watcher = Some(Watcher::new(self.open(OpenFlags::SQLITE_OPEN_READ_ONLY)?));
            *watchers += 1;
        }
        let version = watcher.as_mut()?.version(SystemTime::now())?;
        Some(Version(*watchers, version))
    }

    /// The log to which every commit writes, once a version has been asked for.
    #[cfg(feature = "worker")]
    pub(super) fn log(&self) -> Option<PathBuf> {
        let held = held(&self.watcher);
        Some(held.1.as_ref()?.log()?.to_owned())
    }

    fn open(&self, flags: OpenFlags) -> Option<Connection> {
        if self.closed.load(Ordering::SeqCst) {
            return None;
        }
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.file, flags).ok()?;
        connection.busy_timeout(Duration::ZERO).ok()?;
        connection
            .execute_batch(
                "PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA wal_autocheckpoint = 0",
            )
            .ok()?;
        Some(connection)
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        drop(self.fold.end());
    }
}

/// What came of a write on the caller's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Here,
    /// A thread that may wait is to do it.
    ToWait,
    /// It is left to a connection of the pool.
    NotHere,
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// A version of a file: what two watchers say of it has nothing in common.
#[cfg(feature = "worker")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(u64, i64);

/// Nothing panics while it is held.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Database {
    fn here(&self) -> Option<&Here> {
        self.shared_here().map(|here| &**here)
    }

    pub(super) fn shared_here(&self) -> Option<&Arc<Here>> {
        match &self.inner.pool {
            Pool::Sqlite { here, .. } => here.as_ref(),
            Pool::Postgres(_) => None,
        }
    }

    /// The row that `statement` finds, on this thread: `None` where it is left to a connection of the pool. The
    /// statement's parameters come in the order of their numbers.
    pub(crate) fn read_here<T: HereRow>(
        &self,
        statement: Sql,
        parameters: &[&dyn Bind],
    ) -> Option<Option<T>> {
        let text = self.statement(statement);
        self.here()?.read(|connection| {
            let mut statement = connection.prepare_cached(text.as_str())?;
            statement
                .query_row(parameters, |row| T::try_from(row))
                .optional()
        })
    }

    /// What came of `statement` on this thread. The caller has the turn of this process's writers.
    pub(crate) fn write_here(&self, statement: Sql, parameters: &[(&str, &dyn Bind)]) -> Written {
        let text = self.statement(statement);
        self.here().map_or(Written::NotHere, |here| {
            here.write(|connection| {
                let mut statement = connection.prepare_cached(text.as_str())?;
                statement.execute(parameters).map(drop)
            })
        })
    }

    /// Whether `statement` was carried out on a thread that may wait, and the turn, which the caller has.
    pub(crate) async fn write_patiently(
        &self,
        turn: Option<Turn>,
        statement: Sql,
        parameters: Vec<Parameter>,
    ) -> (Option<Turn>, bool) {
        let Some(here) = self.shared_here().cloned() else {
            return (turn, false);
        };
        let text = self.statement(statement);
        let done = tokio::task::spawn_blocking(move || {
            let done = here.write_patiently(|connection| {
                let mut statement = connection.prepare_cached(text.as_str())?;
                let parameters = borrowed(&parameters);
                statement.execute(&*parameters).map(drop)
            });
            (turn, done)
        });
        // A panic is not to be expected. The turn is gone with it, and the pool's connection takes one of its own.
        done.await.unwrap_or((None, false))
    }

    /// Which version of the file there is. None where that cannot be told here.
    #[cfg(feature = "worker")]
    pub(super) fn version(&self) -> Option<Version> {
        self.here()?.version()
    }

    /// Whether single items are written on the caller's thread.
    pub(crate) fn writes_here(&self) -> bool {
        self.here().is_some()
    }
}

/// As rusqlite takes them.
pub(super) fn borrowed(parameters: &[Parameter]) -> Vec<(&str, &dyn Bind)> {
    let parameters = parameters.iter();
    parameters
        .map(|(name, value)| (*name, &**value as &dyn Bind))
        .collect()
}
