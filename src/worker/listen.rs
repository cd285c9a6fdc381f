//! Hearing at once of jobs that other processes enqueue. Polling is the fallback.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::error::Result;

/// The wait before a lost connection is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Wakes the fetcher at every notification, until told to stop. A lost connection is made anew.
pub(super) async fn run(database: Database, wake: Arc<Notify>, stop: CancellationToken) {
    let mut lost = false;
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = listen(&database, &wake, &mut lost) => ended,
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

async fn listen(database: &Database, wake: &Notify, lost: &mut bool) -> Result<()> {
    let Some(mut wakeups) = database.listen().await? else {
        return Ok(());
    };
    if std::mem::take(lost) {
        tracing::info!("notifications are back");
    }
    loop {
        // Whatever came while nobody listened is looked for too.
        wake.notify_one();
        wakeups.next().await?;
    }
}
