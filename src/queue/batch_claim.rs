//! Claims of many jobs by one row, on PostgreSQL.
//!
//! To have each job's row say that it runs costs the server more than all else about the claim, and of short jobs nobody
//! ever sees it. So where a worker takes many at once, their ids are written in one row (`job_claim`), which keeps others
//! from claiming them. The row of a job that takes longer is made to say so after all, a tenth of a second later; that of one
//! that is done by then is written once. Whatever else befalls a job has its row say so first.

mod taken;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as Turns, Notify};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::JobId;
use super::fetch::Row;
use super::finish::{self, Begun, Held};
use super::held::{Attempt, Hold, RunningAttempt};
use crate::clock::Timestamp;
use crate::database::{Database, JsonText, Kept, Sql, query};
use crate::error::Result;
use taken::Wanted;
pub(super) use taken::{Place, Taken};

/// Fewer are claimed by their own rows: that is one statement instead of two in a transaction.
const LEAST: usize = 200;
/// After this jobs that still run have their rows say so.
const YOUNG: Duration = Duration::from_millis(100);
/// The least and the longest time between two looks at claims that are there still.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Those of one worker.
#[derive(Clone)]
pub(crate) struct BatchClaims(Arc<Shared>);

struct Shared {
    database: Database,
    worker: JobId,
    open: Mutex<Vec<BatchClaim>>,
    opened: Notify,
    /// Whose turn it is to say of attempts that they run where nobody waits for that: what has been said is not said again, and
    /// nothing is given back meanwhile.
    turn: Turns<()>,
}

/// One whose row is there.
#[derive(Clone)]
struct BatchClaim {
    id: JobId,
    since: Instant,
    attempts: Arc<Vec<(Begun, Arc<RunningAttempt>)>>,
}

impl BatchClaims {
    pub(crate) fn new(database: Database, worker: JobId) -> Self {
        Self(Arc::new(Shared {
            database,
            worker,
            open: Mutex::default(),
            opened: Notify::new(),
            turn: Turns::default(),
        }))
    }

    /// Whether so many are claimed by one row.
    pub(super) fn takes(&self, wanted: usize) -> bool {
        wanted >= LEAST && self.0.database.has_many_writers()
    }

    /// Makes the row of a queue, by which those who claim from it wait for each other.
    pub(super) async fn begin_with(&self, queue: &str) -> Result<()> {
        let mut connection = self.0.database.write().await?;
        let mut tx = connection.tx();
        query!(self.0.database, tx, execute, Sql::QueueAdd, queue)?;
        Ok(())
    }

    /// Claims up to `most` jobs of a queue, the most urgent ones or those of one priority `after` a place, to be
    /// [`BatchClaims::opened`] when they are held. None where they are to be claimed by their own rows.
    pub(super) async fn claim(
        &self,
        queue: &str,
        names: &JsonText,
        most: usize,
        now: Timestamp,
        after: Option<Place>,
        connections: &Kept,
    ) -> Result<Option<Taken>> {
        let worker = self.0.worker;
        let wanted = Wanted {
            worker,
            queue,
            names,
            most,
            now,
            after,
        };
        let claim = JobId(Uuid::now_v7());
        wanted.take(&self.0.database, connections, claim).await
    }

    /// Takes note of a claim of these jobs, which are held by now.
    pub(super) fn opened(&self, id: JobId, rows: &[Row], holds: &[Hold]) {
        let since = Instant::now();
        let attempts = rows.iter().zip(holds).map(|(row, hold)| {
            hold.running().says_so(false);
            ((row.0, row.2, Some(row.9)), hold.running().clone())
        });
        self.0.open().push(BatchClaim {
            id,
            since,
            attempts: Arc::new(attempts.collect()),
        });
        self.0.opened.notify_one();
    }

    /// Has the rows of these attempts say that they run, where they do not.
    pub(super) async fn say(&self, attempts: &HashSet<Attempt>) -> Result<()> {
        if attempts.is_empty() {
            return Ok(());
        }
        let unsaid: Vec<_> = {
            let open = self.0.open();
            let unsaid = open.iter().flat_map(BatchClaim::unsaid);
            let asked = unsaid.filter(|(begun, _)| attempts.contains(&(begun.0, begun.1)));
            asked.cloned().collect()
        };
        self.0.say(&unsaid, Held::Waits).await
    }

    /// Takes these attempts out of their claims before they are given back: others are to see that nobody has claimed them.
    pub(super) async fn close(&self, attempts: &HashSet<Attempt>) -> Result<()> {
        let of_these = |claim: &&BatchClaim| {
            let mut begun = claim.attempts.iter().map(|(begun, _)| (begun.0, begun.1));
            begun.any(|attempt| attempts.contains(&attempt))
        };
        let claims: Vec<_> = self.0.open().iter().filter(of_these).cloned().collect();
        self.say(attempts).await?;
        for claim in claims {
            self.0.settle(&claim).await?;
            if !claim.is_over() {
                self.0.shorten(&claim).await?;
            }
        }
        Ok(())
    }

