//! The workers of a database, as they told of themselves.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{JobId, Queue};
use crate::clock::Timestamp;
use crate::database::{JsonText, Sql, query};
use crate::error::Result;

/// A worker process that has not taken leave: it works, or it fell silent without a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WorkerRecord {
    /// Drawn anew at each start.
    pub id: JobId,
    /// Its machine's name, which others may share.
    pub host: String,
    /// Its process on that machine.
    pub process: i32,
    /// Its version of larder.
    pub version: String,
    /// The names of the jobs that it runs.
    pub names: Vec<String>,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it told last that it is alive.
    pub heartbeat_at: DateTime<Utc>,
}

type Row = (JobId, String, i32, String, JsonText, Timestamp, Timestamp);

impl Queue {
    /// The workers of this database that have not taken leave, by their start.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let queue = larder::Queue::connect("sqlite::memory:").await?;
    /// assert!(queue.workers().await?.is_empty());
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        let mut connection = self.database.read().await?;
        let mut tx = connection.tx();
        let rows: Vec<Row> = query!(self.database, tx, fetch_all, Sql::WorkerList)?;
        let worker =
            |(id, host, process, version, names, started_at, heartbeat_at): Row| WorkerRecord {
                id,
                host,
                process,
                version,
                names: serde_json::from_str(&names.0).unwrap_or_default(),
                started_at: started_at.into(),
                heartbeat_at: heartbeat_at.into(),
            };
        Ok(rows.into_iter().map(worker).collect())
    }
}
