//! Which attempts this worker has: claimed, and their outcome not yet written.
//!
//! A claim whose answer was lost with its connection leaves a job that its row calls running and that nobody runs, and
//! that nobody rescues either while this worker lives. By comparing rows with what it holds, the fetcher finds these.
//! What passes between a handler and the worker while it runs is held here too: its cancellation, its progress, and how
//! long its result is to be remembered.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use futures::task::AtomicWaker;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{JobId, JobProgress};
use crate::cache::Remember;

/// A job and which of its attempts. A job that was cancelled and retried may have two at work at once.
pub(crate) type Attempt = (JobId, i32);

/// The attempts that a worker has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    places: Arc<Mutex<Places>>,
    common: Arc<Common>,
}

/// Each attempt in a place of its own: all come and go, and few are ever looked for.
#[derive(Debug, Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Place {
    is_taken: bool,
    /// What was here last, where it is free: the next one takes its memory.
    running: Arc<RunningAttempt>,
}

/// What concerns all of them.
#[derive(Debug, Default)]
struct Common {
    reported: Notify,
    /// How many have ended, and their outcome is not written.
    ended: AtomicUsize,
    given_up: AtomicBool,
    stopping: CancellationToken,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    running: Arc<RunningAttempt>,
    places: Arc<Mutex<Places>>,
    place: usize,
    ended: bool,
}

/// What passes between an attempt's handler and the worker.
#[derive(Debug)]
pub(crate) struct RunningAttempt {
    attempt: Attempt,
    common: Arc<Common>,
    /// Made for who asks for it: most attempts end before anybody does.
    cancellation: OnceLock<CancellationToken>,
    /// Who waits for the handler, woken for all that ends the wait.
    waiter: AtomicWaker,
    /// The job's row does not say that it runs: it was claimed with many.
    unsaid: AtomicBool,
    begun: AtomicBool,
    ended: AtomicBool,
    over: AtomicBool,
    /// Few handlers say anything.
    said: OnceLock<Box<Said>>,
}

/// What a handler has said.
#[derive(Debug, Default)]
struct Said {
    progress: Mutex<Reports>,
    remember: Mutex<Option<Remember>>,
}

/// The progress that a handler reported last, and the one that was written last.
#[derive(Debug, Default)]
struct Reports {
    latest: Option<JobProgress>,
    written: Option<JobProgress>,
}

impl Held {
    /// `stopping` is told at the beginning of the drain.
    pub(crate) fn new(stopping: CancellationToken) -> Self {
        let common = Common {
            stopping,
            ..Common::default()
        };
        Self {
            places: Arc::default(),
            common: Arc::new(common),
        }
    }

    pub(crate) fn hold(&self, id: JobId, attempt: i32) -> Hold {
        let running = RunningAttempt {
            attempt: (id, attempt),
            common: self.common.clone(),
            cancellation: OnceLock::new(),
            waiter: AtomicWaker::new(),
            unsaid: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            over: AtomicBool::new(false),
            said: OnceLock::new(),
        };
        let (place, running) = lock(&self.places).take(running);
        Hold {
            running,
            places: self.places.clone(),
            place,
            ended: false,
        }
    }

    pub(super) fn attempts(&self) -> HashSet<Attempt> {
        let places = lock(&self.places);
        places.taken().map(|running| running.attempt).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        let places = lock(&self.places);
        places.all.len() == places.free.len()
    }

    /// How many have ended, and their outcome is not written.
    pub(super) fn outcomes(&self) -> usize {
        self.common.ended.load(Ordering::Relaxed)
    }

    /// Tells the handlers of these, as far as they are held, that their jobs are to be cancelled.
    pub(super) fn cancel(&self, attempts: &HashSet<Attempt>) {
        // Who waits is woken without the lock.
        for running in self.those(|running| attempts.contains(&running.attempt)) {
            running.cancellation().cancel();
        }
    }

    /// Has nobody wait for a handler any longer.
    pub(crate) fn give_up(&self) {
        self.common.given_up.store(true, Ordering::Release);
        for running in self.those(|_| true) {
            running.waiter.wake();
        }
    }

    /// Returns when a handler has reported progress since this returned last.
    pub(super) async fn reported(&self) {
        self.common.reported.notified().await;
    }

    /// As if a handler had reported progress.
    pub(super) fn look_again(&self) {
        self.common.reported.notify_one();
    }

