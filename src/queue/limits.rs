//! What holds over the fleet: how many jobs of a queue, or of one key of it, run at once, and how many start in a
//! stretch of time. Claims that meet a limit are made under the lock of the queue's row.

use std::collections::{BTreeMap, HashMap};

use super::JobId;
use super::fetch::Row;
use super::plan::{Claims, Head, Running, Urgency, plan};
use super::rate::{Rate, Starts};
use crate::clock::Timestamp;
use crate::database::{Database, JsonText, Readable, Sql, Tx, query, readable};
use crate::error::Result;

/// Keys that are read at once.
const KEYS: usize = 256;

/// The limits of one queue over the whole fleet. They are those of the worker that claims: give all the same.
///
/// ```
/// use larder::queue::{QueueLimits, Rate};
/// use std::time::Duration;
///
/// let mut limits = QueueLimits::default();
/// assert_eq!((limits.max_running, limits.rate), (None, None));
/// limits.max_running = Some(4);
/// limits.rate = Some(Rate { limit: 100, per: Duration::from_secs(60) });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueLimits {
    /// How many of its jobs run at once, over all workers.
    pub max_running: Option<u32>,
    /// How many of its jobs start, over all workers.
    pub rate: Option<Rate>,
}

impl QueueLimits {
    pub(crate) fn any(self) -> bool {
        self.max_running.is_some() || self.rate.is_some()
    }
}

/// What a worker is told of single queues, by name. It may change while the worker is at work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueTable {
    /// How many of a queue's jobs run at once in this worker.
    pub concurrency: BTreeMap<String, usize>,
    /// The limits over the whole fleet.
    pub limits: BTreeMap<String, QueueLimits>,
}

impl QueueTable {
    pub(crate) fn limits_of(&self, queue: &str) -> QueueLimits {
        self.limits.get(queue).copied().unwrap_or_default()
    }

    /// At least one, and `otherwise` of a queue of which it says nothing.
    pub(crate) fn concurrency_of(&self, queue: &str, otherwise: usize) -> usize {
        let concurrency = self.concurrency.get(queue).copied();
        concurrency.unwrap_or(otherwise).max(1)
    }
}

/// A queue with jobs that are ready, as a look found it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ready {
    /// Jobs without a key, of names that the worker knows.
    pub(crate) plain: bool,
    /// Jobs with a key.
    pub(crate) keyed: bool,
}

impl Ready {
    /// Whether claiming from it takes its lock.
    pub(crate) fn is_limited(&self, limits: QueueLimits) -> bool {
        self.keyed || limits.any()
    }
}

/// A claim of a queue's jobs within its limits.
pub(crate) struct LimitedClaim<'a> {
    pub(crate) database: &'a Database,
    pub(crate) worker: JobId,
    pub(crate) queue: &'a str,
    /// The job names that the worker knows.
    pub(crate) names: &'a JsonText,
    pub(crate) limits: QueueLimits,
    pub(crate) ready: Ready,
    /// How many there is room for in this worker; at least one.
    pub(crate) wanted: usize,
    /// The key that the last claim came to, where there were more than are read at once: they take turns.
    pub(crate) turn: &'a str,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Limited {
    pub(crate) rows: Vec<Row>,
    /// Jobs are ready that a limit holds back.
    pub(crate) held_back: bool,
    /// When the rate lets the next one start.
    pub(crate) room_at: Option<Timestamp>,
    pub(crate) turn: String,
}

/// `paused_at` and `starts` of the queue's row.
type State = (Option<Timestamp>, Option<JsonText>);

/// What may be claimed now.
struct Survey {
    now: Timestamp,
    starts: Starts,
    claims: Claims,
    room_at: Option<Timestamp>,
    turn: String,
}

