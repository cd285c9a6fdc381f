//! Whether a worker's claims are its own still. Whoever was silent for `rescue_after`, be it that its process was
//! stopped or that the database did not take its heartbeat, must take them for rescued, and begin none of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

/// An instant by both clocks of the machine: the monotonic one may stand still while the machine sleeps, and the other may
/// be set back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    fn since(self, earlier: Self) -> Duration {
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        wall.max(self.monotonic.saturating_duration_since(earlier.monotonic))
    }
}

/// The worker's heartbeats.
#[derive(Debug)]
pub(crate) struct Pulse {
    rescue_after: Duration,
    beats: Mutex<Beats>,
    beaten: Notify,
}

#[derive(Debug)]
struct Beats {
    last: Moment,
    life: Life,
}

/// The time between two silences of a worker. What was claimed in one of them is not begun in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life(u64);

impl Pulse {
    pub(crate) fn new(rescue_after: Duration, now: Moment) -> Self {
        Self {
            rescue_after,
            beats: Mutex::new(Beats {
                last: now,
                life: Life(0),
            }),
            beaten: Notify::new(),
        }
    }

    /// The database has taken a heartbeat that was sent at `sent`, and has said so at `taken`. Until then the one before
    /// may have been all that others knew of.
    pub(super) fn beaten(&self, sent: Moment, taken: Moment) {
        let mut beats = self.lock();
        if self.is_silence(beats.last, taken) {
            beats.life = Life(beats.life.0 + 1);
        }
        beats.last = sent;
        drop(beats);
        self.beaten.notify_one();
    }

    /// The life that a claim made now belongs to; none while the worker is silent.
    pub(super) fn life(&self, now: Moment) -> Option<Life> {
        let beats = self.lock();
        (!self.is_silence(beats.last, now)).then_some(beats.life)
    }

    /// Whether nobody can have rescued what was claimed in `life`.
    pub(crate) fn holds(&self, life: Life, now: Moment) -> bool {
        self.life(now) == Some(life)
    }

    /// Returns when a heartbeat was taken since this returned last.
    pub(super) async fn beat(&self) {
        self.beaten.notified().await;
    }

    fn is_silence(&self, from: Moment, until: Moment) -> bool {
        until.since(from) >= self.rescue_after
    }

    fn lock(&self) -> MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(began: Moment, seconds: u64) -> Moment {
        let seconds = Duration::from_secs(seconds);
        Moment {
            monotonic: began.monotonic + seconds,
            wall: began.wall + seconds,
        }
    }

    #[test]
    fn a_claim_holds_until_its_worker_was_silent_for_rescue_after() {
        let rescue_after = Duration::from_secs(30);
        let began = Moment::now();
        let at = |seconds| later(began, seconds);
        let pulse = Pulse::new(rescue_after, began);
        let life = pulse.life(began);
        pulse.beaten(at(29), at(29));
        assert_eq!(pulse.life(at(58)), life);
        assert_eq!(pulse.life(at(59)), None, "silent for 30 s");

        // The heartbeat that comes at last gives back no claim from before the silence.
        pulse.beaten(at(60), at(60));
        let next = pulse.life(at(60));
        assert!(next.is_some() && next != life);
        assert!(next.is_some_and(|next| pulse.holds(next, at(61))));
        assert!(life.is_some_and(|life| !pulse.holds(life, at(61))));
    }

    #[test]
    fn a_heartbeat_that_was_under_way_for_long_ends_a_silence_when_it_is_taken() {
        let began = Moment::now();
        let at = |seconds| later(began, seconds);
        let pulse = Pulse::new(Duration::from_secs(30), began);
        let life = pulse.life(began);
        pulse.beaten(at(5), at(31));
        let next = pulse.life(at(31));
        assert!(
            next.is_some() && next != life,
            "others saw nothing for 31 s"
        );
        assert_eq!(pulse.life(at(35)), None, "it was sent 30 s ago");
    }

    #[test]
    fn a_machine_that_slept_was_silent() {
        let began = Moment::now();
        let pulse = Pulse::new(Duration::from_secs(30), began);
        let slept = Moment {
            wall: began.wall + Duration::from_secs(30),
            ..began
        };
        assert_eq!(pulse.life(slept), None);
        let set_back = Moment {
            wall: began.wall - Duration::from_secs(3600),
            ..later(began, 1)
        };
        assert!(pulse.life(set_back).is_some());
    }
}