    /// Those whose progress is not written yet, and that.
    pub(super) fn unwritten(&self) -> Vec<(Arc<RunningAttempt>, JobProgress)> {
        let places = lock(&self.places);
        places
            .taken()
            .filter_map(|running| Some((running.clone(), running.unwritten()?)))
            .collect()
    }

    fn those(&self, which: impl Fn(&RunningAttempt) -> bool) -> Vec<Arc<RunningAttempt>> {
        let places = lock(&self.places);
        let those = places.taken().filter(|running| which(running));
        those.cloned().collect()
    }
}

/// Nothing panics while it is held.
fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    fn take(&mut self, running: RunningAttempt) -> (usize, Arc<RunningAttempt>) {
        let Some(free) = self.free.pop() else {
            let running = Arc::new(running);
            self.all.push(Place {
                is_taken: true,
                running: running.clone(),
            });
            return (self.all.len() - 1, running);
        };
        let place = &mut self.all[free];
        place.is_taken = true;
        match Arc::get_mut(&mut place.running) {
            Some(last) => *last = running,
            // Its handler's context is still about.
            None => place.running = Arc::new(running),
        }
        (free, place.running.clone())
    }

    fn taken(&self) -> impl Iterator<Item = &Arc<RunningAttempt>> {
        let taken = self.all.iter().filter(|place| place.is_taken);
        taken.map(|place| &place.running)
    }
}

impl Hold {
    pub(crate) fn running(&self) -> &Arc<RunningAttempt> {
        &self.running
    }

    /// Its handler begins.
    pub(crate) fn begin(&self) {
        self.running.begun.store(true, Ordering::Relaxed);
    }

    /// Its outcome is written.
    pub(super) fn written(&self) {
        self.running.over.store(true, Ordering::Release);
    }

    /// The attempt has an outcome, which is to be written.
    pub(crate) fn end(&mut self) {
        // Nobody waits any more, and what waited is large.
        drop(self.running.waiter.take());
        if !std::mem::replace(&mut self.ended, true) {
            self.running.ended.store(true, Ordering::Relaxed);
            let ended = &self.running.common.ended;
            ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // One that was begun, and of which nobody knows what came of it, is left to be rescued.
        if !self.running.begun.load(Ordering::Relaxed) {
            self.running.over.store(true, Ordering::Release);
        }
        if self.ended {
            let ended = &self.running.common.ended;
            ended.fetch_sub(1, Ordering::Relaxed);
        }
        let mut places = lock(&self.places);
        places.all[self.place].is_taken = false;
        places.free.push(self.place);
    }
}

impl RunningAttempt {
    /// Takes note whether the job's row says that it runs.
    pub(super) fn says_so(&self, says_so: bool) {
        self.unsaid.store(!says_so, Ordering::Release);
    }

    pub(super) fn is_unsaid(&self) -> bool {
        self.unsaid.load(Ordering::Acquire)
    }

    /// Whether it has an outcome.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether its outcome is written, or it is no longer held and was never begun.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(crate) fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Told when the job is cancelled.
    pub(crate) fn cancellation(&self) -> &CancellationToken {
        let mut is_new = false;
        let token = self.cancellation.get_or_init(|| {
            is_new = true;
            CancellationToken::new()
        });
        if is_new {
            self.waiter.wake();
        }
        token
    }

    /// The token, if anybody has asked for it.
    pub(crate) fn cancellation_asked_for(&self) -> Option<&CancellationToken> {
        self.cancellation.get()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancellation_asked_for()
            .is_some_and(CancellationToken::is_cancelled)
    }

    /// Whether nobody is to wait for a handler any longer.
    pub(crate) fn is_given_up(&self) -> bool {
        self.common.given_up.load(Ordering::Acquire)
    }

    /// Has `waiter` woken when it is given up, and when somebody asks for the cancellation. Both are to be looked at after
    /// this.
    pub(crate) fn wake_on_change(&self, waiter: &Waker) {
        self.waiter.register(waiter);
    }

    /// Told at the beginning of the drain.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.common.stopping
    }

    /// Keeps the progress for the worker to write.
    pub(crate) fn report(&self, progress: JobProgress) {
        let changed = self.said().reports().latest.replace(progress) != Some(progress);
        if changed {
            self.common.reported.notify_one();
        }
    }

    /// The progress that was reported last, if that is not written yet.
    pub(crate) fn unwritten(&self) -> Option<JobProgress> {
        let reports = self.said.get()?.reports();
        reports
            .latest
            .filter(|latest| reports.written != Some(*latest))
    }

