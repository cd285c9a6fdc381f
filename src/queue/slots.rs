//! The slots of one queue in this worker, and how many jobs are claimed ahead of them.
//!
//! To claim a job as its slot becomes free would leave the slot idle for a trip to the database, and make statements as
//! small as there are slots. So a worker whose jobs are short claims as many more as it will begin until the next claim
//! has come, by the rate at which they ended of late. Where jobs take long that is none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Jobs are claimed ahead for so long at the least, and for so many times what a claim takes.
const AHEAD: (Duration, u32) = (Duration::from_millis(20), 3);
/// Jobs claimed ahead, at the most.
const MOST_AHEAD: usize = 5_000;
/// What is claimed ahead and has not begun after this goes back to the queue, where others may have a slot for it.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// A rate is measured over no less than this.
const MEASURED: Duration = Duration::from_millis(2);

/// How many jobs of a queue run at once in this worker.
#[derive(Debug)]
pub(crate) struct Slots {
    state: Mutex<State>,
    /// The fetcher, which is told when there is room.
    freed: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    concurrency: usize,
    taken: usize,
    /// Jobs that are claimed and have no slot yet.
    waiting: usize,
    ended: u64,
    ahead: usize,
    /// When the rate was measured last, and how many had ended by then; in jobs a second.
    measured: (Instant, u64),
    rate: f64,
    /// The queue's backend, where it waits for a slot.
    waker: Option<Waker>,
}

/// One of a queue's slots, or a place in the wait for one. Dropped, it makes room.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    taken: bool,
}

