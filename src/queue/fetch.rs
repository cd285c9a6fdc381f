//! The fetcher: claims jobs for the free slots of this worker's queues. A task of its own, one a worker.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::JobId;
use super::audits::Audits;
use super::backend::{Claimed, JobBackend};
use super::batch_claim::{BatchClaims, Place, Taken};
use super::finish::{self, Begun};
use super::held::Held;
use super::limits::{Limited, LimitedClaim, QueueLimits, QueueTable, Ready};
use super::pulse::{Life, Moment, Pulse};
use super::slots::Slots;
use super::vacancy::{Host, Seat, Vacancies};
use crate::clock::Timestamp;
use crate::database::{
    CommonText, Database, JsonText, Kept, Parameter, Readable, RowText, Sql, Tx, query, readable,
};
use crate::error::Result;

/// While a queue's backlog fills its slots, other queues and jobs that wait for their time are looked for this often.
const LOOK: Duration = Duration::from_millis(20);
/// A look that is slow leaves nineteen twentieths of the time to claims, but other queues do not wait for longer than this.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Jobs that are claimed in one statement, and where nobody else can write meanwhile.
const BATCH: (usize, usize) = (2_000, 1_000);
/// Attempts that have ended and whose outcome is not written yet. Who claims faster than outcomes are written waits.
const UNWRITTEN: usize = 10_000;
/// Whoever claims many from a backlog goes on from where the last claim ended, and begins anew at the most urgent job this often:
/// to pass by what was claimed of late takes as long as a claim of a few thousand.
const PASSED: Duration = Duration::from_millis(100);
/// Where many could be claimed by one row, and the last claim did not find all that it wanted, so many are claimed first:
/// that is soon done, and tells whether there are many.
const FIRST: usize = 100;
/// So long jobs are claimed by their own rows where they could not be claimed many at once.
const BY_ROWS: Duration = Duration::from_millis(100);
/// So often in a row a look that found what others then claimed is followed by another after [`LOOK`].
const MISSED: u32 = 10;
/// The first and the longest wait while the database is away.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Which jobs a worker fetches, and how many at once.
#[derive(Clone, Debug)]
pub(crate) struct FetchOptions {
    /// The job names that it knows; others stay queued.
    pub(crate) names: Vec<String>,
    /// The queues that it serves; `None` is all, also those that come up later.
    pub(crate) queues: Option<Vec<String>>,
    pub(crate) concurrency: usize,
    /// Read at each claim.
    pub(crate) table: watch::Receiver<QueueTable>,
    pub(crate) poll_interval: Duration,
    /// How often it looks for claims that were lost.
    pub(crate) audit_interval: Duration,
    /// End when nothing is ready and nothing runs.
    pub(crate) once: bool,
}

/// Starts an apalis worker for a queue of this name.
pub(crate) type Serve = dyn Fn(&str, JobBackend) + Send + Sync;

pub(crate) struct Fetcher {
    pub(crate) database: Database,
    pub(crate) worker: JobId,
    pub(crate) options: FetchOptions,
    pub(crate) held: Held,
    pub(crate) claims: BatchClaims,
    pub(crate) pulse: Arc<Pulse>,
    /// Woken when another process may have enqueued something.
    pub(crate) wake: Arc<Notify>,
    pub(crate) stop: CancellationToken,
    /// Told when the worker's future was dropped.
    pub(crate) gone: CancellationToken,
    /// Starts an apalis worker for a queue that came up.
    pub(crate) serve: Box<Serve>,
}

/// A claimed job: id, name, attempt, max_attempts, schedule, tick, priority, run_at, payload, started_at.
pub(crate) type Row = (
    JobId,
    CommonText,
    i32,
    i32,
    Option<RowText>,
    Option<Timestamp>,
    i16,
    Timestamp,
    RowText,
    Timestamp,
);

/// What a look finds: a queue, whether the jobs have keys, and without a queue when the next waiting job may start.
type Found = (Option<String>, bool, Option<Timestamp>);

