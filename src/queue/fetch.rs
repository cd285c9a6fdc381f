//! The fetcher: claims jobs for the free slots of this worker's queues. A task of its own, one a worker.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::backend::{Claimed, JobBackend, Slot};
use super::{JobId, to_delta};
use crate::clock::Timestamp;
use crate::database::{Database, JsonText, Sql, query};
use crate::error::{Error, Result};

/// Jobs whose time has come that are made due in one statement.
const DUE_BATCH: i64 = 1_000;
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
    pub(crate) queue_concurrency: BTreeMap<String, usize>,
    pub(crate) poll_interval: Duration,
    /// End when nothing is ready and nothing runs.
    pub(crate) once: bool,
}

pub(crate) struct Fetcher {
    pub(crate) database: Database,
    pub(crate) worker: JobId,
    pub(crate) options: FetchOptions,
    /// Woken when another process may have enqueued something.
    pub(crate) wake: Arc<Notify>,
    pub(crate) stop: CancellationToken,
    /// Starts an apalis worker for a queue that came up.
    pub(crate) serve: Box<dyn Fn(&str, JobBackend) + Send + Sync>,
}

/// A queue that this worker serves.
struct Served {
    name: Arc<str>,
    slots: Arc<Semaphore>,
    claimed: mpsc::UnboundedSender<Claimed>,
}

/// What one round found.
enum Round {
    /// Something was claimed: there may be more.
    Claimed,
    /// Nothing is ready for a free slot; the next job that waits for its time may start then.
    Idle {
        next: Option<Timestamp>,
        blocked: bool,
    },
}

impl Fetcher {
    /// Fetches until it is told to stop. The database may be away for as long as it likes.
    pub(crate) async fn run(self) {
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
        let freed = Arc::new(Notify::new());
        let mut served: HashMap<String, Served> = HashMap::new();
        let mut away: Option<Duration> = None;
        while !self.stop.is_cancelled() {
            announced.mark_unchanged();
            let wait = match self.round(&names, &mut served, &freed).await {
                Ok(round) => {
                    if away.take().is_some() {
                        tracing::info!("the database is back, fetching jobs again");
                    }
                    match round {
                        Round::Claimed => continue,
                        Round::Idle { next, blocked } => {
                            if self.options.once && !blocked && self.nothing_runs(&served) {
                                return;
                            }
                            self.idle_wait(next)
                        }
                    }
                }
                Err(error) => {
                    let wait = away.map_or(RETRY.0, |last| (last * 2).min(RETRY.1));
                    if away.replace(wait).is_none() {
                        tracing::warn!(%error, "cannot fetch jobs, trying until the database answers");
                    }
                    wait
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.wake.notified() => {}
                () = freed.notified() => {}
                _ = announced.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn nothing_runs(&self, served: &HashMap<String, Served>) -> bool {
        served
            .iter()
            .all(|(name, queue)| queue.slots.available_permits() == self.concurrency_of(name))
    }

    fn concurrency_of(&self, queue: &str) -> usize {
        self.options
            .queue_concurrency
            .get(queue)
            .copied()
            .unwrap_or(self.options.concurrency)
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

    async fn round(
        &self,
        names: &JsonText,
        served: &mut HashMap<String, Served>,
        freed: &Arc<Notify>,
    ) -> Result<Round> {
        let now = self.database.clock().now();
        let (mut next, ready) = self.look(names).await?;
        let mut ready = ready;
        if next.is_some_and(|next| next <= now) {
            self.make_due(now).await?;
            (next, ready) = self.look(names).await?;
        }
        let (mut claimed_any, mut blocked) = (false, false);
        for name in ready {
            if self
                .options
                .queues
                .as_ref()
                .is_some_and(|queues| !queues.contains(&name))
            {
                continue;
            }
            if !served.contains_key(&name) {
                let queue = self.take_up(&name);
                served.insert(name.clone(), queue);
            }
            let Some(queue) = served.get(&name) else {
                continue;
            };
            let free = queue.slots.available_permits();
            if free == 0 {
                blocked = true;
                continue;
            }
            claimed_any |= self.claim(queue, names, free, now, freed).await?;
        }
        Ok(if claimed_any {
            Round::Claimed
        } else {
            Round::Idle { next, blocked }
        })
    }

    /// Reads only, so that an idle worker takes no write lock: when the next waiting job may start, and which queues
    /// have jobs ready that this worker knows.
    async fn look(&self, names: &JsonText) -> Result<(Option<Timestamp>, Vec<String>)> {
        let mut connection = self.database.read().await?;
        let mut tx = connection.tx();
        let (next,): (Option<Timestamp>,) =
            query!(self.database, tx, fetch_one, Sql::JobNextWaiting)?;
        let queues: Vec<(String,)> =
            query!(self.database, tx, fetch_all, Sql::JobReadyQueues, names)?;
        Ok((next, queues.into_iter().map(|(queue,)| queue).collect()))
    }

    async fn make_due(&self, now: Timestamp) -> Result<()> {
        loop {
            let mut connection = self.database.write().await?;
            let mut tx = connection.tx();
            let made = query!(self.database, tx, execute, Sql::JobMakeDue, now, DUE_BATCH)?;
            if made < DUE_BATCH.unsigned_abs() {
                return Ok(());
            }
        }
    }

    fn take_up(&self, name: &str) -> Served {
        let (claimed, receiver) = mpsc::unbounded_channel();
        (self.serve)(name, JobBackend { claimed: receiver });
        Served {
            name: name.into(),
            slots: Arc::new(Semaphore::new(self.concurrency_of(name))),
            claimed,
        }
    }

    /// Claims up to `free` jobs and hands them on, most urgent first. Whether there were any.
    async fn claim(
        &self,
        queue: &Served,
        names: &JsonText,
        free: usize,
        now: Timestamp,
        freed: &Arc<Notify>,
    ) -> Result<bool> {
        type Row = (
            JobId,
            String,
            i32,
            i32,
            Option<String>,
            Option<Timestamp>,
            i16,
            Timestamp,
            JsonText,
        );
        let limit = i64::try_from(free).unwrap_or(i64::MAX);
        let mut rows: Vec<Row> = {
            let mut connection = self.database.write().await?;
            let mut tx = connection.tx();
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
            )?
        };
        // RETURNING keeps no order.
        rows.sort_by_key(|row| (std::cmp::Reverse(row.6), row.7, row.0));
        let any = !rows.is_empty();
        for (id, name, attempt, max_attempts, schedule, tick, _, _, payload) in rows {
            let permit = queue.slots.clone().try_acquire_owned().ok();
            let claimed = Claimed {
                id,
                name,
                queue: queue.name.clone(),
                attempt,
                max_attempts,
                schedule,
                tick,
                payload: payload.0,
                slot: Slot {
                    permit,
                    freed: freed.clone(),
                },
            };
            if queue.claimed.send(claimed).is_err() {
                return Err(Error::invalid("the queue's apalis worker has ended"));
            }
        }
        Ok(any)
    }
}

/// When a worker that was last seen at this instant or before counts as gone.
pub(crate) fn rescue_deadline(now: Timestamp, rescue_after: Duration) -> Timestamp {
    now.saturating_add(-to_delta(rescue_after))
}
