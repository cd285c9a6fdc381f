//! How much of their time callers' threads wait for the disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A disk that is slow must not hold up the runtime. A statement that takes a millisecond or more lays a debt of four times
/// its time, which time pays off; beyond a debt of 400 ms the pool has the statements. So callers' threads wait for a disk,
/// however slow it is, for about 100 ms at a stretch and a quarter of the time. One that was only kept waiting for a
/// processor now and then stays far from that.
#[derive(Debug)]
pub(super) struct Pace {
    started: Instant,
    /// When the debt is paid off.
    paid_off_nanos: AtomicU64,
}

const SLOW: u64 = 1_000_000;
const DEBT: u64 = 4;
const MOST_DEBT: u64 = 400_000_000;

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            paid_off_nanos: AtomicU64::new(0),
        }
    }

    pub(super) fn begin(&self) -> Option<u64> {
        let now = nanos(self.started.elapsed());
        self.has_room(now).then_some(now)
    }

    fn has_room(&self, now: u64) -> bool {
        self.paid_off_nanos.load(Ordering::Relaxed) < now.saturating_add(MOST_DEBT)
    }

    pub(super) fn end(&self, began: u64) {
        self.took(began, nanos(self.started.elapsed()));
    }

    fn took(&self, began: u64, now: u64) {
        let took = now.saturating_sub(began);
        if took >= SLOW {
            let before = self.paid_off_nanos.load(Ordering::Relaxed).max(now);
            self.paid_off_nanos.store(
                before.saturating_add(took.saturating_mul(DEBT)),
                Ordering::Relaxed,
            );
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_has_a_quarter_of_the_time_and_a_quick_one_all_of_it() {
        let (pace, mut now, mut waited) = (Pace::new(), 0, 0);
        // Reads of 8 ms each, one after the other, for ten seconds; what goes by the pool takes as long.
        while now < 10_000 * SLOW {
            if pace.has_room(now) {
                pace.took(now, now + 8 * SLOW);
                waited += 8;
            }
            now += 8 * SLOW;
        }
        assert!((2_400..2_700).contains(&waited), "{waited} ms");
        let pace = Pace::new();
        for read in 0..100_000 {
            assert!(pace.has_room(read * SLOW));
            pace.took(read * SLOW, (read + 1) * SLOW - 1);
        }
    }
}
