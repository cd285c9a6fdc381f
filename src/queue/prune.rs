//! Deleting finished jobs in short batches.

use std::time::Duration;

use chrono::TimeDelta;

use super::{JobId, JobStatus, Queue, to_delta};
use crate::clock::Timestamp;
use crate::database::{JsonText, Sql, Tx, query};
use crate::error::Result;

/// Rows deleted at once: some milliseconds of work.
const BATCH: i64 = 1_000;
/// The pause between two batches, in which other writers have their turn.
const PAUSE: Duration = Duration::from_millis(2);

/// Deleting finished jobs, with what is kept of their attempts; made by [`Queue::prune`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use larder::queue::{JobStatus, Queue};
/// use std::time::Duration;
///
/// let queue = Queue::connect("sqlite::memory:").await?;
/// let pruned = queue.prune().status(JobStatus::Done).older_than(Duration::from_secs(86_400)).run().await?;
/// assert_eq!(pruned, 0);
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "a prune does nothing until it is run"]
pub struct Prune<'a> {
    queue: &'a Queue,
    keep: Retention,
    only: Option<JobStatus>,
}

/// How long finished jobs are kept after they ended, and how many of them. Whichever is exceeded first counts.
///
/// ```
/// use larder::queue::Retention;
///
/// let retention = Retention { max_done: Some(100_000), ..Retention::default() };
/// assert_eq!(retention.max_dead, None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Jobs that ended well; 7 days unless said.
    pub keep_done: Duration,
    /// Dead and cancelled jobs; 30 days unless said.
    pub keep_dead: Duration,
    /// Of the jobs that ended well, the newest so many; any number unless said.
    pub max_done: Option<u64>,
    /// Of the dead jobs, and as many of the cancelled ones; any number unless said.
    pub max_dead: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep_done: Duration::from_secs(7 * 86_400),
            keep_dead: Duration::from_secs(30 * 86_400),
            max_done: None,
            max_dead: None,
        }
    }
}

impl<'a> Prune<'a> {
    pub(super) fn new(queue: &'a Queue) -> Self {
        Self {
            queue,
            keep: Retention::default(),
            only: None,
        }
    }

    /// Keeps jobs for so long.
    pub fn keep(mut self, retention: Retention) -> Self {
        self.keep = retention;
        self
    }

    /// Deletes those that ended longer than `age` ago, whatever their status and number.
    pub fn older_than(self, age: Duration) -> Self {
        self.keep(Retention {
            keep_done: age,
            keep_dead: age,
            max_done: None,
            max_dead: None,
        })
    }

    /// Deletes all but the newest `count` of each status, whatever their age.
    pub fn keep_newest(self, count: u64) -> Self {
        self.keep(Retention {
            keep_done: Duration::MAX,
            keep_dead: Duration::MAX,
            max_done: Some(count),
            max_dead: Some(count),
        })
    }

    /// Deletes those of `status` alone. Jobs that are not finished are never deleted.
    pub fn status(mut self, status: JobStatus) -> Self {
        self.only = Some(status);
        self
    }

    /// Deletes them, and returns how many there were.
    ///
    /// # Errors
    /// Where the database fails; the batches before stay deleted.
    pub async fn run(self) -> Result<u64> {
        let now = self.queue.database.clock().now();
        let Retention {
            keep_done,
            keep_dead,
            max_done,
            max_dead,
        } = self.keep;
        let mut pruned = 0;
        for (status, age, most) in [
            (JobStatus::Done, keep_done, max_done),
            (JobStatus::Dead, keep_dead, max_dead),
            (JobStatus::Cancelled, keep_dead, max_dead),
        ] {
            if self.only.is_some_and(|only| only != status) {
                continue;
            }
            let until = now.saturating_add(-to_delta(age));
            pruned += self.delete(status, until, u64::MAX).await?;
            if let Some(most) = most {
                pruned += self.delete_beyond(status, most).await?;
            }
        }
        self.forget_queues().await?;
        Ok(pruned)
    }

    /// Deletes all but the newest `most`. Several that do so at once delete no more than one would, but for jobs that
    /// ended in the same millisecond.
    async fn delete_beyond(&self, status: JobStatus, most: u64) -> Result<u64> {
        let Some(newest) = self.beyond(status, most, 1).await?.pop() else {
            return Ok(0);
        };
        let before = newest.saturating_add(-TimeDelta::milliseconds(1));
        let mut deleted = self.delete(status, before, u64::MAX).await?;
        // Many may have ended at once, and some of them are to be kept.
        loop {
            let rest = self.beyond(status, most, BATCH).await?.len() as u64;
            let count = self.delete(status, newest, rest).await?;
            deleted += count;
            if count < BATCH.unsigned_abs() {
                return Ok(deleted);
            }
        }
    }

    /// Deletes up to `most` that ended at `until` or before, the oldest first, in batches.
    async fn delete(&self, status: JobStatus, until: Timestamp, most: u64) -> Result<u64> {
        let database = &self.queue.database;
        let mut deleted = 0;
        while deleted < most {
            let batch = BATCH.min(i64::try_from(most - deleted).unwrap_or(i64::MAX));
            let ids: Vec<(JobId,)> = {
                let mut transaction = database.begin_briefly().await?;
                let mut tx = Tx::from(&mut transaction);
                let ids: Vec<(JobId,)> = query!(
                    database,
                    tx,
                    fetch_all,
                    Sql::JobPrune,
                    status.as_str(),
                    until,
                    batch
                )?;
                // After the jobs, as whoever writes an attempt holds its job first.
                if !ids.is_empty() {
                    let rows = JsonText(serde_json::json!(ids).to_string());
                    query!(database, tx, execute, Sql::AttemptPrune, rows)?;
                }
                transaction.commit_quietly().await?;
                ids
            };
            let count = u64::try_from(ids.len()).unwrap_or(u64::MAX);
            deleted += count;
            if count < batch.unsigned_abs() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(deleted)
    }

    /// When those ended that are beyond the newest `most`, the newest first, up to `limit` of them.
    async fn beyond(&self, status: JobStatus, most: u64, limit: i64) -> Result<Vec<Timestamp>> {
        let database = &self.queue.database;
        let mut connection = database.read().await?;
        let mut tx = connection.tx();
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows: Vec<(Timestamp,)> = query!(
            database,
            tx,
            fetch_all,
            Sql::JobBeyond,
            status.as_str(),
            most,
            limit
        )?;
        Ok(rows.into_iter().map(|(ended,)| ended).collect())
    }

    /// Deletes what is known of queues that are not paused and have no rate.
    async fn forget_queues(&self) -> Result<()> {
        let database = &self.queue.database;
        let mut connection = database.write().await?;
        let mut tx = connection.tx();
        query!(database, tx, execute, Sql::QueueForget)?;
        Ok(())
    }
}
