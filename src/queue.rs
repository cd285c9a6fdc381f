//! [`Queue`]: enqueue jobs, look at them, retry and cancel them. What runs them is the [`Worker`](crate::Worker).

#[cfg(feature = "worker")]
mod at_once;
mod attempt;
#[cfg(feature = "worker")]
mod audits;
#[cfg(feature = "worker")]
pub(crate) mod backend;
#[cfg(feature = "worker")]
pub(crate) mod batch_claim;
mod cancel;
#[cfg(feature = "worker")]
pub(crate) mod control;
mod enqueue;
#[cfg(feature = "worker")]
pub(crate) mod fetch;
#[cfg(feature = "worker")]
pub(crate) mod finish;
mod gathered;
#[cfg(feature = "worker")]
pub(crate) mod held;
mod job;
#[cfg(feature = "worker")]
pub(crate) mod limits;
#[cfg(feature = "worker")]
mod plan;
#[cfg(feature = "worker")]
pub(crate) mod presence;
mod prune;
#[cfg(feature = "worker")]
pub(crate) mod pulse;
mod queues;
#[cfg(feature = "worker")]
mod rate;
mod record;
mod retry;
mod select;
#[cfg(feature = "worker")]
pub(crate) mod slots;
#[cfg(feature = "worker")]
mod vacancy;
mod workers;

use std::sync::Arc;
use std::time::Duration;

pub use attempt::AttemptRecord;
#[cfg(feature = "worker")]
pub(crate) use attempt::stored_error;
pub use cancel::Cancelled;
use chrono::{DateTime, Utc};
pub use enqueue::{Enqueue, Enqueued};
pub use job::{Backoff, Job, NewJob};
#[cfg(feature = "worker")]
pub use limits::{QueueLimits, QueueTable};
pub use prune::{Prune, Retention};
pub use queues::QueueState;
#[cfg(feature = "worker")]
pub use rate::Rate;
pub use record::{JobCounts, JobFilter, JobProgress, JobRecord, JobStatus};
pub use retry::Retried;
pub use select::JobSelection;
pub use workers::WorkerRecord;

pub use crate::database::Id as JobId;
use crate::database::{Database, Sql, Tx, query};
use crate::error::Result;
use crate::gather::Gather;

/// The queue of a job that names none.
pub const DEFAULT_QUEUE: &str = "default";

/// The jobs of a database. Cheap to clone; jobs that are enqueued through clones at the same time go in together, by one
/// statement and one commit.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use larder::queue::{Enqueued, Job, JobStatus, Queue};
/// use serde::{Deserialize, Serialize};
/// use std::time::Duration;
///
/// #[derive(Serialize, Deserialize)]
/// struct SendMail { to: String }
///
/// impl Job for SendMail {
///     const NAME: &'static str = "send_mail";
///     type Output = ();
/// }
///
/// let queue = Queue::connect("sqlite::memory:").await?;
/// let mail = SendMail { to: "ada@example.com".to_owned() };
/// let Enqueued { id, inserted } = queue.enqueue(&mail).delay(Duration::from_secs(300)).unique_key("ada").await?;
/// assert!(inserted);
/// assert_eq!(queue.enqueue(&mail).unique_key("ada").await?, Enqueued { id, inserted: false });
/// assert_eq!(queue.get(id).await?.unwrap().status, JobStatus::Queued);
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    database: Database,
    max_attempts: u16,
    /// What all clones have under way.
    enqueues: Arc<Gather<gathered::Plain>>,
}

impl Queue {
    /// The attempts of a job that says nothing of them, unless the queue was told otherwise.
    pub const DEFAULT_MAX_ATTEMPTS: u16 = 20;

    /// The jobs in the database at `url`, whose tables are laid if it has none.
    ///
    /// # Errors
    /// As [`Database::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self::new(Database::connect(url).await?))
    }

    /// The jobs in `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self {
            database,
            max_attempts: Self::DEFAULT_MAX_ATTEMPTS,
            enqueues: Arc::default(),
        }
    }

    /// This queue with another default of attempts, at least one.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u16) -> Self {
        self.max_attempts = attempts.clamp(1, i16::MAX.unsigned_abs());
        self
    }

    /// The same jobs, over other connections.
    #[cfg(feature = "worker")]
    pub(crate) fn over(&self, database: &Database) -> Self {
        Self::new(database.clone()).with_max_attempts(self.max_attempts)
    }

    /// The database that it is in.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The job `id`, or `None` where there is none, or none any more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn get(&self, id: JobId) -> Result<Option<JobRecord>> {
        self.get_in(self.database.read().await?.tx(), id).await
    }

    /// [`Queue::get`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Queue::get`], and where the transaction is of the other engine.
    pub async fn get_in<'c>(&self, tx: impl Into<Tx<'c>>, id: JobId) -> Result<Option<JobRecord>> {
        let mut tx = self.database.own(tx)?;
        query!(self.database, tx, fetch_optional, Sql::JobGet, id)
    }

    /// The jobs that `filter` names, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn list(&self, filter: &JobFilter) -> Result<Vec<JobRecord>> {
        let mut connection = self.database.read().await?;
        let mut tx = connection.tx();
        let before = filter.before.unwrap_or(JobId(uuid::Uuid::max()));
        let status = filter.status.map(JobStatus::as_str);
        query!(
            self.database,
            tx,
            fetch_all,
            Sql::JobList,
            status,
            filter.queue.as_deref(),
            filter.name.as_deref(),
            before,
            i64::from(filter.limit)
        )
    }

    /// How many jobs there are of each queue, name and status, in one scan.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn counts(&self) -> Result<Vec<JobCounts>> {
        let mut connection = self.database.read().await?;
        let mut tx = connection.tx();
        query!(self.database, tx, fetch_all, Sql::JobCounts)
    }

    /// The job names that workers know which were alive within `rescue_after`, in order.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn live_names(&self, rescue_after: Duration) -> Result<Vec<String>> {
        let now = self.database.clock().now();
        let since = DateTime::<Utc>::from(now.saturating_add(-to_delta(rescue_after)));
        let workers = self.workers().await?;
        let alive = workers
            .into_iter()
            .filter(|worker| worker.heartbeat_at > since);
        let mut names: Vec<String> = alive.flat_map(|worker| worker.names).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The job that holds the name and the unique key of `job`, if one does.
    pub(crate) async fn holder_of_key(&self, job: &NewJob) -> Result<Option<JobId>> {
        let mut connection = self.database.read().await?;
        let mut tx = connection.tx();
        let holder: Option<(JobId,)> = query!(
            self.database,
            tx,
            fetch_optional,
            Sql::JobKeyHolder,
            &job.name,
            job.unique_key.as_deref()
        )?;
        Ok(holder.map(|(id,)| id))
    }

    /// Deleting finished jobs, with choices: of which status, and how old.
    pub fn prune(&self) -> Prune<'_> {
        Prune::new(self)
    }
}

pub(crate) fn to_delta(duration: Duration) -> chrono::TimeDelta {
    chrono::TimeDelta::from_std(duration).unwrap_or(chrono::TimeDelta::MAX)
}
