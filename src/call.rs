//! [`Larder`]: a cache and the jobs that fill it. Calling a job gives its result, remembered or computed by a worker.

mod rewarm;

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

pub use rewarm::{Rewarmed, Rewarming};
use tokio::time::Instant;
use uuid::Uuid;

use crate::cache::{Cache, Memo, Remembered, decode};
use crate::database::{Database, Tx};
use crate::error::{Error, Result};
use crate::queue::{Enqueued, Job, JobId, JobRecord, JobStatus, NewJob, Queue};

/// How long a call waits for its result, unless it says.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// The cache and the queue of one database. Cheap to clone.
///
/// ```
/// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
/// use larder::cache::Memo;
/// use larder::{Job, JobError, Larder, Worker};
/// use serde::{Deserialize, Serialize};
/// use std::time::Duration;
///
/// #[derive(Serialize, Deserialize)]
/// struct Report { month: String }
///
/// impl Job for Report {
///     const NAME: &'static str = "report";
///     type Output = String;
///
///     fn memo(&self) -> Option<Memo> {
///         let memo = Memo::new(format!("report:{}", self.month));
///         Some(memo.fresh_for(Duration::from_secs(300)).stale_for(Duration::from_secs(3600)))
///     }
/// }
///
/// async fn report(job: Report) -> Result<String, JobError> {
///     Ok(format!("all of {}", job.month)) // after some time
/// }
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let url = &format!("sqlite://{}", directory.path().join("jobs.db").display());
/// let worker = Worker::connect(url).await?.register(report);
/// tokio::spawn(worker.run_until(std::future::pending()));
///
/// let larder = Larder::connect(url).await?;
/// let november = Report { month: "2026-11".to_owned() };
/// assert_eq!(larder.call(&november).await?, "all of 2026-11"); // computed by a worker
/// assert_eq!(larder.call(&november).await?, "all of 2026-11"); // remembered
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Larder {
    cache: Cache,
    queue: Queue,
}

/// A call on its way; made by [`Larder::call`], carried out by `.await`.
#[derive(Debug)]
#[must_use = "nothing is called until this is awaited"]
pub struct Call<'a, J> {
    larder: &'a Larder,
    job: NewJob,
    memo: Option<Memo>,
    timeout: Duration,
    result_of: PhantomData<fn() -> J>,
}

/// What a call came to at first.
pub(crate) enum Called {
    /// The result's JSON, fresh or stale.
    Remembered(String),
    /// This job computes it. Where it was there before, it may have read what was changed since: its own result is good
    /// only as long as it is remembered.
    Waits(Enqueued),
}

