//! Noticing, on an SQLite file, that somebody has written to it, without a look at its tables.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::here::{Here, Version};
use super::write_events::WriteEvents;
use super::{Database, Engine};

/// How often an SQLite file is asked whether it has changed where the kernel does not tell of writes, and the longest time between
/// two looks where somebody writes all the time.
const CHECK: Duration = Duration::from_millis(50);
/// The first look after the kernel has told of a write. The commit may be still to come, and is told of by nobody: each further
/// look is twice as far away, until this long after the last sign of one.
const SOON: Duration = Duration::from_millis(1);
const SETTLED: Duration = Duration::from_millis(250);
/// So many changes in a row that it was silent about are a file system of which it tells nothing.
const MISSED: u32 = 3;
/// How often to look at the tables where nothing tells that they have changed.
const UNTOLD: Duration = Duration::from_millis(50);
/// How often to look though nothing has told of a change.
const TOLD: Duration = Duration::from_secs(1);

/// What one who waits knows of a database's changes.
pub(crate) struct Changes {
    database: Database,
    seen: Option<Version>,
    told: Option<watch::Receiver<()>>,
}

impl Database {
    pub(crate) fn changes(&self) -> Changes {
        let told = self.shared_here().and_then(|here| look(here, events(here)));
        Changes {
            database: self.clone(),
            seen: None,
            told,
        }
    }

    /// How often to look for what others have written and nobody told of, unless somebody says otherwise.
    pub(crate) fn poll_interval(&self) -> Duration {
        let told = match self.engine() {
            Engine::Postgres => true,
            // Nobody else can write to one in memory.
            Engine::Sqlite => self.is_in_memory() || self.version().is_some(),
        };
        if told { TOLD } else { UNTOLD }
    }
}

/// What the kernel tells of writes to the log.
fn events(here: &Here) -> Option<(PathBuf, WriteEvents)> {
    // Its name is known from then on.
    here.version()?;
    here.log().zip(WriteEvents::new())
}

/// Tells of changes from now on, for as long as somebody listens. From a plain thread: a timer of the runtime wakes its own
/// thread twice for each look, which costs ten times what the look does.
fn look(
    here: &Arc<Here>,
    mut events: Option<(PathBuf, WriteEvents)>,
) -> Option<watch::Receiver<()>> {
    let (tell, told) = watch::channel(());
    let mut last = here.version();
    let here = Arc::downgrade(here);
    let version = move || here.upgrade()?.version();
    let look = move || {
        let (mut limit, mut pace) = (SOON, SOON);
        let (mut sign, mut written) = (Instant::now(), None::<Instant>);
        let mut missed = 0;
        while !tell.is_closed() {
            let asked = events.as_ref().filter(|(log, events)| events.ask(log));
            // Once it is asked: of what was written before that nobody tells.
            let now = version();
            if now != last {
                tell.send_replace(());
                (last, sign, limit) = (now, Instant::now(), SOON);
            }
            let Some((_, writes)) = asked else {
                thread::sleep(CHECK);
                continue;
            };
            let is_settled = sign.elapsed() >= SETTLED;
            if writes.wait(if is_settled { TOLD } else { limit }) {
                // Also after the longest: the burst is over then, as a rule, and the next one is to be told of soon.
                let is_lone = written.is_none_or(|written| written.elapsed() >= CHECK);
                pace = if is_lone { SOON } else { longer(pace) };
                written = Some(Instant::now());
                thread::sleep(pace);
                (sign, limit, missed) = (Instant::now(), SOON, 0);
            } else if is_settled && version() != last && !writes.wait(Duration::ZERO) {
                missed += 1;
                if missed >= MISSED {
                    // A file system of which the kernel does not tell, and no disk that is slow for once.
                    events = None;
                }
            } else {
                limit = longer(limit);
            }
        }
    };
    let looks = thread::Builder::new().name("larder-changes".to_owned());
    looks.spawn(look).ok().map(|_| told)
}

fn longer(time: Duration) -> Duration {
    (time * 2).min(CHECK)
}

