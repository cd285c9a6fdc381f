//! `larder call`: a memoized job's result, remembered or computed by a worker.

use std::time::{Duration, Instant};

use super::args::{duration, json_or_file};
use super::enqueue::MOST;
use super::failure::{Answer, Failure};
use super::{Context, database, input, supervise, wait};
use crate::cache::Cache;
use crate::call::{Called, Larder, WAIT};
use crate::queue::Queue;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job's name: one of `jobs names`
    name: String,
    /// Its payload: JSON, @FILE, or - for standard input
    #[arg(value_name = "PAYLOAD|@FILE|-", value_parser = json_or_file, allow_hyphen_values = true, default_value = "{}")]
    payload: String,
    /// How long to wait for a worker to compute it [default: 60s]
    #[arg(long, value_name = "D", value_parser = duration, allow_hyphen_values = true)]
    timeout: Option<Duration>,
}

impl Args {
    pub(super) fn run(self, context: &mut Context) -> Result<Answer, Failure> {
        let registered = context.handlers.get(&self.name)?;
        let what = format!("the payload of job {:?}", self.name);
        let payload = input::json(&self.payload, &what, MOST)?;
        let job = registered.job(&payload)?;
        let settings = &context.loaded.settings;
        let memo = registered.memo_with(&payload, supervise::commands(settings));
        let (attempts, rescue_after) = (settings.jobs.max_attempts, settings.worker.rescue_after);
        let out = &mut context.out;
        database::with(&context.loaded, async |database| {
            let queue = Queue::new(database.clone()).with_max_attempts(attempts);
            let larder = Larder::of(Cache::new(database.clone()), queue);
            let (mut limit, began) = (self.timeout.unwrap_or(WAIT), Instant::now());
            let mut again = false;
            loop {
                let enqueued = match larder.begin(job.clone(), memo.as_ref()).await? {
                    Called::Remembered(result) => {
                        out.line(&result)?;
                        break;
                    }
                    Called::Waits(enqueued) => enqueued,
                };
                let (queue, id) = (larder.queue(), enqueued.id);
                let result = wait::for_result(queue, id, Some(limit), rescue_after).await?;
                if enqueued.inserted || again {
                    out.line(result.get())?;
                    break;
                }
                // It was there before, and may have read what was changed since.
                again = true;
                let left = limit.saturating_sub(began.elapsed());
                limit = Duration::from_secs(left.as_secs())
                    + Duration::from_millis(left.subsec_millis().into());
            }
            Ok(Answer::Yes)
        })
    }
}
