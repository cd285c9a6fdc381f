//! `larder jobs …`: what is in the queues.

mod cancel;
mod list;
mod retry;
mod select;
mod show;
mod stats;

use std::time::Duration;

use clap::Subcommand;
pub(super) use list::style_of;

use super::args::duration;
use super::failure::{Answer, Failure};
use super::output::List;
use super::progress::Progress;
use super::{Context, database};
use crate::queue::{JobId, JobStatus, Queue};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List jobs, newest first
    List(list::Args),
    /// Print all that is known of a job, and its failed attempts; exit 1 where there is none of this id
    Show {
        /// Its id
        id: JobId,
    },
    /// Send dead and cancelled jobs back to their queue, and print how many; by id also one that waits for its next
    /// attempt
    Retry(retry::Args),
    /// Cancel queued and running jobs, and print how many; the handlers of running ones are told
    Cancel(cancel::Args),
    /// Delete finished jobs, and print how many
    Prune {
        /// Those that ended longer ago than this [default: what `[jobs]` says]
        #[arg(long, value_name = "D", value_parser = duration, allow_hyphen_values = true)]
        older_than: Option<Duration>,
        /// All but the newest so many of each status, however old
        #[arg(
            long,
            value_name = "N",
            allow_hyphen_values = true,
            conflicts_with = "older_than"
        )]
        keep: Option<u64>,
        /// Those of this status alone: done, dead or cancelled
        #[arg(long, value_name = "S", value_parser = finished)]
        status: Option<JobStatus>,
    },
    /// Print how many jobs of each status every queue has, and names that no live worker knows
    Stats,
    /// Print the names of the jobs that this binary can run
    Names,
}

fn finished(text: &str) -> Result<JobStatus, String> {
    match text.parse::<JobStatus>() {
        Ok(status) if status.is_finished() => Ok(status),
        _ => Err("only finished jobs are pruned: use done, dead or cancelled".to_owned()),
    }
}

impl Command {
    pub(super) fn run(self, context: &mut Context) -> Result<Answer, Failure> {
        if let Self::Names = self {
            let mut list = List::new(&mut context.out);
            for name in context.handlers.names() {
                list.push(&name, &name)?;
            }
            list.end()?;
            return Ok(Answer::Yes);
        }
        let settings = &context.loaded.settings;
        let rescue_after = settings.worker.rescue_after;
        let retention = settings.jobs.retention();
        let out = &mut context.out;
        database::with(&context.loaded, async |database| {
            let queue = Queue::new(database.clone());
            match self {
                Self::List(args) => args.run(&queue, out).await,
                Self::Show { id } => show::run(&queue, id, rescue_after, out).await,
                Self::Retry(args) => args.run(&queue, out).await,
                Self::Cancel(args) => args.run(&queue, out).await,
                Self::Prune {
                    older_than,
                    keep,
                    status,
                } => {
                    let mut prune = match (older_than, keep) {
                        (Some(age), _) => queue.prune().older_than(age),
                        (None, Some(count)) => queue.prune().keep_newest(count),
                        (None, None) => queue.prune().keep(retention),
                    };
                    if let Some(status) = status {
                        prune = prune.status(status);
                    }
                    let progress = Progress::spinner("deleting finished jobs");
                    let pruned = prune.run().await;
                    drop(progress);
                    let pruned = pruned?;
                    out.line(pruned)?;
                    Ok((pruned > 0).into())
                }
                Self::Stats => stats::run(&queue, rescue_after, out).await,
                Self::Names => Ok(Answer::Yes),
            }
        })
    }
}
