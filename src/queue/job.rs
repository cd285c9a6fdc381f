//! What a job is, before it is enqueued.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{DEFAULT_QUEUE, JobId};
use crate::cache::{Memo, check_depth, check_text};
use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// A type of job: its payload, and what may be said of all of its kind.
///
/// ```
/// use larder::queue::{Backoff, Job};
/// use serde::{Deserialize, Serialize};
/// use std::time::Duration;
///
/// #[derive(Serialize, Deserialize)]
/// struct Report { month: String }
///
/// impl Job for Report {
///     const NAME: &'static str = "report";
///     type Output = String;
///     const QUEUE: &'static str = "reports";
///     const MAX_ATTEMPTS: Option<u16> = Some(3);
///     const TIMEOUT: Option<Duration> = Some(Duration::from_secs(600));
/// }
/// assert_eq!(Report::BACKOFF, None);
/// ```
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its name, the same for as long as such jobs are in a database: 1 to 255 bytes.
    const NAME: &'static str;
    /// What its handler returns, stored as the job's result.
    type Output: Serialize + DeserializeOwned + Send + 'static;
    /// The queue that it waits in, unless its enqueuer says otherwise.
    const QUEUE: &'static str = DEFAULT_QUEUE;
    /// How often it is tried, unless its enqueuer says otherwise; `None` is the queue's default.
    const MAX_ATTEMPTS: Option<u16> = None;
    /// How long it waits between attempts; `None` is the worker's default.
    const BACKOFF: Option<Backoff> = None;
    /// How long one attempt may take; `None` is for ever.
    const TIMEOUT: Option<Duration> = None;

    /// Where its result is remembered, and for how long; `None`, unless said, is not at all. Such a job is for
    /// [`Larder::call`](crate::Larder::call).
    ///
    /// While the result is fresh, a job that is enqueued all the same, or tried again, is done with it and its handler
    /// does not run, unless a call has enqueued it to [refresh that early](Memo::early_refresh); of several at work one runs, and the others have its result. What a handler returns is remembered
    /// before its job is done, unless somebody has invalidated it since the handler began: then it runs again within
    /// the same attempt, three times at most. An error is not remembered.
    fn memo(&self) -> Option<Memo> {
        None
    }
}

/// How long a failed job waits before its next attempt: `base * factor^(attempt - 1)`, at most `cap`, moved by up to
/// `jitter` of itself either way. (Exponential backoff with proportional jitter.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// After the first attempt.
    pub base: Duration,
    /// How much longer each wait is than the one before; at least 1.
    pub factor: f64,
    /// The longest wait, before jitter.
    pub cap: Duration,
    /// From 0, none, to 1, anything from nothing to twice the wait.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            factor: 2.0,
            cap: Duration::from_secs(3600),
            jitter: 0.2,
        }
    }
}

impl Backoff {
    /// The wait after `attempt` (1 is the first), for a `random` number from 0 to 1.
    ///
    /// ```
    /// use larder::queue::Backoff;
    /// use std::time::Duration;
    ///
    /// let backoff = Backoff::default();
    /// assert_eq!(backoff.delay(1, 0.5), Duration::from_secs(1));
    /// assert_eq!(backoff.delay(4, 0.5), Duration::from_secs(8));
    /// assert_eq!(backoff.delay(4, 0.0), Duration::from_millis(6_400));
    /// assert_eq!(backoff.delay(99, 0.5), Duration::from_secs(3_600));
    /// ```
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let exponent = f64::from(attempt.saturating_sub(1));
        let wait =
            (self.base.as_secs_f64() * self.factor.powf(exponent)).min(self.cap.as_secs_f64());
        let moved = wait * (1.0 + self.jitter * (2.0 * random - 1.0));
        Duration::try_from_secs_f64(moved.max(0.0)).unwrap_or(self.cap)
    }
}

/// A job that is about to be enqueued.
///
/// [`Queue::enqueue`](super::Queue::enqueue) makes one of a [`Job`]; this is for many at once, and for jobs that are
/// known by name alone.
#[derive(Clone, Debug)]
#[must_use = "a job is not enqueued until a queue is given it"]
pub struct NewJob {
    /// Drawn when it is enqueued, unless it is known before.
    pub(super) id: Option<JobId>,
    pub(super) name: String,
    pub(super) payload: Result<String, String>,
    pub(super) queue: String,
    pub(super) priority: i16,
    pub(super) start: Start,
    pub(super) max_attempts: Option<u16>,
    pub(super) unique_key: Option<String>,
    pub(super) limit: Option<(String, u32)>,
    pub(super) schedule: Option<String>,
    pub(super) tick: Option<DateTime<Utc>>,
}

/// When a job may start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    Now,
    After(Duration),
    At(DateTime<Utc>),
}

