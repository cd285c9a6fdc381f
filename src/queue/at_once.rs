//! Jobs that are begun by their own insertion.
//!
//! Where a worker of this process waits for jobs, those that are enqueued need no claim: their rows are written as if it had
//! claimed them, and once that is committed it begins them. The worker holds them before the statement is sent, so that no
//! comparison of rows with what it holds comes between.

use std::collections::HashMap;
use std::pin::pin;

use super::JobId;
use super::backend::Claimed;
use super::enqueue::Row;
use super::finish;
use super::vacancy::{Reserved, Vacancies, begun};
use crate::clock::Timestamp;
use crate::database::{Database, JsonText, Sql, Untested, query, within};
use crate::error::{Error, Result};

/// Enqueues `rows`, which are `json`, if a worker of this process can begin them all. Whether it did.
pub(super) async fn enqueue(
    database: &Database,
    hand: &mut Untested,
    rows: &[&Row],
    json: &JsonText,
    enqueued_at: Timestamp,
) -> Result<bool> {
    // A clock may be set back between the two.
    let at = enqueued_at.max(database.clock().now());
    if !rows.iter().all(|row| may_begin(row, at)) {
        return Ok(false);
    }
    let vacancies = database.shared::<Vacancies>();
    let Some(reserved) = vacancies.reserve(rows, at) else {
        return Ok(false);
    };
    let insertion = Insertion {
        database: database.clone(),
        hand: hand.moved(),
        rows: json.clone(),
        at,
        reserved,
    };
    // Its caller may go, and the server would carry the statement out all the same, perhaps after its rows were looked for.
    let (hand_back, enqueued) = tokio::spawn(insertion.run())
        .await
        .map_err(|_| Error::transient("the call was given up; try again"))?;
    *hand = hand_back;
    enqueued
}

/// Whether it waits neither for its time nor for others of its key, and is of no schedule.
fn may_begin(row: &Row, at: Timestamp) -> bool {
    let (_, _, _, _, _, _, schedule, tick, run_at, _, limit_key, _) = row;
    schedule.is_none() && tick.is_none() && limit_key.is_none() && *run_at <= at.as_millis()
}

/// A statement that is under way.
struct Insertion {
    database: Database,
    hand: Untested,
    rows: JsonText,
    at: Timestamp,
    reserved: Reserved,
}

impl Insertion {
    async fn run(mut self) -> (Untested, Result<bool>) {
        let (database, bytes) = (self.database.clone(), self.rows.0.len());
        let heard = {
            let sends = pin!(self.send());
            database.heard(bytes, sends).await
        };
        let inserted = match heard {
            Ok(Ok(inserted)) => inserted,
            // Somebody was in the way who has the queue's row, which only to enqueue takes no lock of.
            Ok(Err(error)) if error.is_conflict() => return (self.hand, Ok(false)),
            Ok(Err(error)) => return (self.hand, Err(error)),
            Err(error) => {
                self.hand.give_up();
                return (self.hand, Err(error));
            }
        };
        let homeless = self.reserved.hand_on(&inserted);
        let all_begin = homeless.is_empty() && self.reserved.is_settled();
        self.give_back(homeless).await;
        if !(all_begin && inserted.values().all(|runs| *runs)) {
            self.database.announce();
        }
        (self.hand, Ok(true))
    }

    /// Which of the jobs were not there, and whether they run now.
    async fn send(&mut self) -> Result<HashMap<JobId, bool>> {
        loop {
            let limit = self.hand.limit(&self.database, self.rows.0.len());
            let mut tx = self.hand.tx(&self.database).await?;
            let adds = async {
                query!(
                    self.database,
                    tx,
                    fetch_all,
                    Sql::JobAddBegun,
                    &self.rows,
                    self.at,
                    self.reserved.worker,
                    &*self.reserved.queue
                )
            };
            let added: Result<Vec<(JobId, bool)>> = within(limit, adds).await;
            if let Some(added) = self.hand.take(added)? {
                return Ok(added.into_iter().collect());
            }
        }
    }

    /// Returns jobs to their queue whose worker was dropped meanwhile: until it is missed, nobody else would.
    async fn give_back(&mut self, jobs: Vec<Claimed>) {
        if jobs.is_empty() {
            return;
        }
        // There may be no other connection, and no other turn to write.
        drop(self.hand.moved());
        let attempts: Vec<_> = jobs.iter().map(begun).collect();
        let given_back = finish::unclaim(&self.database, self.reserved.worker, &attempts);
        if let Err(error) = self.database.answered(given_back).await {
            tracing::debug!(%error, "cannot give back jobs whose worker has gone; they will be rescued");
            self.reserved.put_in_doubt(jobs);
        }
    }
}
