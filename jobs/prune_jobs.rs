//! Deletes jobs that finished long ago, so that the table stays small.
//! Runs every hour unless `[schedule.prune-jobs]` says otherwise.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::queue::Prune;
use crate::{Data, Job, JobError, Queue};

/// Its payload: nothing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneJobs {}

impl Job for PruneJobs {
    const NAME: &'static str = "prune_jobs";
    type Output = Pruned;
}

/// Its result.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pruned {
    /// How many jobs were deleted.
    pub deleted: u64,
}

/// How long finished jobs are kept: `keep_done` and `keep_dead` of `[jobs]`. A worker gives it to the handler by
/// [`Worker::data`](crate::Worker::data); without it the defaults count.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Jobs that ended well.
    pub keep_done: Duration,
    /// Dead and cancelled jobs.
    pub keep_dead: Duration,
}

/// Prunes in short batches, and logs one line if there was anything to prune.
///
/// # Errors
/// Where the database fails.
pub async fn prune_jobs(
    _: PruneJobs,
    queue: Data<Queue>,
    retention: Option<Data<Retention>>,
) -> Result<Pruned, JobError> {
    let started = Instant::now();
    let (done, dead) = retention.map_or((Prune::KEEP_DONE, Prune::KEEP_DEAD), |keep| {
        (keep.keep_done, keep.keep_dead)
    });
    let deleted = queue.prune().keep(done, dead).run().await?;
    if deleted > 0 {
        tracing::info!(
            deleted,
            duration_ms = started.elapsed().as_millis(),
            "pruned finished jobs"
        );
    }
    Ok(Pruned { deleted })
}
