//! Hearing at once of jobs that other processes enqueue and cancel. Polling is the fallback.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::database::{Database, Wakeup};
use crate::error::Result;

/// The wait before a lost connection is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Who is woken by notifications.
pub(super) struct Listeners {
    /// Of jobs that were enqueued.
    pub(super) fetcher: Arc<Notify>,
    /// Of jobs that were cancelled.
    pub(super) control: Arc<Notify>,
}

/// Wakes whom a notification is for, until told to stop. A lost connection is made anew.
pub(super) async fn run(database: Database, listeners: Listeners, stop: CancellationToken) {
    let mut lost = false;
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = listen(&database, &listeners, &mut lost) => ended,
        };
        match ended {
            Ok(()) => return,
            Err(error) if lost => tracing::debug!(%error, "still no notifications"),
            Err(error) => {
                lost = true;
                tracing::warn!(%error, "notifications are lost, polling until they are back");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn listen(database: &Database, listeners: &Listeners, lost: &mut bool) -> Result<()> {
    let Some(mut wakeups) = database.listen().await? else {
        return Ok(());
    };
    if std::mem::take(lost) {
        tracing::info!("notifications are back");
    }
    // Whatever came while nobody listened is looked for too.
    let mut told = Wakeup::Anything;
    loop {
        if told != Wakeup::Control {
            listeners.fetcher.notify_one();
        }
        if told != Wakeup::Jobs {
            listeners.control.notify_one();
        }
        told = wakeups.next().await?;
    }
}
