//! Folding the write-ahead log of an SQLite file into it, on a thread that no writer waits for.
//!
//! SQLite lets whoever writes when the log is long fold it, and wait for the disk meanwhile. Here writers only tell how long
//! the log has become. What is folded while others write on costs them nothing. The log is begun anew when all of it is
//! folded, which the pauses of writers see to. Where they make none, they wait once it has grown long, for the little that
//! is left by then.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Mutex as Turns;

use super::Database;
use super::flush::flush;
use super::here::held;
use super::lock;
use super::log::{self, Log, Mode};

/// So many pages that are not folded are worth it: some 4 MB.
const PAGES: u32 = 1_000;
/// With so many, writers make short pauses: they write faster than the disk takes it.
const BEHIND: u32 = 2 * PAGES;
/// A log of so many pages is begun anew although others write on: some 64 MB. Each time they wait for the disk thrice, and it is
/// slow now and then.
const LONG: u32 = 16 * PAGES;
/// So few are left for then, if that many rounds of folding come to it.
const FEW: u32 = PAGES / 4;
const ROUNDS: usize = 8;
/// One of so many is folded by whoever writes, by SQLite's own means: nobody else has come to it.
pub(super) const TOO_LONG: u32 = 4 * LONG;
/// Before a look, so that what is written at once is looked at once.
const GATHER: Duration = Duration::from_millis(5);
/// Who has begun to read before keeps what is written from being folded: so often it is looked again, at growing intervals.
const LOOKS: u32 = 8;
const LOOK: Duration = Duration::from_millis(20);

/// Folds the log of one file for the writers of one database.
#[derive(Clone, Debug)]
pub(super) struct Fold(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    turn: Arc<Turns<()>>,
    /// The log's length at which it is looked at.
    due: AtomicU32,
    /// What it was when somebody last told, and how much of it was folded then.
    pages: AtomicU32,
    folded: AtomicU32,
    /// Whether somebody reads what is older than the rest of it, which cannot be folded until they have read.
    is_read: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    asked: bool,
    closed: bool,
    thread: Option<thread::JoinHandle<()>>,
}

impl Fold {
    pub(super) fn new(file: PathBuf, turn: Arc<Turns<()>>) -> Self {
        Self(Arc::new(Shared {
            file,
            turn,
            due: AtomicU32::new(PAGES),
            pages: AtomicU32::new(0),
            folded: AtomicU32::new(0),
            is_read: AtomicBool::new(false),
            state: Mutex::default(),
            wake: Condvar::new(),
        }))
    }

    /// Tells how many pages the log has after a write; zero where nothing was written.
    pub(super) fn wrote(&self, pages: u32) {
        if pages == 0 {
            return;
        }
        let before = self.0.pages.swap(pages, Ordering::Relaxed);
        if pages < before {
            // It was begun anew.
            self.0.due.store(PAGES, Ordering::Relaxed);
            self.0.folded.store(0, Ordering::Relaxed);
        }
        if pages >= self.0.due.load(Ordering::Relaxed) {
            self.ask();
        }
    }

    /// Has the log looked at: how long it is is not known.
    pub(super) fn ask(&self) {
        let mut state = held(&self.0.state);
        if state.asked || state.closed {
            return;
        }
        state.asked = true;
        if state.thread.is_none() {
            let shared = self.0.clone();
            let thread = thread::Builder::new().name("larder-fold".to_owned());
            // Where there is no thread, writers fold a log that is too long.
            state.thread = thread.spawn(move || shared.run()).ok();
            state.asked = state.thread.is_some();
        } else {
            self.0.wake.notify_one();
        }
    }

    /// Whether writers are to fold the log themselves.
    pub(super) fn is_too_long(&self) -> bool {
        self.0.pages.load(Ordering::Relaxed) >= TOO_LONG
    }

    /// Whether writers are to make pauses.
    pub(super) fn is_behind(&self) -> bool {
        let pages = self.0.pages.load(Ordering::Relaxed);
        let folded = self.0.folded.load(Ordering::Relaxed);
        (pages >= LONG || pages >= folded + BEHIND) && !self.0.is_read.load(Ordering::Relaxed)
    }

    /// Ends the thread, for good, and waits until it has given up its connection.
    pub(super) async fn close(&self) {
        let thread = self.end();
        if let Some(thread) = thread {
            // It may be at the disk still. It has said all that it had to say.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    pub(super) fn end(&self) -> Option<thread::JoinHandle<()>> {
        let mut state = held(&self.0.state);
        state.closed = true;
        self.0.wake.notify_one();
        state.thread.take()
    }
}

impl Shared {
    fn run(&self) {
        let mut connection = None;
        let mut looks = 0;
        while self.wait(looks) {
            let is_settled = self.look(&mut connection).unwrap_or(true);
            looks = if is_settled || looks == LOOKS {
                0
            } else {
                looks + 1
            };
        }
    }

