//! Hearing of what others write.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;

use super::store::Store;
use crate::database::{Database, Sql, Wakeups, query};
use crate::error::Result;

/// The wait before a lost connection is tried again; it doubles, up to the longest.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// A third of the time for which PostgreSQL is asked to tell.
const RENEWAL: Duration = Duration::from_secs(20);

/// The task that listens. It ends with the cache's last clone.
#[derive(Debug, Default)]
pub(super) struct Ear {
    task: Mutex<Option<AbortHandle>>,
}

impl Ear {
    /// Begins to listen, unless that is done already. The runtime of the task before may have ended.
    ///
    /// Who gives up named statements may be behind a PgBouncer in transaction mode. That would take LISTEN, and hand what is
    /// told to whoever has the server's connection then, whose statement fails of it.
    pub(super) fn open(&self, database: &Database, store: &Arc<Store>) {
        if !database.prepared() {
            return;
        }
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_none_or(AbortHandle::is_finished) {
            let listening = tokio::spawn(listen(database.clone(), store.clone()));
            *task = Some(listening.abort_handle());
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task {
            task.abort();
        }
    }
}

/// Where nobody is heard, items are kept all the same: each has its own deadline.
async fn listen(database: Database, store: Arc<Store>) {
    let apart = database.apart(1);
    let mut pause = RETRY;
    let mut is_lost = false;
    loop {
        let ended = async {
            let Some(wakeups) = apart.listen_to_writes().await? else {
                return Ok(());
            };
            watch(&database).await?;
            // What was written before this may not have been told.
            store.forget_all();
            if std::mem::take(&mut is_lost) {
                tracing::info!("what others write is heard again");
            }
            pause = RETRY;
            tokio::select! {
                ended = hear(wakeups, &store) => ended,
                ended = keep_watching(&database) => ended,
            }
        };
        match ended.await {
            Ok(()) => return,
            Err(error) if is_lost => {
                tracing::debug!(%error, "what others write is still not heard")
            }
            Err(error) => {
                is_lost = true;
                tracing::warn!(%error, "what others write is not heard; items in memory may be as old as max_staleness");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_RETRY);
    }
}

async fn hear(mut wakeups: Wakeups, store: &Store) -> Result<()> {
    loop {
        let told = wakeups.next_item().await?;
        let name = told.and_then(|told| serde_json::from_str::<(String, String)>(&told).ok());
        match name {
            Some((namespace, key)) => store.forget(&namespace, &key),
            // All rows at once, or a connection that was lost and made anew.
            None => store.forget_all(),
        }
    }
}

async fn keep_watching(database: &Database) -> Result<()> {
    loop {
        tokio::time::sleep(RENEWAL).await;
        watch(database).await?;
    }
}

/// Has the database tell what is written, for the next minute.
async fn watch(database: &Database) -> Result<()> {
    let mut connection = database.write().await?;
    let mut tx = connection.tx();
    let (_,): (i64,) = query!(database, tx, fetch_one, Sql::CacheWatch)?;
    Ok(())
}
