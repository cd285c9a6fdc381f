//! A job as its row tells of it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use super::JobId;
use crate::clock::Timestamp;
use crate::database::RowText;
use crate::error::{Error, Result};

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// It waits: for a worker, for its time, or for its next attempt.
    Queued,
    /// A worker has it. On PostgreSQL the row of one that was claimed with many says so a tenth of a second later.
    Running,
    /// It ended well.
    Done,
    /// It failed and is not tried again.
    Dead,
    /// It was called off before it ended otherwise.
    Cancelled,
}

impl JobStatus {
    /// Every status, in the order of a job's life.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Running,
        Self::Done,
        Self::Dead,
        Self::Cancelled,
    ];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen to the job.
    #[must_use]
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Dead | Self::Cancelled)
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobStatus {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "{text:?} is not a status: use queued, running, done, dead or cancelled"
                ))
            })
    }
}

/// A job as its row tells of it. Serialised, it is the object that the command line prints: what is absent is null,
/// instants are RFC 3339 in UTC.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct JobRecord {
    /// Its id, a UUID of version 7: ids sort as they were made.
    pub id: JobId,
    /// The name of its type.
    pub name: String,
    /// The queue that it waits in.
    pub queue: String,
    /// Where it stands.
    pub status: JobStatus,
    /// Larger goes first.
    pub priority: i16,
    /// How often it was begun.
    pub attempt: i32,
    /// How often it may be begun.
    pub max_attempts: i32,
    /// The key that it holds while it is queued or running.
    pub unique_key: Option<String>,
    /// The schedule that enqueued it.
    pub schedule: Option<String>,
    /// The instant that its schedule named.
    pub tick: Option<DateTime<Utc>>,
    /// When it may start, or its next attempt.
    pub run_at: DateTime<Utc>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When its last attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The worker that has it, or had it last.
    pub worker: Option<JobId>,
    /// Why its last attempt failed.
    pub error: Option<String>,
    /// What it was given, byte for byte.
    pub payload: Box<RawValue>,
    /// What its handler returned, byte for byte.
    pub result: Option<Box<RawValue>>,
    /// When it was cancelled. A job that runs stays running until its attempt has ended, and is done all the same if
    /// its handler finishes it.
    pub cancelled_at: Option<DateTime<Utc>>,
    /// How far its handler says that it is, or was at its end.
    pub progress: Option<JobProgress>,
}

/// How far a handler says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct JobProgress {
    /// How much is done, in whatever the handler counts.
    pub done: u64,
    /// How much there is to do in all.
    pub total: u64,
}

impl JobProgress {
    /// As the tables hold it.
    #[cfg(feature = "worker")]
    pub(crate) fn stored(self) -> (i64, i64) {
        let stored = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        (stored(self.done), stored(self.total))
    }
}

impl<'r, R: Row> FromRow<'r, R> for JobRecord
where
    usize: ColumnIndex<R>,
    JobId: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    i16: Decode<'r, R::Database> + Type<R::Database>,
    i32: Decode<'r, R::Database> + Type<R::Database>,
    Timestamp: Decode<'r, R::Database> + Type<R::Database>,
    RowText: Decode<'r, R::Database> + Type<R::Database>,
    Option<i64>: Decode<'r, R::Database> + Type<R::Database>,
    Option<JobId>: Decode<'r, R::Database> + Type<R::Database>,
    Option<Timestamp>: Decode<'r, R::Database> + Type<R::Database>,
    Option<RowText>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let text = |index: usize| -> Result<String, sqlx::Error> {
            row.try_get::<RowText, _>(index).map(RowText::into_readable)
        };
        let maybe_text = |index: usize| -> Result<Option<String>, sqlx::Error> {
            let text = row.try_get::<Option<RowText>, _>(index)?;
            Ok(text.map(RowText::into_readable))
        };
        let instant = |index: usize| -> Result<DateTime<Utc>, sqlx::Error> {
            row.try_get::<Timestamp, _>(index).map(Into::into)
        };
        let maybe = |index: usize| -> Result<Option<DateTime<Utc>>, sqlx::Error> {
            Ok(row.try_get::<Option<Timestamp>, _>(index)?.map(Into::into))
        };
        let count = |index: usize| -> Result<Option<u64>, sqlx::Error> {
            Ok(row
                .try_get::<Option<i64>, _>(index)?
                .map(|count| u64::try_from(count).unwrap_or(0)))
        };
        Ok(Self {
            id: row.try_get(0)?,
            name: text(1)?,
            queue: text(2)?,
            status: row.try_get::<String, _>(3)?.parse().map_err(decode)?,
            priority: row.try_get(4)?,
            attempt: row.try_get(5)?,
            max_attempts: row.try_get(6)?,
            unique_key: maybe_text(7)?,
            schedule: maybe_text(8)?,
            tick: maybe(9)?,
            run_at: instant(10)?,
            created_at: instant(11)?,
            started_at: maybe(12)?,
            finished_at: maybe(13)?,
            worker: row.try_get(14)?,
            error: maybe_text(15)?,
            payload: raw(text(16)?)?,
            result: maybe_text(17)?.map(raw).transpose()?,
            cancelled_at: maybe(18)?,
            progress: count(19)?
                .zip(count(20)?)
                .map(|(done, total)| JobProgress { done, total }),
        })
    }
}

/// What somebody else wrote and is no JSON is told as a string.
fn raw(text: String) -> Result<Box<RawValue>, sqlx::Error> {
    RawValue::from_string(text.clone())
        .or_else(|_| serde_json::value::to_raw_value(&text))
        .map_err(decode)
}

fn decode(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

/// Which jobs to list.
#[derive(Clone, Debug)]
pub struct JobFilter {
    /// Of this status alone.
    pub status: Option<JobStatus>,
    /// Of this queue alone.
    pub queue: Option<String>,
    /// Of this name alone.
    pub name: Option<String>,
    /// Older than this one: the next page.
    pub before: Option<JobId>,
    /// At most so many.
    pub limit: u32,
}

impl Default for JobFilter {
    fn default() -> Self {
        Self {
            status: None,
            queue: None,
            name: None,
            before: None,
            limit: 50,
        }
    }
}

/// How many jobs there are of one queue, name and status.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct JobCounts {
    /// The queue.
    pub queue: String,
    /// The name of the type.
    pub name: String,
    /// Where they stand.
    pub status: JobStatus,
    /// How many.
    pub count: i64,
    /// When the first of them may start, or was to.
    pub oldest_run_at: DateTime<Utc>,
}

impl<'r, R: Row> FromRow<'r, R> for JobCounts
where
    usize: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    Timestamp: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self {
            queue: row.try_get(0)?,
            name: row.try_get(1)?,
            status: row.try_get::<String, _>(2)?.parse().map_err(decode)?,
            count: row.try_get(3)?,
            oldest_run_at: row.try_get::<Timestamp, _>(4)?.into(),
        })
    }
}
