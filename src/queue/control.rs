//! What passes between the database and the handlers of a worker while they run: cancellations to them, and their
//! progress from them. A task of its own, one a worker, which goes on during a drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::JobId;
use super::batch_claim::BatchClaims;
use super::held::{Attempt, Held};
use crate::database::{Database, JsonText, Readable, Sql, query, readable};
use crate::error::{Error, Result};

/// Whatever the heartbeat, cancellations that nobody told of are looked for this often.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// The pause after progress was written.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

pub(crate) struct Control {
    pub(crate) database: Database,
    pub(crate) worker: JobId,
    pub(crate) held: Held,
    pub(crate) claims: BatchClaims,
    /// Woken when another process may have cancelled something.
    pub(crate) wake: Arc<Notify>,
    /// How often it looks for what nobody told it of.
    pub(crate) look_interval: Duration,
}

impl Control {
    /// Works until it is told to stop. The database may be away for as long as it likes.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = futures::future::join(self.pass_on_cancellations(), self.write_progress()) => {}
        }
    }

    async fn pass_on_cancellations(&self) {
        let mut announced = self.database.cancellations();
        let interval = self.look_interval.min(LONGEST_LOOK);
        loop {
            announced.mark_unchanged();
            // An idle worker asks nothing.
            if !self.held.is_empty()
                && let Err(error) = self.database.answered(self.look()).await
            {
                // The heartbeat says aloud that the database is away.
                tracing::debug!(%error, "cannot look for cancelled jobs");
            }
            tokio::select! {
                () = self.wake.notified() => {}
                _ = announced.changed() => {}
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Tells the handlers of cancelled jobs. One that was claimed this very moment is found by the next look.
    async fn look(&self) -> Result<()> {
        let attempts: Vec<Readable<Attempt>> = {
            let mut connection = self.database.read().await?;
            let mut tx = connection.tx();
            query!(
                self.database,
                tx,
                fetch_all,
                Sql::JobCancelling,
                self.worker
            )?
        };
        self.held.cancel(&readable(attempts).into_iter().collect());
        Ok(())
    }

    /// Writes the progress that handlers report, the latest of each, and nothing while none reports any.
    async fn write_progress(&self) {
        loop {
            self.held.reported().await;
            let write = self.try_write_progress();
            if let Err(error) = self.database.answered(write).await {
                tracing::debug!(%error, "cannot write the progress of jobs");
                self.held.look_again();
            }
            tokio::time::sleep(PROGRESS_EVERY).await;
        }
    }

    async fn try_write_progress(&self) -> Result<()> {
        let mut unwritten = self.held.unwritten();
        if unwritten.is_empty() {
            return Ok(());
        }
        // A job's progress stands in its row, which must say that it runs.
        let attempts = unwritten.iter().map(|(running, _)| running.attempt());
        self.claims.say(&attempts.collect()).await?;
        unwritten.retain(|(running, _)| !running.is_unsaid());
        let rows: Vec<_> = unwritten
            .iter()
            .map(|(running, progress)| {
                let (id, attempt) = running.attempt();
                let (done, total) = progress.stored();
                (id, attempt, done, total)
            })
            .collect();
        let rows = serde_json::to_string(&rows)
            .map(JsonText)
            .map_err(|error| Error::invalid(format!("progress does not serialise: {error}")))?;
        let mut connection = self.database.write().await?;
        let mut tx = connection.tx();
        query!(
            self.database,
            tx,
            execute,
            Sql::JobProgress,
            rows,
            self.worker
        )?;
        for (running, progress) in unwritten {
            running.written(progress);
        }
        Ok(())
    }
}
