//! What a handler is told of its job, and how it says that it failed.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use apalis_core::error::BoxDynError;
use apalis_core::task::Task;
use apalis_core::task::data::MissingDataError;
use apalis_core::task::from_request::FromRequest;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::cache::Remember;
use crate::queue::held::RunningAttempt;
use crate::queue::{JobId, JobProgress};

/// The attempt that a handler runs. Handlers that take a `JobContext` are given it.
///
/// Through it a handler learns that its job is cancelled, and says how far it is:
///
/// ```
/// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
/// use larder::queue::{Job, JobStatus};
/// use larder::worker::WorkerOptions;
/// use larder::{JobContext, JobError, Worker};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Import { rows: u64 }
///
/// impl Job for Import {
///     const NAME: &'static str = "import";
///     type Output = u64;
/// }
///
/// async fn import(job: Import, cx: JobContext) -> Result<u64, JobError> {
///     for row in 0..job.rows {
///         if cx.is_cancelled() {
///             return Err(JobError::retry(format!("cancelled after {row} rows")));
///         }
///         // … and import it.
///         cx.progress(row + 1, job.rows);
///     }
///     Ok(job.rows)
/// }
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let url = &format!("sqlite://{}", directory.path().join("jobs.db").display());
/// let mut once = WorkerOptions::default();
/// once.once = true;
/// let worker = Worker::connect(url).await?.options(once).register(import);
/// let queue = worker.queue().clone();
/// let id = queue.enqueue(&Import { rows: 3 }).await?.id;
/// worker.run_until(std::future::pending()).await?;
///
/// let job = queue.get(id).await?.unwrap();
/// assert_eq!(job.status, JobStatus::Done);
/// assert_eq!(job.progress.map(|progress| (progress.done, progress.total)), Some((3, 3)));
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobContext {
    /// The job's id.
    pub id: JobId,
    /// The queue that it waited in.
    pub queue: String,
    /// Which attempt this is, from 1.
    pub attempt: i32,
    /// How many there may be.
    pub max_attempts: i32,
    /// The schedule that enqueued it.
    pub schedule: Option<String>,
    /// The instant that its schedule named.
    pub tick: Option<DateTime<Utc>>,
    pub(super) running: Arc<RunningAttempt>,
}

impl JobContext {
    /// Cancelled when somebody cancels the job, on whatever host. A handler that then returns an error leaves its job
    /// cancelled with that error; one that returns its result has done it all the same. A handler that goes on for
    /// longer than [`shutdown_timeout`](super::WorkerOptions::shutdown_timeout) is dropped at its next `.await`.
    ///
    /// `cx.cancellation().cancelled().await` waits for it, and `run_until_cancelled` runs a future no longer.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        self.running.cancellation()
    }

    /// Whether somebody has cancelled the job.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.running.is_cancelled()
    }

    /// Cancelled when the worker is told to stop. The job is not called off: a handler that can finish soon does, and
    /// one that cannot goes back to its queue when `shutdown_timeout` is over.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        self.running.stopping()
    }

    /// Says that `done` of `total` are done. It takes no time and cannot fail, and may be called as often as one likes:
    /// the latest is written now and then, and at the end.
    pub fn progress(&self, done: u64, total: u64) {
        self.running.report(JobProgress { done, total });
    }

    /// Says that the result which the handler is about to return is fresh for `fresh`, and stale for `stale` after that,
    /// whatever [`Job::memo`](crate::Job::memo) says of it; the memo's jitter holds. It is for handlers that learn only
    /// from what they compute how long that is good. What is said last counts; of a job without a memo nothing is
    /// remembered all the same.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::cache::Memo;
    /// use larder::worker::WorkerOptions;
    /// use larder::{Job, JobContext, JobError, Worker};
    /// use serde::{Deserialize, Serialize};
    /// use std::time::Duration;
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Token {}
    ///
    /// impl Job for Token {
    ///     const NAME: &'static str = "token";
    ///     type Output = String;
    ///
    ///     fn memo(&self) -> Option<Memo> {
    ///         Some(Memo::new("token"))
    ///     }
    /// }
    ///
    /// async fn token(_: Token, cx: JobContext) -> Result<String, JobError> {
    ///     let (token, seconds) = ("t0ken", 600); // as whoever issues it says
    ///     cx.remember_for(Duration::from_secs(seconds), Duration::ZERO);
    ///     Ok(token.to_owned())
    /// }
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let url = &format!("sqlite://{}", directory.path().join("jobs.db").display());
    /// let mut once = WorkerOptions::default();
    /// once.once = true;
    /// let worker = Worker::connect(url).await?.options(once).register(token);
    /// worker.queue().enqueue(&Token {}).await?;
    /// let cache = worker.cache().clone();
    /// worker.run_until(std::future::pending()).await?;
    ///
    /// let left = cache.cached::<String>("token").expires_at().await?.unwrap() - chrono::Utc::now();
    /// assert!((595..=600).contains(&left.num_seconds()));
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    pub fn remember_for(&self, fresh: Duration, stale: Duration) {
        self.running.remember(Remember::For { fresh, stale });
    }

    /// Says that the result which the handler is about to return is its job's alone: whatever
    /// [`Job::memo`](crate::Job::memo) says, it is not remembered, and what was remembered before it is no more. Those
    /// who wait for this job have its result; whoever calls later, another job's.
    pub fn do_not_remember(&self) {
        self.running.remember(Remember::Not);
    }
}

