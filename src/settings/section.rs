//! The sections of `larder.toml` and their defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::bytes::format_bytes;
use super::command::CommandSettings;
use super::duration::format_duration;
use super::schedule::ScheduleSettings;
use crate::cache::MemoryTier;
use crate::database::redact_url;
use crate::queue::{QueueLimits, Rate, Retention};

/// Everything that can be set, with every value checked.
///
/// Serialized, it is what `larder config show --json` prints: durations and sizes as text, the password
/// of the database hidden.
///
/// ```
/// use larder::settings::Settings;
/// use std::time::Duration;
///
/// let mut settings = Settings::default();
/// assert_eq!(settings.worker.shutdown_timeout, Duration::from_secs(25));
/// settings.worker.concurrency = 4; // as a flag would
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Settings {
    /// Where the data is and how to reach it.
    pub database: DatabaseSettings,
    /// The cache.
    pub cache: CacheSettings,
    /// How URLs are fetched for jobs.
    #[cfg(feature = "fetch")]
    pub fetch: super::fetch::FetchSettings,
    /// The worker daemon.
    pub worker: WorkerSettings,
    /// Defaults of every job.
    pub jobs: JobSettings,
    /// Queues that differ from the defaults, by name.
    pub queues: BTreeMap<String, QueueSettings>,
    /// What is enqueued on a schedule, by the entry's name.
    pub schedule: BTreeMap<String, ScheduleSettings>,
    /// What jobs may run, by the command's name.
    pub commands: BTreeMap<String, CommandSettings>,
}

/// `[database]`. Its [`Debug`](fmt::Debug) hides the password.
///
/// ```
/// let mut database = larder::settings::DatabaseSettings::default();
/// assert_eq!(database.url, "sqlite://larder.db");
/// database.url = "postgres://app:secret@db/app".into();
/// assert!(!format!("{database:?}").contains("secret"));
/// ```
#[derive(Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DatabaseSettings {
    /// `sqlite://FILE`, relative to the working directory, or `postgres://…`. It may hold a password:
    /// show it by [`redact_url`] only.
    #[serde(serialize_with = "url")]
    pub url: String,
    /// How long a statement waits for SQLite's write lock.
    #[serde(serialize_with = "duration")]
    pub busy_timeout: Duration,
    /// How long a call waits for a connection before it fails.
    #[serde(serialize_with = "duration")]
    pub acquire_timeout: Duration,
    /// The most connections that one process holds to PostgreSQL.
    pub max_connections: u32,
    /// The PostgreSQL schema of larder's tables.
    pub schema: String,
    /// Whether PostgreSQL statements are prepared by name; `false` for PgBouncer in transaction mode.
    pub prepared: bool,
}

/// `[cache]`.
///
/// ```
/// assert_eq!(larder::settings::CacheSettings::default().max_value_bytes, 16 << 20);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CacheSettings {
    /// The longest value that the cache takes, in bytes of JSON.
    #[serde(serialize_with = "bytes")]
    pub max_value_bytes: u64,
    /// How long whoever computes a memoized value may be silent until somebody else computes it.
    #[serde(serialize_with = "duration")]
    pub lease: Duration,
    /// What is kept in memory, on PostgreSQL; unset, nothing is.
    pub memory: Option<MemorySettings>,
}

/// `[cache.memory]`, which is on where any of it is given.
///
/// ```
/// use larder::settings::Settings;
///
/// assert_eq!(Settings::load(None, [])?.settings.cache.memory, None);
/// let env = [("LARDER_CACHE__MEMORY__MAX_STALENESS".into(), "200ms".into())];
/// let memory = Settings::load(None, env)?.settings.cache.memory.unwrap();
/// assert_eq!((memory.items, memory.max_staleness.as_millis()), (10_000, 200));
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MemorySettings {
    /// The most items.
    pub items: u64,
    /// The most bytes that they come to.
    #[serde(serialize_with = "bytes")]
    pub bytes: u64,
    /// How long after it was overwritten or deleted a value may still be read.
    #[serde(serialize_with = "duration")]
    pub max_staleness: Duration,
}

impl MemorySettings {
    /// As [`Cache::with_memory`](crate::Cache::with_memory) takes it.
    ///
    /// ```
    /// use larder::cache::MemoryTier;
    /// use larder::settings::MemorySettings;
    /// assert_eq!(MemorySettings::default().tier(), MemoryTier::default());
    /// ```
    #[must_use]
    pub fn tier(&self) -> MemoryTier {
        MemoryTier::default()
            .items(self.items)
            .bytes(self.bytes)
            .max_staleness(self.max_staleness)
    }
}

/// `[worker]`.
///
/// ```
/// let worker = larder::settings::WorkerSettings::default();
/// assert_eq!(worker.concurrency, 16);
/// assert_eq!(worker.poll_interval, None);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerSettings {
    /// Jobs that run at once in each queue, unless the queue says otherwise.
    pub concurrency: usize,
    /// How long running jobs may go on after the first signal.
    #[serde(serialize_with = "duration")]
    pub shutdown_timeout: Duration,
    /// How often the worker says that it is alive.
    #[serde(serialize_with = "duration")]
    pub heartbeat: Duration,
    /// How long a worker must be silent before its jobs are given to others.
    #[serde(serialize_with = "duration")]
    pub rescue_after: Duration,
    /// How often the queue is looked at where nothing tells of a job. Unset, it is 1 s, or 50 ms on an SQLite file whose
    /// URL has options. Other such files tell of a change at once, or within 50 ms where the kernel does not.
    #[serde(serialize_with = "optional_duration")]
    pub poll_interval: Option<Duration>,
}

