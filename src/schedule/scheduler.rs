//! Enqueuing the jobs of ticks, once over the fleet.
//!
//! tokio-cron-scheduler is the clockwork that wakes us every second. It is not the authority: which ticks there are is
//! said by [`Cron`](super::Cron), and whether one is still to be enqueued by the database, in the transaction that
//! enqueues its job.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_cron_scheduler::{Job as Wakeup, JobScheduler};
use tokio_util::sync::CancellationToken;

use super::watched::Watched;
use super::{Overlap, ScheduleEntry, ScheduleState, Schedules, Take, plan, record};
use crate::clock::Timestamp;
use crate::database::{Sql, Tx, query};
use crate::error::Result;
use crate::queue::{JobId, Queue};

/// How often a worker says which entries it has.
const TEND: Duration = Duration::from_secs(60);
/// Jobs of ticks in one transaction.
const MOST_TICKS: usize = 1_000;

/// The schedules of one worker.
pub(crate) struct Scheduler {
    queue: Queue,
    schedules: Schedules,
    entries: Vec<Loaded>,
    watched: Watched,
}

/// An entry that the fleet knows by this worker.
struct Loaded {
    entry: ScheduleEntry,
    definition: String,
    /// When to look at it again: at once after it was loaded, then when its next tick has come.
    look_at: Option<DateTime<Utc>>,
    failing: bool,
    /// What the last look came to, of which the log has been told.
    told: Look,
}

impl Loaded {
    fn new(entry: ScheduleEntry) -> Result<Self> {
        entry.check()?;
        Ok(Self {
            definition: entry.described()?,
            entry,
            look_at: Some(DateTime::<Utc>::MIN_UTC),
            failing: false,
            told: Look::Done,
        })
    }
}

impl Scheduler {
    /// Makes these entries the fleet's: the definition last loaded counts. A name that is seen for the first time, and
    /// an expression that was edited, and an entry that is enabled again, start from now.
    pub(crate) async fn load(queue: Queue, schedules: Schedules) -> Result<Self> {
        let mut scheduler = Self {
            queue,
            schedules,
            entries: Vec::new(),
            watched: Watched::default(),
        };
        let entries = scheduler.schedules.current();
        scheduler.change(entries).await?;
        Ok(scheduler)
    }

    /// Takes these entries in place of those that it has. What stays as it was is not touched: in a fleet whose workers
    /// differ, another may have made its own definition the fleet's since.
    async fn change(&mut self, entries: Vec<ScheduleEntry>) -> Result<Vec<String>> {
        let database = self.queue.database();
        let entries: Vec<Loaded> = entries
            .into_iter()
            .map(Loaded::new)
            .collect::<Result<_>>()?;
        let mut changes = Vec::new();
        let has = |all: &[Loaded], one: &Loaded| {
            let mut names = all.iter().map(|other| &other.entry.name);
            names.any(|name| *name == one.entry.name)
        };
        for old in self.entries.iter().filter(|old| !has(&entries, old)) {
            record::let_go_of(database, &old.entry.name, &old.definition).await?;
            changes.push(format!("removed {}", old.entry.name));
        }
        for new in &entries {
            let is_same =
                |old: &Loaded| old.entry.name == new.entry.name && old.definition == new.definition;
            if self.entries.iter().any(is_same) {
                continue;
            }
            let definition = new.entry.definition();
            record::save(database, &new.entry.name, &definition, &new.definition).await?;
            let verb = if has(&self.entries, new) {
                "changed"
            } else {
                "added"
            };
            changes.push(format!("{verb} {}", new.entry.name));
        }
        self.entries = entries;
        Ok(changes)
    }

    /// Looks at every entry once.
    pub(crate) async fn catch_up(&self) -> Result<()> {
        for loaded in &self.entries {
            self.look(loaded).await?;
        }
        Ok(())
    }

