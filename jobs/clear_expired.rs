//! Deletes expired cache items of every namespace. Expired items read as absent at once; this gives back their room.
//! Runs every five minutes unless `[schedule.clear-expired]` says otherwise.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{Cache, Data, Job, JobError};

/// Its payload: nothing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClearExpired {}

impl Job for ClearExpired {
    const NAME: &'static str = "clear_expired";
    type Output = Cleared;
}

/// Its result.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cleared {
    /// How many items were deleted.
    pub deleted: u64,
}

/// Purges the cache in short batches, and logs one line.
///
/// # Errors
/// Where the database fails.
pub async fn clear_expired(_: ClearExpired, cache: Data<Cache>) -> Result<Cleared, JobError> {
    let started = Instant::now();
    let deleted = cache.purge().all_namespaces().run().await?;
    tracing::info!(
        deleted,
        duration_ms = started.elapsed().as_millis(),
        "purged expired cache items"
    );
    Ok(Cleared { deleted })
}
