//! [`Worker`]: runs the jobs of a database's queues, and its schedules.

mod context;
mod dispatch;
mod handler;
mod listen;
mod memoized;
mod running;
mod thread;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use apalis_core::task::extensions::Extensions;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

pub use apalis_core::task::data::Data;
pub use context::{JobContext, JobError};
pub use dispatch::in_handler;
pub use handler::{Handler, Handlers, Registered};
pub use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::queue::{Backoff, Job, Queue, QueueLimits, QueueTable};
use crate::schedule::{ScheduleEntry, Schedules};
use running::Running;
use thread::OwnThread;

/// How a worker works. The defaults are those of `larder.toml`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerOptions {
    /// How many jobs of each queue run at once; 16 unless said.
    pub concurrency: usize,
    /// The same of single queues, by name.
    pub queue_concurrency: BTreeMap<String, usize>,
    /// The limits of single queues over the whole fleet, by name. Give all workers the same.
    pub queue_limits: BTreeMap<String, QueueLimits>,
    /// The queues that it serves; `None`, unless said, is all.
    pub queues: Option<Vec<String>>,
    /// How long a drain, or the cancellation of a job, lets handlers go on; 25 s unless said.
    pub shutdown_timeout: Duration,
    /// How often it tells the fleet that it is alive; 5 s unless said.
    pub heartbeat: Duration,
    /// After what silence of its worker a job is taken from it; 30 s unless said.
    pub rescue_after: Duration,
    /// How often it looks for jobs that nobody told it of; unless said 1 s, or 50 ms on an
    /// SQLite file whose URL has options. Other such files tell of a change at once, or within
    /// 50 ms where the kernel does not.
    pub poll_interval: Option<Duration>,
    /// Whether it listens for PostgreSQL's notifications, as it does unless said.
    pub listen: bool,
    /// Ends when no job is ready and none runs.
    pub once: bool,
    /// The wait between attempts of jobs whose type says nothing of it.
    pub backoff: Backoff,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            concurrency: 16,
            queue_concurrency: BTreeMap::new(),
            queue_limits: BTreeMap::new(),
            queues: None,
            shutdown_timeout: Duration::from_secs(25),
            heartbeat: Duration::from_secs(5),
            rescue_after: Duration::from_secs(30),
            poll_interval: None,
            listen: true,
            once: false,
            backoff: Backoff::default(),
        }
    }
}

/// How a worker's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All that ran has finished, or went back to its queue when `shutdown_timeout` was over.
    Drained,
    /// It was told twice to stop, and gave back what it could within a second.
    Forced,
}

