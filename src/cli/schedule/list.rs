//! `larder schedule list`.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::cli::failure::{Answer, Failure};
use crate::cli::jobs::style_of;
use crate::cli::output::{List, instant, or_dash};
use crate::cli::table::{Cell, Table};
use crate::cli::{Context, database};
use crate::queue::{JobId, JobStatus, Queue};
use crate::schedule::{Cron, ScheduleState};
use crate::settings::ScheduleSettings;

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    job: &'a str,
    cron: &'a str,
    timezone: &'a str,
    enabled: bool,
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
        of: &'a ScheduleSettings,
        state: Option<&ScheduleState>,
        now: DateTime<Utc>,
    ) -> Result<Self, Failure> {
        let cron = Cron::parse_in(&of.cron, &of.timezone)
            .map_err(|error| Failure::error(format!("[schedule.{name}]: {error}")))?;
        let paused_at = state.and_then(|state| state.paused_at);
        let ticks = of.enabled && paused_at.is_none();
        Ok(Self {
            name,
            job: &of.job,
            cron: &of.cron,
            timezone: &of.timezone,
            enabled: of.enabled,
            paused_at,
            last_tick: state.and_then(|state| state.last_tick),
            next_tick: if ticks { cron.next_after(now) } else { None },
            last_job: state.and_then(|state| state.last_job),
            last_outcome: None,
        })
    }

    fn cells(&self) -> [Cell; 8] {
        let enabled = match (self.enabled, self.paused_at) {
            (true, Some(_)) => "paused",
            (true, None) => "yes",
            (false, _) => "no",
        };
        [
            Cell::new(self.name),
            Cell::new(self.job),
            Cell::new(self.cron),
            Cell::new(self.timezone),
            Cell::new(enabled),
            Cell::new(or_dash(self.last_tick.map(instant))),
            Cell::new(or_dash(self.next_tick.map(instant))),
            match self.last_outcome {
                Some(status) => Cell::styled(status, style_of(status)),
                None => Cell::new("-"),
            },
        ]
    }
}

pub(super) fn run(context: &mut Context) -> Result<Answer, Failure> {
    let (loaded, out) = (&context.loaded, &mut context.out);
    database::with(loaded, async |database| {
        let states: HashMap<_, _> = ScheduleState::all(database)
            .await?
            .into_iter()
            .map(|state| (state.name.clone(), state))
            .collect();
        let queue = Queue::new(database.clone());
        let now = database.clock().now().into();
        let mut rows = Vec::new();
        for (name, of) in &loaded.settings.schedule {
            let mut row = Row::new(name, of, states.get(name), now)?;
            if let Some(id) = row.last_job {
                row.last_outcome = queue.get(id).await?.map(|job| job.status);
            }
            rows.push(row);
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
            "LAST_TICK",
            "NEXT_TICK",
            "LAST_OUTCOME",
        ]);
        for row in &rows {
            table.row(row.cells());
        }
        table.print(out)?;
        Ok(Answer::Yes)
    })
}
