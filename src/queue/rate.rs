//! How many jobs of a queue may start in any stretch of time: a sliding window over the fleet's record of starts. Pure.

use std::time::Duration;

use crate::clock::Timestamp;

/// At most `limit` starts in any stretch of time that is `per` long.
///
/// ```
/// use larder::queue::Rate;
/// use std::time::Duration;
///
/// let rate = Rate { limit: 100, per: Duration::from_secs(60) };
/// assert_eq!(rate, Rate { limit: 100, per: Duration::from_millis(60_000) });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many may start; they may do so all at once.
    pub limit: u32,
    /// The length of the stretch; at least a millisecond.
    pub per: Duration,
}

impl Rate {
    fn per_millis(self) -> i64 {
        i64::try_from(self.per.as_millis())
            .unwrap_or(i64::MAX / 4)
            .clamp(1, i64::MAX / 4)
    }

    /// Starts within a hundredth of the stretch are one entry of the record.
    fn grain_millis(self) -> i64 {
        (self.per_millis() + 99) / 100
    }
}

/// When jobs of a queue were started of late, and how many each time; the earliest first.
///
/// An entry's instant is the end of the hundredth in which its jobs started. It counts a little longer than need be,
/// and never too short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Starts(Vec<(i64, u32)>);

impl Starts {
    /// The record as the table holds it. One that cannot be read counts as none.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let mut entries: Vec<(i64, u32)> = text
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        entries.sort_unstable();
        Self(entries)
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::json!(self.0).to_string()
    }

    /// The entries that count at `now`. What is dated after the longest that a clock may be ahead is of a clock that
    /// was wrong, and would hold up the queue until its day has come.
    fn counting(&self, rate: Rate, now: Timestamp) -> impl DoubleEndedIterator<Item = (i64, u32)> {
        let (now, per) = (now.as_millis(), rate.per_millis());
        self.0
            .iter()
            .copied()
            .filter(move |(at, _)| *at > now - per && *at <= now + per)
    }

    /// How many jobs may start now.
    pub(crate) fn room(&self, rate: Rate, now: Timestamp) -> u32 {
        let started: u64 = self
            .counting(rate, now)
            .map(|(_, count)| u64::from(count))
            .sum();
        u32::try_from(u64::from(rate.limit).saturating_sub(started)).unwrap_or(0)
    }

    /// When a job may start next; `None` where one may now.
    pub(crate) fn next_room(&self, rate: Rate, now: Timestamp) -> Option<Timestamp> {
        if self.room(rate, now) > 0 {
            return None;
        }
        // From the latest back: as soon as all from here on fill the limit, it is this one that must pass.
        let mut started = 0;
        let (at, _) = self.counting(rate, now).rev().find(|(_, count)| {
            started += u64::from(*count);
            started >= u64::from(rate.limit)
        })?;
        let free = at.saturating_add(rate.per_millis());
        Some(Timestamp::from_millis(free).unwrap_or(now))
    }

    /// Writes down that so many jobs started now, and forgets what counts no more, for clocks that go behind as well.
    pub(crate) fn record(&mut self, rate: Rate, now: Timestamp, count: u32) {
        let (per, grain) = (rate.per_millis(), rate.grain_millis());
        let now = now.as_millis();
        let at = (now + grain - 1).div_euclid(grain) * grain;
        self.0
            .retain(|(at, _)| *at > now - per - per / 10 && *at <= now + per);
        match self.0.iter_mut().find(|(entry, _)| *entry == at) {
            Some((_, started)) => *started = started.saturating_add(count),
            None => self.0.push((at, count)),
        }
        self.0.sort_unstable();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_795_348_800_000 + millis).unwrap()
    }

    fn rate(limit: u32, per: u64) -> Rate {
        Rate {
            limit,
            per: Duration::from_millis(per),
        }
    }

    #[test]
    fn a_burst_fills_the_window_and_leaves_it_when_it_is_as_old() {
        let (rate, mut starts) = (rate(3, 1_000), Starts::default());
        assert_eq!(
            (starts.room(rate, at(0)), starts.next_room(rate, at(0))),
            (3, None)
        );
        starts.record(rate, at(0), 2);
        starts.record(rate, at(400), 1);
        assert_eq!(
            (starts.room(rate, at(999)), starts.next_room(rate, at(999))),
            (0, Some(at(1_000)))
        );
        assert_eq!(
            (starts.room(rate, at(1_000)), starts.room(rate, at(1_400))),
            (2, 3)
        );
    }

    #[test]
    fn starts_of_one_hundredth_are_one_entry_that_ends_with_it() {
        let (rate, mut starts) = (rate(1_000, 60_000), Starts::default());
        for millis in 1..=600 {
            starts.record(rate, at(millis), 1);
        }
        assert_eq!(starts.0, [(at(600).as_millis(), 600)]);
        assert_eq!(Starts::parse(Some(&starts.to_json())), starts);
        assert_eq!(starts.room(rate, at(60_599)), 400);
        assert_eq!(starts.room(rate, at(60_600)), 1_000);
    }

    #[test]
    fn a_lowered_limit_holds_at_once() {
        let mut starts = Starts::default();
        starts.record(rate(10, 1_000), at(0), 4);
        starts.record(rate(10, 1_000), at(500), 6);
        assert_eq!(starts.next_room(rate(3, 1_000), at(600)), Some(at(1_500)));
        assert_eq!(starts.next_room(rate(7, 1_000), at(600)), Some(at(1_000)));
    }

    #[test]
    fn a_record_from_a_clock_that_was_wrong_or_that_cannot_be_read_holds_nobody_up() {
        let mut starts = Starts::default();
        starts.record(rate(1, 1_000), at(86_400_000), 1);
        assert_eq!(starts.room(rate(1, 1_000), at(0)), 1);
        starts.record(rate(1, 1_000), at(0), 1);
        assert_eq!(starts.0.len(), 1);
        assert_eq!(Starts::parse(Some("{\"a\": 1}")), Starts::default());
        assert_eq!(Starts::parse(None), Starts::default());
    }

    proptest! {
        #[test]
        fn no_window_has_more_starts_than_the_limit_and_none_waits_for_longer_than_it_must(
            limit in 1..20_u32,
            per in 100..5_000_u64,
            steps in prop::collection::vec((0..1_000_i64, 1..10_u32, -4..=4_i64), 1..150),
        ) {
            let (rate, mut starts, mut clock) = (rate(limit, per), Starts::default(), 0);
            let mut begun: Vec<i64> = Vec::new();
            for (pause, wanted, skew) in steps {
                clock += pause;
                // Workers' clocks differ by a little.
                let now = at(clock + skew * i64::try_from(per).unwrap() / 100);
                let count = wanted.min(starts.room(rate, now));
                if count > 0 {
                    starts = Starts::parse(Some(&starts.to_json()));
                    starts.record(rate, now, count);
                    begun.extend((0..count).map(|_| now.as_millis()));
                } else {
                    let next = starts.next_room(rate, now).unwrap();
                    prop_assert!(next > now && starts.room(rate, next) > 0);
                    let before = Timestamp::from_millis(next.as_millis() - 1).unwrap();
                    prop_assert_eq!(starts.room(rate, before), 0);
                }
                prop_assert!(starts.0.len() <= 113, "{} entries", starts.0.len());
            }
            begun.sort_unstable();
            for window in begun.windows(limit as usize + 1) {
                prop_assert!(window[limit as usize] - window[0] >= i64::try_from(per).unwrap(), "{window:?}");
            }
            let later = at(clock + i64::try_from(per).unwrap() * 12 / 10 + 2);
            prop_assert_eq!(starts.room(rate, later), limit);
        }
    }
}
