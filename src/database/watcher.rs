//! Seeing that an SQLite file has changed, at the cost of a look at its log's times.
//!
//! SQLite's own answer takes locks, and is right always. Every commit writes to the log, though, so that one which has not been
//! written to since SQLite was asked last need not be asked about. The log is only ever looked at: a process that opens and
//! closes a file gives up the locks that its other connections have on it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::Connection;

/// Two writes within a step of the file system's clock leave the same time, so that a log which was written to a moment ago
/// may be written to again and look the same. By then the clock has moved on.
const SETTLED: Duration = Duration::from_millis(100);

/// A connection that reads only, and what it last saw.
#[derive(Debug)]
pub(super) struct Watcher {
    connection: Connection,
    log: Option<PathBuf>,
    /// The log as it was before SQLite was asked, and the answer.
    seen: Option<(Stamp, i64)>,
}

/// When the log was written to last, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    length: u64,
}

impl Stamp {
    fn of(log: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(log).ok()?;
        Some(Self {
            modified: metadata.modified().ok()?,
            length: metadata.len(),
        })
    }

    /// Whether every write from `now` on shows. One from a clock that was set back meanwhile never does.
    fn is_settled(&self, now: SystemTime) -> bool {
        now.duration_since(self.modified)
            .is_ok_and(|age| age >= SETTLED)
    }
}

impl Watcher {
    pub(super) fn new(connection: Connection) -> Self {
        // SQLite's own name of the file: the log lies beside it, wherever links lead.
        let log = connection.path().map(|path| format!("{path}-wal").into());
        Self {
            connection,
            log,
            seen: None,
        }
    }

    /// What every commit writes to.
    pub(super) fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// A number that is another one after each commit of anybody. None where SQLite does not tell.
    pub(super) fn version(&mut self, now: SystemTime) -> Option<i64> {
        // Before SQLite is asked: what is written in between shows the next time.
        let stamp = self.log.as_deref().and_then(Stamp::of);
        if let (Some(stamp), Some((before, version))) = (stamp, self.seen)
            && stamp == before
        {
            return Some(version);
        }
        let mut pragma = self.connection.prepare_cached("PRAGMA data_version").ok()?;
        let version = pragma.query_row((), |row| row.get(0)).ok()?;
        self.seen = stamp
            .filter(|stamp| stamp.is_settled(now))
            .map(|stamp| (stamp, version));
        Some(version)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn opened(file: &Path) -> Connection {
        let connection = Connection::open(file).unwrap();
        connection
            .pragma_update(None, "journal_mode", "wal")
            .unwrap();
        connection
    }

    // SQLite alone has a log beside its file.
    #[test]
    fn a_log_that_has_settled_is_not_asked_about_until_it_is_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.db");
        let writer = opened(&file);
        writer.execute_batch("CREATE TABLE t (n)").unwrap();
        let mut watcher = Watcher::new(opened(&file));
        let first = watcher.version(SystemTime::now()).unwrap();
        assert_eq!(watcher.seen, None, "what comes now may leave the same time");
        let later = SystemTime::now() + SETTLED;
        assert_eq!(watcher.version(later), Some(first));
        let seen = watcher.seen;
        assert_eq!(seen.map(|(_, version)| version), Some(first));
        // An answer that SQLite would not give tells that it was not asked.
        watcher.seen = seen.map(|(stamp, _)| (stamp, -1));
        assert_eq!(watcher.version(later), Some(-1));
        writer.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        let second = watcher.version(later).unwrap();
        assert!(second != first && second != -1, "{second}");
    }

    #[test]
    fn a_log_of_which_nothing_is_known_is_asked_about() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.db");
        let writer = opened(&file);
        writer.execute_batch("CREATE TABLE t (n)").unwrap();
        let mut watcher = Watcher::new(opened(&file));
        watcher.log = Some(directory.path().join("nowhere"));
        let later = SystemTime::now() + SETTLED;
        let first = watcher.version(later).unwrap();
        writer.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert_ne!(watcher.version(later), Some(first));
        // A clock that was set back calls no log settled.
        let stamp = Stamp::of(&file).unwrap();
        assert!(!stamp.is_settled(stamp.modified - SETTLED));
    }
}
