//! Putting jobs into the queue.

use std::collections::HashMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::gathered::Plain;
use super::{Job, JobId, NewJob, Queue};
use crate::clock::Timestamp;
use crate::database::{JsonText, Sql, Tx, query};
use crate::error::{Error, Result};

/// Jobs in one statement.
const CHUNK: usize = 2_000;

/// What came of an enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Enqueued {
    /// The job's id, or that of the one that holds its unique key.
    pub id: JobId,
    /// Whether it is a new job.
    pub inserted: bool,
}

/// A job on its way into the queue; made by [`Queue::enqueue`], carried out by `.await`.
#[derive(Debug)]
#[must_use = "a job is not enqueued until this is awaited"]
pub struct Enqueue<'a> {
    queue: &'a Queue,
    job: NewJob,
    tx: Option<Tx<'a>>,
}

macro_rules! forward {
    ($($(#[$doc:meta])* $name:ident($argument:ident: $type:ty);)*) => {
        $($(#[$doc])* pub fn $name(mut self, $argument: $type) -> Self {
            self.job = self.job.$name($argument);
            self
        })*
    };
}

impl<'a> Enqueue<'a> {
    forward! {
        /// The queue that it waits in.
        queue(queue: impl Into<String>);
        /// Larger goes first; 0 unless said.
        priority(priority: i16);
        /// It may start this long after it was enqueued.
        delay(delay: Duration);
        /// It may start at this instant.
        run_at(instant: DateTime<Utc>);
        /// How often it is tried, from 1.
        max_attempts(attempts: u16);
        /// While a job of this name with this key is queued or running, this gives that one's id instead.
        unique_key(key: impl Into<String>);
    }

    /// At most `max_running` jobs of its queue that have the same `key` run at once, over all workers.
    pub fn limit_running(mut self, key: impl Into<String>, max_running: u32) -> Self {
        self.job = self.job.limit_running(key, max_running);
        self
    }

    /// In the caller's transaction: the job is there when that commits, and never was when it rolls back.
    pub fn in_tx(mut self, tx: impl Into<Tx<'a>>) -> Self {
        self.tx = Some(tx.into());
        self
    }
}

impl<'a> IntoFuture for Enqueue<'a> {
    type Output = Result<Enqueued>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let enqueued = match self.tx {
                Some(tx) => self.queue.enqueue_many_in(tx, [self.job]).await?,
                None if Plain::fits(&self.job) => return self.queue.enqueue_plain(self.job).await,
                None => self.queue.enqueue_many([self.job]).await?,
            };
            enqueued
                .into_iter()
                .next()
                .ok_or_else(|| Error::invalid("the database returned no id for the job"))
        })
    }
}

impl Queue {
    /// Enqueues `job`, when the returned [`Enqueue`] is awaited.
    pub fn enqueue<J: Job>(&self, job: &J) -> Enqueue<'_> {
        self.enqueue_new(NewJob::new(job))
    }

    /// Enqueues a job that is made already, when the returned [`Enqueue`] is awaited.
    pub fn enqueue_new(&self, job: NewJob) -> Enqueue<'_> {
        Enqueue {
            queue: self,
            job,
            tx: None,
        }
    }

    /// Enqueues many jobs, all or none, and returns what came of each, in their order.
    ///
    /// # Errors
    /// Where a job is not valid or the database fails.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::queue::{NewJob, Queue};
    /// use serde_json::value::RawValue;
    ///
    /// let queue = Queue::connect("sqlite::memory:").await?;
    /// let payload = RawValue::from_string("{}".to_owned()).unwrap();
    /// let job = NewJob::named("report", &payload).unique_key("2026-11");
    /// let enqueued = queue.enqueue_many([job.clone(), job]).await?;
    /// assert!(enqueued[0].inserted && !enqueued[1].inserted);
    /// assert_eq!(enqueued[0].id, enqueued[1].id);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    pub async fn enqueue_many(
        &self,
        jobs: impl IntoIterator<Item = NewJob>,
    ) -> Result<Vec<Enqueued>> {
        let batch = Batch::new(jobs, self.database.clock().now(), self.max_attempts)?;
        let enqueued = if batch.rows.len() <= CHUNK {
            let mut connection = self.database.write().await?;
            self.insert(connection.tx(), &batch).await?
        } else {
            let mut transaction = self.database.begin_briefly().await?;
            let enqueued = self.insert(Tx::from(&mut transaction), &batch).await?;
            transaction.commit().await?;
            enqueued
        };
        self.database.announce();
        Ok(enqueued)
    }

    /// [`Queue::enqueue_many`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Queue::enqueue_many`], and where the transaction is of the other engine.
    pub async fn enqueue_many_in<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        jobs: impl IntoIterator<Item = NewJob>,
    ) -> Result<Vec<Enqueued>> {
        let batch = Batch::new(jobs, self.database.clock().now(), self.max_attempts)?;
        let tx = self.database.own(tx)?;
        self.insert(tx, &batch).await
    }

    async fn insert(&self, mut tx: Tx<'_>, batch: &Batch) -> Result<Vec<Enqueued>> {
        let mut holders: HashMap<(String, String), Uuid> = HashMap::new();
        let mut inserted = std::collections::HashSet::new();
        for rows in batch.rows.chunks(CHUNK) {
            let rows = to_json(rows)?;
            let returned: Vec<(JobId, String, Option<String>)> = query!(
                self.database,
                tx,
                fetch_all,
                Sql::JobEnqueue,
                &rows,
                batch.now
            )?;
            for (id, name, unique_key) in returned {
                inserted.insert(id.0);
                if let Some(key) = unique_key {
                    holders.insert((name, key), id.0);
                }
            }
        }
        Ok(batch
            .asked
            .iter()
            .map(|asked| match asked {
                Asked::Plain(id) => Enqueued {
                    id: JobId(*id),
                    inserted: inserted.contains(id),
                },
                Asked::Unique(id, holder) => {
                    let id_held = holders.get(holder).copied().unwrap_or(*id);
                    Enqueued {
                        id: JobId(id_held),
                        inserted: id_held == *id,
                    }
                }
            })
            .collect())
    }
}