    /// Ends claims that are there and of which this worker knows nothing: their answer was lost, and none of their jobs was
    /// begun.
    pub(super) async fn audit(&self) -> Result<()> {
        let database = &self.0.database;
        if !database.has_many_writers() {
            return Ok(());
        }
        let mut connection = database.read().await?;
        let mut tx = connection.tx();
        let ids: Vec<(JobId,)> = query!(database, tx, fetch_all, Sql::ClaimHeld, self.0.worker)?;
        drop(connection);
        for (id,) in ids {
            if !self.0.open().iter().any(|claim| claim.id == id) {
                tracing::warn!(claim.id = %id, "gave back jobs whose claim was lost with its connection");
                self.0.end(id).await?;
            }
        }
        Ok(())
    }

    /// Sees to the claims until it is told to stop, and then to what is left of them once. The database may be away for as
    /// long as it likes.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (mut failing, mut wait) = (false, LOOK.0);
        while !stop.is_cancelled() {
            let is_idle = self.0.open().is_empty();
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.0.opened.notified() => wait = LOOK.0,
                () = tokio::time::sleep(wait), if !is_idle => {}
            }
            match self.0.database.answered(self.settle(YOUNG)).await {
                // What is left then hangs on rows that somebody else holds, perhaps for long.
                Ok(())
                    if self
                        .0
                        .open()
                        .iter()
                        .all(|claim| claim.since.elapsed() > YOUNG * 2) =>
                {
                    (failing, wait) = (false, (wait * 2).min(LOOK.1));
                }
                Ok(()) => (failing, wait) = (false, LOOK.0),
                Err(error) => {
                    wait = (wait * 2).min(LOOK.1);
                    if std::mem::replace(&mut failing, true) {
                        tracing::debug!(%error, "still cannot write that jobs run");
                    } else {
                        tracing::warn!(%error, "cannot write that jobs run, trying until the database takes it");
                    }
                }
            }
        }
        if let Err(error) = self.settle(Duration::ZERO).await {
            tracing::debug!(%error, "jobs of claims that are left will be rescued");
        }
    }

    /// Ends the claims whose jobs are all done, and those that are as old as that: jobs that run have their rows say so. One
    /// with outcomes that are not written yet is left.
    async fn settle(&self, age: Duration) -> Result<()> {
        let due: Vec<_> = {
            let open = self.0.open();
            let due = open
                .iter()
                .filter(|claim| claim.since.elapsed() >= age || claim.is_over());
            due.cloned().collect()
        };
        let mut failed = Ok(());
        for claim in due {
            // One that fails keeps nobody from the others.
            if let Err(error) = self.0.settle(&claim).await {
                failed = Err(error);
            }
        }
        failed
    }
}

impl BatchClaim {
    /// The attempts that hang on it still.
    fn unsaid(&self) -> impl Iterator<Item = &(Begun, Arc<RunningAttempt>)> {
        let attempts = self.attempts.iter();
        attempts.filter(|(_, running)| running.is_unsaid() && !running.is_over())
    }

    fn is_over(&self) -> bool {
        self.unsaid().next().is_none()
    }
}

impl Shared {
    /// Nothing panics while it is held.
    fn open(&self) -> MutexGuard<'_, Vec<BatchClaim>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the rows of its attempts say that they run, where nobody else holds them, and ends it where all do.
    async fn settle(&self, claim: &BatchClaim) -> Result<()> {
        let unsaid = claim.unsaid().filter(|(_, running)| !running.has_ended());
        let unsaid: Vec<_> = unsaid.cloned().collect();
        let turn = self.turn.lock().await;
        self.say(&unsaid, Held::PassedBy).await?;
        drop(turn);
        if claim.is_over() {
            self.end(claim.id).await?;
        }
        Ok(())
    }

    async fn say(&self, unsaid: &[(Begun, Arc<RunningAttempt>)], held: Held) -> Result<()> {
        if unsaid.is_empty() {
            return Ok(());
        }
        let still = |(_, running): &&(Begun, Arc<RunningAttempt>)| {
            running.is_unsaid() && !running.is_over()
        };
        let still: Vec<_> = unsaid.iter().filter(still).collect();
        let mut begun: Vec<_> = still.iter().map(|(begun, _)| *begun).collect();
        if begun.is_empty() {
            return Ok(());
        }
        begun.sort_unstable();
        let said = finish::begin(&self.database, self.worker, &begun, held).await?;
        for (begun, running) in still {
            if said.contains(&begun.0) {
                running.says_so(true);
            }
        }
        Ok(())
    }

    /// Leaves in the row of a claim what hangs on it still.
    async fn shorten(&self, claim: &BatchClaim) -> Result<()> {
        let unsaid: Vec<_> = claim
            .unsaid()
            .map(|(begun, _)| (begun.0, begun.1))
            .collect();
        let unsaid = finish::batch_of(&unsaid)?;
        let mut connection = self.database.write().await?;
        let mut tx = connection.tx();
        query!(
            self.database,
            tx,
            execute,
            Sql::ClaimShorten,
            claim.id,
            unsaid
        )?;
        Ok(())
    }

    async fn end(&self, id: JobId) -> Result<()> {
        let mut connection = self.database.write().await?;
        let mut tx = connection.tx();
        query!(self.database, tx, execute, Sql::ClaimEnd, id)?;
        self.open().retain(|claim| claim.id != id);
        Ok(())
    }
}
