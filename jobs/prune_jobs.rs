//! Deletes jobs that finished long ago, or are too many, so that the table stays small.
//! Runs every hour unless `[schedule.prune-jobs]` says otherwise.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::queue::Retention;
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

/// Prunes in short batches, and logs one line if there was anything to prune. `[jobs]` of the settings says how long
/// jobs are kept, and how many; a worker without settings may give a [`Retention`] by [`Worker::data`](crate::Worker::data).
///
/// # Errors
/// Where the database fails.
pub async fn prune_jobs(
    _: PruneJobs,
    queue: Data<Queue>,
    retention: Option<Data<Retention>>,
) -> Result<Pruned, JobError> {
    let started = Instant::now();
    let retention = retention.map_or(Retention::default(), |retention| *retention);
    let deleted = queue.prune().keep(retention).run().await?;
    if deleted > 0 {
        tracing::info!(
            deleted,
            duration_ms = started.elapsed().as_millis(),
            "pruned finished jobs"
        );
    }
    Ok(Pruned { deleted })
}
