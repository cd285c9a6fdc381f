//! `larder jobs cancel`: those that wait at once, those that run as soon as their handlers take notice.

use std::io::Write;

use serde::Serialize;

use super::select::{Select, Selected};
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::queue::{Cancelled, JobStatus, Queue};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    select: Select,
    /// All of this status: queued or running; both, where only a queue or a name is given
    #[arg(long, value_name = "S", conflicts_with = "ids", value_parser = unfinished)]
    status: Option<JobStatus>,
}

fn unfinished(text: &str) -> Result<JobStatus, String> {
    match text.parse::<JobStatus>() {
        Ok(status) if !status.is_finished() => Ok(status),
        _ => Err("only jobs that have not ended are cancelled: use queued or running".to_owned()),
    }
}

#[derive(Serialize)]
struct Told {
    cancelled: u64,
}

impl Args {
    pub(super) async fn run(self, queue: &Queue, out: &mut Output) -> Result<Answer, Failure> {
        let Cancelled { queued, running } = match self.select.of(self.status, "cancel", "queued")? {
            Selected::Ids(ids) => queue.cancel_ids(ids).await?,
            Selected::All(selection) => {
                let _progress = Progress::spinner("cancelling jobs");
                queue.cancel_many(&selection).await?
            }
        };
        let cancelled = queued + running;
        out.show(&Told { cancelled }, format!("Cancelled {cancelled} jobs."))?;
        if running > 0 {
            // Whoever closed standard error does not want to know.
            let _ = writeln!(
                std::io::stderr(),
                "note: {running} of them run: their handlers are told, and may finish all the same"
            );
        }
        Ok((cancelled > 0).into())
    }
}