impl NewJob {
    /// A job of a type.
    pub fn new<J: Job>(job: &J) -> Self {
        let payload = serde_json::to_string(job).map_err(|error| error.to_string());
        Self::with(J::NAME, payload, J::QUEUE, J::MAX_ATTEMPTS)
    }

    /// A job known by its name and its payload's JSON.
    pub fn named(name: &str, payload: &RawValue) -> Self {
        Self::with(name, Ok(payload.get().to_owned()), DEFAULT_QUEUE, None)
    }

    fn with(
        name: &str,
        payload: Result<String, String>,
        queue: &str,
        max_attempts: Option<u16>,
    ) -> Self {
        Self {
            id: None,
            name: name.to_owned(),
            payload,
            queue: queue.to_owned(),
            priority: 0,
            start: Start::Now,
            max_attempts,
            unique_key: None,
            limit: None,
            schedule: None,
            tick: None,
        }
    }

    /// The queue that it waits in.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = queue.into();
        self
    }

    /// Larger goes first; 0 unless said.
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }

    /// It may start this long after it was enqueued.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.start = Start::After(delay);
        self
    }

    /// It may start at this instant.
    pub fn run_at(mut self, instant: DateTime<Utc>) -> Self {
        self.start = Start::At(instant);
        self
    }

    /// How often it is tried, from 1.
    pub fn max_attempts(mut self, attempts: u16) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// While a job of this name with this key is queued or running, enqueueing another gives that one's id instead.
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.unique_key = Some(key.into());
        self
    }

    /// At most `max_running` jobs of its queue that have the same `key` run at once, over all workers. Where they
    /// disagree on how many, the least of those that run or want to holds. Its place within the key is by priority.
    pub fn limit_running(mut self, key: impl Into<String>, max_running: u32) -> Self {
        self.limit = Some((key.into(), max_running));
        self
    }

    /// With the id that it will have, if it is the one that is inserted.
    pub(crate) fn with_id(mut self, id: JobId) -> Self {
        self.id = Some(id);
        self
    }

    #[cfg(feature = "worker")]
    pub(crate) fn of_schedule(mut self, schedule: &str, tick: Option<DateTime<Utc>>) -> Self {
        self.schedule = Some(schedule.to_owned());
        self.tick = tick;
        self
    }

    /// With another payload, made of this one. What does not serialise stays as it is, and is told when it is enqueued.
    #[cfg(feature = "worker")]
    pub(crate) fn map_payload(mut self, map: impl FnOnce(&str) -> Result<String>) -> Result<Self> {
        if let Ok(payload) = &mut self.payload {
            *payload = map(payload)?;
        }
        Ok(self)
    }

    /// Everything that it says, in one text that is the same for the same job.
    #[cfg(feature = "worker")]
    pub(crate) fn describe(&self) -> String {
        let Self {
            name,
            payload,
            queue,
            priority,
            max_attempts,
            limit,
            ..
        } = self;
        let payload = payload.as_deref().unwrap_or_default();
        // Absent where there is none, so that it stays the text that earlier versions wrote.
        let limit = limit
            .as_ref()
            .map_or(String::new(), |limit| format!(" limit={limit:?}"));
        format!(
            "{name} {payload} queue={queue} priority={priority} max_attempts={max_attempts:?}{limit}"
        )
    }

    /// Checks everything that the table would refuse, and gives the payload and the start.
    pub(super) fn checked(&self, now: Timestamp) -> Result<(&str, Timestamp)> {
        check_text("a job's name", &self.name, 1, 255)?;
        check_text("a queue's name", &self.queue, 1, 255)?;
        if let Some(key) = &self.unique_key {
            check_text("a unique key", key, 1, 512)?;
        }
        if let Some((key, max_running)) = &self.limit {
            check_text("a limit's key", key, 1, 512)?;
            if !(1..=i32::MAX.unsigned_abs()).contains(max_running) {
                return Err(Error::invalid(format!(
                    "max_running must be 1 to 2,147,483,647; that of the limit's key {key:?} is {max_running}"
                )));
            }
        }
        if self
            .max_attempts
            .is_some_and(|attempts| !(1..=i16::MAX.unsigned_abs()).contains(&attempts))
        {
            return Err(Error::invalid("max_attempts must be 1 to 32,767"));
        }
        let payload = self.payload.as_ref().map_err(|error| {
            Error::invalid(format!(
                "the payload of job {:?} does not serialise to JSON: {error}",
                self.name
            ))
        })?;
        check_depth(&format!("the payload of job {:?}", self.name), payload)?;
        let start = match self.start {
            Start::Now => now,
            Start::After(delay) => now.checked_add(super::to_delta(delay))?,
            Start::At(instant) => instant.try_into()?,
        };
        Ok((payload, start))
    }
}
