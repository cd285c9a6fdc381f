//! Enqueuing the jobs of ticks, once over the fleet.
//!
//! tokio-cron-scheduler is the clockwork that wakes us every second. It is not the authority: which ticks there are is
//! said by [`Cron`](super::Cron), and whether one is still to be enqueued by the database, in the transaction that
//! enqueues its job.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job as Wakeup, JobScheduler};
use tokio_util::sync::CancellationToken;

use super::{Definition, Overlap, ScheduleEntry, ScheduleState, plan};
use crate::clock::Timestamp;
use crate::database::{Database, JsonText, Sql, Tx, query};
use crate::error::{Error, Result};
use crate::queue::{JobId, Queue};

/// The schedules of one worker.
pub(crate) struct Scheduler {
    queue: Queue,
    entries: Vec<ScheduleEntry>,
}

impl Scheduler {
    /// Makes these entries the fleet's: the definition last loaded counts. A name that is seen for the first time, and
    /// an expression that was edited, and an entry that is enabled again, start from now.
    pub(crate) async fn load(queue: Queue, entries: Vec<ScheduleEntry>) -> Result<Self> {
        let database = queue.database();
        for entry in &entries {
            let definition = entry.definition();
            let text = serde_json::to_string(&definition).map_err(|error| {
                Error::invalid(format!(
                    "schedule {:?} does not serialise: {error}",
                    entry.name
                ))
            })?;
            // Compared and set: of two that load at once, the second must see what the first has made of it.
            while !save(database, &entry.name, &definition, &text).await? {}
        }
        Ok(Self {
            queue,
            entries: entries
                .into_iter()
                .filter(ScheduleEntry::is_enabled)
                .collect(),
        })
    }

    /// Looks at every entry once.
    pub(crate) async fn catch_up(&self) -> Result<()> {
        for entry in &self.entries {
            self.look(entry).await?;
        }
        Ok(())
    }

    /// Enqueues the jobs of ticks until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        if self.entries.is_empty() {
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
        // Looked at once at the start, and again when their next tick has come.
        let mut next: Vec<Option<DateTime<Utc>>> =
            vec![Some(DateTime::<Utc>::MIN_UTC); self.entries.len()];
        let (mut failing, mut differing) = (HashSet::new(), HashSet::new());
        loop {
            let now = DateTime::<Utc>::from(self.queue.database().clock().now());
            for (entry, next) in self.entries.iter().zip(&mut next) {
                if next.is_none_or(|next| next > now) {
                    continue;
                }
                let look = self.look(entry);
                match self.queue.database().answered(look).await {
                    Ok(look) => {
                        failing.remove(&entry.name);
                        *next = entry.cron.next_after(now);
                        if look == Look::Different {
                            if differing.insert(&entry.name) {
                                tracing::warn!(
                                    schedule = entry.name,
                                    "another worker loaded a different definition, which is now the fleet's; this one enqueues nothing for it"
                                );
                            }
                        } else {
                            differing.remove(&entry.name);
                        }
                    }
                    Err(error) if !failing.insert(&entry.name) => {
                        tracing::debug!(schedule = entry.name, %error, "still no schedule")
                    }
                    Err(error) => {
                        tracing::warn!(schedule = entry.name, %error, "cannot look at the schedule, trying until the database answers");
                    }
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

    /// Enqueues the jobs of the ticks that came since the last look of any worker.
    async fn look(&self, entry: &ScheduleEntry) -> Result<Look> {
        let database = self.queue.database();
        let definition = serde_json::to_string(&entry.definition()).unwrap_or_default();
        let Some(known) = ScheduleState::get(database, &entry.name).await? else {
            return Ok(Look::Different);
        };
        if known.definition != definition {
            return Ok(Look::Different);
        }
        let now = DateTime::<Utc>::from(database.clock().now());
        if known.paused_at.is_some() {
            return Ok(Look::Done);
        }
        let Some(mut plan) = plan(&entry.cron, entry.policy, known.until, now) else {
            return Ok(Look::Done);
        };
        let mut transaction = database.begin().await?;
        let mut tx = Tx::from(&mut transaction);
        if entry.overlap == Overlap::Skip {
            plan.ticks.drain(..plan.ticks.len().saturating_sub(1));
            if self.is_unfinished(&mut tx, known.last_job).await? {
                plan.ticks.clear();
            }
        }
        let was = Timestamp::try_from(known.until)?;
        let until = Timestamp::try_from(plan.until)?;
        let last = plan
            .ticks
            .last()
            .copied()
            .map(Timestamp::try_from)
            .transpose()?;
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
            return Ok(Look::Done);
        }
        let jobs: Vec<_> = plan
            .ticks
            .iter()
            .map(|tick| entry.job.clone().of_schedule(&entry.name, Some(*tick)))
            .collect();
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
        Ok(Look::Done)
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
}

/// Makes a definition the fleet's. Whether that is so; if not, the known one changed meanwhile.
async fn save(
    database: &Database,
    name: &str,
    definition: &Definition,
    text: &str,
) -> Result<bool> {
    let known = ScheduleState::get(database, name)
        .await?
        .map(|known| known.definition);
    if known.as_deref() == Some(text) {
        return Ok(true);
    }
    let starts_anew = known
        .as_deref()
        .and_then(|known| serde_json::from_str::<Definition>(known).ok())
        .is_none_or(|known| {
            known.cron != definition.cron
                || known.timezone != definition.timezone
                || (definition.enabled && !known.enabled)
        });
    let now = database.clock().now();
    let mut connection = database.write().await?;
    let mut tx = connection.tx();
    let saved = query!(
        database,
        tx,
        execute,
        Sql::ScheduleSave,
        name,
        JsonText(text.to_owned()),
        now,
        starts_anew,
        known.as_deref()
    )?;
    Ok(saved > 0)
}

#[derive(PartialEq, Eq)]
enum Look {
    Done,
    /// The fleet's definition is another one.
    Different,
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
