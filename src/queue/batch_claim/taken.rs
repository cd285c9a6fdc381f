//! One claim of many jobs, as the database gives it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Instant;

use super::super::JobId;
use super::super::fetch::Row;
use super::super::select::{batch_of, claim_scope};
use crate::clock::Timestamp;
use crate::database::{Column, CommonText, Database, JsonText, Kept, RowText, Sql, Tx, query};
use crate::error::Result;

/// Payloads of so many bytes come with their claim. The answer is one value to PostgreSQL, which has 1 GB for it.
const PAYLOADS: i64 = 16 * 1024 * 1024;
/// A claim waits so many milliseconds for those of the queue that are under way: those who claim a few at a time may leave it no
/// gap. For a process that stands still meanwhile others wait no longer than that. And jobs are read by their index: PostgreSQL
/// would read and sort all of them where it believes that they are few.
const SETTINGS: [&str; 4] = [
    "lock_timeout = 50",
    "idle_in_transaction_session_timeout = 2000",
    "enable_sort = off",
    "enable_bitmapscan = off",
];

/// Where a job stands among those of its queue: priority, run_at, id.
pub(crate) type Place = (i16, Timestamp, JobId);

/// Which jobs are claimed, by whom and when.
pub(super) struct Wanted<'a> {
    pub(super) worker: JobId,
    pub(super) queue: &'a str,
    pub(super) names: &'a JsonText,
    pub(super) most: usize,
    pub(super) now: Timestamp,
    /// Those of its priority that come after it, or else the most urgent ones.
    pub(super) after: Option<Place>,
}

/// What was claimed, most urgent first; nothing by default.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) claim: Option<JobId>,
    pub(crate) rows: Vec<Row>,
    /// The place of the last one.
    pub(crate) last: Option<Place>,
}

impl Taken {
    /// Those that were claimed by their own rows.
    pub(crate) fn of_rows(mut rows: Vec<Row>) -> Self {
        // RETURNING keeps no order.
        rows.sort_by_key(|row| (Reverse(row.6), row.7, row.0));
        Self {
            rows,
            ..Self::default()
        }
    }
}

/// ids, attempts, names, max_attempts, schedules, ticks, payloads, and the place of the last.
type Answer = (
    Column<JobId>,
    Column<i32>,
    Column<CommonText>,
    Column<i32>,
    Column<Option<RowText>>,
    Column<Option<Timestamp>>,
    Option<Column<RowText>>,
    i16,
    Timestamp,
    JobId,
);

impl Wanted<'_> {
    /// Claims them by a row `claim`. None where they are to be claimed by their own rows: a worker that is older does not see
    /// such claims, jobs of the queue are being changed, or others are claiming all the time.
    pub(super) async fn take(
        &self,
        database: &Database,
        connections: &Kept,
        claim: JobId,
    ) -> Result<Option<Taken>> {
        let mut lent = connections.write(Instant::now()).await?;
        let mut began = Instant::now();
        let taken = lent.in_transaction(database, &SETTINGS, async |mut tx| {
            let scope = database.scope(&claim_scope(self.queue));
            let state: Option<(Option<Timestamp>, bool)> = query!(
                database,
                tx,
                fetch_optional,
                Sql::QueueClaim,
                self.queue,
                scope
            )?;
            began = Instant::now();
            match state {
                None | Some((None, false)) => Ok(None),
                Some((Some(_paused_at), _)) => Ok(Some(Taken::default())),
                // A statement of its own after the lock, so that it sees what was claimed while that one waited.
                Some((None, true)) => self.take_in(database, tx, claim).await.map(Some),
            }
        });
        let taken = match taken.await {
            Ok(taken) => taken,
            Err(error) if error.is_lock_timeout() => return Ok(None),
            Err(error) => return Err(error),
        };
        let took = began.elapsed();
        // What is claimed is claimed, whatever comes of this.
        let planned = database.replan_if_slow(&mut lent.connection, took).await;
        if planned.is_ok() {
            connections.keep(lent, Instant::now());
        }
        Ok(taken)
    }

    async fn take_in(&self, database: &Database, mut tx: Tx<'_>, claim: JobId) -> Result<Taken> {
        let most = i64::try_from(self.most).unwrap_or(i64::MAX);
        let answer: Option<Answer> = match self.after {
            None => query!(
                database,
                tx,
                fetch_optional,
                Sql::JobFetchMany,
                self.queue,
                self.names,
                most,
                self.worker,
                self.now,
                claim,
                PAYLOADS
            )?,
            Some((priority, run_at, job)) => query!(
                database,
                tx,
                fetch_optional,
                Sql::JobFetchOn,
                self.queue,
                self.names,
                most,
                self.worker,
                self.now,
                claim,
                PAYLOADS,
                priority,
                run_at,
                job
            )?,
        };
        let Some(mut answer) = answer else {
            return Ok(Taken::default());
        };
        let payloads = match answer.6.take() {
            Some(Column(payloads)) => payloads,
            None => payloads(database, tx, &answer.0.0).await?,
        };
        Ok(self.taken(claim, answer, payloads))
    }

    fn taken(&self, claim: JobId, answer: Answer, payloads: Vec<RowText>) -> Taken {
        let (ids, attempts, names, max_attempts, schedules, ticks, _, priority, run_at, last) =
            answer;
        let columns = ids.0.into_iter().zip(attempts.0).zip(names.0);
        let columns = columns.zip(max_attempts.0).zip(schedules.0);
        let rows = columns.zip(ticks.0).zip(payloads).map(
            |((((((id, attempt), name), max_attempts), schedule), tick), payload)| {
                let at = self.now;
                (
                    id,
                    name,
                    attempt,
                    max_attempts,
                    schedule,
                    tick,
                    priority,
                    run_at,
                    payload,
                    at,
                )
            },
        );
        Taken {
            claim: Some(claim),
            rows: rows.collect(),
            last: Some((priority, run_at, last)),
        }
    }
}

/// The payloads of jobs, row by row.
async fn payloads(database: &Database, mut tx: Tx<'_>, jobs: &[JobId]) -> Result<Vec<RowText>> {
    let batch = batch_of(&mut jobs.to_vec())?;
    let rows: Vec<(JobId, RowText)> = query!(database, tx, fetch_all, Sql::JobPayloads, batch)?;
    let mut payloads: HashMap<JobId, RowText> = rows.into_iter().collect();
    let gone = || RowText::Broken("its row is gone".to_owned());
    let payload = |job| payloads.remove(job).unwrap_or_else(gone);
    Ok(jobs.iter().map(payload).collect())
}