    /// Waits until somebody asks, or for another look. Whether there is to be one.
    fn wait(&self, looks: u32) -> bool {
        let mut state = held(&self.state);
        let idle = |state: &mut State| !state.asked && !state.closed;
        state = if looks == 0 {
            held_again(self.wake.wait_while(state, idle))
        } else {
            let wait = LOOK * looks;
            held_again(self.wake.wait_timeout_while(state, wait, idle)).0
        };
        if !state.closed {
            let gathers = |state: &mut State| !state.closed;
            state = held_again(self.wake.wait_timeout_while(state, GATHER, gathers)).0;
        }
        state.asked = false;
        !state.closed
    }

    /// Whether there is nothing left to do for now. None where the file does not let itself be looked at.
    fn look(&self, connection: &mut Option<Connection>) -> Option<bool> {
        let open = match connection.take() {
            Some(open) => open,
            None => self.open().ok()?,
        };
        let settled = self.fold(&open).ok()?;
        *connection = Some(open);
        Some(settled)
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.file, flags)?;
        connection.busy_handler(Some(lock::look_again))?;
        connection.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0")?;
        Ok(connection)
    }

    /// Whether there is nothing left to do for now.
    fn fold(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let mut log = self.see(connection)?;
        if log.pages < PAGES {
            return Ok(true);
        }
        for _ in 0..ROUNDS {
            let enough = if log.pages < LONG { PAGES } else { FEW };
            if log.left() < enough {
                break;
            }
            if !self.fold_what_is_there(connection)? {
                return Ok(false);
            }
            log = self.see(connection)?;
        }
        if log.pages < LONG && !log.is_folded() {
            return Ok(false);
        }
        self.begin_anew(connection)
    }

    /// Has the disk take it too: nobody waits for that, as they do when the log is begun anew. Whether nobody stood in the way.
    fn fold_what_is_there(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let before = self.see(connection)?;
        let was_busy = log::ask(connection, Mode::Fold)?.was_busy;
        let after = self.see(connection)?;
        // Who folds it as well, or has begun it anew, is no reader.
        let is_left = after.pages >= before.pages && after.folded < before.pages;
        let is_read = is_left && !was_busy;
        self.is_read.store(is_read, Ordering::Relaxed);
        if after.folded > before.folded {
            flush(&self.file);
        }
        Ok(!was_busy && !is_read)
    }

    /// Folds what is left while nobody writes, and begins the log anew. Its first page waits for the disk, and is written
    /// here for that. Whether there is nothing left to do.
    fn begin_anew(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let _turn = self.turn.blocking_lock();
        let log = self.see(connection)?;
        if log.pages < PAGES {
            return Ok(true);
        }
        if log.pages < LONG && !log.is_folded() {
            return Ok(false);
        }
        if log::ask(connection, Mode::BeginAnew)?.was_busy {
            return Ok(false);
        }
        log::touch(connection)?;
        self.see(connection)?;
        Ok(true)
    }

    /// What the log is now, told to those who write.
    fn see(&self, connection: &Connection) -> rusqlite::Result<Log> {
        let log = log::ask(connection, Mode::Look)?.log;
        self.tell(log);
        Ok(log)
    }

    fn tell(&self, log: Log) {
        self.pages.store(log.pages, Ordering::Relaxed);
        self.folded.store(log.folded, Ordering::Relaxed);
        let due = LONG.min(log.folded + PAGES);
        self.due.store(due, Ordering::Relaxed);
    }
}

