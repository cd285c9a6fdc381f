//! When a worker compares the rows that are its own with what it holds.

use std::time::{Duration, Instant};

/// Whatever is asked for, lost claims are looked for this often.
const LONGEST: Duration = Duration::from_secs(3600);
/// A statement whose answer was lost may be carried out after the look that follows: there is another after this, the next after
/// four times as long, and so on up to the interval.
const AGAIN: Duration = Duration::from_millis(50);
const LONGER: u32 = 4;

/// At intervals, and soon where there is doubt.
#[derive(Debug)]
pub(super) struct Audits {
    interval: Duration,
    at: Instant,
    /// How long after that the next one is.
    then: Duration,
}

impl Audits {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        let interval = interval.min(LONGEST);
        Self {
            interval,
            at: now + interval,
            then: interval,
        }
    }

    /// A row may be there of which nobody has heard.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.at = now;
        self.then = AGAIN;
    }

    pub(super) fn are_in_doubt(&self) -> bool {
        self.then != self.interval
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at <= now
    }

    /// How long until it is.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }

    pub(super) fn done(&mut self, now: Instant) {
        self.at = now + self.then.min(self.interval);
        self.then = (self.then * LONGER).min(self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_at_intervals_and_after_a_doubt_soon_and_ever_more_seldom() {
        let interval = Duration::from_secs(1);
        let mut now = Instant::now();
        let mut audits = Audits::new(interval, now);
        let mut next = |audits: &mut Audits| {
            let wait = audits.wait(now);
            now += wait;
            assert!(audits.is_due(now));
            audits.done(now);
            assert!(!audits.is_due(now));
            wait
        };
        assert_eq!(next(&mut audits), interval);
        assert_eq!(next(&mut audits), interval);
        assert!(!audits.are_in_doubt());
        audits.doubt(Instant::now());
        assert!(audits.are_in_doubt());
        let waits: Vec<_> = (0..5).map(|_| next(&mut audits).as_millis()).collect();
        assert_eq!(waits, [0, 50, 200, 800, 1_000]);
        assert!(!audits.are_in_doubt());
        assert!(Audits::new(Duration::MAX, now).wait(now) == LONGEST);
    }
}
