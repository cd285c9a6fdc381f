//! Waiting for another process that computes a key: a notification where there are any, and a look at intervals.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Cache;
use crate::database::Database;
use crate::error::{Error, Result};

/// Between two looks: short at first, then growing. Where a notification is likely to come first, it grows further.
const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(50);
const LONGEST_NOTIFIED: Duration = Duration::from_millis(250);
/// The wait before a lost connection is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a caller waits for others.
pub(super) struct Patience {
    limit: Duration,
    /// None where the limit is beyond all clocks.
    until: Option<Instant>,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            until: Instant::now().checked_add(limit),
        }
    }

    /// What `wait` comes to, or `None` where it takes too long.
    pub(super) async fn bound<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        match self.until {
            Some(until) => tokio::time::timeout_at(until, wait).await.ok(),
            None => Some(wait.await),
        }
    }

    pub(super) fn error(&self, key: &str) -> Error {
        Error::timed_out(format!(
            "somebody else computes key {key:?}, and was not done within {:?}: try again later, or raise wait_timeout",
            self.limit
        ))
    }
}

/// The connection that hears what other processes are done with, as long as somebody waits.
#[derive(Debug, Default)]
pub(super) struct Ears {
    listener: Mutex<Weak<Listener>>,
}

/// The name of an item, or `None` where the connection was lost and made anew.
type Heard = Option<Arc<str>>;

#[derive(Debug)]
struct Listener {
    heard: broadcast::Sender<Heard>,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ears {
    /// The listener there is, or a new one.
    fn listen(&self, database: &Database) -> Arc<Listener> {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = listener.upgrade() {
            return running;
        }
        let (heard, _) = broadcast::channel(64);
        let task = tokio::spawn(listen(database.apart(1), heard.clone()));
        let started = Arc::new(Listener {
            heard,
            task: task.abort_handle(),
        });
        *listener = Arc::downgrade(&started);
        started
    }
}

async fn listen(database: Database, heard: broadcast::Sender<Heard>) {
    loop {
        if let Err(error) = hear(&database, &heard).await {
            tracing::debug!(%error, "no notifications of computed items");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn hear(database: &Database, heard: &broadcast::Sender<Heard>) -> Result<()> {
    let Some(mut wakeups) = database.listen_to_items().await? else {
        return Ok(());
    };
    loop {
        // Nobody may be waiting any more. A connection that was made anew may have missed any item.
        let _ = heard.send(wakeups.next_item().await?.map(Into::into));
    }
}

/// The pauses between the looks of one who waits for a key.
pub(crate) struct Pauses {
    heard: Option<broadcast::Receiver<Heard>>,
    /// Held as long as it is wanted.
    _listener: Option<Arc<Listener>>,
    name: String,
    next: Duration,
    longest: Duration,
}

impl Cache {
    pub(super) fn pauses(&self, key: &str) -> Pauses {
        let notified = self.place.database.has_many_writers();
        let listener = notified.then(|| self.ears.listen(&self.place.database));
        Pauses {
            heard: listener.as_ref().map(|listener| listener.heard.subscribe()),
            _listener: listener,
            longest: if notified { LONGEST_NOTIFIED } else { LONGEST },
            name: format!("{}/{key}", self.place.namespace),
            next: FIRST,
        }
    }
}

impl Pauses {
    /// Returns when it is worth another look.
    pub(crate) async fn next(&mut self) {
        let pause = tokio::time::sleep(self.next);
        self.next = (self.next * 2).min(self.longest);
        let Some(heard) = &mut self.heard else {
            return pause.await;
        };
        let told = async {
            // One who fell behind, or whose connection was lost, may have missed it.
            while let Ok(Some(name)) = heard.recv().await {
                if *name == *self.name {
                    return;
                }
            }
        };
        tokio::select! {
            () = pause => {}
            () = told => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::cache::lease::{Asker, Taken};
    use crate::cache::links::Links;
    use crate::database::DatabaseOptions;

    /// Whether one who would look again in an hour is woken when somebody else is done.
    async fn is_woken(cache: &Cache) -> bool {
        let mut pauses = cache.pauses("key");
        pauses.next = Duration::from_secs(3_600);
        let links = Links::default();
        let working = async {
            // Over and again, since it takes a while until the listener hears.
            loop {
                for key in ["another", "key"] {
                    let taken = cache.take_lease(key, &links, None, Asker::default());
                    let Taken::Lease(lease) = taken.await.unwrap() else {
                        return;
                    };
                    cache.release_lease(key, lease).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let woken = tokio::time::timeout(Duration::from_secs(20), pauses.next());
        tokio::select! {
            woken = woken => woken.is_ok(),
            () = working => false,
        }
    }

    #[tokio::test]
    async fn on_postgres_a_notification_wakes_who_waits_and_the_listener_ends_with_them() {
        let url = std::env::var("LARDER_TEST_POSTGRES_URL")
            .expect("LARDER_TEST_POSTGRES_URL names no PostgreSQL");
        let schema = format!("test_{}", uuid::Uuid::now_v7().simple());
        let options = DatabaseOptions::new(&url).schema(&schema);
        let cache = Cache::new(options.connect().await.unwrap());
        let woken = is_woken(&cache).await;
        let listener = cache.ears.listener.lock().unwrap().upgrade();
        let mut transaction = cache.database().begin().await.unwrap();
        if let crate::database::Tx::Postgres(connection) = (&mut transaction).into() {
            let drop_schema = sqlx::AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"));
            sqlx::query(drop_schema).execute(connection).await.unwrap();
        }
        transaction.commit().await.unwrap();
        assert!(woken && listener.is_none());
    }

    #[tokio::test]
    async fn on_sqlite_who_waits_looks_again_soon() {
        let cache = Cache::connect("sqlite::memory:").await.unwrap();
        let mut pauses = cache.pauses("key");
        for _ in 0..10 {
            pauses.next().await;
        }
        assert_eq!(pauses.next, LONGEST);
        assert!(pauses.heard.is_none());
    }
}
