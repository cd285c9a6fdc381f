//! `larder schedule list`.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{entry, settings_of};
use crate::cli::failure::{Answer, Failure};
use crate::cli::jobs::style_of;
use crate::cli::output::{List, Output, instant, or_dash};
use crate::cli::table::{Cell, Table};
use crate::cli::{Context, database};
use crate::database::Database;
use crate::queue::{JobId, JobStatus, Queue};
use crate::schedule::{Cron, ScheduleState};

/// How the fleet's definition of an entry stands to that of these settings.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Definition {
    Same,
    /// Another worker has loaded another one: those with these settings enqueue nothing.
    Differs,
    /// No worker has loaded it yet.
    Unloaded,
    /// It is not in these settings: another worker has it, or nobody any more.
    Elsewhere,
    /// These settings name a job that this program does not have.
    Unknown,
}

impl Definition {
    fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Differs => "differs",
            Self::Unloaded => "unloaded",
            Self::Elsewhere => "elsewhere",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    job: Option<&'a str>,
    cron: String,
    timezone: String,
    enabled: bool,
    definition: Definition,
    paused_at: Option<DateTime<Utc>>,
    last_tick: Option<DateTime<Utc>>,
    next_tick: Option<DateTime<Utc>>,
    last_job: Option<JobId>,
    /// The status of the last job; absent also when that was pruned.
    last_outcome: Option<JobStatus>,
}

impl<'a> Row<'a> {
    fn new(
        name: &'a str,
        context: &'a Context,
        state: Option<&ScheduleState>,
    ) -> Result<Self, Failure> {
        let Context {
            handlers, loaded, ..
        } = context;
        let of = settings_of(name, &loaded.settings)?;
        let definition = match state.filter(|state| state.is_loaded()) {
            None => Definition::Unloaded,
            Some(state) => match entry(name, loaded, handlers) {
                Ok(entry) if entry.is_that_of(state) => Definition::Same,
                Ok(_) => Definition::Differs,
                Err(_) => Definition::Unknown,
            },
        };
        Ok(Self {
            name,
            job: Some(&of.job),
            cron: of.cron.clone(),
            timezone: of.timezone.clone(),
            enabled: of.enabled,
            definition,
            paused_at: None,
            last_tick: None,
            next_tick: None,
            last_job: None,
            last_outcome: None,
        })
    }

    /// One that the fleet knows, and these settings do not.
    fn elsewhere(state: &'a ScheduleState) -> Self {
        let (cron, timezone) = state.expression().unwrap_or_default();
        Self {
            name: &state.name,
            job: None,
            cron,
            timezone,
            enabled: state.is_enabled(),
            definition: Definition::Elsewhere,
            paused_at: None,
            last_tick: None,
            next_tick: None,
            last_job: None,
            last_outcome: None,
        }
    }

    /// With what the fleet knows of it.
    fn with(mut self, state: Option<&ScheduleState>, now: DateTime<Utc>) -> Self {
        if let Some(state) = state {
            self.paused_at = state.paused_at;
            self.last_tick = state.last_tick;
            self.last_job = state.last_job;
        }
        // The fleet's definition is what ticks, and nothing does before all that is dealt with.
        let fleets = state.and_then(ScheduleState::expression);
        let (cron, timezone) = fleets
            .as_ref()
            .map_or((&self.cron, &self.timezone), |(cron, timezone)| {
                (cron, timezone)
            });
        let enabled = match (state, self.definition) {
            (Some(state), Definition::Differs) => state.is_enabled(),
            _ => self.enabled,
        };
        let after = state.map_or(now, |state| state.until.max(now));
        if enabled && self.paused_at.is_none() {
            self.next_tick = Cron::parse_in(cron, timezone)
                .ok()
                .and_then(|cron| cron.next_after(after));
        }
        self
    }

    fn cells(&self) -> [Cell; 9] {
        let enabled = match (self.enabled, self.paused_at) {
            (true, Some(_)) => "paused",
            (true, None) => "yes",
            (false, _) => "no",
        };
        [
            Cell::new(self.name),
            Cell::new(or_dash(self.job)),
            Cell::new(or_dash(some(&self.cron))),
            Cell::new(or_dash(some(&self.timezone))),
            Cell::new(enabled),
            Cell::new(self.definition.as_str()),
            Cell::new(or_dash(self.last_tick.map(instant))),
            Cell::new(or_dash(self.next_tick.map(instant))),
            match self.last_outcome {
                Some(status) => Cell::styled(status, style_of(status)),
                None => Cell::new("-"),
            },
        ]
    }
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn run(context: &mut Context) -> Result<Answer, Failure> {
    let empty = Output::new(context.out.is_json());
    let mut out = std::mem::replace(&mut context.out, empty);
    let answer = database::with(&context.loaded, async |database| {
        print(database, context, &mut out).await
    });
    context.out = out;
    answer
}

async fn print(
    database: &Database,
    context: &Context,
    out: &mut Output,
) -> Result<Answer, Failure> {
    let states = ScheduleState::all(database).await?;
    let state_of = |name: &str| states.iter().find(|state| state.name == name);
    let queue = Queue::new(database.clone());
    let now = database.clock().now().into();
    let schedule = &context.loaded.settings.schedule;
    let mut rows = Vec::new();
    for name in schedule.keys() {
        let state = state_of(name);
        rows.push(Row::new(name, context, state)?.with(state, now));
    }
    for state in states
        .iter()
        .filter(|state| !schedule.contains_key(&state.name) && !state.is_let_go())
    {
        rows.push(Row::elsewhere(state).with(Some(state), now));
    }
    for row in &mut rows {
        if let Some(id) = row.last_job {
            row.last_outcome = queue.get(id).await?.map(|job| job.status);
        }
    }
    if out.is_json() {
        let mut list = List::new(out);
        for row in &rows {
            list.push(row, "")?;
        }
        list.end()?;
        return Ok(Answer::Yes);
    }
    let mut table = Table::new([
        "NAME",
        "JOB",
        "CRON",
        "TIMEZONE",
        "ENABLED",
        "DEFINITION",
        "LAST_TICK",
        "NEXT_TICK",
        "LAST_OUTCOME",
    ]);
    for row in &rows {
        table.row(row.cells());
    }
    table.print(out)?;
    Ok(Answer::Yes)
}
