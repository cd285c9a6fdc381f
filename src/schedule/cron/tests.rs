//! Which instants an expression stands for.

mod syntax;

use std::time::Instant;

use super::*;

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn cron(expression: &str, timezone: &str) -> Cron {
    Cron::parse_in(expression, timezone).unwrap()
}

/// The next ticks as wall-clock times with their offset.
fn next(expression: &str, timezone: &str, after: &str, count: usize) -> Vec<String> {
    let cron = cron(expression, timezone);
    let mut after = utc(after);
    let mut ticks = Vec::new();
    for _ in 0..count {
        let tick = cron.next_after(after).unwrap();
        assert!(tick > after);
        assert_eq!(cron.latest_at_or_before(tick, after), Some(tick));
        ticks.push(
            tick.with_timezone(&cron.timezone())
                .format("%F %T%:z")
                .to_string(),
        );
        after = tick;
    }
    ticks
}

#[test]
fn fixed_time_in_a_gap_comes_at_its_end() {
    let before = "2024-03-30T12:00:00Z";
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", before, 2),
        ["2024-03-31 03:00:00+02:00", "2024-04-01 02:30:00+02:00"]
    );
    assert_eq!(
        next("15,45 2 * * *", "Europe/Berlin", before, 2),
        ["2024-03-31 03:00:00+02:00", "2024-04-01 02:15:00+02:00"]
    );
    assert_eq!(
        next("0 2,3 * * *", "Europe/Berlin", before, 2),
        ["2024-03-31 03:00:00+02:00", "2024-04-01 02:00:00+02:00"]
    );
    assert_eq!(
        next("30 2,14 * * *", "Europe/Berlin", before, 3),
        [
            "2024-03-30 14:30:00+01:00",
            "2024-03-31 03:00:00+02:00",
            "2024-03-31 14:30:00+02:00"
        ]
    );
    // Midnight itself is missing.
    assert_eq!(
        next("0 0 * * *", "America/Santiago", "2024-09-07T12:00:00Z", 2),
        ["2024-09-08 01:00:00-03:00", "2024-09-09 00:00:00-03:00"]
    );
    // Half an hour is.
    assert_eq!(
        next(
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2024-10-05T00:00:00Z",
            2
        ),
        ["2024-10-06 02:30:00+11:00", "2024-10-07 02:15:00+11:00"]
    );
    // A whole day is.
    assert_eq!(
        next("0 12 * * *", "Pacific/Apia", "2011-12-29T20:00:00Z", 3),
        [
            "2011-12-29 12:00:00-10:00",
            "2011-12-31 00:00:00+14:00",
            "2011-12-31 12:00:00+14:00"
        ]
    );
}

#[test]
fn fixed_time_in_an_overlap_comes_once() {
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", "2024-10-26T12:00:00Z", 2),
        ["2024-10-27 02:30:00+02:00", "2024-10-28 02:30:00+01:00"]
    );
    // From within the second pass.
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", "2024-10-27T01:10:00Z", 1),
        ["2024-10-28 02:30:00+01:00"]
    );
    let second_pass = utc("2024-10-27T01:45:00Z");
    assert_eq!(
        cron("15 2 * * *", "Europe/Berlin").latest_at_or_before(second_pass, DateTime::UNIX_EPOCH),
        Some(utc("2024-10-27T00:15:00Z"))
    );
    // The overlap crosses midnight, back into Saturday.
    assert_eq!(
        next("30 23 * * *", "America/Santiago", "2024-04-06T12:00:00Z", 2),
        ["2024-04-06 23:30:00-03:00", "2024-04-07 23:30:00-04:00"]
    );
    assert_eq!(
        next(
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2024-04-06T00:00:00Z",
            2
        ),
        ["2024-04-07 01:45:00+11:00", "2024-04-08 01:45:00+10:30"]
    );
}

#[test]
fn interval_follows_real_time() {
    assert_eq!(
        next("*/30 * * * *", "Europe/Berlin", "2024-03-31T00:00:00Z", 3),
        [
            "2024-03-31 01:30:00+01:00",
            "2024-03-31 03:00:00+02:00",
            "2024-03-31 03:30:00+02:00"
        ]
    );
    assert_eq!(
        next("*/30 2 * * *", "Europe/Berlin", "2024-03-30T12:00:00Z", 1),
        ["2024-04-01 02:00:00+02:00"]
    );
    assert_eq!(
        next("*/30 2 * * *", "Europe/Berlin", "2024-10-26T12:00:00Z", 5),
        [
            "2024-10-27 02:00:00+02:00",
            "2024-10-27 02:30:00+02:00",
            "2024-10-27 02:00:00+01:00",
            "2024-10-27 02:30:00+01:00",
            "2024-10-28 02:00:00+01:00",
        ]
    );
    assert_eq!(
        next(
            "0 * * * *",
            "Australia/Lord_Howe",
            "2024-04-06T13:30:00Z",
            3
        ),
        [
            "2024-04-07 01:00:00+11:00",
            "2024-04-07 02:00:00+10:30",
            "2024-04-07 03:00:00+10:30"
        ]
    );
    // The next match by the clock is a year away, the second pass an hour.
    assert_eq!(
        next("30 2 27 10 *", "Europe/Berlin", "2024-10-27T00:30:00Z", 1),
        ["2025-10-27 02:30:00+01:00"]
    );
    assert_eq!(
        next("*/45 2 27 10 *", "Europe/Berlin", "2024-10-27T00:50:00Z", 2),
        ["2024-10-27 02:00:00+01:00", "2024-10-27 02:45:00+01:00"]
    );
    assert_eq!(
        next("0 */12 * * *", "Pacific/Apia", "2011-12-29T23:00:00Z", 2),
        ["2011-12-31 00:00:00+14:00", "2011-12-31 12:00:00+14:00"]
    );
}

