//! The attempts that did not end their job well.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use super::{JobId, Queue};
use crate::clock::Timestamp;
use crate::database::{Sql, Tx, query};
use crate::error::Result;

/// The longest error that is kept of an attempt, in bytes.
#[cfg(feature = "worker")]
const LONGEST_ERROR: usize = 64 * 1024;

/// An attempt that did not end its job well: it failed, was cancelled or interrupted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AttemptRecord {
    /// Which attempt it was, from 1. One that a drain gave back is followed by another of the same number.
    pub attempt: i32,
    /// The worker that had it.
    pub worker: Option<JobId>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended, or was found to have ended.
    pub ended_at: DateTime<Utc>,
    /// Why it failed; `None` where a drain gave it back.
    pub error: Option<String>,
}

impl<'r, R: Row> FromRow<'r, R> for AttemptRecord
where
    usize: ColumnIndex<R>,
    i32: Decode<'r, R::Database> + Type<R::Database>,
    Timestamp: Decode<'r, R::Database> + Type<R::Database>,
    Option<JobId>: Decode<'r, R::Database> + Type<R::Database>,
    Option<String>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self {
            attempt: row.try_get(0)?,
            worker: row.try_get(1)?,
            started_at: row.try_get::<Timestamp, _>(2)?.into(),
            ended_at: row.try_get::<Timestamp, _>(3)?.into(),
            error: row.try_get(4)?,
        })
    }
}

impl Queue {
    /// The attempts of the job `id` that did not end it well, oldest first. Of its last one, or the one that runs, the
    /// [`JobRecord`](super::JobRecord) tells.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::queue::{NewJob, Queue};
    /// use serde_json::value::RawValue;
    ///
    /// let queue = Queue::connect("sqlite::memory:").await?;
    /// let payload = RawValue::from_string("{}".to_owned()).unwrap();
    /// let id = queue.enqueue_new(NewJob::named("report", &payload)).await?.id;
    /// assert!(queue.attempts(id).await?.is_empty());
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>> {
        self.attempts_in(self.database.read().await?.tx(), id).await
    }

    /// [`Queue::attempts`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Queue::attempts`], and where the transaction is of the other engine.
    pub async fn attempts_in<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        id: JobId,
    ) -> Result<Vec<AttemptRecord>> {
        let mut tx = self.database.own(tx)?;
        query!(self.database, tx, fetch_all, Sql::AttemptList, id)
    }
}

/// An error as the tables keep it: without NUL, which PostgreSQL's text does not hold, and without its middle where it
/// is very long. What went wrong stands at the beginning of most, and at the end of what a program wrote.
#[cfg(feature = "worker")]
pub(crate) fn stored_error(error: String) -> String {
    let error = if error.contains('\0') {
        error.replace('\0', "\u{FFFD}")
    } else {
        error
    };
    if error.len() <= LONGEST_ERROR {
        return error;
    }
    // The note has its room as well.
    let half = (LONGEST_ERROR - 64) / 2;
    let head = &error[..error.floor_char_boundary(half)];
    let tail = &error[error.ceil_char_boundary(error.len() - half)..];
    let left_out = error.len() - head.len() - tail.len();
    format!("{head} [... {left_out} bytes left out ...] {tail}")
}

#[cfg(all(test, feature = "worker"))]
mod tests {
    use super::*;

    #[test]
    fn a_long_error_loses_its_middle_and_no_other_does() {
        let fits = "ä".repeat(LONGEST_ERROR / 2);
        assert_eq!(stored_error(fits.clone()), fits);
        for filler in ["x", "ä", "€", "🥫"] {
            for shift in ["", "a", "ab"] {
                let long = format!("begin {shift}{}{shift} end", filler.repeat(LONGEST_ERROR));
                let stored = stored_error(long.clone());
                assert!(stored.len() <= LONGEST_ERROR && stored.len() > LONGEST_ERROR - 64);
                assert!(stored.starts_with("begin ") && stored.ends_with(" end"));
                let (head, rest) = stored.split_once(" [... ").unwrap_or_default();
                let (left_out, tail) = rest.split_once(" bytes left out ...] ").unwrap_or_default();
                assert_eq!(left_out.parse(), Ok(long.len() - head.len() - tail.len()));
            }
        }
    }

    #[test]
    fn an_error_with_nul_is_one_that_postgres_takes() {
        assert_eq!(stored_error("a\0b".to_owned()), "a\u{fffd}b");
    }
}
