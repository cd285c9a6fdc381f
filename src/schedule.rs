//! Cron expressions, their ticks, and the fleet's record of them.

mod cron;
mod plan;
mod scheduler;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use cron::{Cron, CronError};
pub(crate) use plan::{Policy, plan};
pub(crate) use scheduler::Scheduler;

use crate::clock::Timestamp;
use crate::database::{Database, JsonText, Sql, Tx, query};
use crate::error::Result;
use crate::queue::{Enqueued, JobId, NewJob, Queue};

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

    /// Everything that it says, as one JSON text: two workers that have the same text have the same schedule.
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

    /// Enqueues its job now, beside its ticks.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn run_now(&self, queue: &Queue) -> Result<Enqueued> {
        let database = queue.database();
        let mut transaction = database.begin().await?;
        let mut tx = Tx::from(&mut transaction);
        let job = self.job.clone().of_schedule(&self.name, None);
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

#[derive(PartialEq, Serialize, Deserialize)]
struct Definition {
    cron: String,
    timezone: String,
    job: String,
    catch_up: CatchUp,
    catch_up_window_ms: u64,
    overlap: Overlap,
    enabled: bool,
}

/// What the fleet knows of a schedule.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ScheduleState {
    /// Its name.
    pub name: String,
    /// Every tick up to this instant is enqueued or passed over.
    pub until: DateTime<Utc>,
    /// The last tick that enqueued a job.
    pub last_tick: Option<DateTime<Utc>>,
    /// The job that it enqueued last.
    pub last_job: Option<JobId>,
    /// Since when it is paused.
    pub paused_at: Option<DateTime<Utc>>,
    #[serde(skip)]
    definition: String,
}

type StateRow = (
    String,
    JsonText,
    Timestamp,
    Option<Timestamp>,
    Option<JobId>,
    Option<Timestamp>,
);

impl ScheduleState {
    fn from_row((name, definition, until, last_tick, last_job, paused_at): StateRow) -> Self {
        Self {
            name,
            until: until.into(),
            last_tick: last_tick.map(Into::into),
            last_job,
            paused_at: paused_at.map(Into::into),
            definition: definition.0,
        }
    }

    /// What the fleet knows of all schedules, by name.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn all(database: &Database) -> Result<Vec<Self>> {
        let mut connection = database.read().await?;
        let mut tx = connection.tx();
        let rows: Vec<StateRow> = query!(database, tx, fetch_all, Sql::ScheduleList)?;
        Ok(rows.into_iter().map(Self::from_row).collect())
    }

    async fn get(database: &Database, name: &str) -> Result<Option<Self>> {
        let mut connection = database.read().await?;
        let mut tx = connection.tx();
        let row: Option<StateRow> = query!(database, tx, fetch_optional, Sql::ScheduleGet, name)?;
        Ok(row.map(Self::from_row))
    }
}
