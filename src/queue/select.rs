//! Picking jobs by what they are, and changing them in short batches.

use std::time::Duration;

use super::{JobId, JobStatus, Queue};
use crate::database::{JsonText, Sql, query};
use crate::error::{Error, Result};

/// Rows changed at once: some milliseconds of work.
pub(super) const BATCH: usize = 1_000;
/// The pause between two batches, in which other writers have their turn.
const PAUSE: Duration = Duration::from_millis(2);

/// Which jobs to retry or to cancel: all that fit. Everything, unless said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobSelection {
    /// Of this status alone.
    pub status: Option<JobStatus>,
    /// Of this queue alone.
    pub queue: Option<String>,
    /// Of this name alone.
    pub name: Option<String>,
}

impl JobSelection {
    /// The jobs that fit now, as `statement` reads them: those that come later are not waited for.
    pub(super) async fn read<Row>(
        &self,
        queue: &Queue,
        statement: Sql,
        status: Option<JobStatus>,
    ) -> Result<Vec<Row>>
    where
        Row: Send
            + Unpin
            + for<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow>
            + for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
    {
        let mut connection = queue.database.read().await?;
        let mut tx = connection.tx();
        query!(
            queue.database,
            tx,
            fetch_all,
            statement,
            status.map(JobStatus::as_str),
            self.queue.as_deref(),
            self.name.as_deref()
        )
    }
}

/// Ids as a batch, in the order in which everybody locks them.
pub(super) fn batch_of(ids: &mut [JobId]) -> Result<JsonText> {
    ids.sort_unstable();
    let rows: Vec<[&JobId; 1]> = ids.iter().map(|id| [id]).collect();
    serde_json::to_string(&rows)
        .map(JsonText)
        .map_err(|error| Error::invalid(format!("the ids do not serialise: {error}")))
}

/// Does `change` to each batch of `ids`, with a pause after it.
pub(super) async fn in_batches(
    ids: &mut [JobId],
    mut change: impl AsyncFnMut(&mut [JobId]) -> Result<()>,
) -> Result<()> {
    let mut batches = ids.chunks_mut(BATCH).peekable();
    while let Some(batch) = batches.next() {
        change(batch).await?;
        if batches.peek().is_some() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}
