//! Which ticks enqueue a job: a pure function of the record and the present.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{CatchUp, Cron};

/// A tick noticed later than this was missed.
const MISSED_AFTER: TimeDelta = TimeDelta::seconds(30);

/// What becomes of missed ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) catch_up: CatchUp,
    /// How far back missed ticks count.
    pub(crate) window: Duration,
}

/// What a look at a schedule comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The ticks that enqueue a job, in order.
    pub(crate) ticks: Vec<DateTime<Utc>>,
    /// Up to here every tick is dealt with.
    pub(crate) until: DateTime<Utc>,
}

/// The ticks after `until`, up to `now`, that enqueue a job. `None` where there was no tick at all, and so nothing to
/// record.
pub(crate) fn plan(
    cron: &Cron,
    policy: Policy,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<Plan> {
    let latest = cron.latest_at_or_before(now, until)?;
    // Later than this is on time.
    let on_time = (now - MISSED_AFTER - TimeDelta::milliseconds(1)).max(until);
    let window = TimeDelta::from_std(policy.window).unwrap_or(TimeDelta::MAX);
    let oldest = now
        .checked_sub_signed(window)
        .unwrap_or(DateTime::<Utc>::MIN_UTC)
        .max(until);
    let mut ticks = match policy.catch_up {
        _ if oldest >= on_time => Vec::new(),
        CatchUp::Skip => Vec::new(),
        CatchUp::Once => cron
            .latest_at_or_before(on_time, oldest)
            .into_iter()
            .collect(),
        CatchUp::All => cron.ticks_between(oldest, on_time).collect(),
    };
    ticks.extend(cron.ticks_between(on_time, now));
    Some(Plan {
        ticks,
        until: latest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn minutely() -> Cron {
        Cron::parse("* * * * *", chrono_tz::UTC).unwrap()
    }

    fn ticks(catch_up: CatchUp, window: u64, until: &str, now: &str) -> Vec<String> {
        let policy = Policy {
            catch_up,
            window: Duration::from_secs(window),
        };
        let plan = plan(&minutely(), policy, at(until), at(now));
        plan.map_or(Vec::new(), |plan| {
            plan.ticks
                .iter()
                .map(|tick| tick.format("%H:%M").to_string())
                .collect()
        })
    }

    #[test]
    fn a_tick_on_time_enqueues_under_every_policy() {
        for catch_up in [CatchUp::Skip, CatchUp::Once, CatchUp::All] {
            assert_eq!(
                ticks(
                    catch_up,
                    86_400,
                    "2026-11-22T11:59:00Z",
                    "2026-11-22T12:00:30Z"
                ),
                ["12:00"]
            );
        }
    }

    #[test]
    fn missed_ticks_are_skipped_or_caught_up_once_or_all() {
        let (until, now) = ("2026-11-22T11:55:00Z", "2026-11-22T12:00:10Z");
        assert_eq!(ticks(CatchUp::Skip, 86_400, until, now), ["12:00"]);
        assert_eq!(ticks(CatchUp::Once, 86_400, until, now), ["11:59", "12:00"]);
        assert_eq!(
            ticks(CatchUp::All, 86_400, until, now),
            ["11:56", "11:57", "11:58", "11:59", "12:00"]
        );
        assert_eq!(
            ticks(CatchUp::All, 150, until, now),
            ["11:58", "11:59", "12:00"]
        );
        assert_eq!(ticks(CatchUp::Once, 10, until, now), ["12:00"]);
    }

    #[test]
    fn without_a_tick_there_is_nothing_to_record() {
        let policy = Policy {
            catch_up: CatchUp::All,
            window: Duration::from_secs(60),
        };
        assert_eq!(
            plan(
                &minutely(),
                policy,
                at("2026-11-22T12:00:00Z"),
                at("2026-11-22T12:00:59Z")
            ),
            None
        );
        assert_eq!(
            plan(
                &minutely(),
                policy,
                at("2026-11-22T12:05:00Z"),
                at("2026-11-22T12:00:00Z")
            ),
            None
        );
    }

    proptest! {
        #[test]
        fn each_tick_comes_once_over_any_looks(steps in prop::collection::vec(0_i64..400, 1..20)) {
            let start = at("2026-11-22T12:00:00Z");
            let policy = Policy { catch_up: CatchUp::All, window: Duration::from_secs(86_400) };
            let (mut now, mut until, mut seen) = (start, start, Vec::new());
            for step in steps {
                now += TimeDelta::seconds(step);
                if let Some(plan) = plan(&minutely(), policy, until, now) {
                    prop_assert!(plan.until <= now && plan.until > until);
                    until = plan.until;
                    seen.extend(plan.ticks);
                }
            }
            let all: Vec<_> = minutely().ticks_between(start, now).collect();
            prop_assert_eq!(seen, all);
        }
    }
}
