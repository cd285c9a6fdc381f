//! Jobs that are enqueued one by one and go in together.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

#[cfg(feature = "worker")]
use super::at_once;
use super::enqueue::{Row, row_of, to_json};
use super::{Enqueued, JobId, NewJob, Queue};
use crate::clock::Timestamp;
use crate::database::{Database, Sql, Untested, query, within};
use crate::error::Result;
use crate::gather::{By, Call, Place};

/// A job that is there when its row is: it has no unique key that another one may hold.
pub(super) struct Plain {
    row: Row,
    /// When it was enqueued.
    at: Timestamp,
}

impl Plain {
    /// Whether `job` is such a one. Its id must be drawn for it alone, since a row that has it is taken for its own.
    pub(super) fn fits(job: &NewJob) -> bool {
        job.unique_key.is_none() && job.id.is_none()
    }
}

impl Queue {
    /// Enqueues a job that [fits](Plain::fits), with others that come meanwhile.
    pub(super) async fn enqueue_plain(&self, job: NewJob) -> Result<Enqueued> {
        let (id, at) = (Uuid::now_v7(), self.database.clock().now());
        let row = row_of(job, id, at, self.max_attempts)?;
        let place = Place {
            database: self.database.clone(),
            namespace: Arc::default(),
        };
        self.enqueues.ask(&place, Plain { row, at }).await?;
        Ok(Enqueued {
            id: JobId(id),
            inserted: true,
        })
    }
}

impl Call for Plain {
    type Answer = ();
    type Hand = Untested;
    /// Nobody has locked a row that is not there yet, and jobs start in the order that their rows say.
    const ORDERED: bool = false;

    fn key(&self) -> &str {
        ""
    }

    fn class(&self) -> u8 {
        0
    }

    fn bytes(&self) -> usize {
        let (_, name, queue, _, _, _, _, _, _, payload, limit_key, _) = &self.row;
        name.len() + queue.len() + payload.len() + limit_key.as_ref().map_or(0, String::len)
    }

    async fn connect(database: &Database, _: By) -> Result<Untested> {
        Untested::to_write(database).await
    }

    /// Rows that are there already are left as they are: this sent them, and lost the answer.
    async fn send(
        place: &Place,
        hand: &mut Untested,
        calls: &[Self],
        _: Duration,
        mut answer: impl FnMut(usize, ()) + Send,
    ) -> Result<()> {
        let sent: Vec<&Row> = calls.iter().map(|call| &call.row).collect();
        let rows = to_json(&sent)?;
        // None of them is due before it was enqueued.
        let at = calls.iter().map(|call| call.at).max();
        let at = at.unwrap_or_else(|| place.database.clock().now());
        #[cfg(feature = "worker")]
        if at_once::enqueue(&place.database, hand, &sent, &rows, at).await? {
            (0..calls.len()).for_each(|call| answer(call, ()));
            return Ok(());
        }
        loop {
            let limit = hand.limit(&place.database, rows.0.len());
            let mut tx = hand.tx(&place.database).await?;
            let adds = async { query!(place.database, tx, execute, Sql::JobAdd, &rows, at) };
            let added = within(limit, adds).await;
            if hand.take(added)?.is_some() {
                break;
            }
        }
        place.database.announce();
        (0..calls.len()).for_each(|call| answer(call, ()));
        Ok(())
    }

    fn give_up(mut hand: Untested) {
        hand.give_up();
    }
}
