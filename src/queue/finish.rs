//! The finisher: writes what came of each attempt. A task of its own, one a worker.
//!
//! What is waiting goes out in one statement; nothing waits for a timer. Every row is fenced by worker and attempt:
//! of an attempt that was rescued meanwhile nothing is changed.

use std::time::Duration;

use tokio::sync::mpsc;

use super::JobId;
use super::backend::Slot;
use super::held::Hold;
use crate::clock::Timestamp;
use crate::database::{Database, JsonText, Sql, query};
use crate::error::{Error, Result};

/// Attempts in one statement.
const BATCH: usize = 500;
/// The first and the longest wait while the database is away.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What came of an attempt.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) id: JobId,
    pub(crate) attempt: i32,
    pub(crate) outcome: Outcome,
    /// The attempt is this worker's until its outcome is written.
    pub(crate) _hold: Hold,
    /// Where it is tried again or ran within a limit the slot too: the fetcher, woken by it, then sees when that is, or room.
    pub(crate) _slot: Option<Slot>,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    /// Its result's JSON.
    Done { result: String },
    /// It is tried again at an instant.
    Retry { error: String, run_at: Timestamp },
    /// It is not tried again.
    Dead { error: String },
    /// It was not its fault: the worker drains. The attempt is given back.
    Released,
}

/// id, attempt, status, milliseconds of run_at, result, error: as the statement reads them.
type Row<'a> = (
    JobId,
    i32,
    &'a str,
    Option<i64>,
    Option<&'a str>,
    Option<&'a str>,
);

impl Finished {
    fn row(&self) -> Row<'_> {
        let (status, run_at, result, error) = match &self.outcome {
            Outcome::Done { result } => ("done", None, Some(result.as_str()), None),
            Outcome::Retry { error, run_at } => (
                "queued",
                Some(run_at.as_millis()),
                None,
                Some(error.as_str()),
            ),
            Outcome::Dead { error } => ("dead", None, None, Some(error.as_str())),
            Outcome::Released => ("queued", None, None, None),
        };
        (self.id, self.attempt, status, run_at, result, error)
    }
}

pub(crate) struct Finisher {
    pub(crate) database: Database,
    pub(crate) worker: JobId,
    pub(crate) finished: mpsc::UnboundedReceiver<Finished>,
}

impl Finisher {
    /// Writes until every sender is gone and all is written. The database may be away for as long as it likes.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::new();
        while self.finished.recv_many(&mut batch, BATCH).await > 0 {
            self.write(&batch).await;
            batch.clear();
        }
    }

    async fn write(&self, batch: &[Finished]) {
        let mut away: Option<Duration> = None;
        loop {
            let error = match self.try_write(batch).await {
                Ok(()) => break,
                Err(error) => error,
            };
            if !error.is_transient() {
                // Refused for something that it holds: one by one, the rest must not suffer.
                if let [finished] = batch {
                    if self.write_refused(finished, &error).await.is_ok() {
                        break;
                    }
                } else {
                    for finished in batch {
                        Box::pin(self.write(std::slice::from_ref(finished))).await;
                    }
                    break;
                }
            }
            let wait = away.map_or(RETRY.0, |last| (last * 2).min(RETRY.1));
            if away.replace(wait).is_none() {
                tracing::warn!(%error, "cannot write the outcomes of jobs, trying until the database takes them");
            }
            tokio::time::sleep(wait).await;
        }
        if away.is_some() {
            tracing::info!("the database is back, outcomes of jobs are written");
        }
    }

    /// What the database does not take is the end of its job.
    async fn write_refused(&self, finished: &Finished, error: &Error) -> Result<()> {
        let message = format!("its outcome could not be stored: {error}");
        let (id, attempt, ..) = finished.row();
        self.execute(
            Sql::JobFinish,
            &[(id, attempt, "dead", None, None, Some(&message))],
        )
        .await?;
        tracing::error!(job.id = %id, attempt, error = message, "the job is dead");
        Ok(())
    }

    async fn try_write(&self, batch: &[Finished]) -> Result<()> {
        let (released, ended): (Vec<_>, Vec<_>) = batch
            .iter()
            .map(|finished| (finished, finished.row()))
            .partition(|(finished, _)| matches!(finished.outcome, Outcome::Released));
        for (statement, rows) in [(Sql::JobFinish, ended), (Sql::JobRelease, released)] {
            if !rows.is_empty() {
                let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
                self.execute(statement, &rows).await?;
            }
        }
        Ok(())
    }

    async fn execute(&self, statement: Sql, rows: &[Row<'_>]) -> Result<()> {
        let rows = JsonText(serde_json::json!(rows).to_string());
        let now = self.database.clock().now();
        let mut connection = self.database.write().await?;
        let mut tx = connection.tx();
        query!(
            self.database,
            tx,
            execute,
            statement,
            rows,
            self.worker,
            now
        )?;
        Ok(())
    }
}