impl LimitedClaim<'_> {
    pub(crate) async fn run(&self) -> Result<Limited> {
        // Without the lock first: a worker that waits for room writes nothing.
        let survey = {
            let mut connection = self.database.read().await?;
            let mut tx = connection.tx();
            let state: Option<State> =
                query!(self.database, tx, fetch_optional, Sql::QueueGet, self.queue)?;
            self.survey(&mut tx, state.unwrap_or_default()).await?
        };
        if survey.claims.is_empty() {
            return Ok(survey.into_limited(Vec::new()));
        }
        let mut transaction = self.database.begin_briefly().await?;
        let mut tx = Tx::from(&mut transaction);
        let state: State = query!(self.database, tx, fetch_one, Sql::QueueLock, self.queue)?;
        // A statement of its own after the lock: on PostgreSQL it sees what was claimed while this one waited.
        let mut survey = self.survey(&mut tx, state).await?;
        let rows = self.claim(&mut tx, &survey).await?;
        if rows.is_empty() {
            transaction.rollback().await?;
            return Ok(survey.into_limited(rows));
        }
        if let Some(rate) = self.limits.rate {
            let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
            survey.starts.record(rate, survey.now, count);
            let starts = JsonText(survey.starts.to_json());
            query!(
                self.database,
                tx,
                execute,
                Sql::QueueStarted,
                self.queue,
                starts
            )?;
        }
        transaction.commit_quietly().await?;
        Ok(survey.into_limited(rows))
    }

    /// Reads what is ready and what runs, and plans what to claim.
    async fn survey(&self, tx: &mut Tx<'_>, (paused_at, starts): State) -> Result<Survey> {
        let now = self.database.clock().now();
        let mut survey = Survey {
            now,
            starts: Starts::parse(starts.as_ref().map(|text| text.0.as_str())),
            claims: Claims::default(),
            room_at: None,
            turn: String::new(),
        };
        if paused_at.is_some() {
            return Ok(survey);
        }
        let running = if self.ready.keyed || self.limits.max_running.is_some() {
            self.running(tx).await?
        } else {
            Running::default()
        };
        let mut room = self.wanted;
        if let Some(most) = self.limits.max_running {
            let left = i64::from(most).saturating_sub(running.total());
            room = room.min(usize::try_from(left).unwrap_or(0));
        }
        if let Some(rate) = self.limits.rate {
            room = room.min(usize::try_from(survey.starts.room(rate, now)).unwrap_or(usize::MAX));
            survey.room_at = survey.starts.next_room(rate, now);
        }
        let heads = if self.ready.keyed {
            let (heads, turn) = self.heads(tx, &running, room).await?;
            survey.turn = turn;
            heads
        } else {
            Vec::new()
        };
        survey.claims = if heads.is_empty() {
            Claims::plain(self.ready.plain, room)
        } else {
            let first = if self.ready.plain && room > 0 {
                self.first(tx, room).await?
            } else {
                Vec::new()
            };
            plan(room, &first, heads, &running)
        };
        Ok(survey)
    }

    async fn running(&self, tx: &mut Tx<'_>) -> Result<Running> {
        type CountRow = (Option<String>, i64, Option<i32>);
        let rows: Vec<Readable<CountRow>> =
            query!(self.database, tx, fetch_all, Sql::JobRunning, self.queue)?;
        Ok(Running::new(readable(rows)))
    }

    /// The most urgent jobs without a key.
    async fn first(&self, tx: &mut Tx<'_>, most: usize) -> Result<Vec<Urgency>> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows: Vec<(JobId, i16, Timestamp)> = query!(
            self.database,
            tx,
            fetch_all,
            Sql::JobReadyFirst,
            self.queue,
            self.names,
            most
        )?;
        Ok(rows
            .into_iter()
            .map(|(id, priority, run_at)| Urgency::new(priority, run_at, id))
            .collect())
    }

    /// The first jobs of the keys, from the last turn's on and around, until there are enough of those with room.
    /// Only as many keys are passed over as jobs run.
    async fn heads(
        &self,
        tx: &mut Tx<'_>,
        running: &Running,
        room: usize,
    ) -> Result<(Vec<Head>, String)> {
        type KeyRow = (
            String,
            Option<JobId>,
            Option<i32>,
            Option<i16>,
            Option<Timestamp>,
        );
        let (mut heads, mut with_room): (HashMap<String, Head>, usize) = (HashMap::new(), 0);
        let (mut after, mut around) = (self.turn.to_owned(), self.turn.is_empty());
        loop {
            let rows: Vec<Readable<KeyRow>> = query!(
                self.database,
                tx,
                fetch_all,
                Sql::JobReadyKeys,
                self.queue,
                self.names,
                &after,
                i64::try_from(KEYS).unwrap_or(i64::MAX)
            )?;
            let is_full = rows.len() >= KEYS;
            let rows = readable(rows);
            // Beyond keys of which none can be read there is no going on.
            let is_last = !is_full || rows.is_empty();
            let last = rows.iter().map(|row| &row.0).max().cloned();
            for (key, id, max_running, priority, run_at) in rows {
                let (Some(id), Some(max_running), Some(priority), Some(run_at)) =
                    (id, max_running, priority, run_at)
                else {
                    // None of its jobs is one that this worker knows.
                    continue;
                };
                let head = Head {
                    urgency: Urgency::new(priority, run_at, id),
                    max_running,
                    key: key.clone(),
                };
                with_room += usize::from(running.room(&head) > 0);
                heads.insert(key, head);
            }
            after = last.unwrap_or_default();
            if is_last {
                after.clear();
            }
            let enough = with_room >= room.max(1);
            let came_around = !self.turn.is_empty() && after.as_str() > self.turn;
            let seen_all = around && (is_last || came_around);
            if enough || seen_all {
                return Ok((heads.into_values().collect(), after));
            }
            around |= is_last;
        }
    }

    async fn claim(&self, tx: &mut Tx<'_>, survey: &Survey) -> Result<Vec<Row>> {
        let (claims, now) = (&survey.claims, survey.now);
        let mut rows: Vec<Row> = Vec::new();
        if claims.plain > 0 {
            let most = i64::try_from(claims.plain).unwrap_or(i64::MAX);
            let claimed: Vec<Readable<Row>> = query!(
                self.database,
                tx,
                fetch_all,
                Sql::JobFetch,
                self.queue,
                self.names,
                most,
                self.worker,
                now
            )?;
            rows.extend(readable(claimed));
        }
        if !claims.heads.is_empty() {
            let ids: Vec<[JobId; 1]> = claims.heads.iter().map(|id| [*id]).collect();
            let ids = JsonText(serde_json::json!(ids).to_string());
            let claimed: Vec<Readable<Row>> = query!(
                self.database,
                tx,
                fetch_all,
                Sql::JobClaim,
                ids,
                self.worker,
                now
            )?;
            rows.extend(readable(claimed));
        }
        for further in &claims.further {
            let claimed: Vec<Readable<Row>> = query!(
                self.database,
                tx,
                fetch_all,
                Sql::JobFetchKey,
                self.queue,
                self.names,
                &further.key,
                further.running_then,
                further.count,
                self.worker,
                now
            )?;
            rows.extend(readable(claimed));
        }
        Ok(rows)
    }
}

impl Survey {
    fn into_limited(self, rows: Vec<Row>) -> Limited {
        Limited {
            rows,
            held_back: self.claims.held_back,
            room_at: self.room_at,
            turn: self.turn,
        }
    }
}