impl<Args: Sync> FromRequest<Task<Args>> for JobContext {
    type Error = MissingDataError;

    async fn from_request(task: &Task<Args>) -> Result<Self, Self::Error> {
        task.data().get_checked().cloned()
    }
}

/// Why an attempt failed, and what is to come of the job.
///
/// Any error turns into one by `?`, and the job is then tried again with backoff while it has attempts left.
///
/// ```
/// use larder::JobError;
/// use std::time::Duration;
///
/// fn parse(text: &str) -> Result<u32, JobError> {
///     if text.is_empty() {
///         return Err(JobError::abort("there is nothing to parse"));
///     }
///     if text == "busy" {
///         return Err(JobError::retry_after("the other side is busy", Duration::from_secs(30)));
///     }
///     Ok(text.parse()?)
/// }
/// assert_eq!(parse("").unwrap_err().to_string(), "there is nothing to parse");
/// assert_eq!(parse("x").unwrap_err().to_string(), "invalid digit found in string");
/// ```
#[derive(Debug)]
pub struct JobError(Failure);

/// The inside of a [`JobError`], which must not be an `Error` itself to be made from any.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) retry: Retry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    WithBackoff,
    After(Duration),
    Never,
}

impl JobError {
    /// The job is tried again with backoff, while it has attempts left.
    pub fn retry(message: impl fmt::Display) -> Self {
        Self::new(message, Retry::WithBackoff)
    }

    /// The job is tried again after `wait`, while it has attempts left.
    pub fn retry_after(message: impl fmt::Display, wait: Duration) -> Self {
        Self::new(message, Retry::After(wait))
    }

    /// The job is dead at once.
    pub fn abort(message: impl fmt::Display) -> Self {
        Self::new(message, Retry::Never)
    }

    fn new(message: impl fmt::Display, retry: Retry) -> Self {
        Self(Failure {
            message: message.to_string(),
            retry,
        })
    }

    pub(super) fn into_failure(self) -> Failure {
        self.0
    }

    /// What a handler returned, whatever its type of error.
    pub(super) fn from_boxed(error: BoxDynError) -> Self {
        match error.downcast::<Failure>() {
            Ok(failure) => Self(*failure),
            Err(error) => Self::retry(Chain(&*error)),
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for JobError {
    fn from(error: E) -> Self {
        Self::retry(Chain(&error))
    }
}

impl From<JobError> for BoxDynError {
    fn from(error: JobError) -> Self {
        Box::new(error.0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {}

/// An error and its causes in one line, a cause that repeats its effect's words left out.
struct Chain<'a>(&'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !last.contains(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            source = cause.source();
        }
        Ok(())
    }
}
