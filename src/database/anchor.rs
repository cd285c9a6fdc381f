//! One lock of SQLite's log for all who read one after the other.
//!
//! A read locks the log by a call of the system, which takes as long as all the rest of it; but not where another connection
//! of the process holds that lock. So while callers read without a pause, a connection that does nothing else holds it. It
//! takes it anew every so many reads, and gives it up some milliseconds after the last of them. What readers see is what
//! they see without it. What is written meanwhile cannot be folded for as long as it is held, so that where others write,
//! and readers never pause, the log would grow without end: one that has grown long is locked by each reader for itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::runtime::Handle;

use super::here::held;
use super::log::{self, Mode};

/// After so many reads the lock is taken anew; that many within [`LULL`] are without a pause.
const READS: u64 = 64;
const LULL: Duration = Duration::from_millis(5);
/// A log of so many pages is left alone until it is begun anew.
const LONG: u32 = 4_000;

#[derive(Clone, Debug, Default)]
pub(super) struct Anchor(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    reads: AtomicU64,
    lock: Mutex<Lock>,
}

#[derive(Debug, Default)]
struct Lock {
    connection: Option<Connection>,
    is_held: bool,
    is_watched: bool,
    /// When it was last thought of.
    at: Option<Instant>,
}

impl Anchor {
    /// Counts a read. Some of them take the lock, by the connection that `open` gives.
    pub(super) fn count(
        &self,
        now: impl FnOnce() -> Instant,
        open: impl FnOnce() -> Option<Connection>,
    ) {
        if self.0.reads.fetch_add(1, Ordering::Relaxed) % READS == READS - 1 {
            self.renew(now(), open);
        }
    }

    fn renew(&self, now: Instant, open: impl FnOnce() -> Option<Connection>) {
        // Whoever has it does the same.
        let Ok(mut lock) = self.0.lock.try_lock() else {
            return;
        };
        let before = lock.at.replace(now);
        let without_pause = before.is_some_and(|before| now.duration_since(before) <= LULL);
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        lock.release();
        if !without_pause {
            return;
        }
        if lock.connection.is_none() {
            lock.connection = open();
        }
        lock.take();
        let unwatched = lock.is_held && !lock.is_watched;
        lock.is_watched |= unwatched;
        drop(lock);
        if unwatched {
            // A runtime that ends drops it at once, which takes the mutex.
            runtime.spawn(Watch(self.0.clone()).run());
        }
    }

    /// Gives up its connection.
    pub(super) fn close(&self) {
        let connection = held(&self.0.lock).connection.take();
        drop(connection);
    }
}

impl Lock {
    fn take(&mut self) {
        let Some(connection) = &self.connection else {
            return;
        };
        let look = log::ask(connection, Mode::Look);
        if !look.is_ok_and(|answer| answer.log.pages < LONG) {
            return;
        }
        self.is_held = connection
            .execute_batch("BEGIN; SELECT 1 FROM sqlite_schema LIMIT 1")
            .is_ok();
        if !self.is_held {
            self.connection = None;
        }
    }

    fn release(&mut self) {
        if std::mem::take(&mut self.is_held)
            && let Some(connection) = &self.connection
            && connection.execute_batch("ROLLBACK").is_err()
        {
            self.connection = None;
        }
    }
}

/// Releases the lock when the reads pause, or its runtime ends.
struct Watch(Arc<Shared>);

impl Watch {
    async fn run(self) {
        loop {
            let before = self.0.reads.load(Ordering::Relaxed);
            tokio::time::sleep(LULL).await;
            if self.0.reads.load(Ordering::Relaxed) - before < READS {
                return;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut lock = held(&self.0.lock);
        lock.release();
        lock.is_watched = false;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use rusqlite::OpenFlags;

    use super::*;

    fn open(file: &Path) -> Connection {
        let connection = Connection::open(file).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0")
            .unwrap();
        connection
    }

    /// As larder opens it.
    fn open_to_read(file: &Path) -> Connection {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(file, flags).unwrap()
    }

    /// Whether all of the log can be folded and overwritten, which whoever reads of it prevents.
    fn folds(connection: &Connection) -> bool {
        let busy: i64 = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))
            .unwrap();
        busy == 0
    }

    #[tokio::test]
    async fn it_is_held_while_reads_come_without_a_pause_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        let writer = open(&file);
        writer.execute_batch("CREATE TABLE t (n)").unwrap();
        let anchor = Anchor::default();
        let now = Instant::now();
        let read =
            |count| (0..count).for_each(|_| anchor.count(|| now, || Some(open_to_read(&file))));
        let insert = || writer.execute("INSERT INTO t VALUES (1)", ()).unwrap();
        read(READS);
        insert();
        assert!(folds(&writer), "nobody knows yet whether more come");
        insert();
        read(READS);
        insert();
        assert!(!folds(&writer), "it holds what it sees");
        let began = Instant::now();
        while !folds(&writer) {
            assert!(began.elapsed() < Duration::from_secs(20), "no read came");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!held(&anchor.0.lock).is_watched);
    }

    #[tokio::test]
    async fn a_log_that_has_grown_long_is_left_alone_until_it_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        let writer = open(&file);
        writer.execute_batch("CREATE TABLE t (n)").unwrap();
        let grow = format!("INSERT INTO t VALUES (zeroblob({}))", 4096 * LONG);
        writer.execute(&grow, ()).unwrap();
        let anchor = Anchor::default();
        let now = Instant::now();
        let read =
            || (0..2 * READS).for_each(|_| anchor.count(|| now, || Some(open_to_read(&file))));
        read();
        assert!(!held(&anchor.0.lock).is_held);
        log::ask(&writer, Mode::BeginAnew).unwrap();
        log::touch(&writer).unwrap();
        let log = format!("{}-wal", file.display());
        let length = std::fs::metadata(log).unwrap().len();
        assert!(length > u64::from(4096 * LONG), "it keeps its length");
        read();
        assert!(held(&anchor.0.lock).is_held);
        assert!(!folds(&writer), "it holds what it sees");
    }

    #[test]
    fn it_is_given_up_with_its_runtime_and_where_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        let writer = open(&file);
        writer.execute_batch("CREATE TABLE t (n)").unwrap();
        let anchor = Anchor::default();
        let now = Instant::now();
        let hold = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async {
                (0..2 * READS).for_each(|_| anchor.count(|| now, || Some(open_to_read(&file))));
            });
            writer.execute("INSERT INTO t VALUES (1)", ()).unwrap();
            assert!(!folds(&writer));
            runtime
        };
        drop(hold());
        assert!(folds(&writer), "its runtime has ended");
        let _runtime = hold();
        anchor.close();
        assert!(folds(&writer));
    }
}
