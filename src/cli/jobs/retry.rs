//! `larder jobs retry`: back into their queues.

use std::io::Write;

use serde::Serialize;

use super::select::{Select, Selected};
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::queue::{JobStatus, Queue, Retried};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    select: Select,
    /// All of this status: dead, unless said, or cancelled
    #[arg(long, value_name = "S", conflicts_with = "ids", value_parser = retriable)]
    status: Option<JobStatus>,
}

fn retriable(text: &str) -> Result<JobStatus, String> {
    match text.parse::<JobStatus>() {
        Ok(status @ (JobStatus::Dead | JobStatus::Cancelled)) => Ok(status),
        _ => Err("jobs that are dead or cancelled are retried: use dead or cancelled".to_owned()),
    }
}

#[derive(Serialize)]
struct Told {
    retried: u64,
}

impl Args {
    pub(super) async fn run(self, queue: &Queue, out: &mut Output) -> Result<Answer, Failure> {
        let Retried { retried, skipped } = match self.select.of(self.status, "retry", "dead")? {
            Selected::Ids(ids) => {
                // All of them or none.
                let mut transaction = queue.database().begin().await?;
                let mut retried = 0;
                for id in ids {
                    retried += u64::from(queue.retry_in(&mut transaction, id).await?);
                }
                transaction.commit().await?;
                Retried {
                    retried,
                    skipped: 0,
                }
            }
            Selected::All(selection) => {
                let _progress = Progress::spinner("retrying jobs");
                queue.retry_many(&selection).await?
            }
        };
        out.show(&Told { retried }, format!("Retried {retried} jobs."))?;
        if skipped > 0 {
            // Whoever closed standard error does not want to know.
            let _ = writeln!(
                std::io::stderr(),
                "note: {skipped} jobs stay as they are: another job has their unique key (retry one by its id to see which)"
            );
        }
        Ok((retried > 0).into())
    }
}