#[test]
fn day_seen_twice_is_followed_or_collapsed() {
    // Alaska went from Asia's side of the date line to America's.
    let after = "1867-10-17T12:00:00Z";
    let count = |expression, time| {
        let ticks = next(expression, "America/Juneau", after, 6);
        ticks.iter().filter(|tick| tick.starts_with(time)).count()
    };
    assert_eq!(count("0 12 * * *", "1867-10-19 12:00"), 1);
    assert_eq!(count("0 */12 * * *", "1867-10-18 12:00"), 1);
    assert_eq!(count("0 */12 * * *", "1867-10-19 00:00"), 2);
    assert_eq!(count("0 */12 * * *", "1867-10-19 12:00"), 2);
    assert_eq!(count("0 */12 * * *", "1867-10-20 00:00"), 1);
}

#[test]
fn fraction_of_a_second_is_neither_early_nor_late() {
    let cron = cron("* * * * * *", "UTC");
    let after = utc("1969-12-31T23:59:58.5Z");
    let tick = utc("1969-12-31T23:59:59Z");
    assert_eq!(cron.next_after(after), Some(tick));
    assert_eq!(
        cron.latest_at_or_before(utc("1969-12-31T23:59:59.999Z"), after),
        Some(tick)
    );
    assert_eq!(
        cron.latest_at_or_before(after, utc("1969-12-31T23:59:58Z")),
        None
    );
}

#[test]
fn ticks_between_excludes_its_start_and_includes_its_end() {
    let cron = cron("*/20 * * * *", "Asia/Tokyo");
    let ticks: Vec<_> = cron
        .ticks_between(utc("2024-05-01T00:00:00Z"), utc("2024-05-01T01:00:00Z"))
        .collect();
    let expected = [
        "2024-05-01T00:20:00Z",
        "2024-05-01T00:40:00Z",
        "2024-05-01T01:00:00Z",
    ]
    .map(utc);
    assert_eq!(ticks, expected);
    assert_eq!(cron.ticks_between(ticks[1], ticks[0]).count(), 0);
    assert_eq!(cron.ticks_between(ticks[0], ticks[0]).count(), 0);
}

#[test]
fn ends_of_time_are_no_panic() {
    for timezone in [
        "UTC",
        "Europe/Berlin",
        "Pacific/Apia",
        "Etc/GMT+12",
        "Etc/GMT-14",
    ] {
        for expression in [
            "* * * * * *",
            "0 0 * * *",
            "*/7 3 L * *",
            "0 0 29 2 1",
            "@yearly",
        ] {
            let cron = cron(expression, timezone);
            for at in [
                DateTime::<Utc>::MIN_UTC,
                DateTime::UNIX_EPOCH,
                DateTime::<Utc>::MAX_UTC,
            ] {
                assert!(cron.next_after(at).is_none_or(|tick| tick > at));
                let latest = cron.latest_at_or_before(at, DateTime::<Utc>::MIN_UTC);
                assert!(latest.is_none_or(|tick| tick <= at));
            }
            assert_eq!(cron.next_after(DateTime::<Utc>::MAX_UTC), None);
            assert!(cron.next_after(DateTime::<Utc>::MIN_UTC).is_some());
            let last = cron.latest_at_or_before(DateTime::<Utc>::MAX_UTC, DateTime::UNIX_EPOCH);
            assert!(last.is_some());
        }
    }
}

/// Generous, for a loaded machine and no optimisation: a search second by second
/// would take a thousand times as long.
#[test]
fn search_is_quick() {
    let began = Instant::now();
    for expression in [
        "0 0 29 2 *",
        "0 0 29 2 */7",
        "*/7 * 29 2 */7",
        "* * * * * *",
    ] {
        let cron = cron(expression, "Europe/Berlin");
        for start in 0..200 {
            let after = DateTime::from_timestamp(start * 20_000_000, 0).unwrap();
            assert!(cron.next_after(after).is_some());
            assert!(
                cron.latest_at_or_before(after, DateTime::<Utc>::MIN_UTC)
                    .is_some()
            );
        }
    }
    let second = cron("* * * * * *", "America/New_York");
    let midnight = utc("2024-11-03T00:00:00Z");
    assert_eq!(
        second
            .ticks_between(midnight, utc("2024-11-04T00:00:00Z"))
            .count(),
        86_400
    );
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}
