//! The finisher: writes what came of each attempt. A task of its own, one a worker.
//!
//! What is waiting goes out in one statement; nothing waits for a timer. Every row is fenced by worker and attempt:
//! of an attempt that was rescued meanwhile nothing is changed.

mod batches;
mod outcomes;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::batch_claim::BatchClaims;
use super::held::Hold;
use super::slots::Slot;
use super::{JobId, JobProgress, stored_error};
use crate::clock::Timestamp;
use crate::database::{Database, Ids, JsonText, Kept, Parameter, Sql, Tx, query};
use crate::error::{Error, Result};

use outcomes::Weighed;
pub(crate) use outcomes::{Receiver, Sender, channel};

/// The first and the longest wait while the database is away.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What came of an attempt.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) id: JobId,
    pub(crate) attempt: i32,
    pub(crate) started_at: Timestamp,
    pub(crate) outcome: Outcome,
    /// What its handler reported last, where that is not written yet.
    pub(crate) progress: Option<JobProgress>,
    /// The attempt is this worker's until its outcome is written.
    pub(crate) hold: Hold,
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
    /// It was cancelled, and its handler did not finish it all the same.
    Cancelled { error: String },
    /// It was not its fault: the worker drains. The attempt is given back.
    Released,
    /// It was not begun, for want of a slot: it goes back as if it had not been claimed.
    Unbegun,
}

impl Outcome {
    fn is_to_start_again(&self) -> bool {
        matches!(self, Self::Retry { .. } | Self::Released | Self::Unbegun)
    }
}

/// A job, which of its attempts, and when that began by its row. One that was given back may be claimed again under its
/// number.
pub(crate) type Begun = (JobId, i32, Option<Timestamp>);

/// id, attempt, status, milliseconds of run_at, result, error, progress: as the statements read them.
type Row<'a> = (
    JobId,
    i32,
    &'a str,
    Option<i64>,
    Option<&'a str>,
    Option<&'a str>,
    Option<i64>,
    Option<i64>,
);

impl Finished {
    fn begun(&self) -> Begun {
        (self.id, self.attempt, Some(self.started_at))
    }

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
            Outcome::Cancelled { error } => ("cancelled", None, None, Some(error.as_str())),
            Outcome::Released | Outcome::Unbegun => ("queued", None, None, None),
        };
        let (done, total) = self.progress.map(JobProgress::stored).unzip();
        (
            self.id,
            self.attempt,
            status,
            run_at,
            result,
            error,
            done,
            total,
        )
    }
}

/// What attempts that are done may have in common: number, result, milliseconds of their beginning.
type Kind<'a> = (i32, &'a str, i64);

/// Kinds of outcomes of which each has a statement. Those of two claims differ in when they began.
const KINDS: usize = 4;

/// What a row has besides its result or error.
const ROW_BYTES: usize = 128;

impl Weighed for Finished {
    fn bytes(&self) -> usize {
        let text = match &self.outcome {
            Outcome::Done { result } => result.len(),
            Outcome::Retry { error, .. }
            | Outcome::Dead { error }
            | Outcome::Cancelled { error } => error.len(),
            Outcome::Released | Outcome::Unbegun => 0,
        };
        ROW_BYTES + text
    }
}

pub(crate) struct Finisher {
    pub(crate) database: Database,
    pub(crate) worker: JobId,
    pub(crate) finished: Receiver<Finished>,
    pub(crate) claims: BatchClaims,
}

impl Finisher {
    /// Writes until every sender is gone and all is written. The database may be away for as long as it likes.
    pub(crate) async fn run(self) {
        // Of SQLite's statements one would wait for the other.
        let most = if self.database.has_many_writers() {
            2
        } else {
            1
        };
        let writer = &Writer {
            connections: Kept::new(self.database.clone()),
            database: self.database,
            worker: self.worker,
            claims: self.claims,
        };
        let write = |batch: Vec<Finished>| async move { writer.write(&batch).await };
        batches::write_all(self.finished, most, write).await;
    }
}

