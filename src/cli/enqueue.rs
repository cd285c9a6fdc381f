//! `larder enqueue`: a job into its queue, and its result if somebody waits for it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::args::{duration, instant, json_or_file, name};
use super::failure::{Answer, Failure};
use super::{Context, database, input, wait};
use crate::queue::Queue;

/// The longest payload that is read: what the databases take at the most.
pub(super) const MOST: u64 = 1_000_000_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job's name: one of `jobs names`
    name: String,
    /// Its payload: JSON, @FILE, or - for standard input
    #[arg(value_name = "PAYLOAD|@FILE|-", value_parser = json_or_file, allow_hyphen_values = true, default_value = "{}")]
    payload: String,
    /// The queue that it waits in [default: that of its type]
    #[arg(long, value_name = "Q", value_parser = name)]
    queue: Option<String>,
    /// Larger goes first, from -32768 to 32767 [default: 0]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    priority: Option<i16>,
    /// Start it this long from now at the earliest, such as 90 or 1h30m
    #[arg(long, value_name = "D", value_parser = duration, allow_hyphen_values = true, conflicts_with = "at")]
    delay: Option<Duration>,
    /// Start it at this instant at the earliest, such as 2026-11-22T13:00:00+01:00
    #[arg(long, value_name = "T", value_parser = instant, allow_hyphen_values = true)]
    at: Option<DateTime<Utc>>,
    /// How often it is tried [default: that of its type, or `jobs.max_attempts`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32_767), allow_hyphen_values = true)]
    max_attempts: Option<u16>,
    /// While a job of this name with this key is queued or running, enqueue none and print that one's id
    #[arg(long, value_name = "K", value_parser = name)]
    unique_key: Option<String>,
    /// Let it run only while fewer than --max-running jobs of its queue with this key run, over all workers
    #[arg(long, value_name = "K", value_parser = name)]
    limit_key: Option<String>,
    /// How many jobs of its --limit-key run at once [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2_147_483_647), allow_hyphen_values = true, requires = "limit_key")]
    max_running: Option<u32>,
    /// Wait for its result and print that; for at most D where it is given, with the equals sign
    #[arg(long, value_name = "D", value_parser = duration, num_args = 0..=1, require_equals = true)]
    wait: Option<Option<Duration>>,
}

impl Args {
    pub(super) fn run(self, context: &mut Context) -> Result<Answer, Failure> {
        let registered = context.handlers.get(&self.name)?;
        let what = format!("the payload of job {:?}", self.name);
        let payload = input::json(&self.payload, &what, MOST)?;
        let mut job = registered.job(&payload)?;
        if let Some(queue) = self.queue {
            job = job.queue(queue);
        }
        if let Some(priority) = self.priority {
            job = job.priority(priority);
        }
        if let Some(delay) = self.delay {
            job = job.delay(delay);
        }
        if let Some(at) = self.at {
            job = job.run_at(at);
        }
        if let Some(attempts) = self.max_attempts {
            job = job.max_attempts(attempts);
        }
        if let Some(key) = self.unique_key {
            job = job.unique_key(key);
        }
        if let Some(key) = self.limit_key {
            job = job.limit_running(key, self.max_running.unwrap_or(1));
        }
        let settings = &context.loaded.settings;
        let (attempts, rescue_after) = (settings.jobs.max_attempts, settings.worker.rescue_after);
        let out = &mut context.out;
        database::with(&context.loaded, async |database| {
            let queue = Queue::new(database.clone()).with_max_attempts(attempts);
            let enqueued = queue.enqueue_new(job).await?;
            match self.wait {
                None => out.show(&enqueued, enqueued.id)?,
                Some(limit) => {
                    let result = wait::for_result(&queue, enqueued.id, limit, rescue_after).await?;
                    out.line(result.get())?;
                }
            }
            Ok(Answer::Yes)
        })
    }
}
