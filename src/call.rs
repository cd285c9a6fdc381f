//! [`Larder`]: a cache and the jobs that fill it. Calling a job gives its result, remembered or computed by a worker.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::{Cache, Memo, decode};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::queue::{Job, JobId, JobRecord, JobStatus, NewJob, Queue};

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
    /// This job computes it.
    Waits(JobId),
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
    /// - **Fresh**: the remembered result is returned, for the price of a [`get`](Cache::get).
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
            let id = self.queue.enqueue_new(job).await?.id;
            return Ok(Called::Waits(id));
        };
        memo.check()?;
        let job = job.unique_key(memo.unique_key());
        match self.cache.remembered(memo.key()).await? {
            Some(found) => {
                if found.is_stale
                    && let Err(error) = self.refresh(job).await
                {
                    tracing::warn!(key = memo.key(), %error, "a stale result is not refreshed");
                }
                Ok(Called::Remembered(found.value))
            }
            None => {
                self.cache.refuse_nested(memo.key())?;
                Ok(Called::Waits(self.queue.enqueue_new(job).await?.id))
            }
        }
    }

    /// Enqueues the job, unless it is: that is looked for first, since reading holds up nobody.
    async fn refresh(&self, job: NewJob) -> Result<()> {
        if self.queue.holder_of_key(&job).await?.is_none() {
            self.queue.enqueue_new(job).await?;
        }
        Ok(())
    }

    /// The result's JSON, of the job or of the cache, whichever is there first.
    async fn wait(&self, id: JobId, memo: Option<&Memo>, timeout: Duration) -> Result<String> {
        let deadline = Instant::now().checked_add(timeout);
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
            && let Some(found) = self.cache.remembered(memo.key()).await?
            && !found.is_stale
        {
            return Ok(Looked::There(found.value));
        }
        let Some(job) = self.queue.get(id).await? else {
            return Err(Error::computation(
                format!("job {id} is gone: it was pruned before its result was read"),
                None,
            ));
        };
        match job.status {
            JobStatus::Queued | JobStatus::Running => Ok(Looked::Not(Box::new(job))),
            JobStatus::Done => Ok(Looked::There(
                job.result
                    .map_or_else(|| "null".to_owned(), |result| result.get().to_owned()),
            )),
            JobStatus::Dead | JobStatus::Cancelled => {
                let reason = reason(&job);
                let message = format!("job {id} of {} is {}{reason}", job.name, job.status);
                Err(Error::computation(message, None))
            }
        }
    }
}

enum Looked {
    There(String),
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
            let result = match larder.begin(job, memo.as_ref()).await? {
                Called::Remembered(result) => result,
                Called::Waits(id) => larder.wait(id, memo.as_ref(), timeout).await?,
            };
            decode(&name, &result)
        })
    }
}
