//! The jobs that ship, one line each, and the schedule of those that keep the house.
//!
//! To add one: write its file here, in the likeness of [`file_digest`], and its line below.

pub mod clear_expired;
#[cfg(feature = "fetch")]
pub mod fetch_url;
pub mod file_digest;
pub mod prune_jobs;
pub mod run_command;

use crate::settings::ScheduleDefault;
use crate::worker::Handlers;

/// Every job of this folder and its handler.
#[must_use]
pub fn all() -> Handlers {
    let handlers = Handlers::default();
    #[cfg(feature = "fetch")]
    let handlers = handlers.register(fetch_url::fetch_url);
    handlers
        .register(clear_expired::clear_expired)
        .register(file_digest::file_digest)
        .register(prune_jobs::prune_jobs)
        .register(run_command::run_command)
        .fitting(run_command::is_named)
        .memoizing(run_command::memo)
}

/// The schedules that exist with no `larder.toml` at all; it may change or disable them.
#[must_use]
pub fn default_schedule() -> Vec<ScheduleDefault> {
    vec![
        ScheduleDefault {
            name: "clear-expired",
            job: "clear_expired",
            cron: "*/5 * * * *",
        },
        ScheduleDefault {
            name: "prune-jobs",
            job: "prune_jobs",
            cron: "17 * * * *",
        },
    ]
}
