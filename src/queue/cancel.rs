//! Calling jobs off.

use super::select::{JobSelection, batch_of, in_batches};
use super::{JobId, JobStatus, Queue};
use crate::clock::Timestamp;
use crate::database::{Sql, Tx, query};
use crate::error::{Error, Result};

/// What came of cancelling many jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cancelled {
    /// Jobs that waited, and are cancelled.
    pub queued: u64,
    /// Jobs that run, and whose handlers are told.
    pub running: u64,
}

impl Queue {
    /// Cancels the job `id`. One that is queued is cancelled at once. The handler of one that runs is told, on whatever
    /// host; until it has ended the job's status stays [`Running`](JobStatus::Running), and then it is
    /// [`Cancelled`](JobStatus::Cancelled), or [`Done`](JobStatus::Done) if the handler finished it all the same.
    ///
    /// Returns whether there was anything to cancel: a job that has ended, or was cancelled before, stays as it is.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::queue::{JobStatus, NewJob, Queue};
    /// use serde_json::value::RawValue;
    ///
    /// let queue = Queue::connect("sqlite::memory:").await?;
    /// let payload = RawValue::from_string("{}".to_owned()).unwrap();
    /// let id = queue.enqueue_new(NewJob::named("report", &payload)).await?.id;
    /// assert!(queue.cancel(id).await?);
    /// assert!(!queue.cancel(id).await?);
    /// assert_eq!(queue.get(id).await?.unwrap().status, JobStatus::Cancelled);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn cancel(&self, id: JobId) -> Result<bool> {
        let mut transaction = self.database.begin_briefly().await?;
        let cancelled = self.cancel_in(&mut transaction, id).await?;
        transaction.commit_quietly().await?;
        self.database.announce_cancellation();
        Ok(cancelled)
    }

    /// [`Queue::cancel`] in the caller's transaction: the job is cancelled, or its handler told, when that commits.
    ///
    /// # Errors
    /// As [`Queue::cancel`], and where the transaction is of the other engine.
    pub async fn cancel_in<'c>(&self, tx: impl Into<Tx<'c>>, id: JobId) -> Result<bool> {
        let tx = self.database.own(tx)?;
        let now = self.database.clock().now();
        let cancelled = self.cancel_batch(tx, &mut [id], now, None).await?;
        Ok(cancelled != Cancelled::default())
    }

    /// Cancels the jobs `ids`, as [`Queue::cancel`] does each, and returns how many.
    ///
    /// # Errors
    /// Where the database fails; the batches before stay cancelled.
    pub async fn cancel_ids(&self, ids: impl IntoIterator<Item = JobId>) -> Result<Cancelled> {
        self.cancel_batches(ids.into_iter().collect(), None).await
    }

    /// Cancels all queued and running jobs that `selection` picks, in short batches, and returns how many.
    ///
    /// # Errors
    /// Where its status is neither `Queued` nor `Running`, or the database fails; the batches before stay cancelled.
    pub async fn cancel_many(&self, selection: &JobSelection) -> Result<Cancelled> {
        if let Some(status) = selection.status
            && status.is_finished()
        {
            return Err(Error::invalid(format!(
                "jobs that are {status} have ended: cancel those that are queued or running"
            )));
        }
        let status = selection.status;
        let mut picked: Vec<(JobId,)> = selection.read(self, Sql::JobUnended, status).await?;
        if status == Some(JobStatus::Running) && self.database.has_many_writers() {
            let claimed: Vec<(JobId,)> = selection.read(self, Sql::ClaimUnended, status).await?;
            picked.extend(claimed);
        }
        let ids = picked.into_iter().map(|(id,)| id).collect();
        self.cancel_batches(ids, status).await
    }

    async fn cancel_batches(
        &self,
        mut ids: Vec<JobId>,
        status: Option<JobStatus>,
    ) -> Result<Cancelled> {
        let now = self.database.clock().now();
        let mut cancelled = Cancelled::default();
        in_batches(&mut ids, async |batch| {
            let mut transaction = self.database.begin_briefly().await?;
            let tx = Tx::from(&mut transaction);
            let more = self.cancel_batch(tx, batch, now, status).await?;
            transaction.commit_quietly().await?;
            self.database.announce_cancellation();
            cancelled.queued += more.queued;
            cancelled.running += more.running;
            Ok(())
        })
        .await?;
        Ok(cancelled)
    }

    async fn cancel_batch(
        &self,
        mut tx: Tx<'_>,
        ids: &mut [JobId],
        now: Timestamp,
        status: Option<JobStatus>,
    ) -> Result<Cancelled> {
        let batch = batch_of(ids)?;
        self.say_running(tx.reborrow(), &batch).await?;
        let statuses: Vec<(String,)> = query!(
            self.database,
            tx,
            fetch_all,
            Sql::JobCancel,
            batch,
            now,
            status.map(JobStatus::as_str)
        )?;
        let mut cancelled = Cancelled::default();
        for (status,) in statuses {
            if status == JobStatus::Running.as_str() {
                cancelled.running += 1;
            } else {
                cancelled.queued += 1;
            }
        }
        Ok(cancelled)
    }
}