/// Runs jobs. Handlers are apalis task functions: they take their job, and whatever of [`Data`] and [`JobContext`]
/// they ask for. Every handler can have `Data<Cache>` and `Data<Queue>`.
///
/// ```
/// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
/// use larder::worker::WorkerOptions;
/// use larder::{Cache, Data, Job, JobError, Queue, Worker};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Square { of: i64 }
///
/// impl Job for Square {
///     const NAME: &'static str = "square";
///     type Output = i64;
/// }
///
/// async fn square(job: Square, cache: Data<Cache>) -> Result<i64, JobError> {
///     cache.increment("squares", 1, larder::Expiration::Never).await?;
///     Ok(job.of * job.of)
/// }
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let url = &format!("sqlite://{}", directory.path().join("jobs.db").display());
/// let mut once = WorkerOptions::default();
/// once.once = true;
/// let worker = Worker::connect(url).await?.options(once).register(square);
/// let id = worker.queue().enqueue(&Square { of: 12 }).await?.id;
/// let queue = worker.queue().clone();
/// worker.run_until(std::future::pending()).await?;
///
/// let job = queue.get(id).await?.unwrap();
/// assert_eq!(job.result.unwrap().get(), "144");
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
pub struct Worker {
    cache: Cache,
    queue: Queue,
    options: WorkerOptions,
    handlers: Handlers,
    data: Extensions,
    schedules: Schedules,
    queues: Option<watch::Receiver<QueueTable>>,
    on_ready: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queue", &self.queue)
            .field("options", &self.options)
            .field("handlers", &self.handlers)
            .field("schedules", &self.schedules)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker on the database at `url`, whose tables are laid or upgraded.
    ///
    /// # Errors
    /// As [`Database::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        let options = crate::database::DatabaseOptions::new(url);
        Ok(Self::new(
            options
                .schema_policy(crate::database::SchemaPolicy::Upgrade)
                .connect()
                .await?,
        ))
    }

    /// A worker on `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self {
            cache: Cache::new(database.clone()),
            queue: Queue::new(database),
            options: WorkerOptions::default(),
            handlers: Handlers::default(),
            data: Extensions::new(),
            schedules: Schedules::default(),
            queues: None,
            on_ready: Box::new(|| ()),
        }
    }

    /// Works as `options` say.
    #[must_use]
    pub fn options(mut self, options: WorkerOptions) -> Self {
        self.options = options;
        self
    }

    /// Gives handlers this cache as their `Data<Cache>`.
    #[must_use]
    pub fn with_cache(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    /// Gives handlers this queue as their `Data<Queue>`, and enqueues scheduled jobs through it.
    #[must_use]
    pub fn with_queue(mut self, queue: Queue) -> Self {
        self.queue = queue;
        self
    }

    /// Gives handlers that ask for `Data<T>` a clone of `data`.
    #[must_use]
    pub fn data<T: Clone + Send + Sync + 'static>(mut self, data: T) -> Self {
        self.data.insert(data);
        self
    }

    /// Runs jobs of type `J` by `handler`.
    #[must_use]
    pub fn register<J: Job, Args: 'static>(mut self, handler: impl Handler<J, Args>) -> Self {
        self.handlers = self.handlers.register(handler);
        self
    }

    /// Runs all the jobs that `handlers` hold, besides those registered before.
    #[must_use]
    pub fn register_all(mut self, handlers: Handlers) -> Self {
        self.handlers = self.handlers.and(handlers);
        self
    }

    /// Enqueues the job of `entry` at each of its ticks, once over all workers of the database.
    #[must_use]
    pub fn schedule(mut self, entry: ScheduleEntry) -> Self {
        self.schedules.fixed.push(entry);
        self
    }

    /// Besides the entries of [`Worker::schedule`], has those that `changing` holds, and within a second those that it is
    /// given later. An entry that is no longer among them is gone, unless another worker has it: if it comes back, it
    /// starts from that instant, as one that is seen for the first time. What is not valid changes nothing, and is told
    /// in the log.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::queue::NewJob;
    /// use larder::schedule::{Cron, ScheduleEntry};
    /// use serde_json::value::RawValue;
    /// use tokio::sync::watch;
    ///
    /// let payload = RawValue::from_string("{}".to_owned()).unwrap();
    /// let entry = |cron| ScheduleEntry::new("report", Cron::parse_in(cron, "UTC").unwrap(), NewJob::named("report", &payload));
    /// let (schedule, changing) = watch::channel(vec![entry("@daily")]);
    /// let worker = larder::Worker::connect("sqlite::memory:").await?.schedules(changing);
    /// // And while it works:
    /// schedule.send_replace(vec![entry("@hourly")]);
    /// assert_eq!(schedule.receiver_count(), 1);
    /// # drop(worker);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn schedules(mut self, changing: watch::Receiver<Vec<ScheduleEntry>>) -> Self {
        self.schedules.changing = Some(changing);
        self
    }

    /// Follows what `table` says of single queues, instead of what its options say: a change takes effect with the next
    /// claim. Jobs that run stay as they are.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::queue::QueueTable;
    /// use tokio::sync::watch;
    ///
    /// let table = watch::Sender::new(QueueTable::default());
    /// let worker = larder::Worker::connect("sqlite::memory:").await?.queues(table.subscribe());
    /// table.send_modify(|table| {
    ///     table.concurrency.insert("reports".to_owned(), 2);
    /// });
    /// # drop(worker);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn queues(mut self, table: watch::Receiver<QueueTable>) -> Self {
        self.queues = Some(table);
        self
    }

    /// Calls `ready` once, when it is there for the fleet to see and begins to fetch.
    #[must_use]
    pub fn on_ready(mut self, ready: impl FnOnce() + Send + 'static) -> Self {
        self.on_ready = Box::new(ready);
        self
    }

    /// The cache that handlers are given.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The queue that handlers are given.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Works until `signal` comes, then drains: fetches no more, lets running jobs finish for up to
    /// `shutdown_timeout`, and returns the rest to their queue with the attempt given back.
    ///
    /// Handlers run on the caller's runtime, and the worker's own tasks on a thread of their own: handlers that block
    /// every thread do not silence it. To drop this future is to end the worker as a crash does: its handlers are dropped
    /// where they wait, nothing more begins, and others rescue its jobs after `rescue_after`.
    ///
    /// # Errors
    /// Where the database fails at the start. Once it works, it waits for a database that is away.
    pub async fn run_until(self, signal: impl Future<Output = ()>) -> Result<Ended> {
        self.run_until_forced(signal, std::future::pending()).await
    }

    /// [`Worker::run_until`], cut short when `force` comes during the drain: running jobs go back to their queue at
    /// once, which is tried for a second.
    ///
    /// # Errors
    /// As [`Worker::run_until`].
    pub async fn run_until_forced(
        mut self,
        signal: impl Future<Output = ()>,
        force: impl Future<Output = ()>,
    ) -> Result<Ended> {
        self.data.insert(self.cache.clone());
        self.data.insert(self.queue.clone());
        let handlers = Handle::try_current()
            .map_err(|_| Error::invalid("a worker runs within a tokio runtime: start one"))?;
        let own = if self.queue.database().is_in_memory() {
            OwnThread::none(handlers.clone())
        } else {
            OwnThread::start()?
        };
        let (tell_signal, signalled) = oneshot::channel();
        let (tell_force, forced) = oneshot::channel();
        // Handlers are on the caller's runtime, which goes on.
        let gone = CancellationToken::new();
        let _told_when_dropped = gone.clone().drop_guard();
        let work = own.spawn(async move {
            let running = Running::start(self, handlers, gone).await?;
            running.until(came(signalled), came(forced)).await
        });
        let mut work = AbortOnDropHandle::new(work);
        tokio::select! {
            ended = &mut work => return joined(ended),
            () = signal => {
                let _ = tell_signal.send(());
            }
        }
        tokio::select! {
            ended = &mut work => joined(ended),
            () = force => {
                let _ = tell_force.send(());
                joined(work.await)
            }
        }
    }
}

/// Comes when it was told of; who ends without a word, never tells.
async fn came(told: oneshot::Receiver<()>) {
    if told.await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn joined(ended: Result<Result<Ended>, JoinError>) -> Result<Ended> {
    ended.unwrap_or_else(|error| {
        Err(Error::invalid(format!(
            "the worker's own task failed: {error}"
        )))
    })
}
