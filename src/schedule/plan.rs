//! Which ticks enqueue a job: a pure function of the record and the present.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{CatchUp, Cron};

/// A tick noticed later than this was missed.
const MISSED_AFTER: TimeDelta = TimeDelta::seconds(30);
/// Longer than any calendar of ours, and short enough to add to.
const LONGEST: TimeDelta = TimeDelta::days(400 * 366);

/// What becomes of missed ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) catch_up: CatchUp,
    /// How far back missed ticks count.
    pub(crate) window: Duration,
}

/// Which of the ticks that call for a job have one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Take {
    /// So many of the first; the rest is for another plan.
    First(usize),
    /// The last alone: each other would overlap with the next.
    Last,
}

/// What a look at a schedule comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The ticks that enqueue a job, in order.
    pub(crate) ticks: Vec<DateTime<Utc>>,
    /// Up to here every tick is dealt with.
    pub(crate) until: DateTime<Utc>,
    /// Whether ticks after `until` call for a job as well.
    pub(crate) more: bool,
}

/// The ticks after `until`, up to `now`, that enqueue a job. `None` where there was no tick at all, and so nothing to
/// record.
pub(crate) fn plan(
    cron: &Cron,
    policy: Policy,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
    take: Take,
) -> Option<Plan> {
    let latest = cron.latest_at_or_before(now, until)?;
    let after = |age: TimeDelta| {
        // A tick of just this age counts.
        now.checked_sub_signed(age + TimeDelta::milliseconds(1))
            .map_or(until, |instant| instant.max(until))
    };
    let on_time = after(MISSED_AFTER);
    let oldest = after(TimeDelta::from_std(policy.window).unwrap_or(LONGEST)).min(on_time);
    // From where on ticks call for a job, but that of the missed ones `once` has the last alone.
    let from = match policy.catch_up {
        CatchUp::Skip => on_time,
        CatchUp::Once => cron
            .latest_at_or_before(on_time, oldest)
            .map_or(on_time, |missed| missed - TimeDelta::milliseconds(1)),
        CatchUp::All => oldest,
    };
    let most = match take {
        Take::First(most) => most,
        Take::Last => {
            let ticks = cron.latest_at_or_before(now, from).into_iter().collect();
            return Some(Plan {
                ticks,
                until: latest,
                more: false,
            });
        }
    };
    let ticks: Vec<_> = cron.ticks_between(from, now).take(most).collect();
    let last = ticks.last().copied();
    let more = ticks.len() == most && last != Some(latest);
    Some(Plan {
        ticks,
        until: last.filter(|_| more).unwrap_or(latest),
        more,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: Take = Take::First(1_000);

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
        let plan = plan(&minutely(), policy, at(until), at(now), FIRST);
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
                at("2026-11-22T12:00:59Z"),
                FIRST
            ),
            None
        );
        assert_eq!(
            plan(
                &minutely(),
                policy,
                at("2026-11-22T12:05:00Z"),
                at("2026-11-22T12:00:00Z"),
                FIRST
            ),
            None
        );
    }

    #[test]
    fn a_tick_as_old_as_the_window_is_caught_up() {
        let (until, now) = ("2026-11-22T11:50:00Z", "2026-11-22T12:00:00Z");
        assert_eq!(
            ticks(CatchUp::All, 120, until, now),
            ["11:58", "11:59", "12:00"]
        );
        assert_eq!(ticks(CatchUp::All, 119, until, now), ["11:59", "12:00"]);
    }

    #[test]
    fn where_jobs_must_not_overlap_the_last_tick_has_one() {
        let plan_of = |catch_up, now| {
            let policy = Policy {
                catch_up,
                window: Duration::from_secs(86_400),
            };
            let until = at("2026-11-22T11:50:00Z");
            let plan = plan(&minutely(), policy, until, at(now), Take::Last).unwrap();
            (plan.ticks, plan.until)
        };
        let (noon, late) = (at("2026-11-22T12:00:00Z"), "2026-11-22T12:00:45Z");
        for catch_up in [CatchUp::Once, CatchUp::All] {
            assert_eq!(plan_of(catch_up, late), (vec![noon], noon));
        }
        assert_eq!(plan_of(CatchUp::Skip, late), (vec![], noon));
        assert_eq!(
            plan_of(CatchUp::Skip, "2026-11-22T12:00:30Z"),
            (vec![noon], noon)
        );
    }

    proptest! {
        #[test]
        fn each_tick_comes_once_over_any_looks(steps in prop::collection::vec(0_i64..400, 1..20), most in 1_usize..9) {
            let start = at("2026-11-22T12:00:00Z");
            let policy = Policy { catch_up: CatchUp::All, window: Duration::from_secs(86_400) };
            let (mut now, mut until, mut seen) = (start, start, Vec::new());
            for step in steps {
                now += TimeDelta::seconds(step);
                while let Some(plan) = plan(&minutely(), policy, until, now, Take::First(most)) {
                    prop_assert!(plan.until <= now && plan.until > until && plan.ticks.len() <= most);
                    until = plan.until;
                    seen.extend(plan.ticks);
                    if !plan.more {
                        break;
                    }
                }
            }
            let all: Vec<_> = minutely().ticks_between(start, now).collect();
            prop_assert_eq!(seen, all);
        }
    }
}
