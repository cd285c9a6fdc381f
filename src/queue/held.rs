//! Which attempts this worker has: claimed, and their outcome not yet written.
//!
//! A claim whose answer was lost with its connection leaves a job that its row calls running and that nobody runs, and
//! that nobody rescues either while this worker lives. By comparing rows with what it holds, the fetcher finds these.
//! What passes between a handler and the worker while it runs is held here too: its cancellation, its progress, and how
//! long its result is to be remembered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{JobId, JobProgress};
use crate::cache::Remember;

/// A job and which of its attempts. A job that was cancelled and retried may have two at work at once.
pub(crate) type Attempt = (JobId, i32);

/// The attempts that a worker has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    attempts: Arc<Mutex<HashMap<Attempt, Arc<RunningAttempt>>>>,
    reported: Arc<Notify>,
    /// Of these, those that have ended.
    ended: Arc<AtomicUsize>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    held: Held,
    attempt: Attempt,
    running: Arc<RunningAttempt>,
    ended: bool,
}

/// What passes between an attempt's handler and the worker.
#[derive(Debug)]
pub(crate) struct RunningAttempt {
    pub(crate) cancellation: CancellationToken,
    progress: Mutex<Reports>,
    reported: Arc<Notify>,
    remember: Mutex<Option<Remember>>,
}

/// The progress that a handler reported last, and the one that was written last.
#[derive(Debug, Default)]
struct Reports {
    latest: Option<JobProgress>,
    written: Option<JobProgress>,
}

impl Held {
    pub(crate) fn hold(&self, id: JobId, attempt: i32) -> Hold {
        let attempt = (id, attempt);
        let running = Arc::new(RunningAttempt {
            cancellation: CancellationToken::new(),
            progress: Mutex::default(),
            reported: self.reported.clone(),
            remember: Mutex::default(),
        });
        self.lock().insert(attempt, running.clone());
        Hold {
            held: self.clone(),
            attempt,
            running,
            ended: false,
        }
    }

    pub(crate) fn contains(&self, id: JobId, attempt: i32) -> bool {
        self.lock().contains_key(&(id, attempt))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// How many have ended, and their outcome is not written.
    pub(super) fn outcomes(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// Tells a handler that its job is to be cancelled. Whether there is such an attempt.
    pub(super) fn cancel(&self, attempt: Attempt) -> bool {
        let running = self.lock().get(&attempt).cloned();
        // Whoever waits for the token is woken without the lock.
        running.is_some_and(|running| {
            running.cancellation.cancel();
            true
        })
    }

    /// Returns when a handler has reported progress since this returned last.
    pub(super) async fn reported(&self) {
        self.reported.notified().await;
    }

    /// As if a handler had reported progress.
    pub(super) fn look_again(&self) {
        self.reported.notify_one();
    }

    /// The progress that is not written yet.
    pub(super) fn unwritten(&self) -> Vec<(Attempt, JobProgress)> {
        self.lock()
            .iter()
            .filter_map(|(attempt, running)| Some((*attempt, running.unwritten()?)))
            .collect()
    }

    /// Takes note that so much is written.
    pub(super) fn written(&self, written: &[(Attempt, JobProgress)]) {
        let attempts = self.lock();
        for (attempt, progress) in written {
            if let Some(running) = attempts.get(attempt) {
                running.reports().written = Some(*progress);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Attempt, Arc<RunningAttempt>>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    pub(crate) fn running(&self) -> &Arc<RunningAttempt> {
        &self.running
    }

    /// The attempt has an outcome, which is to be written.
    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.held.ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.ended {
            self.held.ended.fetch_sub(1, Ordering::Relaxed);
        }
        // One that was given back may have been claimed again under its number.
        let mut attempts = self.held.lock();
        if let Some(running) = attempts.get(&self.attempt)
            && Arc::ptr_eq(running, &self.running)
        {
            attempts.remove(&self.attempt);
        }
    }
}

impl RunningAttempt {
    /// Keeps the progress for the worker to write.
    pub(crate) fn report(&self, progress: JobProgress) {
        let changed = self.reports().latest.replace(progress) != Some(progress);
        if changed {
            self.reported.notify_one();
        }
    }

    /// The progress that was reported last, if that is not written yet.
    pub(crate) fn unwritten(&self) -> Option<JobProgress> {
        let reports = self.reports();
        reports
            .latest
            .filter(|latest| reports.written != Some(*latest))
    }

    /// Keeps what the handler says of its result, for when it has returned.
    pub(crate) fn remember(&self, remember: Remember) {
        *self.said() = Some(remember);
    }

    /// What the handler said of its result, once: it may run again.
    pub(crate) fn take_remember(&self) -> Option<Remember> {
        self.said().take()
    }

    fn said(&self) -> MutexGuard<'_, Option<Remember>> {
        self.remember.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
