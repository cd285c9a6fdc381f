//! The write-ahead log of an SQLite file, as a connection sees it.

use std::cell::Cell;

use rusqlite::Connection;

/// How many pages there are in the log, and how many of these are folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) pages: u32,
    pub(super) folded: u32,
}

impl Log {
    pub(super) fn is_folded(self) -> bool {
        self.pages == self.folded
    }

    /// How many pages are not folded.
    pub(super) fn left(self) -> u32 {
        self.pages.saturating_sub(self.folded)
    }
}

/// What is done with the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    /// Nothing.
    Look,
    /// It is folded as far as others leave it alone.
    Fold,
    /// All of it is folded while nobody writes, and overwritten from then on.
    BeginAnew,
}

/// What the log is then, and whether somebody stood in the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) log: Log,
    pub(super) was_busy: bool,
}

pub(super) fn ask(connection: &Connection, mode: Mode) -> rusqlite::Result<Answer> {
    let mut pragma = connection.prepare_cached(match mode {
        Mode::Look => "PRAGMA wal_checkpoint(NOOP)",
        Mode::Fold => "PRAGMA wal_checkpoint(PASSIVE)",
        Mode::BeginAnew => "PRAGMA wal_checkpoint(RESTART)",
    })?;
    pragma.query_row((), |row| {
        // A log that there is not has -1.
        let pages = |column| {
            let pages = row.get::<_, i64>(column)?;
            Ok::<_, rusqlite::Error>(u32::try_from(pages).unwrap_or(0))
        };
        Ok(Answer {
            log: Log {
                pages: pages(1)?,
                folded: pages(2)?,
            },
            was_busy: row.get(0)?,
        })
    })
}

/// Writes a page as it is.
pub(super) fn touch(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let touched = connection
        .query_row("PRAGMA user_version", (), |row| row.get::<_, i64>(0))
        .and_then(|version| connection.execute_batch(&format!("PRAGMA user_version = {version}")));
    match touched {
        Ok(()) => connection.execute_batch("COMMIT"),
        Err(error) => connection.execute_batch("ROLLBACK").and(Err(error)),
    }
}

thread_local! {
    /// The pages of the log after the last commit of this thread.
    static WRITTEN: Cell<u32> = const { Cell::new(0) };
}

/// Has the connection leave the log as it is, and count its pages for [`written`].
pub(super) fn count(connection: &Connection) {
    connection.wal_hook(Some(|_, pages| {
        WRITTEN.set(u32::try_from(pages).unwrap_or(0));
        Ok(())
    }));
}

/// How many pages the log had after the last commit on this thread, by a connection that counts; zero where there was none
/// since this was asked.
pub(super) fn written() -> u32 {
    WRITTEN.take()
}
