//! Picking jobs by what they are, and changing them in short batches.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{JobId, JobStatus, Queue};
use crate::database::{JsonText, Sql, Tx, query};
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

impl Queue {
    /// Has the rows of those among a batch of ids that run by a claim of many say so, and keeps all of them from being claimed
    /// until the transaction ends.
    pub(crate) async fn say_running(&self, mut tx: Tx<'_>, batch: &JsonText) -> Result<()> {
        let database = &self.database;
        if !database.has_many_writers() {
            return Ok(());
        }
        let held: Vec<(String, bool)> = query!(database, tx, fetch_all, Sql::JobHold, batch)?;
        let is_current = held.iter().all(|(_, current)| *current);
        let queues: BTreeSet<_> = held.into_iter().map(|(queue, _)| queue).collect();
        for queue in &queues {
            // A claim of many locks no job. One that is under way is waited for, and there to see for the next statement.
            database.hold(&mut tx, &claim_scope(queue)).await?;
        }
        if !is_current {
            self.check_seen(tx.reborrow(), &queues).await?;
        }
        query!(database, tx, execute, Sql::ClaimBegin, batch)?;
        Ok(())
    }

    /// Fails as a transaction does that would change what somebody else has changed since it began, where it does not see the
    /// latest claims of these queues.
    async fn check_seen(&self, mut tx: Tx<'_>, queues: &BTreeSet<String>) -> Result<()> {
        let rows: Vec<[&String; 1]> = queues.iter().map(|queue| [queue]).collect();
        let batch = json(&rows)?;
        query!(self.database, tx, execute, Sql::Savepoint)?;
        for queue in queues {
            // It fails of a row that is not there to see.
            query!(self.database, tx, execute, Sql::QueueAdd, queue)?;
        }
        query!(self.database, tx, execute, Sql::QueueSeen, batch)?;
        // Nobody is to wait for the rows of the queues until the transaction ends.
        query!(self.database, tx, execute, Sql::SavepointUndo)?;
        query!(self.database, tx, execute, Sql::SavepointEnd)?;
        Ok(())
    }

    /// [`Queue::say_running`] of one job.
    pub(crate) async fn say_running_in(&self, tx: Tx<'_>, id: JobId) -> Result<()> {
        self.say_running(tx, &batch_of(&mut [id])?).await
    }
}

/// What a transaction that changes queued jobs of a queue holds, so that nobody claims many of it without a look at each.
pub(super) fn claim_scope(queue: &str) -> String {
    format!("queue\0{queue}")
}

/// Ids as a batch, in the order in which everybody locks them.
pub(crate) fn batch_of(ids: &mut [JobId]) -> Result<JsonText> {
    ids.sort_unstable();
    let rows: Vec<[&JobId; 1]> = ids.iter().map(|id| [id]).collect();
    json(&rows)
}

fn json(rows: &impl serde::Serialize) -> Result<JsonText> {
    serde_json::to_string(rows)
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
