//! SQLite on the caller's own thread.
//!
//! A statement on one item takes some microseconds; to hand it to another thread and back takes ten times as long. So
//! what is small is done here, and never waits: a lock that somebody holds, a large value, a disk that is slow, and the
//! folding of the write-ahead log into the file are left to the threads of the pools.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
#[cfg(feature = "worker")]
use std::time::SystemTime;
use std::time::{Duration, Instant};

pub(crate) use rusqlite::ToSql as Bind;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::anchor::Anchor;
#[cfg(feature = "worker")]
use super::bulk::Bulk;
#[cfg(feature = "worker")]
use super::watcher::Watcher;
use super::{Database, Pool, Sql};

/// Connections that are kept for the next who reads. More are open only while more threads read at once.
const KEPT: usize = 8;
/// Of so many writes, the last few go by the pool, whose connection folds the log into the file when it is long. One of
/// them begins the log anew after that, which waits for the disk too.
const ROUND: u64 = 256;
const BY_THE_POOL: u64 = 3;

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
    writes: AtomicU64,
    closed: AtomicBool,
    pace: Pace,
}

impl Here {
    pub(super) fn new(file: PathBuf) -> Self {
        Self {
            file,
            readers: Mutex::default(),
            anchor: Anchor::default(),
            writer: Mutex::default(),
            #[cfg(feature = "worker")]
            bulk: Bulk::default(),
            #[cfg(feature = "worker")]
            watcher: Mutex::default(),
            // A process that writes little folds the log of those before it.
            writes: AtomicU64::new(ROUND - BY_THE_POOL),
            closed: AtomicBool::new(false),
            pace: Pace::new(),
        }
    }

    /// The same file with connections of its own.
    pub(super) fn apart(&self) -> Self {
        Self::new(self.file.clone())
    }

    /// Gives up its connections, for good.
    pub(super) fn close(&self) {
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
    }

    /// The file, and the connection for statements on many rows.
    #[cfg(feature = "worker")]
    pub(super) fn bulk(&self) -> (PathBuf, Bulk) {
        (self.file.clone(), self.bulk.clone())
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

    /// Whether `work` was done on the connection that writes. The caller has the turn of this process's writers.
    fn write(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> bool {
        let count = self.writes.fetch_add(1, Ordering::Relaxed) % ROUND;
        if count >= ROUND - BY_THE_POOL {
            return false;
        }
        let Some(began) = self.pace.begin() else {
            return false;
        };
        let mut writer = held(&self.writer);
        if writer.is_none() {
            *writer = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE);
        }
        let Some(connection) = writer.as_ref() else {
            return false;
        };
        let done = work(connection);
        self.pace.end(began);
        done.is_ok()
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

/// A version of a file: what two watchers say of it has nothing in common.
#[cfg(feature = "worker")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(u64, i64);

/// Nothing panics while it is held.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A disk that is slow must not hold up the runtime. A statement that takes a millisecond or more lays a debt of four times
/// its time, which time pays off; beyond a debt of 400 ms the pool has the statements. So callers' threads wait for a disk,
/// however slow it is, for about 100 ms at a stretch and a quarter of the time. One that was only kept waiting for a
/// processor now and then stays far from that.
#[derive(Debug)]
struct Pace {
    started: Instant,
    /// When the debt is paid off.
    paid_off_nanos: AtomicU64,
}

const SLOW: u64 = 1_000_000;
const DEBT: u64 = 4;
const MOST_DEBT: u64 = 400_000_000;

impl Pace {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            paid_off_nanos: AtomicU64::new(0),
        }
    }

    fn begin(&self) -> Option<u64> {
        let now = nanos(self.started.elapsed());
        self.has_room(now).then_some(now)
    }

    fn has_room(&self, now: u64) -> bool {
        self.paid_off_nanos.load(Ordering::Relaxed) < now.saturating_add(MOST_DEBT)
    }

    fn end(&self, began: u64) {
        self.took(began, nanos(self.started.elapsed()));
    }

    fn took(&self, began: u64, now: u64) {
        let took = now.saturating_sub(began);
        if took >= SLOW {
            let before = self.paid_off_nanos.load(Ordering::Relaxed).max(now);
            self.paid_off_nanos.store(
                before.saturating_add(took.saturating_mul(DEBT)),
                Ordering::Relaxed,
            );
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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

    /// Whether `statement` was carried out on this thread. The caller has the turn of this process's writers.
    pub(crate) fn write_here(&self, statement: Sql, parameters: &[(&str, &dyn Bind)]) -> bool {
        let text = self.statement(statement);
        self.here().is_some_and(|here| {
            here.write(|connection| {
                let mut statement = connection.prepare_cached(text.as_str())?;
                statement.execute(parameters).map(drop)
            })
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_has_a_quarter_of_the_time_and_a_quick_one_all_of_it() {
        let (pace, mut now, mut waited) = (Pace::new(), 0, 0);
        // Reads of 8 ms each, one after the other, for ten seconds; what goes by the pool takes as long.
        while now < 10_000 * SLOW {
            if pace.has_room(now) {
                pace.took(now, now + 8 * SLOW);
                waited += 8;
            }
            now += 8 * SLOW;
        }
        assert!((2_400..2_700).contains(&waited), "{waited} ms");
        let pace = Pace::new();
        for read in 0..100_000 {
            assert!(pace.has_room(read * SLOW));
            pace.took(read * SLOW, (read + 1) * SLOW - 1);
        }
    }
}
