//! The fleet's record of the schedules: one row each, in the database.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{CatchUp, Overlap};
use crate::clock::Timestamp;
use crate::database::{Database, JsonText, Sql, query};
use crate::error::{Error, Result};
use crate::queue::JobId;

/// A record that is further ahead of the clock than this is no skew: some clock was wrong.
const MOST_SKEW: TimeDelta = TimeDelta::hours(1);
/// Whoever has an entry says so this often at most.
const SEEN_AGAIN: TimeDelta = TimeDelta::seconds(30);
/// When an entry was last seen that nobody has any more.
const LET_GO: i64 = 0;

/// What an entry says, as the fleet keeps it: two workers that have the same text have the same schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Definition {
    pub(super) cron: String,
    pub(super) timezone: String,
    pub(super) job: String,
    pub(super) catch_up: CatchUp,
    pub(super) catch_up_window_ms: u64,
    pub(super) overlap: Overlap,
    pub(super) enabled: bool,
}

impl Definition {
    /// Whether an entry that was `known` and is now this one starts from now.
    fn starts_anew_after(&self, known: &str) -> bool {
        serde_json::from_str::<Self>(known)
            .ok()
            .is_none_or(|known| {
                known.cron != self.cron
                    || known.timezone != self.timezone
                    || (self.enabled && !known.enabled)
            })
    }
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
    pub(super) definition: String,
    #[serde(skip)]
    seen_at: Option<Timestamp>,
    #[serde(skip)]
    updated_at: Timestamp,
}

type StateRow = (
    String,
    JsonText,
    Timestamp,
    Option<Timestamp>,
    Option<JobId>,
    Option<Timestamp>,
    Option<Timestamp>,
    Timestamp,
);

impl ScheduleState {
    fn from_row(row: StateRow) -> Self {
        let (name, definition, until, last_tick, last_job, paused_at, seen_at, updated_at) = row;
        Self {
            name,
            until: until.into(),
            last_tick: last_tick.map(Into::into),
            last_job,
            paused_at: paused_at.map(Into::into),
            definition: definition.0,
            seen_at,
            updated_at,
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

    pub(super) async fn get(database: &Database, name: &str) -> Result<Option<Self>> {
        let mut connection = database.read().await?;
        let mut tx = connection.tx();
        let row: Option<StateRow> = query!(database, tx, fetch_optional, Sql::ScheduleGet, name)?;
        Ok(row.map(Self::from_row))
    }

    /// Pauses the schedule of this name over the fleet: from now on its ticks enqueue nothing. One that no worker has
    /// loaded yet will be paused when it is. Whether it was not paused before.
    ///
    /// # Errors
    /// Where the name is not 1 to 255 bytes, or the database fails.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::database::Database;
    /// use larder::schedule::ScheduleState;
    ///
    /// let database = Database::connect("sqlite::memory:").await?;
    /// assert!(ScheduleState::pause(&database, "nightly").await?);
    /// assert!(!ScheduleState::pause(&database, "nightly").await?, "it is paused already");
    /// assert!(ScheduleState::resume(&database, "nightly").await?);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    pub async fn pause(database: &Database, name: &str) -> Result<bool> {
        check_name(name)?;
        let now = database.clock().now();
        let mut connection = database.write().await?;
        let mut tx = connection.tx();
        let paused = query!(database, tx, execute, Sql::SchedulePause, name, now)?;
        Ok(paused > 0)
    }

    /// Ends the pause of a schedule. It starts from now: ticks that came while it was paused are not caught up. Whether
    /// it was paused.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn resume(database: &Database, name: &str) -> Result<bool> {
        let now = database.clock().now();
        let mut connection = database.write().await?;
        let mut tx = connection.tx();
        let resumed = query!(
            database,
            tx,
            execute,
            Sql::ScheduleResume,
            name,
            now,
            now.saturating_add(MOST_SKEW)
        )?;
        Ok(resumed > 0)
    }

