//! `larder schedule …`: when what is enqueued.

mod list;
mod pause;
mod ticks;

use chrono::Utc;
use clap::Subcommand;
use serde_json::value::RawValue;

use super::failure::{Answer, Failure};
use super::{Context, database};
use crate::command::Commands;
use crate::error::{Error, Result};
use crate::queue::Queue;
use crate::schedule::{Cron, ScheduleEntry, name_tick};
use crate::settings::{Loaded, ScheduleSettings, Settings};
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
    /// Let ticks enqueue nothing, over the fleet, and print the schedules that were not paused before
    Pause(pause::Args),
    /// End the pause of schedules, which then start from now, and print those that were paused
    Resume(pause::Args),
}

impl Command {
    pub(super) fn run(self, context: &mut Context) -> Result<Answer, Failure> {
        match self {
            Self::List => list::run(context),
            Self::Next(next) => next.run(&context.loaded.settings, &mut context.out),
            Self::Check(check) => check.run(&mut context.out),
            Self::Run { name } => run_now(&name, context),
            Self::Pause(args) => args.run(context, true),
            Self::Resume(args) => args.run(context, false),
        }
    }
}

fn run_now(name: &str, context: &mut Context) -> Result<Answer, Failure> {
    let loaded = &context.loaded;
    settings_of(name, &loaded.settings)?;
    let entry = entry(name, loaded, &context.handlers)?;
    let attempts = loaded.settings.jobs.max_attempts;
    let out = &mut context.out;
    database::with(loaded, async |database| {
        let queue = Queue::new(database.clone()).with_max_attempts(attempts);
        let enqueued = entry.run_now(&queue).await?;
        out.show(&enqueued, enqueued.id)?;
        Ok(Answer::Yes)
    })
}

/// `[schedule.NAME]`.
fn settings_of<'a>(name: &str, settings: &'a Settings) -> Result<&'a ScheduleSettings> {
    settings
        .schedule
        .get(name)
        .ok_or_else(|| unknown(name, settings.schedule.keys().map(String::as_str)))
}

fn unknown<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let known: Vec<_> = known.into_iter().collect();
    Error::invalid(format!(
        "there is no schedule named {name:?}: choose one of {}, or write [schedule.{name}]",
        known.join(", ")
    ))
}

/// Every `[schedule.NAME]` as the worker takes it.
pub(super) fn entries(loaded: &Loaded, handlers: &Handlers) -> Result<Vec<ScheduleEntry>> {
    let names = loaded.settings.schedule.keys();
    let checked = |name: &String| {
        let entry = entry(name, loaded, handlers)?;
        fits(name, loaded, handlers)?;
        Ok(entry)
    };
    names.map(checked).collect()
}

/// Whether a worker with these settings can run what `[schedule.NAME]` enqueues.
fn fits(name: &str, loaded: &Loaded, handlers: &Handlers) -> Result<()> {
    let of = settings_of(name, &loaded.settings)?;
    let commands = Commands::new(loaded.settings.commands());
    RawValue::from_string(of.payload.to_string())
        .map_err(|error| Error::invalid(error.to_string()))
        .and_then(|payload| handlers.get(&of.job)?.fits(&payload, &commands))
        .map_err(|error| {
            let place = loaded.schedule_place(name);
            Error::invalid(format!("[schedule.{name}]{place}: {error}"))
        })
}

fn entry(name: &str, loaded: &Loaded, handlers: &Handlers) -> Result<ScheduleEntry> {
    let of = settings_of(name, &loaded.settings)?;
    let in_entry = |error: &dyn std::fmt::Display| {
        let place = loaded.schedule_place(name);
        Error::invalid(format!("[schedule.{name}]{place}: {error}"))
    };
    let cron = Cron::parse_in(&of.cron, &of.timezone).map_err(|error| in_entry(&error))?;
    // The payload has to fit the job when it names its tick.
    let payload = of.payload.to_string();
    let example =
        name_tick(&payload, Utc::now(), cron.timezone()).map_err(|reason| in_entry(&reason))?;
    let example = RawValue::from_string(example).map_err(|error| in_entry(&error))?;
    let mut job = handlers
        .get(&of.job)
        .and_then(|registered| registered.job(&example))
        .and_then(|job| job.map_payload(|_| Ok(payload)))
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
