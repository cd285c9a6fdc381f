//! `larder schedule …`: when what is enqueued.

mod list;
mod ticks;

use clap::Subcommand;
use serde_json::value::RawValue;

use super::failure::{Answer, Failure};
use super::{Context, database};
use crate::command::Commands;
use crate::error::{Error, Result};
use crate::queue::Queue;
use crate::schedule::{Cron, ScheduleEntry};
use crate::settings::{ScheduleSettings, Settings};
use crate::worker::Handlers;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the schedules of the settings, and what the fleet knows of them
    List,
    /// Print the next instants of a schedule
    Next(ticks::Next),
    /// Read a cron expression and print its next instants
    Check(ticks::Check),
    /// Enqueue the job of a schedule now, beside its ticks, and print its id
    Run {
        /// The schedule's name
        name: String,
    },
}

impl Command {
    pub(super) fn run(self, context: &mut Context) -> Result<Answer, Failure> {
        match self {
            Self::List => list::run(context),
            Self::Next(next) => next.run(&context.loaded.settings, &mut context.out),
            Self::Check(check) => check.run(&mut context.out),
            Self::Run { name } => run_now(&name, context),
        }
    }
}

fn run_now(name: &str, context: &mut Context) -> Result<Answer, Failure> {
    let settings = &context.loaded.settings;
    let entry = entry(name, settings_of(name, settings)?, &context.handlers)?;
    let attempts = settings.jobs.max_attempts;
    let out = &mut context.out;
    database::with(&context.loaded, async |database| {
        let queue = Queue::new(database.clone()).with_max_attempts(attempts);
        let enqueued = entry.run_now(&queue).await?;
        out.show(&enqueued, enqueued.id)?;
        Ok(Answer::Yes)
    })
}

/// `[schedule.NAME]`.
fn settings_of<'a>(name: &str, settings: &'a Settings) -> Result<&'a ScheduleSettings> {
    settings.schedule.get(name).ok_or_else(|| {
        let names: Vec<_> = settings.schedule.keys().map(String::as_str).collect();
        Error::invalid(format!(
            "there is no schedule named {name:?}: choose one of {}, or write [schedule.{name}]",
            names.join(", ")
        ))
    })
}

/// Every `[schedule.NAME]` as the worker takes it.
pub(super) fn entries(settings: &Settings, handlers: &Handlers) -> Result<Vec<ScheduleEntry>> {
    settings
        .schedule
        .iter()
        .map(|(name, of)| {
            let entry = entry(name, of, handlers)?;
            fits(name, settings, handlers)?;
            Ok(entry)
        })
        .collect()
}

/// Whether a worker with these settings can run what `[schedule.NAME]` enqueues.
fn fits(name: &str, settings: &Settings, handlers: &Handlers) -> Result<()> {
    let of = settings_of(name, settings)?;
    let commands = Commands::new(settings.commands());
    RawValue::from_string(of.payload.to_string())
        .map_err(|error| Error::invalid(error.to_string()))
        .and_then(|payload| handlers.get(&of.job)?.fits(&payload, &commands))
        .map_err(|error| Error::invalid(format!("[schedule.{name}]: {error}")))
}

fn entry(name: &str, of: &ScheduleSettings, handlers: &Handlers) -> Result<ScheduleEntry> {
    let in_entry =
        |error: &dyn std::fmt::Display| Error::invalid(format!("[schedule.{name}]: {error}"));
    let cron = Cron::parse_in(&of.cron, &of.timezone).map_err(|error| in_entry(&error))?;
    let payload =
        RawValue::from_string(of.payload.to_string()).map_err(|error| in_entry(&error))?;
    let mut job = handlers
        .get(&of.job)
        .and_then(|registered| registered.job(&payload))
        .map_err(|error| in_entry(&error))?;
    if let Some(queue) = &of.queue {
        job = job.queue(queue);
    }
    if let Some(priority) = of.priority {
        job = job.priority(priority);
    }
    if let Some(attempts) = of.max_attempts {
        job = job.max_attempts(attempts);
    }
    Ok(ScheduleEntry::new(name, cron, job)
        .catch_up(of.catch_up)
        .catch_up_window(of.catch_up_window)
        .overlap(of.overlap)
        .enabled(of.enabled))
}