    /// Takes note that so much is written.
    pub(super) fn written(&self, progress: JobProgress) {
        self.said().reports().written = Some(progress);
    }

    /// Keeps what the handler says of its result, for when it has returned.
    pub(crate) fn remember(&self, remember: Remember) {
        *self.said().remember() = Some(remember);
    }

    /// What the handler said of its result, once: it may run again.
    pub(crate) fn take_remember(&self) -> Option<Remember> {
        self.said.get()?.remember().take()
    }

    fn said(&self) -> &Said {
        self.said.get_or_init(Box::default)
    }
}

impl Said {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self) -> MutexGuard<'_, Option<Remember>> {
        self.remember.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn id() -> JobId {
        JobId(uuid::Uuid::now_v7())
    }

    #[test]
    fn who_waits_for_a_handler_is_woken_for_its_cancellation_and_when_it_is_given_up() {
        let (held, wakes) = (Held::default(), Arc::new(Wakes::default()));
        let woken = || wakes.0.load(Ordering::SeqCst);
        let waker = Waker::from(wakes.clone());
        let (one, other) = (held.hold(id(), 1), held.hold(id(), 1));
        for hold in [&one, &other] {
            hold.running().wake_on_change(&waker);
        }
        held.cancel(&HashSet::from([one.running().attempt(), (id(), 1)]));
        assert_eq!(woken(), 1);
        assert!(one.running().is_cancelled() && !other.running().is_cancelled());
        assert!(other.running().cancellation_asked_for().is_none());
        other.running().cancellation();
        assert_eq!(woken(), 2, "somebody has asked for it");
        other.running().cancellation();
        assert_eq!(woken(), 2);
        for hold in [&one, &other] {
            assert!(!hold.running().is_given_up());
            hold.running().wake_on_change(&waker);
        }
        held.give_up();
        assert_eq!(woken(), 4);
        let mut ended = held.hold(id(), 1);
        ended.running().wake_on_change(&waker);
        ended.end();
        held.give_up();
        assert_eq!(woken(), 4, "nobody waits for what has ended");
        assert!(one.running().is_given_up() && held.hold(id(), 1).running().is_given_up());
    }

    #[test]
    fn a_place_that_is_free_is_taken_again_and_two_holds_of_one_attempt_are_two() {
        let held = Held::default();
        let attempt = (id(), 1);
        let (first, again) = (held.hold(attempt.0, 1), held.hold(attempt.0, 1));
        let other = held.hold(id(), 2);
        first.running().cancellation().cancel();
        first.running().report(JobProgress { done: 1, total: 2 });
        drop(first);
        other.running().cancellation().cancel();
        other.running().report(JobProgress { done: 1, total: 2 });
        let context = other.running().clone();
        assert_eq!(
            held.attempts(),
            HashSet::from([attempt, other.running().attempt()])
        );
        drop(other);
        let mut third = held.hold(id(), 3);
        assert!(
            context.is_cancelled() && context.attempt().1 == 2,
            "it is kept by its handler"
        );
        assert_eq!(lock(&held.places).all.len(), 3);
        assert!(!third.running().is_cancelled() && third.running().unwritten().is_none());
        let fourth = held.hold(id(), 4);
        assert!(!fourth.running().is_cancelled() && fourth.running().unwritten().is_none());
        drop(fourth);
        held.cancel(&HashSet::from([attempt]));
        assert!(again.running().is_cancelled() && !third.running().is_cancelled());
        assert_eq!(held.outcomes(), 0);
        third.end();
        third.end();
        assert_eq!(held.outcomes(), 1);
        drop((again, third));
        assert_eq!(held.outcomes(), 0);
        assert!(held.is_empty() && held.attempts().is_empty());
    }

    #[test]
    fn progress_is_unwritten_until_it_is_written() {
        let held = Held::default();
        let hold = held.hold(id(), 1);
        assert!(held.unwritten().is_empty());
        let progress = |done| JobProgress { done, total: 3 };
        hold.running().report(progress(1));
        let unwritten = held.unwritten();
        assert_eq!(unwritten.len(), 1);
        hold.running().report(progress(2));
        for (running, progress) in unwritten {
            running.written(progress);
        }
        assert_eq!(hold.running().unwritten(), Some(progress(2)));
        hold.running().written(progress(2));
        assert!(held.unwritten().is_empty());
    }
}