/// `[jobs]`: what holds for every job that does not say otherwise.
///
/// ```
/// let jobs = larder::settings::JobSettings::default();
/// assert_eq!(jobs.max_attempts, 20);
/// assert_eq!(jobs.backoff.factor, 2.0);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JobSettings {
    /// Attempts before a job is dead.
    pub max_attempts: u16,
    /// How long finished jobs are kept.
    #[serde(serialize_with = "duration")]
    pub keep_done: Duration,
    /// How long dead and cancelled jobs are kept.
    #[serde(serialize_with = "duration")]
    pub keep_dead: Duration,
    /// How many finished jobs are kept; unset, any number.
    pub max_done: Option<u64>,
    /// How many dead jobs are kept, and as many cancelled ones; unset, any number.
    pub max_dead: Option<u64>,
    /// The pause before the next attempt.
    pub backoff: BackoffSettings,
}

impl JobSettings {
    /// Which finished jobs are kept, as [`Queue::prune`](crate::Queue::prune) takes it.
    ///
    /// ```
    /// use larder::queue::Retention;
    /// use larder::settings::JobSettings;
    /// assert_eq!(JobSettings::default().retention(), Retention::default());
    /// ```
    #[must_use]
    pub fn retention(&self) -> Retention {
        Retention {
            keep_done: self.keep_done,
            keep_dead: self.keep_dead,
            max_done: self.max_done,
            max_dead: self.max_dead,
        }
    }
}

/// `[jobs.backoff]`: the pause after attempt n is `base * factor^(n - 1)`, at most `cap`, give or take `jitter`.
///
/// ```
/// let backoff = larder::settings::BackoffSettings::default();
/// assert!(backoff.base <= backoff.cap);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BackoffSettings {
    /// The pause after the first attempt.
    #[serde(serialize_with = "duration")]
    pub base: Duration,
    /// What each further pause is multiplied by, 1 or more.
    pub factor: f64,
    /// The longest pause.
    #[serde(serialize_with = "duration")]
    pub cap: Duration,
    /// The share of the pause that is left to chance, from 0 to 1.
    pub jitter: f64,
}

/// `[queues.NAME]`.
///
/// ```
/// assert_eq!(larder::settings::QueueSettings::default().concurrency, None);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct QueueSettings {
    /// Jobs of this queue that run at once in one worker; unset, the worker's `concurrency`.
    pub concurrency: Option<usize>,
    /// Jobs of this queue that run at once over all workers; unset, any number.
    pub max_running: Option<u32>,
    /// Jobs of this queue that start in any stretch of time, over all workers; unset, any number.
    pub rate: Option<RateSettings>,
}

/// `[queues.NAME.rate]`: at most `limit` jobs start in any stretch of time that is `per` long.
///
/// ```
/// use larder::settings::Settings;
///
/// let env = [("LARDER_QUEUES__MAIL__RATE__LIMIT", "100"), ("LARDER_QUEUES__MAIL__RATE__PER", "1m")];
/// let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
/// let rate = Settings::load(None, env)?.settings.queues["mail"].rate.unwrap();
/// assert_eq!((rate.limit, rate.per.as_secs()), (100, 60));
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RateSettings {
    /// How many start.
    pub limit: u32,
    /// In what stretch of time.
    #[serde(serialize_with = "duration")]
    pub per: Duration,
}

impl QueueSettings {
    /// What holds over the fleet, as [`WorkerOptions`](crate::worker::WorkerOptions) takes it.
    ///
    /// ```
    /// use larder::queue::QueueLimits;
    /// assert_eq!(larder::settings::QueueSettings::default().limits(), QueueLimits::default());
    /// ```
    #[must_use]
    pub fn limits(&self) -> QueueLimits {
        QueueLimits {
            max_running: self.max_running,
            rate: self.rate.map(|rate| Rate {
                limit: rate.limit,
                per: rate.per,
            }),
        }
    }
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self {
            url: "sqlite://larder.db".into(),
            busy_timeout: Duration::from_secs(10),
            acquire_timeout: Duration::from_secs(5),
            max_connections: 10,
            schema: "public".into(),
            prepared: true,
        }
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            max_value_bytes: 16 << 20,
            lease: Duration::from_secs(30),
            memory: None,
        }
    }
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            items: MemoryTier::DEFAULT_ITEMS,
            bytes: MemoryTier::DEFAULT_BYTES,
            max_staleness: MemoryTier::DEFAULT_MAX_STALENESS,
        }
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            concurrency: 16,
            shutdown_timeout: Duration::from_secs(25),
            heartbeat: Duration::from_secs(5),
            rescue_after: Duration::from_secs(30),
            poll_interval: None,
        }
    }
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            max_attempts: 20,
            keep_done: Duration::from_hours(7 * 24),
            keep_dead: Duration::from_hours(30 * 24),
            max_done: None,
            max_dead: None,
            backoff: BackoffSettings::default(),
        }
    }
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            factor: 2.0,
            cap: Duration::from_hours(1),
            jitter: 0.2,
        }
    }
}

impl fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseSettings")
            .field("url", &redact_url(&self.url))
            .field("busy_timeout", &self.busy_timeout)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("max_connections", &self.max_connections)
            .field("schema", &self.schema)
            .field("prepared", &self.prepared)
            .finish()
    }
}

fn url<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redact_url(url))
}

pub(super) fn duration<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_duration(*duration))
}

pub(super) fn optional_duration<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration.map(format_duration).serialize(serializer)
}

// serde's `serialize_with` hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(super) fn bytes<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_bytes(*bytes))
}