impl Larder {
    /// The cache and the queue in the database at `url`, whose tables are laid if it has none.
    ///
    /// # Errors
    /// As [`Database::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self::new(&Database::connect(url).await?))
    }

    /// The cache and the queue in `database`.
    #[must_use]
    pub fn new(database: &Database) -> Self {
        Self::of(Cache::new(database.clone()), Queue::new(database.clone()))
    }

    /// This cache and this queue. They should be those of the workers: a result that these keep in another namespace is
    /// not found.
    #[must_use]
    pub fn of(cache: Cache, queue: Queue) -> Self {
        Self { cache, queue }
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The result of `job`, when the returned [`Call`] is awaited: see [`Job::memo`].
    ///
    /// - **Fresh**: the remembered result is returned, for the price of a [`get`](Cache::get). By chance it is refreshed
    ///   already, where the memo asks for [`early_refresh`](Memo::early_refresh).
    /// - **Stale**: it is returned at once, and one job over the fleet is enqueued to refresh it, unless one is. It is
    ///   tried as all jobs are; meanwhile the stale result is returned, until its hard deadline.
    /// - **Absent**: the one job that computes it is enqueued, or joined where there is one, and waited for.
    ///
    /// A job without a memo is enqueued and waited for.
    pub fn call<J: Job>(&self, job: &J) -> Call<'_, J> {
        Call {
            larder: self,
            job: NewJob::new(job),
            memo: job.memo(),
            timeout: WAIT,
            result_of: PhantomData,
        }
    }

    /// The remembered result, or the job that computes it.
    pub(crate) async fn begin(&self, job: NewJob, memo: Option<&Memo>) -> Result<Called> {
        let Some(memo) = memo else {
            return Ok(Called::Waits(self.queue.enqueue_new(job).await?));
        };
        memo.check()?;
        let job = job.unique_key(memo.unique_key());
        match self.cache.remembered(memo).await? {
            Some(found) => {
                if (found.is_stale || found.wants_refresh)
                    && let Err(error) = self.refresh(job, memo.key(), &found).await
                {
                    tracing::warn!(key = memo.key(), %error, "a result is not refreshed");
                }
                Ok(Called::Remembered(found.value))
            }
            None => {
                self.cache.refuse_nested(memo.key())?;
                Ok(Called::Waits(self.queue.enqueue_new(job).await?))
            }
        }
    }

    /// Enqueues the job and says so on the item, unless it is done: that is looked for first, since reading holds up
    /// nobody. Where somebody has written the item meanwhile there is nothing to refresh.
    async fn refresh(&self, job: NewJob, key: &str, found: &Remembered) -> Result<()> {
        let holder = self.queue.holder_of_key(&job).await?;
        if holder.is_some() && holder == found.refresh {
            return Ok(());
        }
        let id = JobId(Uuid::now_v7());
        let mut transaction = self.cache.database().begin_briefly().await?;
        // The item first, as whoever invalidates holds it first.
        let mut tx = Tx::from(&mut transaction);
        let says = async |tx: &mut Tx<'_>, id: JobId| {
            self.cache
                .say_refresh_in(tx, key, found.generation, id)
                .await
        };
        if !says(&mut tx, id).await? {
            return Ok(());
        }
        let job = job.with_id(id);
        for enqueued in self.queue.enqueue_many_in(tx.reborrow(), [job]).await? {
            if !enqueued.inserted {
                says(&mut tx, enqueued.id).await?;
            }
        }
        transaction.commit().await
    }

    /// The result's JSON, of the job or of the cache, whichever is there first.
    async fn wait(
        &self,
        id: JobId,
        memo: Option<&Memo>,
        timeout: Duration,
        deadline: Option<Instant>,
    ) -> Result<Waited> {
        let unnamed = id.to_string();
        let key = memo.map_or(unnamed.as_str(), Memo::key);
        let mut pauses = self.cache.pauses_for(key);
        let mut seen = None;
        loop {
            match self.look(id, memo).await {
                Ok(Looked::There(result)) => return Ok(result),
                Ok(Looked::Not(job)) => seen = Some(job),
                // Within its time it also waits for a database that restarts.
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
            let paused = pauses.next();
            let in_time = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, paused).await.is_ok(),
                None => {
                    paused.await;
                    true
                }
            };
            if !in_time {
                return Err(late(id, seen.as_deref(), timeout));
            }
        }
    }

    async fn look(&self, id: JobId, memo: Option<&Memo>) -> Result<Looked> {
        // A value that was absent before the job was asked for is none from before.
        if let Some(memo) = memo
            && let Some(found) = self.cache.remembered(memo).await?
            && !found.is_stale
        {
            return Ok(Looked::There(Waited::Remembered(found.value)));
        }
        let Some(job) = self.queue.get(id).await? else {
            return Err(Error::computation(
                format!("job {id} is gone: it was pruned before its result was read"),
                None,
            ));
        };
        match job.status {
            JobStatus::Queued | JobStatus::Running => Ok(Looked::Not(Box::new(job))),
            JobStatus::Done => Ok(Looked::There(Waited::Done(
                job.result
                    .map_or_else(|| "null".to_owned(), |result| result.get().to_owned()),
            ))),
            JobStatus::Dead | JobStatus::Cancelled => {
                let reason = reason(&job);
                let message = format!("job {id} of {} is {}{reason}", job.name, job.status);
                Err(Error::computation(message, None))
            }
        }
    }
}

/// A result's JSON.
enum Waited {
    Remembered(String),
    /// The job's own.
    Done(String),
}

enum Looked {
    There(Waited),
    Not(Box<JobRecord>),
}

fn reason(job: &JobRecord) -> String {
    job.error
        .as_ref()
        .map_or_else(String::new, |error| format!(": {error}"))
}

fn late(id: JobId, job: Option<&JobRecord>, timeout: Duration) -> Error {
    let standing = job.map_or_else(
        || "not seen".to_owned(),
        |job| format!("{}{}", job.status, reason(job)),
    );
    Error::timed_out(format!(
        "the result was not there within {timeout:?}: job {id}, which computes it, is {standing}; call again later, or wait longer"
    ))
}

impl<J> Call<'_, J> {
    /// How long to wait for the result, 60 s unless said. The job goes on after that.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<'a, J: Job> IntoFuture for Call<'a, J> {
    type Output = Result<J::Output>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    /// # Errors
    /// Where the job or its memo is not valid, or the result does not fit its type; where the job ends dead or cancelled
    /// ([`is_failed_computation`](Error::is_failed_computation)), is not done in time
    /// ([`is_timeout`](Error::is_timeout)), or is called by the very job that computes it; or the database fails.
    fn into_future(self) -> Self::IntoFuture {
        let Self {
            larder,
            job,
            memo,
            timeout,
            ..
        } = self;
        let name = memo.as_ref().map_or(J::NAME, |memo| memo.key()).to_owned();
        Box::pin(async move {
            let deadline = Instant::now().checked_add(timeout);
            let (memo, mut again) = (memo.as_ref(), false);
            loop {
                let enqueued = match larder.begin(job.clone(), memo).await? {
                    Called::Remembered(result) => return decode(&name, &result),
                    Called::Waits(enqueued) => enqueued,
                };
                match larder.wait(enqueued.id, memo, timeout, deadline).await? {
                    Waited::Remembered(result) => return decode(&name, &result),
                    Waited::Done(result) if enqueued.inserted || again => {
                        return decode(&name, &result);
                    }
                    // It was there before, and what it gave is remembered no more. Another that there is now began after
                    // this call.
                    Waited::Done(_) => again = true,
                }
            }
        })
    }
}