impl Slots {
    pub(super) fn new(concurrency: usize, freed: Arc<Notify>, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                concurrency,
                taken: 0,
                waiting: 0,
                ended: 0,
                ahead: 0,
                measured: (now, 0),
                rate: 0.0,
                waker: None,
            }),
            freed,
        })
    }

    /// Has so many slots from now on. What runs beyond them goes on.
    pub(super) fn resize(&self, concurrency: usize) {
        let mut state = self.lock();
        state.concurrency = concurrency;
        state.wake();
    }

    pub(super) fn are_idle(&self) -> bool {
        let state = self.lock();
        state.taken == 0 && state.waiting == 0
    }

    /// How many slots nobody has or waits for.
    pub(super) fn free(&self) -> usize {
        self.lock().free()
    }

    /// How many jobs are to be claimed now, where the last claim took so long. None while there are still enough: a
    /// statement for each slot that becomes free would be a small one.
    pub(super) fn wanted(&self, claim_took: Duration, now: Instant) -> usize {
        let mut state = self.lock();
        state.measure(now);
        let time = AHEAD.0.max(claim_took * AHEAD.1).min(PATIENCE / 10);
        state.ahead = jobs_in(state.rate, time).min(MOST_AHEAD);
        if state.has_enough() {
            return 0;
        }
        let most = state.concurrency.saturating_add(state.ahead);
        most.saturating_sub(state.taken + state.waiting)
    }

    /// A slot for a job that is claimed for it.
    pub(super) fn take(self: &Arc<Self>) -> Slot {
        let mut state = self.lock();
        state.taken += 1;
        Slot {
            slots: self.clone(),
            taken: true,
        }
    }

    /// A place in the wait for a slot.
    pub(super) fn wait(self: &Arc<Self>) -> Slot {
        self.lock().waiting += 1;
        Slot {
            slots: self.clone(),
            taken: false,
        }
    }

    /// Places in the wait for slots that are free for so many, if they are.
    pub(super) fn reserve(self: &Arc<Self>, count: usize) -> Option<Vec<Slot>> {
        let mut state = self.lock();
        let free = state.free();
        if count > free {
            return None;
        }
        state.waiting += count;
        let slot = || Slot {
            slots: self.clone(),
            taken: false,
        };
        Some(std::iter::repeat_with(slot).take(count).collect())
    }

    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn free(&self) -> usize {
        self.concurrency.saturating_sub(self.taken + self.waiting)
    }

    fn measure(&mut self, now: Instant) {
        let (since, ended) = self.measured;
        let elapsed = now.saturating_duration_since(since);
        if elapsed < MEASURED {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "a rate is no exact thing")]
        let rate = (self.ended - ended) as f64 / elapsed.as_secs_f64();
        // A lull between two claims does not end the rate.
        self.rate = rate.max(self.rate / 2.0);
        self.measured = (now, self.ended);
    }

    /// Whether what waits lasts until another claim has come.
    fn has_enough(&self) -> bool {
        self.waiting > self.ahead / 2
    }

    fn wake(&mut self) {
        if self.taken < self.concurrency
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

impl Slot {
    pub(crate) fn is_taken(&self) -> bool {
        self.taken
    }

    /// Ready when it is a slot.
    pub(super) fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.taken {
            return Poll::Ready(());
        }
        let mut state = self.slots.lock();
        if state.taken >= state.concurrency {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.waiting -= 1;
        state.taken += 1;
        self.taken = true;
        let low = !state.has_enough();
        drop(state);
        if low {
            self.slots.freed.notify_one();
        }
        Poll::Ready(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        if self.taken {
            state.taken -= 1;
            state.ended += 1;
            state.wake();
        } else {
            state.waiting -= 1;
        }
        let low = !state.has_enough();
        drop(state);
        if low {
            self.slots.freed.notify_one();
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a float saturates"
)]
fn jobs_in(rate: f64, time: Duration) -> usize {
    (rate * time.as_secs_f64()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: Duration = Duration::from_millis(5);

    fn begin(slot: &mut Slot) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        slot.poll_take(&mut cx).is_ready()
    }

    #[test]
    fn as_many_are_claimed_ahead_as_begin_until_the_next_claim_and_none_of_those_that_take_long() {
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        let slots = Slots::new(10, Arc::default(), now);
        assert_eq!(slots.wanted(CLAIM, now), 10, "nothing is known of them");
        let mut held: Vec<Slot> = (0..10).map(|_| slots.wait()).collect();
        assert!(held.iter_mut().all(begin));
        assert_eq!(slots.wanted(CLAIM, after(3)), 0, "none of them has ended");
        held.clear();
        held.extend((0..10).map(|_| slots.take()));
        assert_eq!(
            slots.wanted(CLAIM, after(13)),
            20,
            "1,000 a second for 20 ms; the slots are taken"
        );
        held.extend((0..20).map(|_| slots.wait()));
        assert!(!begin(&mut held[10]), "there is no slot for it");
        assert_eq!(slots.wanted(CLAIM, after(14)), 0, "enough of them wait");
        // Those that run take long, and in the end nobody takes them for quick.
        held.truncate(10);
        for round in 2..20 {
            slots.wanted(CLAIM, after(10 * round));
        }
        assert_eq!(slots.wanted(CLAIM, after(200)), 0);
        held.pop();
        assert_eq!(
            slots.wanted(CLAIM, after(1_200)),
            1,
            "its slot is free, and that is all"
        );
        assert_eq!(slots.free(), 1);
    }

    #[test]
    fn places_are_reserved_for_all_or_none_and_given_up_when_they_are_dropped() {
        let now = Instant::now();
        let slots = Slots::new(3, Arc::default(), now);
        let runs = slots.take();
        assert!(slots.reserve(3).is_none());
        assert_eq!(slots.free(), 2, "none of them has stayed");
        let mut reserved = slots.reserve(2).into_iter().flatten();
        assert!(slots.reserve(1).is_none() && slots.free() == 0);
        let first = reserved.next();
        assert!(first.is_some_and(|mut slot| begin(&mut slot)));
        drop(reserved);
        assert_eq!(slots.free(), 2);
        drop(runs);
        assert!(slots.are_idle());
    }

    #[test]
    fn a_slow_claim_is_made_sooner_and_no_rate_goes_beyond_the_most() {
        let now = Instant::now();
        let slots = Slots::new(1, Arc::default(), now);
        let end = |count| (0..count).for_each(|_| drop(slots.take()));
        end(100);
        let at = now + Duration::from_millis(100);
        assert_eq!(slots.wanted(Duration::from_millis(10), at), 1 + 30);
        assert_eq!(
            slots.wanted(Duration::from_secs(10), at),
            1 + 50,
            "a tenth of the patience"
        );
        end(1_000_000);
        let at = at + Duration::from_millis(100);
        assert_eq!(slots.wanted(CLAIM, at), 1 + MOST_AHEAD);
    }

    #[test]
    fn a_slot_that_is_free_wakes_who_waits_for_it_and_fewer_slots_let_nobody_begin() {
        let freed = Arc::new(Notify::new());
        let slots = Slots::new(2, freed, Instant::now());
        let (mut one, mut two, mut three) = (slots.wait(), slots.wait(), slots.wait());
        assert!(begin(&mut one) && begin(&mut two) && !begin(&mut three));
        assert!(slots.lock().waker.is_some());
        slots.resize(1);
        drop(one);
        assert!(
            slots.lock().waker.is_some() && !begin(&mut three),
            "one slot too many is given up"
        );
        drop(two);
        assert!(slots.lock().waker.is_none(), "woken");
        assert!(begin(&mut three) && three.is_taken());
        assert!(!slots.are_idle());
        drop(three);
        assert!(slots.are_idle());
    }
}
