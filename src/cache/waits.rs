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
        let notified = self.database.has_many_writers();
        let listener = notified.then(|| self.ears.listen(&self.database));
        Pauses {
            heard: listener.as_ref().map(|listener| listener.heard.subscribe()),
            _listener: listener,
            longest: if notified { LONGEST_NOTIFIED } else { LONGEST },
            name: format!("{}/{key}", self.namespace),
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