impl Changes {
    /// What is written from now on is a change: to be called before a look at the tables.
    pub(crate) fn mark(&mut self) {
        if let Some(told) = &mut self.told {
            told.mark_unchanged();
        }
        self.seen = self.database.version();
    }

    fn has_come(&self) -> bool {
        self.database.version() != self.seen
    }

    /// Returns when `limit` is over, or sooner where somebody, this process included, has written since the mark.
    /// PostgreSQL has its notifications for that, and a database in memory has no other writers.
    pub(crate) async fn within(&mut self, limit: Duration) {
        if self.seen.is_none() || self.told.is_none() {
            let untold = self.database.writes_here();
            let limit = if untold { limit.min(UNTOLD) } else { limit };
            return tokio::time::sleep(limit).await;
        }
        // Whichever it was, it is time for another look.
        let _ = tokio::time::timeout(limit, self.changed()).await;
    }

    async fn changed(&mut self) {
        while let Some(told) = &mut self.told {
            if told.changed().await.is_err() {
                self.told = None;
            } else if self.has_come() {
                return;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cache::Cache;

    // SQLite alone: PostgreSQL tells of changes by itself.
    #[tokio::test]
    async fn a_write_is_a_change_whoever_does_it_and_a_read_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        let database = Database::connect(&url).await.unwrap();
        let other = Cache::new(Database::connect(&url).await.unwrap());
        let mut changes = database.changes();
        changes.mark();
        assert_eq!(other.get::<i32>("key").await.unwrap(), None);
        assert!(!changes.has_come());
        for cache in [other, Cache::new(database.clone())] {
            cache.set("key", &1).await.unwrap();
            assert!(changes.has_come());
            changes.within(Duration::MAX).await;
            changes.mark();
            assert!(!changes.has_come());
        }
        assert_eq!(database.poll_interval(), TOLD);
        database.close().await;
        assert_eq!(database.version(), None, "what is closed opens nothing");
        assert_eq!(database.poll_interval(), UNTOLD);
    }

    // Linux alone has them.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_is_asked_by_one_who_has_asked_for_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        let database = Database::connect(&url).await.unwrap();
        let (log, kernel) = events(database.shared_here().unwrap()).unwrap();
        assert!(kernel.ask(&log), "{}", log.display());
    }

    /// That a change is told of to one who has these events.
    async fn is_told(events: impl FnOnce() -> Option<(PathBuf, WriteEvents)>) {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        let database = Database::connect(&url).await.unwrap();
        let other = Cache::new(Database::connect(&url).await.unwrap());
        let mut changes = database.changes();
        changes.told = look(database.shared_here().unwrap(), events());
        for value in 0..2 {
            changes.mark();
            // Until it is not looked for any more because something was written before.
            changes.within(2 * SETTLED).await;
            assert!(!changes.has_come());
            other.set("key", &value).await.unwrap();
            let told = tokio::time::timeout(Duration::from_secs(30), changes.within(Duration::MAX));
            told.await.unwrap();
            assert!(changes.has_come());
        }
    }

    #[tokio::test]
    async fn where_the_kernel_tells_of_nothing_changes_are_looked_for() {
        is_told(|| None).await;
    }

    // Linux alone has them.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn where_the_kernel_says_that_it_will_tell_and_does_not_changes_are_looked_for() {
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        is_told(|| Some((elsewhere.path().to_owned(), WriteEvents::new()?))).await;
    }

    #[tokio::test]
    async fn what_tells_of_no_changes_is_looked_at_often() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.db");
        let url = format!("sqlite://{}?mode=rwc", file.display());
        let by_options = Database::connect(&url).await.unwrap();
        let mut changes = by_options.changes();
        changes.mark();
        assert!(changes.seen.is_none());
        assert_eq!(by_options.poll_interval(), UNTOLD);
        changes.within(Duration::ZERO).await;
        let in_memory = Database::connect("sqlite::memory:").await.unwrap();
        assert_eq!(in_memory.poll_interval(), TOLD, "nobody else can write");
    }
}