/// id, name, queue, priority, max_attempts, unique_key, schedule, tick, run_at, payload, limit_key, max_running: as the
/// statement reads them. The payload travels as a string, byte for byte.
pub(super) type Row = (
    Uuid,
    String,
    String,
    i16,
    u16,
    Option<String>,
    Option<String>,
    Option<i64>,
    i64,
    String,
    Option<String>,
    Option<u32>,
);

/// Rows as the statements take them.
pub(super) fn to_json<R: Serialize>(rows: &[R]) -> Result<JsonText> {
    serde_json::to_string(rows)
        .map(JsonText)
        .map_err(|error| Error::invalid(format!("the jobs do not serialise: {error}")))
}

/// The row of a job that is enqueued now.
pub(super) fn row_of(job: NewJob, id: Uuid, now: Timestamp, max_attempts: u16) -> Result<Row> {
    let (payload, start) = job.checked(now)?;
    let payload = payload.to_owned();
    let tick = job
        .tick
        .map(Timestamp::try_from)
        .transpose()?
        .map(Timestamp::as_millis);
    let (limit_key, max_running) = job.limit.unzip();
    Ok((
        id,
        job.name,
        job.queue,
        job.priority,
        job.max_attempts.unwrap_or(max_attempts),
        job.unique_key,
        job.schedule,
        tick,
        start.as_millis(),
        payload,
        limit_key,
        max_running,
    ))
}

enum Asked {
    Plain(Uuid),
    /// With its name and unique key, by which the statement returns the holder.
    Unique(Uuid, (String, String)),
}

/// Jobs as rows, and what each caller asked for. A unique key that comes twice is one row: PostgreSQL would refuse to
/// meet it twice in one statement.
struct Batch {
    now: Timestamp,
    rows: Vec<Row>,
    asked: Vec<Asked>,
}

impl Batch {
    fn new(
        jobs: impl IntoIterator<Item = NewJob>,
        now: Timestamp,
        max_attempts: u16,
    ) -> Result<Self> {
        let mut batch = Self {
            now,
            rows: Vec::new(),
            asked: Vec::new(),
        };
        let mut seen = std::collections::HashSet::new();
        for job in jobs {
            let id = job.id.map_or_else(Uuid::now_v7, |id| id.0);
            let holder = job.unique_key.clone().map(|key| (job.name.clone(), key));
            let row = row_of(job, id, now, max_attempts)?;
            let again = holder
                .as_ref()
                .is_some_and(|holder| !seen.insert(holder.clone()));
            batch.asked.push(match holder {
                Some(holder) => Asked::Unique(id, holder),
                None => Asked::Plain(id),
            });
            if !again {
                batch.rows.push(row);
            }
        }
        // Two batches that share keys take them in the same order, so that neither waits for the other for ever.
        batch.rows.sort_by(|a, b| (&a.5, &a.1).cmp(&(&b.5, &b.1)));
        Ok(batch)
    }
}