    /// Whether a worker has loaded it; a pause may come before.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.definition != "null"
    }

    /// The cron expression and the timezone of the definition that is the fleet's.
    #[must_use]
    pub fn expression(&self) -> Option<(String, String)> {
        let definition: Definition = serde_json::from_str(&self.definition).ok()?;
        Some((definition.cron, definition.timezone))
    }

    /// Whether that definition enqueues anything at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        serde_json::from_str::<Definition>(&self.definition).is_ok_and(|known| known.enabled)
    }

    /// What changes whenever somebody says that they have it.
    pub(super) fn sign_of_life(&self) -> (Timestamp, Timestamp) {
        (self.updated_at, self.seen_at.unwrap_or(self.updated_at))
    }

    /// Whether the worker whose entry it was has it no more.
    pub(crate) fn is_let_go(&self) -> bool {
        self.seen_at.is_some_and(|seen| seen.as_millis() == LET_GO)
    }

    /// Whether its record is so far ahead of `now` that a clock must have been wrong.
    pub(super) fn is_ahead_of(&self, now: DateTime<Utc>) -> bool {
        self.until > now + MOST_SKEW
    }
}

pub(super) fn check_name(name: &str) -> Result<()> {
    if (1..=255).contains(&name.len()) && !name.contains('\0') {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name:?} cannot name a schedule: use 1 to 255 bytes without NUL"
    )))
}

fn let_go() -> Result<Timestamp> {
    Timestamp::from_millis(LET_GO)
}

/// Makes a definition the fleet's.
pub(super) async fn save(
    database: &Database,
    name: &str,
    definition: &Definition,
    text: &str,
) -> Result<()> {
    // Compared and set: of two that load at once, the second must see what the first has made of it.
    while !save_once(database, name, definition, text).await? {}
    Ok(())
}

/// Whether it is the fleet's now; if not, the known one changed meanwhile.
async fn save_once(
    database: &Database,
    name: &str,
    definition: &Definition,
    text: &str,
) -> Result<bool> {
    let known = ScheduleState::get(database, name).await?;
    let is_known = |known: &ScheduleState| known.definition == text && !known.is_let_go();
    if known.as_ref().is_some_and(is_known) {
        seen(database, [(name, text)]).await?;
        return Ok(true);
    }
    let known = known.map(|known| known.definition);
    let starts_anew = known
        .as_deref()
        .is_none_or(|known| definition.starts_anew_after(known));
    let now = database.clock().now();
    let mut connection = database.write().await?;
    let mut tx = connection.tx();
    let saved = query!(
        database,
        tx,
        execute,
        Sql::ScheduleSave,
        name,
        JsonText(text.to_owned()),
        now,
        starts_anew,
        known.as_deref(),
        now.saturating_add(MOST_SKEW),
        let_go()?
    )?;
    Ok(saved > 0)
}

/// Says that somebody has these entries, by name and definition.
pub(super) async fn seen<'a>(
    database: &Database,
    entries: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<()> {
    let entries: Vec<_> = entries.into_iter().collect();
    if entries.is_empty() {
        return Ok(());
    }
    let now = database.clock().now();
    let mut connection = database.write().await?;
    let mut tx = connection.tx();
    query!(
        database,
        tx,
        execute,
        Sql::ScheduleSeen,
        JsonText(serde_json::json!(entries).to_string()),
        now,
        now.saturating_add(-SEEN_AGAIN)
    )?;
    Ok(())
}

/// Says that this worker has an entry no longer. It is gone, unless somebody else says soon that they have it.
pub(super) async fn let_go_of(database: &Database, name: &str, definition: &str) -> Result<()> {
    let now = database.clock().now();
    let mut connection = database.write().await?;
    let mut tx = connection.tx();
    query!(
        database,
        tx,
        execute,
        Sql::ScheduleLetGo,
        name,
        definition,
        let_go()?,
        now
    )?;
    Ok(())
}

/// Deletes a record, if nobody has said a word of it since it was read. Whether it did.
pub(super) async fn forget(database: &Database, state: &ScheduleState) -> Result<bool> {
    let (updated_at, seen_at) = state.sign_of_life();
    let mut connection = database.write().await?;
    let mut tx = connection.tx();
    let forgotten = query!(
        database,
        tx,
        execute,
        Sql::ScheduleForget,
        &state.name,
        updated_at,
        seen_at
    )?;
    Ok(forgotten > 0)
}
