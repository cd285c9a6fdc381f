//! Deleting finished jobs in short batches.

use std::time::Duration;

use super::{JobStatus, Queue, to_delta};
use crate::database::{Sql, query};
use crate::error::Result;

/// Rows deleted at once: some milliseconds of work.
const BATCH: i64 = 1_000;
/// The pause between two batches, in which other writers have their turn.
const PAUSE: Duration = Duration::from_millis(2);

/// Deleting finished jobs; made by [`Queue::prune`].
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

/// How long finished jobs are kept after they ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Jobs that ended well; 7 days unless said.
    pub keep_done: Duration,
    /// Dead and cancelled jobs; 30 days unless said.
    pub keep_dead: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep_done: Duration::from_secs(7 * 86_400),
            keep_dead: Duration::from_secs(30 * 86_400),
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

    /// Deletes those that ended longer than `age` ago, whatever their status.
    pub fn older_than(self, age: Duration) -> Self {
        self.keep(Retention {
            keep_done: age,
            keep_dead: age,
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
        let database = &self.queue.database;
        let now = database.clock().now();
        let mut pruned = 0;
        for (status, age) in [
            (JobStatus::Done, self.keep.keep_done),
            (JobStatus::Dead, self.keep.keep_dead),
            (JobStatus::Cancelled, self.keep.keep_dead),
        ] {
            if self.only.is_some_and(|only| only != status) {
                continue;
            }
            let until = now.saturating_add(-to_delta(age));
            loop {
                let count = {
                    let mut connection = database.write().await?;
                    let mut tx = connection.tx();
                    query!(
                        database,
                        tx,
                        execute,
                        Sql::JobPrune,
                        status.as_str(),
                        until,
                        BATCH
                    )?
                };
                pruned += count;
                if count < BATCH.unsigned_abs() {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(pruned)
    }
}