/// A queue that this worker serves.
struct Served {
    name: Arc<str>,
    slots: Arc<Slots>,
    claimed: mpsc::UnboundedSender<Claimed>,
    /// How long the last claim took.
    claim_took: Duration,
    /// Where the next claim among its keys begins.
    turn: String,
    /// It has a row in `job_queue`, by which those who claim from it wait for each other.
    has_row: bool,
    /// The last claim, if there was one, gave all that was wanted.
    has_more: bool,
    /// Where the last claim of many ended, and since when none has begun at the most urgent job.
    after: Option<(Place, Instant)>,
    /// How long that one took.
    head_took: Duration,
    /// When many were to be claimed by their own rows.
    by_rows_since: Option<Instant>,
    /// The last claim gave nothing of what a look had found, perhaps since others were claiming many.
    missed: bool,
}

/// What one round found.
enum Round {
    /// There may be more.
    Again,
    /// There is more than there is room for.
    Full,
    /// Nothing that may start is ready for a free slot; then something may that waits for its time or for its queue's
    /// rate. `blocked`: something is ready and waits for a slot or for room in a limit. `missed`: something was ready
    /// and could not be claimed, since somebody else had its row.
    Idle {
        next: Option<Timestamp>,
        blocked: bool,
        missed: bool,
    },
}

/// What the fetcher keeps from one round to the next.
struct State {
    connections: Kept,
    served: HashMap<String, Served>,
    /// The queue without limits that was claimed from last.
    last: Option<String>,
    /// Where a job has probably been enqueued, if somebody has told of one.
    guess: Option<String>,
    freed: Arc<Notify>,
    held: Held,
    /// What the last look found, and until when a backlog is claimed from without another.
    ready: Vec<(String, Ready)>,
    next: Option<Timestamp>,
    look_at: Option<Instant>,
    /// How many are claimed at once: fewer after a claim that took too long, for nobody knows what payloads hold.
    most: usize,
    /// How often in a row a look has found jobs that were gone when they were to be claimed.
    missed: u32,
}

impl State {
    /// The queues that are served already.
    fn seats(&self) -> Vec<Seat> {
        let seat = |queue: &Served| Seat {
            queue: queue.name.clone(),
            slots: queue.slots.clone(),
            claimed: queue.claimed.clone(),
        };
        self.served.values().map(seat).collect()
    }

    fn nothing_runs(&self) -> bool {
        self.served.values().all(|queue| queue.slots.are_idle())
    }
}

