//! Sending jobs that ended badly back to their queue.

use std::collections::HashSet;

use super::select::{JobSelection, batch_of, in_batches};
use super::{JobId, JobRecord, JobStatus, Queue};
use crate::clock::Timestamp;
use crate::database::{Sql, Tx, query};
use crate::error::{Error, Result};

/// How often a batch is tried that meets a job which takes one of its unique keys at the same moment.
const TRIES: usize = 5;

/// What came of retrying many jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Jobs that are queued again.
    pub retried: u64,
    /// Jobs that stay as they are: another one that is queued or running, perhaps of those that were just retried, has
    /// their unique key, or they have been tried 32,767 times.
    pub skipped: u64,
}

impl Queue {
    /// Sends the dead or cancelled job `id` back to its queue, to start now; a queued one that waits for its next
    /// attempt starts now instead. Its attempts are counted on, and if it has none left it gets one more. Its error is
    /// kept until that has ended.
    ///
    /// Returns `false` where there is no job of this id.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::queue::{JobStatus, NewJob, Queue};
    /// use serde_json::value::RawValue;
    ///
    /// let queue = Queue::connect("sqlite::memory:").await?;
    /// let payload = RawValue::from_string("{}".to_owned()).unwrap();
    /// let id = queue.enqueue_new(NewJob::named("report", &payload)).await?.id;
    /// assert!(queue.retry(id).await.unwrap_err().to_string().contains("it is queued"));
    ///
    /// queue.cancel(id).await?;
    /// assert!(queue.retry(id).await?);
    /// assert_eq!(queue.get(id).await?.unwrap().status, JobStatus::Queued);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Where the job is in no state to be retried, another one that is queued or running has its unique key, it has
    /// been tried 32,767 times, or the database fails.
    pub async fn retry(&self, id: JobId) -> Result<bool> {
        let mut tries = 1;
        loop {
            let retried = {
                let mut transaction = self.database.begin_briefly().await?;
                match self.retry_in(&mut transaction, id).await {
                    Ok(retried) => transaction.commit_quietly().await.map(|()| retried),
                    refused => refused,
                }
            };
            match retried {
                Err(error) if error.is_unique_violation() && tries < TRIES => tries += 1,
                Ok(true) => {
                    self.database.announce();
                    return Ok(true);
                }
                refused => return refused,
            }
        }
    }

    /// [`Queue::retry`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Queue::retry`], and where the transaction is of the other engine. Where a job takes the same unique key at
    /// the same moment, it is the database that refuses, and on PostgreSQL the transaction can only be rolled back.
    pub async fn retry_in<'c>(&self, tx: impl Into<Tx<'c>>, id: JobId) -> Result<bool> {
        let mut tx = self.database.own(tx)?;
        let now = self.database.clock().now();
        let retried = self
            .retry_batch(tx.reborrow(), &mut [id], now, None)
            .await?;
        if !retried.is_empty() {
            return Ok(true);
        }
        match self.get_in(tx.reborrow(), id).await? {
            None => Ok(false),
            Some(job) => Err(self.refusal(tx, &job).await?),
        }
    }

    /// Sends all jobs that `selection` picks back to their queues, in short batches, and returns how many. They are
    /// those that are dead, or cancelled if it says so.
    ///
    /// # Errors
    /// Where its status is neither `Dead` nor `Cancelled`, or the database fails; the batches before stay retried.
    pub async fn retry_many(&self, selection: &JobSelection) -> Result<Retried> {
        let status = selection.status.unwrap_or(JobStatus::Dead);
        if !matches!(status, JobStatus::Dead | JobStatus::Cancelled) {
            return Err(Error::invalid(format!(
                "jobs that are {status} are not retried: choose those that are dead or cancelled"
            )));
        }
        type Picked = (JobId, Option<String>, Option<String>);
        let mut picked: Vec<Picked> = selection.read(self, Sql::JobEnded, Some(status)).await?;
        picked.sort_unstable_by_key(|(id, ..)| std::cmp::Reverse(*id));
        let mut keys = HashSet::new();
        let all = picked.len();
        // Of several with one key the newest goes back, and then has it.
        let mut ids: Vec<JobId> = picked
            .into_iter()
            .filter_map(|(id, name, key)| {
                let free = key.is_none_or(|key| keys.insert((name, key)));
                free.then_some(id)
            })
            .collect();
        let now = self.database.clock().now();
        let mut retried = 0;
        in_batches(&mut ids, async |batch| {
            let mut tries = 1;
            let more = loop {
                let mut connection = self.database.write().await?;
                match self
                    .retry_batch(connection.tx(), batch, now, Some(status))
                    .await
                {
                    Err(error) if error.is_unique_violation() && tries < TRIES => tries += 1,
                    more => break more?,
                }
            };
            self.database.announce();
            retried += more.len();
            Ok(())
        })
        .await?;
        let count = |jobs: usize| u64::try_from(jobs).unwrap_or(u64::MAX);
        Ok(Retried {
            retried: count(retried),
            skipped: count(all - retried),
        })
    }

    async fn retry_batch(
        &self,
        mut tx: Tx<'_>,
        ids: &mut [JobId],
        now: Timestamp,
        status: Option<JobStatus>,
    ) -> Result<Vec<(JobId,)>> {
        let batch = batch_of(ids)?;
        // What has ended is in no claim.
        if status.is_none() {
            self.say_running(tx.reborrow(), &batch).await?;
        }
        query!(
            self.database,
            tx,
            fetch_all,
            Sql::JobRetry,
            batch,
            now,
            status.map(JobStatus::as_str)
        )
    }

    /// Why `job` cannot be retried.
    async fn refusal(&self, mut tx: Tx<'_>, job: &JobRecord) -> Result<Error> {
        let JobRecord { id, status, .. } = job;
        let reason = match status {
            JobStatus::Done => "it is done; enqueue another".to_owned(),
            JobStatus::Running => "it is running; cancel it first, or wait for its end".to_owned(),
            JobStatus::Queued => {
                format!(
                    "it is queued, and was not tried yet; it may start at {}",
                    Timestamp::try_from(job.run_at)?
                )
            }
            JobStatus::Dead | JobStatus::Cancelled => {
                let holder: Option<(JobId,)> = match &job.unique_key {
                    None => None,
                    Some(key) => query!(
                        self.database,
                        tx,
                        fetch_optional,
                        Sql::JobKeyHolder,
                        &job.name,
                        key
                    )?,
                };
                match holder {
                    Some((holder,)) => format!(
                        "its unique key is job {holder}'s, which is queued or running; wait for that one's end, or cancel it"
                    ),
                    None if job.attempt >= i32::from(i16::MAX) => {
                        "it was tried 32,767 times, the most there can be; enqueue another"
                            .to_owned()
                    }
                    None => "it was changed at the same moment; try again".to_owned(),
                }
            }
        };
        Ok(Error::invalid(format!(
            "job {id} cannot be retried: {reason}"
        )))
    }
}
