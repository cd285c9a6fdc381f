//! `[schedule.NAME]`: what is enqueued when.

use std::time::Duration;

use serde::Serialize;

use super::section::duration;
pub use crate::schedule::{CatchUp, Overlap};

/// An entry that exists without being in the file, which may override any part of it.
///
/// Its timezone is UTC, it catches up once, and it is skipped while its last job is queued or running.
///
/// ```
/// use larder::settings::{Overlap, ScheduleDefault};
///
/// let entry = ScheduleDefault { name: "sweep", job: "sweep", cron: "@hourly" };
/// assert_eq!(entry.settings().overlap, Overlap::Skip);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleDefault {
    /// The entry's stable name, as in `[schedule.NAME]`.
    pub name: &'static str,
    /// The job that it enqueues.
    pub job: &'static str,
    /// When, as a cron expression.
    pub cron: &'static str,
}

impl ScheduleDefault {
    /// The entry as it is when the file does not mention it.
    #[must_use]
    pub fn settings(&self) -> ScheduleSettings {
        ScheduleSettings {
            catch_up: CatchUp::Once,
            overlap: Overlap::Skip,
            ..ScheduleSettings::new(self.job, self.cron)
        }
    }
}

/// `[schedule.NAME]`.
///
/// ```
/// use larder::settings::{CatchUp, Overlap, ScheduleSettings};
///
/// let entry = ScheduleSettings::new("report", "0 6 * * mon-fri");
/// assert_eq!((entry.catch_up, entry.overlap), (CatchUp::Skip, Overlap::Allow));
/// assert_eq!(entry.timezone, "UTC");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ScheduleSettings {
    /// The job that it enqueues.
    pub job: String,
    /// When, as a cron expression.
    pub cron: String,
    /// The IANA timezone of the cron expression.
    pub timezone: String,
    /// What becomes of missed ticks.
    pub catch_up: CatchUp,
    /// How old a missed tick may be and still be caught up.
    #[serde(serialize_with = "duration")]
    pub catch_up_window: Duration,
    /// Whether a tick enqueues while the last one's job is queued or running.
    pub overlap: Overlap,
    /// Whether it enqueues at all.
    pub enabled: bool,
    /// The queue, if not the job's own.
    pub queue: Option<String>,
    /// The priority, if not the job's own; larger first.
    pub priority: Option<i16>,
    /// Attempts before the job is dead, if not the job's own number.
    pub max_attempts: Option<u16>,
    /// The job's payload: a JSON object.
    pub payload: serde_json::Value,
}

impl ScheduleSettings {
    /// An entry with the defaults of those that users write: missed ticks are skipped, overlaps allowed.
    #[must_use]
    pub fn new(job: impl Into<String>, cron: impl Into<String>) -> Self {
        Self {
            job: job.into(),
            cron: cron.into(),
            timezone: "UTC".into(),
            catch_up: CatchUp::Skip,
            catch_up_window: Duration::from_hours(24),
            overlap: Overlap::Allow,
            enabled: true,
            queue: None,
            priority: None,
            max_attempts: None,
            payload: serde_json::Value::Object(serde_json::Map::new()),
        }
    }
}