impl Fetcher {
    /// Fetches until it is told to stop, and then looks for what was enqueued for it and nobody has heard of. The database may
    /// be away for as long as it likes.
    pub(crate) async fn run(self) {
        let mut audits = Audits::new(self.options.audit_interval, Instant::now());
        let (doubt, mut doubts) = mpsc::unbounded_channel();
        let host = self.host(doubt);
        self.fetch(host, &mut audits, &mut doubts).await;
        // Until the last of those who enqueue for it has its answer, or none.
        while doubts.recv().await.is_some() {
            audits.doubt(Instant::now());
        }
        while audits.are_in_doubt() {
            match self.database.answered(self.audit(&self.held)).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(%error, "still cannot look for jobs whose insertion was lost");
                }
            }
            tokio::time::sleep(RETRY.0).await;
        }
    }

    fn host(&self, doubt: mpsc::UnboundedSender<()>) -> Arc<Host> {
        Arc::new(Host {
            worker: self.worker,
            names: self.options.names.clone(),
            concurrency: self.options.concurrency,
            table: self.options.table.clone(),
            held: self.held.clone(),
            pulse: self.pulse.clone(),
            stop: self.stop.clone(),
            gone: self.gone.clone(),
            doubt,
        })
    }

    async fn fetch(
        &self,
        host: Arc<Host>,
        audits: &mut Audits,
        doubts: &mut mpsc::UnboundedReceiver<()>,
    ) {
        let vacancies = self.database.shared::<Vacancies>();
        let names = JsonText(
            serde_json::json!(
                self.options
                    .names
                    .iter()
                    .map(|name| [name])
                    .collect::<Vec<_>>()
            )
            .to_string(),
        );
        let mut announced = self.database.announcements();
        let mut changes = self.database.changes();
        let mut state = State {
            connections: Kept::new(self.database.clone()),
            served: HashMap::new(),
            last: None,
            guess: None,
            freed: Arc::default(),
            held: self.held.clone(),
            ready: Vec::new(),
            next: None,
            look_at: None,
            most: self.batch(),
            missed: 0,
        };
        let mut away: Option<Duration> = None;
        while !self.stop.is_cancelled() {
            let Some(life) = self.pulse.life(Moment::now()) else {
                // What a silent worker claims may be taken for a dead one's at once.
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.pulse.beat() => continue,
                }
            };
            let enqueued = announced.borrow_and_update().jobs;
            changes.mark();
            // Asked before the round: what runs now may enqueue a job, and end, behind the round's back.
            let nothing_ran = state.nothing_runs();
            while doubts.try_recv().is_ok() {
                audits.doubt(Instant::now());
            }
            // Where a round failed, its claims may have been made all the same.
            let audit = away.is_some() || audits.is_due(Instant::now());
            let round = async {
                if audit {
                    self.audit(&state.held).await?;
                }
                self.round(&names, &mut state, life).await
            };
            // Whether something may start once a job has ended.
            let mut wants_slot = true;
            let mut looked = false;
            let mut vacancy = None;
            let wait = match self.database.answered(round).await {
                Ok(round) => {
                    if audit {
                        audits.done(Instant::now());
                    }
                    if away.take().is_some() {
                        tracing::info!("the database is back, fetching jobs again");
                    }
                    match round {
                        Round::Again => continue,
                        Round::Full => LOOK,
                        Round::Idle {
                            next,
                            blocked,
                            missed,
                        } => {
                            if self.options.once && !blocked && nothing_ran {
                                return;
                            }
                            looked = true;
                            wants_slot = blocked || missed || self.options.once;
                            vacancy =
                                (!wants_slot).then(|| vacancies.publish(&host, state.seats()));
                            self.idle_wait(next).min(audits.wait(Instant::now()))
                        }
                    }
                }
                Err(error) => {
                    if error.took_too_long() {
                        state.most = (state.most / 2).max(1);
                    }
                    let wait = away.map_or(RETRY.0, |last| (last * 2).min(RETRY.1));
                    if away.replace(wait).is_none() {
                        tracing::warn!(%error, "cannot fetch jobs, trying until the database answers");
                    }
                    wait
                }
            };
            let told = tokio::select! {
                () = self.stop.cancelled() => false,
                () = self.wake.notified() => true,
                _ = announced.changed() => announced.borrow().jobs != enqueued,
                () = state.freed.notified(), if wants_slot => false,
                Some(()) = doubts.recv() => {
                    audits.doubt(Instant::now());
                    false
                }
                () = changes.within(wait) => false,
            };
            drop(vacancy);
            // Where writers wait for each other, nobody writes without having looked. And one guess follows a look: were they
            // told all the time, others than the one that is guessed would never be looked for.
            if told && looked && self.database.has_many_writers() {
                state.guess.clone_from(&state.last);
            }
        }
    }

    fn batch(&self) -> usize {
        if self.database.has_many_writers() {
            BATCH.0
        } else {
            BATCH.1
        }
    }

    fn concurrency_of(&self, queue: &str) -> usize {
        let table = self.options.table.borrow();
        table.concurrency_of(queue, self.options.concurrency)
    }

    /// Until the next poll, or until a waiting job's time if that is sooner.
    fn idle_wait(&self, next: Option<Timestamp>) -> Duration {
        let until = next.map(|next| {
            next.since(self.database.clock().now())
                .max(Duration::from_millis(1))
        });
        until.map_or(self.options.poll_interval, |until| {
            until.min(self.options.poll_interval)
        })
    }

    async fn round(&self, names: &JsonText, state: &mut State, life: Life) -> Result<Round> {
        let now = self.database.clock().now();
        let is_due = |next: Option<Timestamp>| next.is_some_and(|next| next <= now);
        // A queue that had more than its slots take is claimed from again without a look.
        let looked_lately = state.look_at.is_some_and(|at| Instant::now() < at);
        let mut from_backlog = !state.ready.is_empty() && looked_lately && !is_due(state.next);
        if let Some(guess) = state.guess.take()
            && !from_backlog
            && !is_due(state.next)
        {
            let ready = Ready {
                plain: true,
                keyed: false,
            };
            state.ready = vec![(guess, ready)];
            // If there are many, that is a backlog like any other.
            state.look_at = Some(Instant::now() + LOOK);
            from_backlog = true;
        }
        if !from_backlog {
            let began = Instant::now();
            (state.next, state.ready) = self.look(names, &state.connections).await?;
            if is_due(state.next) {
                self.make_due(now).await?;
                (state.next, state.ready) = self.look(names, &state.connections).await?;
            }
            let looked_at = Instant::now();
            state.look_at = Some(looked_at + pause_after(looked_at - began, LOOK));
        }
        let (mut claimed_any, mut blocked, mut full, mut room_at) = (false, false, true, None);
        let (mut missed, mut passed_by) = (false, false);
        for (name, ready) in std::mem::take(&mut state.ready) {
            if self.stop.is_cancelled() {
                break;
            }
            if self
                .options
                .queues
                .as_ref()
                .is_some_and(|queues| !queues.contains(&name))
            {
                continue;
            }
            // An apalis worker that has ended is followed by another.
            if state
                .served
                .get(&name)
                .is_none_or(|queue| queue.claimed.is_closed())
            {
                let queue = self.take_up(&name, &state.freed);
                state.served.insert(name.clone(), queue);
            }
            let Some(queue) = state.served.get_mut(&name) else {
                continue;
            };
            let concurrency = self.concurrency_of(&name);
            queue.slots.resize(concurrency);
            let limits = self.options.table.borrow().limits_of(&name);
            let limited = ready.is_limited(limits);
            // What is limited is claimed to be begun at once.
            let room = if limited {
                queue.slots.free()
            } else {
                queue.slots.wanted(queue.claim_took, Instant::now())
            };
            let unwritten = UNWRITTEN.saturating_sub(state.held.outcomes());
            let wanted = room.min(unwritten).min(state.most);
            let wanted = if !limited && !queue.has_more && self.claims.takes(wanted) {
                FIRST
            } else {
                wanted
            };
            if wanted == 0 {
                blocked = true;
                state.ready.push((name, ready));
                continue;
            }
            full = false;
            let taken = if limited {
                let claimed = self
                    .claim_limited(queue, names, wanted, limits, &ready)
                    .await?;
                blocked |= claimed.held_back;
                passed_by |= claimed.rows.is_empty();
                room_at = earliest(room_at, claimed.room_at);
                Taken::of_rows(claimed.rows)
            } else {
                let began = Instant::now();
                let claimed = self
                    .claim(queue, names, wanted, now, &state.connections)
                    .await?;
                queue.claim_took = began.elapsed();
                if state.last.as_ref() != Some(&name) {
                    state.last = Some(name.clone());
                }
                claimed
            };
            let claimed = taken.rows.len();
            queue.missed = !limited && !from_backlog && claimed == 0;
            missed |= queue.missed;
            queue.has_more = claimed == wanted;
            // The row of its queue may have been forgotten, and without it a claim takes nothing.
            queue.has_row &= !queue.missed;
            self.hand_on(taken, queue, limited, life, &state.held);
            claimed_any |= claimed > 0;
            if claimed == wanted {
                state.most = (state.most + state.most / 8 + 1).min(self.batch());
                state.ready.push((name, ready));
            }
        }
        if claimed_any {
            state.missed = 0;
            return Ok(Round::Again);
        }
        if blocked && full && from_backlog {
            // A look comes with the first round after its pause.
            return Ok(Round::Full);
        }
        if from_backlog {
            // Nobody waits without having looked: whoever was to be woken was perhaps told before this round.
            state.look_at = None;
            return Ok(Round::Again);
        }
        // Others were quicker: with what they claimed at once, and perhaps not with the rest.
        if missed && state.missed < MISSED {
            state.missed += 1;
            return Ok(Round::Full);
        }
        state.missed = 0;
        Ok(Round::Idle {
            next: earliest(state.next, room_at),
            blocked,
            missed: missed || passed_by,
        })
    }

    /// Reads only, so that an idle worker takes no write lock: when the next waiting job may start, and which queues
    /// have jobs ready that this worker knows.
    async fn look(
        &self,
        names: &JsonText,
        connections: &Kept,
    ) -> Result<(Option<Timestamp>, Vec<(String, Ready)>)> {
        tracing::trace!("looking for jobs");
        let mut lent = connections.read(Instant::now()).await?;
        let connection = &mut lent.connection;
        let began = Instant::now();
        let mut tx = connection.tx();
        let rows: Vec<Readable<Found>> = query!(self.database, tx, fetch_all, Sql::JobLook, names)?;
        let took = began.elapsed();
        if self.database.replan_if_slow(connection, took).await.is_ok() {
            connections.keep(lent, Instant::now());
        }
        let mut queues: BTreeMap<String, Ready> = BTreeMap::new();
        let mut next_waiting = None;
        for (queue, keyed, next) in readable(rows) {
            next_waiting = earliest(next_waiting, next);
            let Some(queue) = queue else {
                continue;
            };
            let ready = queues.entry(queue).or_default();
            ready.keyed |= keyed;
            ready.plain |= !keyed;
        }
        Ok((next_waiting, queues.into_iter().collect()))
    }

    async fn make_due(&self, now: Timestamp) -> Result<()> {
        let mut connection = self.database.write().await?;
        let mut tx = connection.tx();
        query!(self.database, tx, execute, Sql::JobMakeDue, now)?;
        Ok(())
    }

    /// Gives back the jobs that are this worker's by their row, and of which it knows nothing: whatever it begins it holds
    /// until the outcome is written, so that it began none of them. What ended since they were read is not theirs any more.
    async fn audit(&self, held: &Held) -> Result<()> {
        self.claims.audit().await?;
        let mut connection = self.database.read().await?;
        let mut tx = connection.tx();
        let rows: Vec<Readable<Begun>> =
            query!(self.database, tx, fetch_all, Sql::JobHeld, self.worker)?;
        drop(connection);
        let held = held.attempts();
        let lost: Vec<_> = readable(rows)
            .into_iter()
            .filter(|(id, attempt, _)| !held.contains(&(*id, *attempt)))
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        match finish::unclaim(&self.database, self.worker, &lost).await {
            Ok(0) => {}
            Ok(given_back) => tracing::warn!(
                jobs = given_back,
                "gave back jobs whose claim was lost with its connection"
            ),
            Err(error) if error.is_transient() || error.took_too_long() => return Err(error),
            // Others are not to wait for what is refused for good.
            Err(error) => tracing::error!(%error, "cannot give back jobs whose claim was lost"),
        }
        Ok(())
    }

    fn take_up(&self, name: &str, freed: &Arc<Notify>) -> Served {
        let (claimed, receiver) = mpsc::unbounded_channel();
        (self.serve)(name, JobBackend::new(receiver, self.stop.clone()));
        Served {
            name: name.into(),
            slots: Slots::new(self.concurrency_of(name), freed.clone(), Instant::now()),
            claimed,
            claim_took: Duration::ZERO,
            turn: String::new(),
            has_row: false,
            has_more: true,
            after: None,
            head_took: Duration::ZERO,
            by_rows_since: None,
            missed: false,
        }
    }

    /// Claims up to `wanted` jobs of a queue without limits, that have none themselves.
    async fn claim(
        &self,
        queue: &mut Served,
        names: &JsonText,
        wanted: usize,
        now: Timestamp,
        connections: &Kept,
    ) -> Result<Taken> {
        if !queue.has_row && self.database.has_many_writers() {
            self.claims.begin_with(&queue.name).await?;
            queue.has_row = true;
        }
        let by_rows = queue.by_rows_since.filter(|at| at.elapsed() < BY_ROWS);
        if by_rows.is_none() && self.claims.takes(wanted) {
            let pause = pause_after(queue.head_took, PASSED);
            let after = queue.after.filter(|(_, since)| since.elapsed() < pause);
            let began = Instant::now();
            let place = after.map(|(place, _)| place);
            let taken = self
                .claims
                .claim(&queue.name, names, wanted, now, place, connections)
                .await?;
            match taken {
                Some(taken) => {
                    if place.is_none() {
                        queue.head_took = began.elapsed();
                    }
                    let since = after.map_or_else(Instant::now, |(_, since)| since);
                    // There may be others, before it or of another priority.
                    let last = taken.last.filter(|_| taken.rows.len() == wanted);
                    queue.after = last.map(|last| (last, since));
                    if place.is_none() || !taken.rows.is_empty() {
                        return Ok(taken);
                    }
                }
                None => queue.by_rows_since = Some(Instant::now()),
            }
        }
        let limit = i64::try_from(wanted).unwrap_or(i64::MAX);
        let parameters = || -> Vec<Parameter> {
            vec![
                ("$1", Box::new(queue.name.to_string())),
                ("$2", Box::new(names.clone())),
                ("$3", Box::new(limit)),
                ("$4", Box::new(self.worker)),
                ("$5", Box::new(now)),
            ]
        };
        if let Some(rows) = self.database.write_rows(Sql::JobFetch, parameters).await? {
            return Ok(Taken::of_rows(rows));
        }
        let mut lent = connections.write(Instant::now()).await?;
        let mut began = Instant::now();
        let fetch = async |mut tx: Tx<'_>| -> Result<Vec<Readable<Row>>> {
            query!(
                self.database,
                tx,
                fetch_all,
                Sql::JobFetch,
                &*queue.name,
                names,
                limit,
                self.worker,
                now
            )
        };
        let rows = if queue.missed && self.database.has_many_writers() {
            // One that waited for a claim of many does not see it, and takes nothing: two workers that claim many, one after the
            // other, would leave it nothing ever.
            let alone = lent.in_transaction(&self.database, &[], async |mut tx| {
                let batch = JsonText(serde_json::json!([[&*queue.name]]).to_string());
                query!(self.database, tx, execute, Sql::QueueSeen, batch)?;
                began = Instant::now();
                fetch(tx).await
            });
            alone.await?
        } else {
            fetch(lent.connection.tx()).await?
        };
        let took = began.elapsed();
        let planned = self.database.replan_if_slow(&mut lent.connection, took);
        // What is claimed is claimed, whatever comes of this.
        if planned.await.is_ok() {
            connections.keep(lent, Instant::now());
        }
        Ok(Taken::of_rows(readable(rows)))
    }

    async fn claim_limited(
        &self,
        queue: &mut Served,
        names: &JsonText,
        wanted: usize,
        limits: QueueLimits,
        ready: &Ready,
    ) -> Result<Limited> {
        let claim = LimitedClaim {
            database: &self.database,
            worker: self.worker,
            queue: &queue.name,
            names,
            limits,
            ready: ready.clone(),
            wanted,
            turn: &queue.turn,
        };
        let mut claimed = claim.run().await?;
        queue.turn = std::mem::take(&mut claimed.turn);
        Ok(claimed)
    }

    /// Hands claimed jobs on, most urgent first.
    fn hand_on(&self, taken: Taken, queue: &Served, limited: bool, life: Life, held: &Held) {
        let claimed_at = Instant::now();
        let holds: Vec<_> = taken
            .rows
            .iter()
            .map(|row| held.hold(row.0, row.2))
            .collect();
        if let Some(claim) = taken.claim {
            // Before any of them can end.
            self.claims.opened(claim, &taken.rows, &holds);
        }
        for (row, hold) in taken.rows.into_iter().zip(holds) {
            let (id, name, attempt, max_attempts, schedule, tick, _, _, payload, started_at) = row;
            let slot = if limited {
                queue.slots.take()
            } else {
                queue.slots.wait()
            };
            let claimed = Claimed {
                id,
                name: name.0,
                queue: queue.name.clone(),
                attempt,
                max_attempts,
                schedule,
                tick,
                payload,
                limited,
                hold,
                life,
                started_at,
                claimed_at,
                slot,
            };
            // Where its apalis worker has ended, the job is no longer held, and the next audit gives it back.
            let _ = queue.claimed.send(claimed);
        }
    }
}

/// How long after a look that `took` so long a backlog is claimed from without another.
fn pause_after(took: Duration, least: Duration) -> Duration {
    took.saturating_mul(20).clamp(least, LONGEST_PAUSE)
}

fn earliest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_looks_are_fewer_and_keep_other_queues_waiting_no_longer_than_that() {
        let pause = |took| pause_after(took, LOOK);
        assert_eq!(pause(Duration::ZERO), LOOK);
        let long = Duration::from_millis(12);
        assert_eq!(pause(long), Duration::from_millis(240));
        assert_eq!(pause(Duration::MAX), LONGEST_PAUSE);
    }
}
