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
/// # larder::Result::<()>::Ok(()) }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "a prune does nothing until it is run"]
pub struct Prune<'a> {
    queue: &'a Queue,
    keep: [(JobStatus, Duration); 3],
    only: Option<JobStatus>,
}

impl<'a> Prune<'a> {
    /// How long jobs that ended well are kept, unless said.
    pub const KEEP_DONE: Duration = Duration::from_secs(7 * 86_400);
    /// How long dead and cancelled jobs are kept, unless said.
    pub const KEEP_DEAD: Duration = Duration::from_secs(30 * 86_400);

    pub(super) fn new(queue: &'a Queue) -> Self {
        let keep = [
            (JobStatus::Done, Self::KEEP_DONE),
            (JobStatus::Dead, Self::KEEP_DEAD),
            (JobStatus::Cancelled, Self::KEEP_DEAD),
        ];
        Self {
            queue,
            keep,
            only: None,
        }
    }

    /// Keeps jobs that ended well for `done` after they ended, and dead and cancelled ones for `dead`.
    pub fn keep(mut self, done: Duration, dead: Duration) -> Self {
        self.keep = [
            (JobStatus::Done, done),
            (JobStatus::Dead, dead),
            (JobStatus::Cancelled, dead),
        ];
        self
    }

    /// Deletes those that ended longer than `age` ago, whatever their status.
    pub fn older_than(self, age: Duration) -> Self {
        self.keep(age, age)
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
        for (status, age) in self.keep {
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