struct Writer {
    connections: Kept,
    database: Database,
    worker: JobId,
    claims: BatchClaims,
}

impl Writer {
    async fn write(&self, batch: &[Finished]) {
        let bytes = batch.iter().map(Weighed::bytes).sum();
        let mut away: Option<Duration> = None;
        loop {
            let write = self.try_write(batch);
            let error = match self.database.answered_to(bytes, write).await {
                Ok(()) => {
                    batch.iter().for_each(|finished| finished.hold.written());
                    break;
                }
                Err(error) => error,
            };
            if error.took_too_long() && batch.len() > 1 {
                tracing::debug!(%error, outcomes = batch.len(), "outcomes took too long, writing them in two parts");
                let (one, other) = batch.split_at(batch.len() / 2);
                Box::pin(self.write(one)).await;
                Box::pin(self.write(other)).await;
                break;
            }
            if !error.is_transient() && !error.is_cut_short() {
                // Refused for something that it holds: one by one, the rest must not suffer.
                let [finished] = batch else {
                    for finished in batch {
                        Box::pin(self.write(std::slice::from_ref(finished))).await;
                    }
                    break;
                };
                if matches!(finished.outcome, Outcome::Released | Outcome::Unbegun) {
                    let (id, attempt) = (finished.id, finished.attempt);
                    tracing::error!(job.id = %id, attempt, %error, "the job cannot be given back, and is left to be rescued");
                    break;
                }
                let refused = self.write_refused(finished, &error);
                if self.database.answered(refused).await.is_ok() {
                    finished.hold.written();
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
        let message = stored_error(format!("its outcome could not be stored: {error}"));
        let (id, attempt, ..) = finished.row();
        let row = (
            id,
            attempt,
            "dead",
            None,
            None,
            Some(message.as_str()),
            None,
            None,
        );
        // What is written goes by the row's saying that it runs, and what was refused perhaps would have been the first to.
        self.claims.say(&[(id, attempt)].into()).await?;
        self.write_ended(&[row], &[row]).await?;
        tracing::error!(job.id = %id, attempt, error = message, "the job is dead");
        Ok(())
    }

    async fn try_write(&self, batch: &[Finished]) -> Result<()> {
        let (mut done, mut reported, mut failed, mut released, mut unbegun) = (
            Vec::with_capacity(batch.len()),
            Vec::new(),
            Vec::new(),
            Vec::new(),
            Vec::new(),
        );
        for finished in batch {
            let row = finished.row();
            match &finished.outcome {
                Outcome::Done { result } if finished.progress.is_none() => {
                    let at = finished.started_at.as_millis();
                    done.push((finished.id, finished.attempt, result.as_str(), at));
                }
                Outcome::Done { .. } => reported.push(row),
                Outcome::Released => released.push(finished.begun()),
                Outcome::Unbegun => unbegun.push(finished.begun()),
                Outcome::Retry { .. } | Outcome::Dead { .. } | Outcome::Cancelled { .. } => {
                    failed.push(row);
                }
            }
        }
        // In the order in which others lock many rows, and each kind by itself: one transaction for all would hold the
        // failed ones, which it locks first, while it waits for one that is done and comes before them.
        let given_back = released.iter().chain(&unbegun);
        let given_back: HashSet<_> = given_back.map(|(id, attempt, _)| (*id, *attempt)).collect();
        done.sort_unstable_by_key(|row| row.0.0.as_u128());
        reported.sort_unstable_by_key(|row| row.0);
        failed.sort_unstable_by_key(|row| row.0);
        released.sort_unstable();
        unbegun.sort_unstable();
        if !done.is_empty() {
            self.write_all_done(&done).await?;
        }
        if !given_back.is_empty() {
            self.claims.close(&given_back).await?;
        }
        self.begin_unsaid(batch).await?;
        if !reported.is_empty() {
            self.update(Sql::JobFinish, &batch_of(&reported)?).await?;
        }
        if !failed.is_empty() {
            self.write_ended(&failed, &failed).await?;
        }
        if !released.is_empty() {
            give_back(&self.database, self.worker, &released).await?;
        }
        if !unbegun.is_empty() {
            self.update(Sql::JobUnclaim, &batch_of(&begun_rows(&unbegun))?)
                .await?;
        }
        if batch
            .iter()
            .any(|finished| finished.outcome.is_to_start_again())
        {
            self.database.announce_again();
        }
        Ok(())
    }

    /// Writes outcomes in one statement.
    async fn update(&self, statement: Sql, batch: &JsonText) -> Result<()> {
        let (worker, now) = (self.worker, self.database.clock().now());
        let parameters = || -> Vec<Parameter> {
            vec![
                ("$1", Box::new(batch.clone())),
                ("$2", Box::new(worker)),
                ("$3", Box::new(now)),
            ]
        };
        if let Some(_written) = self.database.write_many(statement, parameters).await? {
            return Ok(());
        }
        self.kept(async |mut tx| {
            query!(self.database, tx, execute, statement, batch, worker, now).map(drop)
        })
        .await
    }

    /// Has the rows of attempts say that they run, where what follows goes by that.
    async fn begin_unsaid(&self, batch: &[Finished]) -> Result<()> {
        let unsaid = batch.iter().filter(|finished| {
            let done = matches!(finished.outcome, Outcome::Done { .. });
            finished.hold.running().is_unsaid() && !(done && finished.progress.is_none())
        });
        let unsaid = unsaid.map(|finished| (finished.id, finished.attempt));
        self.claims.say(&unsaid.collect()).await
    }

    /// Writes attempts that are done, in the order of their jobs: id, attempt, result, milliseconds of its beginning.
    async fn write_all_done(&self, done: &[(JobId, i32, &str, i64)]) -> Result<()> {
        let mut alike: Vec<(Kind<'_>, Vec<JobId>)> = Vec::new();
        for &(id, attempt, result, at) in done {
            let same = (attempt, result, at);
            if let Some((_, jobs)) = alike.iter_mut().find(|(kind, _)| *kind == same) {
                jobs.push(id);
            } else if alike.len() < KINDS {
                alike.push((same, vec![id]));
            } else {
                return self.update(Sql::JobDone, &batch_of(done)?).await;
            }
        }
        for (kind, jobs) in alike {
            self.write_done(&Ids(jobs), kind).await?;
        }
        Ok(())
    }

    /// Writes attempts that are done, each with this number, this result and this beginning.
    async fn write_done(&self, jobs: &Ids, (attempt, result, at): Kind<'_>) -> Result<()> {
        let (statement, worker, now) = (Sql::JobDoneSame, self.worker, self.database.clock().now());
        let (result, at) = (
            JsonText(result.to_owned()),
            Timestamp::nearest_to_millis(at),
        );
        let parameters = || -> Vec<Parameter> {
            vec![
                ("$1", Box::new(jobs.clone())),
                ("$2", Box::new(worker)),
                ("$3", Box::new(now)),
                ("$4", Box::new(attempt)),
                ("$5", Box::new(result.clone())),
                ("$6", Box::new(at)),
            ]
        };
        if let Some(_written) = self.database.write_many(statement, parameters).await? {
            return Ok(());
        }
        self.kept(async |mut tx| {
            query!(
                self.database,
                tx,
                execute,
                statement,
                jobs,
                worker,
                now,
                attempt,
                &result,
                at
            )
            .map(drop)
        })
        .await
    }

    /// Carries out one statement by a connection that is kept.
    async fn kept(&self, statement: impl AsyncFnOnce(Tx<'_>) -> Result<()>) -> Result<()> {
        let mut lent = self.connections.write(Instant::now()).await?;
        let connection = &mut lent.connection;
        let began = Instant::now();
        statement(connection.tx()).await?;
        let took = began.elapsed();
        // What is written is written, whatever comes of this.
        if self.database.replan_if_slow(connection, took).await.is_ok() {
            self.connections.keep(lent, Instant::now());
        }
        Ok(())
    }

    /// Writes how attempts `ended`, and keeps those that `failed`.
    async fn write_ended(&self, ended: &[Row<'_>], failed: &[Row<'_>]) -> Result<()> {
        let now = self.database.clock().now();
        let mut transaction = self.database.begin_briefly().await?;
        let mut tx = Tx::from(&mut transaction);
        query!(
            self.database,
            tx,
            execute,
            Sql::AttemptKeep,
            batch_of(failed)?,
            self.worker,
            now
        )?;
        query!(
            self.database,
            tx,
            execute,
            Sql::JobFinish,
            batch_of(ended)?,
            self.worker,
            now
        )?;
        transaction.commit_quietly().await
    }
}

/// What comes of rows that somebody else holds.
#[derive(Clone, Copy)]
pub(super) enum Held {
    Waits,
    PassedBy,
}

/// Has the rows of attempts that were claimed with many say that they run. Those that are not the worker's any more stay as
/// they are. Which jobs nobody else held.
pub(super) async fn begin(
    database: &Database,
    worker: JobId,
    attempts: &[Begun],
    held: Held,
) -> Result<HashSet<JobId>> {
    let statement = match held {
        Held::Waits => Sql::JobBegin,
        Held::PassedBy => Sql::JobBeginFree,
    };
    let batch = batch_of(&begun_rows(attempts))?;
    let mut connection = database.write().await?;
    let mut tx = connection.tx();
    let said: Vec<(JobId,)> = query!(database, tx, fetch_all, statement, &batch, worker)?;
    Ok(said.into_iter().map(|(id,)| id).collect())
}

/// Returns attempts that were never begun to their queue as if they had not been claimed, and says how many were the
/// worker's still.
pub(super) async fn unclaim(database: &Database, worker: JobId, attempts: &[Begun]) -> Result<u64> {
    let batch = batch_of(&begun_rows(attempts))?;
    let now = database.clock().now();
    let mut connection = database.write().await?;
    let mut tx = connection.tx();
    query!(database, tx, execute, Sql::JobUnclaim, &batch, worker, now)
}

/// Returns attempts to their queue, as not theirs to count.
async fn give_back(database: &Database, worker: JobId, attempts: &[Begun]) -> Result<()> {
    let mut transaction = database.begin_briefly().await?;
    let tx = Tx::from(&mut transaction);
    give_back_in(tx, database, worker, attempts).await?;
    transaction.commit_quietly().await
}

async fn give_back_in(
    mut tx: Tx<'_>,
    database: &Database,
    worker: JobId,
    attempts: &[Begun],
) -> Result<()> {
    let batch = batch_of(&begun_rows(attempts))?;
    let now = database.clock().now();
    query!(database, tx, execute, Sql::AttemptKeep, &batch, worker, now)?;
    query!(database, tx, execute, Sql::JobRelease, &batch, worker, now)?;
    Ok(())
}

/// The batch of attempts without an outcome.
fn begun_rows(attempts: &[Begun]) -> Vec<impl serde::Serialize> {
    let none: Option<&str> = None;
    attempts
        .iter()
        .map(|(id, attempt, at)| {
            (
                id,
                attempt,
                none,
                none,
                none,
                none,
                none,
                none,
                at.map(Timestamp::as_millis),
            )
        })
        .collect()
}

pub(super) fn batch_of(rows: &(impl serde::Serialize + ?Sized)) -> Result<JsonText> {
    serde_json::to_string(rows)
        .map(JsonText)
        .map_err(|error| Error::invalid(format!("the attempts do not serialise: {error}")))
}
