//! The finisher: writes what came of each attempt. A task of its own, one a worker.
//!
//! What is waiting goes out in one statement; nothing waits for a timer. Every row is fenced by worker and attempt:
//! of an attempt that was rescued meanwhile nothing is changed.

use std::time::Duration;

use tokio::sync::mpsc;

use super::JobId;
use crate::clock::Timestamp;
use crate::database::{Database, JsonText, Sql, query};
use crate::error::Result;

/// Attempts in one statement.
const BATCH: usize = 500;
/// The first and the longest wait while the database is away.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What came of an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) id: JobId,
    pub(crate) attempt: i32,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug)]
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
            match self.try_write(batch).await {
                Ok(()) => {
                    if away.is_some() {
                        tracing::info!("the database is back, outcomes of jobs are written");
                    }
                    return;
                }
                Err(error) if !error.is_transient() => return self.write_each(batch).await,
                Err(error) => {
                    let wait = away.map_or(RETRY.0, |last| (last * 2).min(RETRY.1));
                    if away.replace(wait).is_none() {
                        tracing::warn!(%error, "cannot write the outcomes of jobs, trying until the database takes them");
                    }
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// The database refused the batch for something that it holds: one by one, the rest must not suffer.
    async fn write_each(&self, batch: &[Finished]) {
        for finished in batch {
            let Err(error) = self.try_write(std::slice::from_ref(finished)).await else {
                continue;
            };
            if error.is_transient() {
                Box::pin(self.write(std::slice::from_ref(finished))).await;
                continue;
            }
            let refused = Finished {
                outcome: Outcome::Dead {
                    error: format!("its outcome could not be stored: {error}"),
                },
                ..finished.clone()
            };
            if let Err(error) = self.try_write(std::slice::from_ref(&refused)).await {
                tracing::error!(job.id = %finished.id, %error, "cannot write the outcome of a job");
            }
        }
    }

    async fn try_write(&self, batch: &[Finished]) -> Result<()> {
        let (released, ended): (Vec<_>, Vec<_>) = batch
            .iter()
            .partition(|finished| matches!(finished.outcome, Outcome::Released));
        let mut connection = self.database.write().await?;
        let mut tx = connection.tx();
        if !ended.is_empty() {
            let now = self.database.clock().now();
            query!(
                self.database,
                tx,
                execute,
                Sql::JobFinish,
                to_rows(&ended),
                self.worker,
                now
            )?;
        }
        if !released.is_empty() {
            query!(
                self.database,
                tx,
                execute,
                Sql::JobRelease,
                to_rows(&released),
                self.worker
            )?;
        }
        Ok(())
    }
}

fn to_rows(batch: &[&Finished]) -> JsonText {
    let rows: Vec<_> = batch.iter().map(|finished| finished.row()).collect();
    JsonText(serde_json::json!(rows).to_string())
}
