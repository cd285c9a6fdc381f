//! Workers that have nothing to do, for whoever enqueues in their process.
//!
//! A fetcher that waits for jobs says so here, and takes it back as it wakes. Whoever enqueues meanwhile reserves slots of that
//! worker, writes the jobs as claimed by it, and hands them to the apalis worker of their queue when that is committed: see
//! [`at_once`](super::at_once).

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::JobId;
use super::backend::Claimed;
use super::enqueue::Row;
use super::finish::Begun;
use super::held::Held;
use super::limits::QueueTable;
use super::pulse::{Life, Moment, Pulse};
use super::slots::{Slot, Slots};
use crate::clock::Timestamp;
use crate::database::RowText;

/// Those of a database in this process.
#[derive(Debug, Default)]
pub(super) struct Vacancies(Mutex<Vec<Vacancy>>);

/// A worker that waits for jobs.
#[derive(Debug)]
struct Vacancy {
    host: Arc<Host>,
    seats: Vec<Seat>,
}

/// What jobs of a worker are begun with.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) worker: JobId,
    /// The job names that it knows.
    pub(super) names: Vec<String>,
    pub(super) concurrency: usize,
    pub(super) table: watch::Receiver<QueueTable>,
    pub(super) held: Held,
    pub(super) pulse: Arc<Pulse>,
    pub(super) stop: CancellationToken,
    pub(super) gone: CancellationToken,
    /// Told when there may be rows of the worker's own of which it knows nothing. It ends when the last one who may tell has gone.
    pub(super) doubt: mpsc::UnboundedSender<()>,
}

/// A queue that it serves.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) queue: Arc<str>,
    pub(super) slots: Arc<Slots>,
    pub(super) claimed: mpsc::UnboundedSender<Claimed>,
}

/// A vacancy for as long as it is not dropped.
#[derive(Debug)]
#[must_use = "it is withdrawn when it is dropped"]
pub(super) struct Published {
    vacancies: Arc<Vacancies>,
    worker: JobId,
}

/// Jobs that have their slots and are held, and whose rows are to say that they run. Dropped before all is known of their
/// rows, it has the worker look for them.
#[derive(Debug)]
pub(super) struct Reserved {
    pub(super) worker: JobId,
    pub(super) queue: Arc<str>,
    jobs: Vec<Claimed>,
    claimed: mpsc::UnboundedSender<Claimed>,
    gone: CancellationToken,
    doubt: mpsc::UnboundedSender<()>,
}

impl Vacancies {
    pub(super) fn publish(self: &Arc<Self>, host: &Arc<Host>, seats: Vec<Seat>) -> Published {
        let host = host.clone();
        let worker = host.worker;
        self.lock().push(Vacancy { host, seats });
        Published {
            vacancies: self.clone(),
            worker,
        }
    }

    /// Slots for all of these jobs in a worker that begins them at `at`, if there is one. Nobody withdraws meanwhile.
    pub(super) fn reserve(&self, rows: &[&Row], at: Timestamp) -> Option<Reserved> {
        let vacancies = self.lock();
        vacancies
            .iter()
            .find_map(|vacancy| vacancy.reserve(rows, at))
    }

    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, Vec<Vacancy>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let mut vacancies = self.vacancies.lock();
        vacancies.retain(|vacancy| vacancy.host.worker != self.worker);
    }
}

impl Vacancy {
    fn reserve(&self, rows: &[&Row], at: Timestamp) -> Option<Reserved> {
        let host = &self.host;
        let queue = &rows.first()?.2;
        let seat = self.seats.iter().find(|seat| *seat.queue == **queue)?;
        if host.stop.is_cancelled() || host.gone.is_cancelled() || seat.claimed.is_closed() {
            return None;
        }
        let fits = |row: &&Row| row.2 == *queue && host.knows(&row.1);
        if !rows.iter().all(fits) {
            return None;
        }
        let life = host.pulse.life(Moment::now())?;
        let slots = host.slots(seat, rows.len())?;
        let jobs = rows.iter().zip(slots);
        let jobs = jobs.map(|(row, slot)| host.claimed(row, seat, slot, life, at));
        Some(Reserved {
            worker: host.worker,
            queue: seat.queue.clone(),
            jobs: jobs.collect(),
            claimed: seat.claimed.clone(),
            gone: host.gone.clone(),
            doubt: host.doubt.clone(),
        })
    }
}

impl Host {
    fn knows(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// So many slots of a queue that has no limits over the fleet, if they are free.
    fn slots(&self, seat: &Seat, count: usize) -> Option<Vec<Slot>> {
        let table = self.table.borrow();
        if table.limits_of(&seat.queue).any() {
            return None;
        }
        let concurrency = table.concurrency_of(&seat.queue, self.concurrency);
        seat.slots.resize(concurrency);
        seat.slots.reserve(count)
    }

    /// As its fetcher would have claimed it.
    fn claimed(&self, row: &Row, seat: &Seat, slot: Slot, life: Life, at: Timestamp) -> Claimed {
        let (id, name, _, _, max_attempts, _, _, _, _, payload, _, _) = row;
        let id = JobId(*id);
        Claimed {
            id,
            name: name.as_str().into(),
            queue: seat.queue.clone(),
            attempt: 1,
            max_attempts: i32::from(*max_attempts),
            schedule: None,
            tick: None,
            payload: RowText::Text(payload.clone()),
            limited: false,
            // Before its row can be there: whoever compares rows with what is held finds it.
            hold: self.held.hold(id, 1),
            life,
            started_at: at,
            claimed_at: Instant::now(),
            slot,
        }
    }
}

impl Reserved {
    /// Hands on those that were inserted as running. Those that were inserted as queued are everybody's. Those that are
    /// not `inserted` were there already, and stay in doubt. Returns those whose worker has gone.
    pub(super) fn hand_on(&mut self, inserted: &HashMap<JobId, bool>) -> Vec<Claimed> {
        let mut homeless = Vec::new();
        for mut job in std::mem::take(&mut self.jobs) {
            match inserted.get(&job.id) {
                Some(false) => {}
                Some(true) if self.gone.is_cancelled() => homeless.push(job),
                Some(true) => {
                    job.claimed_at = Instant::now();
                    let sent = self.claimed.send(job);
                    homeless.extend(sent.err().map(|unsent| unsent.0));
                }
                None => self.jobs.push(job),
            }
        }
        homeless
    }

    /// Takes jobs back that were not begun, whatever their rows say.
    pub(super) fn put_in_doubt(&mut self, jobs: Vec<Claimed>) {
        self.jobs.extend(jobs);
    }

    /// Whether all is known of their rows.
    pub(super) fn is_settled(&self) -> bool {
        self.jobs.is_empty()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        // First: whoever is told looks for what is not held.
        self.jobs.clear();
        let _ = self.doubt.send(());
    }
}

/// As a give-back names it.
pub(super) fn begun(job: &Claimed) -> Begun {
    (job.id, job.attempt, Some(job.started_at))
}