/// Nothing panics while it is held.
fn held_again<T>(waited: std::sync::LockResult<T>) -> T {
    waited.unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Database {
    /// Has the log of an SQLite file folded if it is long, by and by. Whether there is somebody who does.
    pub(crate) fn have_log_looked_at(&self) -> bool {
        let here = self.shared_here();
        if let Some(here) = here {
            here.fold.ask();
        }
        here.is_some()
    }

    /// Whether whoever writes much is to wait for the log of an SQLite file to be folded.
    pub(crate) fn is_log_behind(&self) -> bool {
        self.shared_here().is_some_and(|here| here.fold.is_behind())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::*;

    fn opened(file: &Path) -> Connection {
        let connection = Connection::open(file).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL")
            .unwrap();
        log::count(&connection);
        connection
    }

    fn fill(connection: &Connection, rows: u32) {
        let sql = format!(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT {rows}) \
             INSERT INTO t SELECT zeroblob(4000) FROM n"
        );
        connection.execute_batch(&sql).unwrap();
    }

    /// Looks until the log is as `wanted`.
    async fn comes_to(connection: &Connection, wanted: impl Fn(Log) -> bool) -> Log {
        let began = Instant::now();
        loop {
            let log = log::ask(connection, Mode::Look).unwrap().log;
            if wanted(log) {
                return log;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{log:?}");
            tokio::task::yield_now().await;
        }
    }

    // SQLite alone has a log beside its file.
    #[tokio::test]
    async fn a_long_log_is_folded_and_begun_anew_when_nobody_writes_and_a_short_one_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        let writer = opened(&file);
        writer.execute_batch("CREATE TABLE t (x)").unwrap();
        let fold = Fold::new(file, Arc::default());
        fill(&writer, 100);
        fold.wrote(log::written());
        assert!(
            held(&fold.0.state).thread.is_none(),
            "nothing is to be done"
        );
        fill(&writer, PAGES);
        let version: i64 = writer
            .query_row("PRAGMA user_version", (), |row| row.get(0))
            .unwrap();
        fold.wrote(log::written());
        comes_to(&writer, |log| log.pages < PAGES).await;
        let after: i64 = writer
            .query_row("PRAGMA user_version", (), |row| row.get(0))
            .unwrap();
        assert_eq!(after, version);
        let rows: u32 = writer
            .query_row("SELECT count(*) FROM t", (), |row| row.get(0))
            .unwrap();
        assert_eq!(rows, PAGES + 100);
        fold.close().await;
        fill(&writer, PAGES);
        fold.wrote(log::written());
        assert!(
            held(&fold.0.state).thread.is_none(),
            "it is closed for good"
        );
    }

    fn log(pages: u32, folded: u32) -> Log {
        Log { pages, folded }
    }

    fn fold_of(file: &Path, now: Log) -> Fold {
        let fold = Fold::new(file.to_owned(), Arc::default());
        fold.0.tell(now);
        fold
    }

    #[test]
    fn writers_make_pauses_by_what_is_left_and_while_a_long_log_is_begun_anew() {
        let of = |now| {
            let fold = fold_of(Path::new(""), now);
            (fold.is_behind(), fold.is_too_long())
        };
        assert_eq!(of(log(LONG - 1, LONG - BEHIND)), (false, false));
        assert_eq!(of(log(LONG - 1, LONG - 1 - BEHIND)), (true, false));
        assert_eq!(of(log(LONG, LONG)), (true, false));
        assert_eq!(of(log(TOO_LONG, TOO_LONG)), (true, true));
    }

    #[test]
    fn a_log_is_looked_at_when_much_is_left_of_it_or_when_it_has_grown_long() {
        let due = |now| fold_of(Path::new(""), now).0.due.load(Ordering::Relaxed);
        assert_eq!(due(log(PAGES, 10)), PAGES + 10);
        assert_eq!(due(log(LONG - 1, LONG - 1)), LONG);
    }

    #[tokio::test]
    async fn a_log_that_somebody_reads_is_folded_when_they_have_read_and_writers_make_no_pauses_meanwhile()
     {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        let (writer, reader) = (opened(&file), opened(&file));
        writer.execute_batch("CREATE TABLE t (x)").unwrap();
        reader
            .execute_batch("BEGIN; SELECT count(*) FROM t")
            .unwrap();
        fill(&writer, LONG);
        let fold = Fold::new(file, Arc::default());
        let folds = fold.0.open().unwrap();
        // To wait for the turn of writers, which is what it does first to begin the log anew, would panic here.
        assert!(!fold.0.fold(&folds).unwrap());
        let seen = log::ask(&writer, Mode::Look).unwrap().log;
        assert!(seen.left() >= LONG && !fold.is_behind(), "{seen:?}");
        reader.execute_batch("COMMIT").unwrap();
        fold.ask();
        comes_to(&writer, |log| log.pages < PAGES).await;
        fold.close().await;
        assert!(!fold.is_behind() && !fold.is_too_long());
    }

    #[tokio::test]
    async fn a_long_log_is_folded_before_writers_wait_for_it_to_be_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        let (writer, turn) = (opened(&file), Arc::new(Turns::new(())));
        writer.execute_batch("CREATE TABLE t (x)").unwrap();
        fill(&writer, LONG);
        let fold = Fold::new(file, turn.clone());
        let held = turn.lock().await;
        fold.ask();
        let log = comes_to(&writer, Log::is_folded).await;
        assert!(log.pages >= LONG && fold.is_behind());
        drop(held);
        comes_to(&writer, |log| log.pages < PAGES).await;
        fold.close().await;
        assert!(!fold.is_behind());
    }

    #[tokio::test]
    async fn a_long_log_is_begun_anew_while_others_write_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        let (writer, turn) = (opened(&file), Arc::new(Turns::new(())));
        writer.execute_batch("CREATE TABLE t (x)").unwrap();
        let fold = Fold::new(file, turn.clone());
        let began = Instant::now();
        let (mut pages, mut times) = (0, 0);
        while times < 2 {
            let turn = turn.lock().await;
            fill(&writer, 10);
            let now = log::written();
            times += u32::from(now < pages);
            pages = now;
            fold.wrote(pages);
            drop(turn);
            assert!(began.elapsed() < Duration::from_secs(60), "{pages} pages");
        }
        fold.close().await;
    }
}
