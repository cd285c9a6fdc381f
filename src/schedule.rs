//! Cron expressions, their ticks, and the fleet's record of them.

mod cron;
mod given;
mod payload;
mod plan;
mod record;
mod scheduler;
mod watched;

#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use cron::{Cron, CronError};
pub use record::ScheduleState;

pub(crate) use given::Schedules;
#[cfg(feature = "cli")]
pub(crate) use payload::name_tick;
pub(crate) use plan::{Policy, Take, plan};
pub(crate) use scheduler::Scheduler;

use crate::database::{Sql, Tx, query};
use crate::error::{Error, Result};
use crate::queue::{Enqueued, NewJob, Queue};
use record::Definition;

/// What becomes of ticks that were missed: noticed more than 30 s late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatchUp {
    /// Nothing.
    Skip,
    /// One job, for the latest of them.
    Once,
    /// A job for each of them.
    All,
}

/// Whether a tick enqueues a job while the one before it is queued or running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It does.
    Allow,
    /// It is passed over.
    Skip,
}

/// A named cron expression that enqueues a job at each of its ticks.
///
/// The strings in its job's payload may name the tick: `{tick}` is its instant, as `2026-11-22T05:00:00Z`, and
/// `{tick:FORMAT}` what clocks of the schedule's timezone then show, in chrono's [format](chrono::format::strftime), as
/// in `{tick:%Y-%m-%d}`. Keys stay as they are, and so does every other brace. (`{tick:{tick}}` is the text `{tick}`.)
///
/// ```
/// use larder::schedule::{CatchUp, Cron, ScheduleEntry};
/// use larder::queue::NewJob;
/// use serde_json::value::RawValue;
///
/// let payload = RawValue::from_string("{}".to_owned())?;
/// let cron = Cron::parse_in("0 6 * * MON-FRI", "Europe/Berlin")?;
/// let entry = ScheduleEntry::new("morning-report", cron, NewJob::named("report", &payload)).catch_up(CatchUp::Once);
/// assert_eq!(entry.name(), "morning-report");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ScheduleEntry {
    name: String,
    cron: Cron,
    job: NewJob,
    policy: Policy,
    overlap: Overlap,
    enabled: bool,
}

impl ScheduleEntry {
    /// Enqueues `job` at each tick of `cron`. Missed ticks are skipped and jobs may overlap, unless said.
    #[must_use]
    pub fn new(name: impl Into<String>, cron: Cron, job: NewJob) -> Self {
        let policy = Policy {
            catch_up: CatchUp::Skip,
            window: Duration::from_secs(86_400),
        };
        Self {
            name: name.into(),
            cron,
            job,
            policy,
            overlap: Overlap::Allow,
            enabled: true,
        }
    }

    /// What becomes of missed ticks.
    #[must_use]
    pub fn catch_up(mut self, catch_up: CatchUp) -> Self {
        self.policy.catch_up = catch_up;
        self
    }

    /// How far back missed ticks count; a day unless said.
    #[must_use]
    pub fn catch_up_window(mut self, window: Duration) -> Self {
        self.policy.window = window;
        self
    }

    /// Whether a tick enqueues a job while the one before it is queued or running.
    #[must_use]
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// Whether it enqueues anything at all.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Its name, by which the fleet knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it ticks.
    #[must_use]
    pub fn cron(&self) -> &Cron {
        &self.cron
    }

    /// Whether it enqueues anything at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The job that it enqueues, before its schedule and tick are named.
    pub fn job(&self) -> &NewJob {
        &self.job
    }

    /// Whether it is what the fleet has for its name.
    #[must_use]
    pub fn is_that_of(&self, state: &ScheduleState) -> bool {
        self.described().is_ok_and(|text| text == state.definition)
    }

    /// Refuses what no tick could enqueue.
    ///
    /// # Errors
    /// Where the name is not 1 to 255 bytes, or the payload's tick has a format that means nothing.
    ///
    /// ```
    /// use larder::schedule::{Cron, ScheduleEntry};
    /// use larder::queue::NewJob;
    /// use serde_json::value::RawValue;
    ///
    /// let entry = |payload: &str| {
    ///     let payload = RawValue::from_string(payload.to_owned()).unwrap();
    ///     let cron = Cron::parse_in("0 6 * * *", "Europe/Berlin").unwrap();
    ///     ScheduleEntry::new("nightly", cron, NewJob::named("report", &payload))
    /// };
    /// assert!(entry(r#"{"day": "{tick:%Y-%m-%d}"}"#).check().is_ok());
    /// let error = entry(r#"{"day": "{tick:%Y-%Q}"}"#).check().unwrap_err();
    /// assert!(error.to_string().starts_with("schedule \"nightly\": "));
    /// ```
    pub fn check(&self) -> Result<()> {
        record::check_name(&self.name)?;
        self.job_of(None, Utc::now()).map(drop)
    }

    /// The job of a tick, or of a run by hand at this instant.
    fn job_of(&self, tick: Option<DateTime<Utc>>, instant: DateTime<Utc>) -> Result<NewJob> {
        let named = |payload: &str| {
            payload::name_tick(payload, instant, self.cron.timezone())
                .map_err(|reason| Error::invalid(format!("schedule {:?}: {reason}", self.name)))
        };
        let job = self.job.clone().map_payload(named)?;
        Ok(job.of_schedule(&self.name, tick))
    }

    fn described(&self) -> Result<String> {
        serde_json::to_string(&self.definition()).map_err(|error| {
            Error::invalid(format!(
                "schedule {:?} does not serialise: {error}",
                self.name
            ))
        })
    }

    fn definition(&self) -> Definition {
        Definition {
            cron: self.cron.expression().to_owned(),
            timezone: self.cron.timezone().name().to_owned(),
            job: self.job.describe(),
            catch_up: self.policy.catch_up,
            catch_up_window_ms: u64::try_from(self.policy.window.as_millis()).unwrap_or(u64::MAX),
            overlap: self.overlap,
            enabled: self.enabled,
        }
    }

    /// Enqueues its job now, beside its ticks. A payload that names the tick names this instant.
    ///
    /// # Errors
    /// As [`ScheduleEntry::check`], and where the database fails.
    pub async fn run_now(&self, queue: &Queue) -> Result<Enqueued> {
        let database = queue.database();
        let mut transaction = database.begin_briefly().await?;
        let mut tx = Tx::from(&mut transaction);
        let job = self.job_of(None, database.clock().now().into())?;
        let enqueued = queue.enqueue_new(job).in_tx(tx.reborrow()).await?;
        query!(
            database,
            tx,
            execute,
            Sql::ScheduleRan,
            &self.name,
            enqueued.id
        )?;
        transaction.commit().await?;
        Ok(enqueued)
    }
}