    /// Enqueues the jobs of ticks until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        if self.entries.is_empty() && self.schedules.changing.is_none() {
            return;
        }
        let woken = Arc::new(Notify::new());
        let mut clockwork = match wind_up(woken.clone()).await {
            Ok(clockwork) => clockwork,
            Err(error) => {
                tracing::error!(%error, "the clockwork of the schedules does not start; no scheduled job is enqueued");
                return;
            }
        };
        let started = Instant::now();
        let (mut tended_at, mut pending) = (Duration::ZERO, None);
        loop {
            if self.schedules.has_changed() {
                pending = Some(self.schedules.current());
            }
            if let Some(entries) = pending.take()
                && let Err(entries) = self.try_change(entries).await
            {
                pending = Some(entries);
            }
            self.look_at_those_that_are_due(&stop).await;
            let elapsed = started.elapsed();
            if elapsed.saturating_sub(tended_at) >= TEND {
                tended_at = elapsed;
                let database = self.queue.database().clone();
                if let Err(error) = database.answered(self.tend(elapsed)).await {
                    tracing::debug!(%error, "cannot tell the fleet which schedules are in use");
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = woken.notified() => {}
            }
        }
        if let Err(error) = clockwork.shutdown().await {
            tracing::debug!(%error, "the clockwork of the schedules does not stop");
        }
    }

    /// Takes other entries, or gives them back where the database does not take them now.
    async fn try_change(&mut self, entries: Vec<ScheduleEntry>) -> Result<(), Vec<ScheduleEntry>> {
        let database = self.queue.database().clone();
        match database.answered(self.change(entries.clone())).await {
            Ok(changes) => {
                if !changes.is_empty() {
                    let changes = changes.join(", ");
                    tracing::info!(changes, "the schedule has changed");
                }
                Ok(())
            }
            Err(error) if error.is_invalid() => {
                tracing::error!(%error, "the schedule stays as it was");
                Ok(())
            }
            Err(error) => {
                tracing::debug!(%error, "cannot change the schedule, trying until the database answers");
                Err(entries)
            }
        }
    }

    async fn look_at_those_that_are_due(&mut self, stop: &CancellationToken) {
        let now = DateTime::<Utc>::from(self.queue.database().clock().now());
        for at in 0..self.entries.len() {
            let due = self.entries[at]
                .look_at
                .is_some_and(|look_at| look_at <= now);
            if !due || stop.is_cancelled() {
                continue;
            }
            let look = self.look(&self.entries[at]);
            let look = self.queue.database().answered(look).await;
            let Loaded {
                entry,
                look_at,
                failing,
                told,
                ..
            } = &mut self.entries[at];
            let name = &entry.name;
            match look {
                Ok(look) => {
                    *failing = false;
                    *look_at = entry.cron.next_after(now);
                    match &look {
                        _ if look == *told => {}
                        Look::Done => {}
                        Look::Different => tracing::warn!(
                            schedule = name,
                            "another worker loaded a different definition, which is now the fleet's; this one enqueues nothing for it"
                        ),
                        Look::Ahead(until) => tracing::warn!(
                            schedule = name,
                            "its ticks are dealt with until {until}, by a clock that was wrong; pause and resume it to start it from now"
                        ),
                    }
                    *told = look;
                }
                Err(error) if std::mem::replace(failing, true) => {
                    tracing::debug!(schedule = name, %error, "still no schedule")
                }
                Err(error) => {
                    tracing::warn!(schedule = name, %error, "cannot look at the schedule, trying until the database answers");
                }
            }
        }
    }

    /// Enqueues the jobs of the ticks that came since the last look of any worker.
    async fn look(&self, loaded: &Loaded) -> Result<Look> {
        let database = self.queue.database();
        let now = DateTime::<Utc>::from(database.clock().now());
        if !loaded.entry.enabled {
            return Ok(Look::Done);
        }
        loop {
            let Some(known) = ScheduleState::get(database, &loaded.entry.name).await? else {
                // Somebody deleted it who did not know that this worker has it.
                self.save(loaded).await?;
                return Ok(Look::Done);
            };
            if known.definition != loaded.definition {
                return Ok(Look::Different);
            }
            if known.paused_at.is_some() {
                return Ok(Look::Done);
            }
            if known.is_ahead_of(now) {
                return Ok(Look::Ahead(known.until));
            }
            if !self.advance(&loaded.entry, &known, now).await? {
                return Ok(Look::Done);
            }
        }
    }

    /// Enqueues the jobs of ticks up to `now`, in one transaction. Whether there are more of them.
    async fn advance(
        &self,
        entry: &ScheduleEntry,
        known: &ScheduleState,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let database = self.queue.database();
        let take = match entry.overlap {
            Overlap::Allow => Take::First(MOST_TICKS),
            Overlap::Skip => Take::Last,
        };
        let Some(mut plan) = plan(&entry.cron, entry.policy, known.until, now, take) else {
            return Ok(false);
        };
        let mut transaction = database.begin_briefly().await?;
        let mut tx = Tx::from(&mut transaction);
        if entry.overlap == Overlap::Skip && self.is_unfinished(&mut tx, known.last_job).await? {
            plan.ticks.clear();
        }
        let was = Timestamp::try_from(known.until)?;
        let until = Timestamp::try_from(plan.until)?;
        let last = plan.ticks.last().copied();
        let last = last.map(Timestamp::try_from).transpose()?;
        let ours = query!(
            database,
            tx,
            execute,
            Sql::ScheduleAdvance,
            &entry.name,
            was,
            until,
            last,
            None::<JobId>
        )?;
        if ours == 0 {
            transaction.rollback().await?;
            return Ok(false);
        }
        let jobs: Vec<_> = plan
            .ticks
            .iter()
            .map(|tick| entry.job_of(Some(*tick), *tick))
            .collect::<Result<_>>()?;
        let enqueued = self.queue.enqueue_many_in(tx.reborrow(), jobs).await?;
        if let Some(last) = enqueued.last() {
            query!(
                database,
                tx,
                execute,
                Sql::ScheduleRan,
                &entry.name,
                last.id
            )?;
        }
        transaction.commit().await?;
        if !enqueued.is_empty() {
            database.announce();
        }
        Ok(plan.more)
    }

    async fn is_unfinished(&self, tx: &mut Tx<'_>, job: Option<JobId>) -> Result<bool> {
        let Some(job) = job else { return Ok(false) };
        let (unfinished,): (i64,) = query!(
            self.queue.database(),
            tx,
            fetch_one,
            Sql::JobUnfinished,
            job
        )?;
        Ok(unfinished > 0)
    }

    async fn save(&self, loaded: &Loaded) -> Result<()> {
        let Loaded {
            entry, definition, ..
        } = loaded;
        let database = self.queue.database();
        record::save(database, &entry.name, &entry.definition(), definition).await
    }

    /// Tells the fleet which entries this worker has, and clears up after those that have gone: an entry that nobody
    /// speaks of is forgotten, or, where this worker has another definition of it, that becomes the fleet's.
    async fn tend(&mut self, elapsed: Duration) -> Result<()> {
        let database = self.queue.database();
        let own = |loaded: &Loaded| (loaded.entry.name.clone(), loaded.definition.clone());
        let own: BTreeMap<_, _> = self.entries.iter().map(own).collect();
        let entries = own
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        record::seen(database, entries).await?;
        let states = ScheduleState::all(database).await?;
        let others = states
            .into_iter()
            .filter(|state| own.get(&state.name) != Some(&state.definition));
        for state in self.watched.silent(others.collect(), elapsed) {
            let name = &state.name;
            let mine = self
                .entries
                .iter()
                .find(|loaded| loaded.entry.name == *name);
            if let Some(mine) = mine {
                self.save(mine).await?;
                tracing::info!(
                    schedule = name,
                    "no worker has the fleet's definition any more; this one's takes its place"
                );
            } else if record::forget(database, &state).await? {
                tracing::info!(
                    schedule = name,
                    "forgot a schedule that no worker has any more"
                );
            }
        }
        Ok(())
    }
}

#[derive(PartialEq, Eq)]
enum Look {
    Done,
    /// The fleet's definition is another one.
    Different,
    /// Ticks are dealt with up to an instant that is far away.
    Ahead(DateTime<Utc>),
}

/// A clockwork that notifies every second. Its callback does nothing else, for whatever fails in one stops it for good.
async fn wind_up(
    woken: Arc<Notify>,
) -> Result<JobScheduler, tokio_cron_scheduler::JobSchedulerError> {
    let clockwork = JobScheduler::new().await?;
    let wakeup = Wakeup::new_async("* * * * * *", move |_, _| {
        let woken = woken.clone();
        Box::pin(async move { woken.notify_one() })
    })?;
    clockwork.add(wakeup).await?;
    clockwork.start().await?;
    Ok(clockwork)
}

#[cfg(test)]
mod tests;
