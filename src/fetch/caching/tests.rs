//! The rules of RFC 9111 and RFC 5861, as a table.
#![allow(clippy::unwrap_used)]

use super::*;

/// Noon of a Sunday, when every answer here comes, 2 s after it was asked for.
const NOON: &str = "Sun, 22 Nov 2026 12:00:00 GMT";

fn came() -> Timestamp {
    instant(NOON).unwrap()
}

fn said(lines: &[&str]) -> Said {
    let mut said = Said::default();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        let field = match name {
            "Cache-Control" => &mut said.cache_control,
            "Expires" => &mut said.expires,
            "Vary" => &mut said.vary,
            "Date" => &mut said.date,
            "Age" => &mut said.age,
            other => panic!("{other}"),
        };
        *field = Some(value.to_owned());
    }
    said
}

fn asked(status: u16, authorized: bool) -> Asked {
    Asked {
        status,
        authorized,
        sent: came().saturating_add(chrono::TimeDelta::seconds(-2)),
        came: came(),
        unless_said: Duration::from_secs(60),
    }
}

/// Whether it may be kept, and the seconds of freshness, of stale use while revalidating, and where that fails.
fn terms(lines: &[&str], asked: Asked) -> (bool, u64, u64, u64) {
    let terms = said(lines).terms(asked);
    let seconds = |time: Duration| time.as_secs();
    let stale = (seconds(terms.while_revalidating), seconds(terms.if_error));
    (terms.is_storable, seconds(terms.fresh), stale.0, stale.1)
}

#[test]
fn freshness_is_that_of_a_shared_cache() {
    for (lines, expected) in [
        // Nothing said: the minute, less the 2 s on the way.
        (&[][..], (true, 58, 0, 0)),
        (&["Date: Sun, 22 Nov 2026 12:00:00 GMT"], (true, 58, 0, 0)),
        // 5.2.2.1, 5.2.2.10: s-maxage goes before max-age, and that before Expires (5.3).
        (&["Cache-Control: max-age=100"], (true, 98, 0, 0)),
        (
            &["Cache-Control: max-age=100, s-maxage=10"],
            (true, 8, 0, 0),
        ),
        (
            &["Cache-Control: s-maxage=100, max-age=0"],
            (true, 98, 0, 0),
        ),
        (
            &[
                "Cache-Control: max-age=100",
                "Expires: Sun, 22 Nov 2026 13:00:00 GMT",
            ],
            (true, 98, 0, 0),
        ),
        (
            &["Expires: Sun, 22 Nov 2026 13:00:00 GMT"],
            (true, 3598, 0, 0),
        ),
        // It counts from Date, not from the cache's clock.
        (
            &[
                "Expires: Sun, 22 Nov 2026 13:00:00 GMT",
                "Date: Sun, 22 Nov 2026 12:30:00 GMT",
            ],
            (true, 1798, 0, 0),
        ),
        // Of the three forms of a date (RFC 9110, 5.6.7).
        (
            &["Expires: Sunday, 22-Nov-26 13:00:00 GMT"],
            (true, 3598, 0, 0),
        ),
        (&["Expires: Sun Nov 22 13:00:00 2026"], (true, 3598, 0, 0)),
        // 5.3: what is no date, or past, has expired.
        (&["Expires: 0"], (true, 0, 0, 0)),
        (&["Expires: Sun, 22 Nov 2026 11:00:00 GMT"], (true, 0, 0, 0)),
        // 4.2.3: the age is that of Date, or that of Age and the way, whichever is more.
        (&["Cache-Control: max-age=100", "Age: 40"], (true, 58, 0, 0)),
        (
            &[
                "Cache-Control: max-age=100",
                "Date: Sun, 22 Nov 2026 11:59:00 GMT",
            ],
            (true, 40, 0, 0),
        ),
        (
            &[
                "Cache-Control: max-age=100",
                "Age: 10",
                "Date: Sun, 22 Nov 2026 11:59:00 GMT",
            ],
            (true, 40, 0, 0),
        ),
        (
            &[
                "Cache-Control: max-age=100",
                "Date: Sun, 22 Nov 2026 12:09:00 GMT",
            ],
            (true, 98, 0, 0),
        ),
        (
            &["Cache-Control: max-age=100", "Age: 1000"],
            (true, 0, 0, 0),
        ),
        (
            &["Cache-Control: max-age=100", "Age: old"],
            (true, 98, 0, 0),
        ),
        (
            &["Cache-Control: max-age=100", "Age: 40, 50"],
            (true, 58, 0, 0),
        ),
        // 4.2.1: what is given twice counts by the shorter, what is no number as stale; 1.2.2: what is huge, as long.
        (
            &["Cache-Control: max-age=100, max-age=50"],
            (true, 48, 0, 0),
        ),
        (&["Cache-Control: max-age=long"], (true, 0, 0, 0)),
        (&["Cache-Control: max-age"], (true, 0, 0, 0)),
        (&["Cache-Control: max-age=-5"], (true, 0, 0, 0)),
        (&["Cache-Control: max-age=1.5"], (true, 0, 0, 0)),
        (
            &["Cache-Control: max-age=99999999999999999999"],
            (true, (1 << 31) - 2, 0, 0),
        ),
        // 5.2: in any case, with white space, and quoted as well.
        (
            &["Cache-Control: Public ,, MAX-AGE = \"100\""],
            (true, 98, 0, 0),
        ),
        (
            &["Cache-Control: ext=\"max-age=1, no-store\", max-age=100"],
            (true, 98, 0, 0),
        ),
        (
            &["Cache-Control: ext=\"a\\\", no-store\", max-age=100"],
            (true, 98, 0, 0),
        ),
        // 5.2.2.4: kept, and asked for each time; with names of fields too.
        (
            &["Cache-Control: no-cache, max-age=100, stale-while-revalidate=5, stale-if-error=5"],
            (true, 0, 0, 0),
        ),
        (
            &["Cache-Control: no-cache=\"set-cookie\", max-age=100"],
            (true, 0, 0, 0),
        ),
        // 5.2.2.5, 5.2.2.7: not kept.
        (&["Cache-Control: no-store, max-age=100"], (false, 0, 0, 0)),
        (&["Cache-Control: private, max-age=100"], (false, 0, 0, 0)),
        (
            &["Cache-Control: private=\"x-user\", max-age=100"],
            (false, 0, 0, 0),
        ),
        // 4.1: other requests have other headers; * fits none.
        (&["Vary: Accept, Accept-Language"], (true, 58, 0, 0)),
        (&["Vary: *", "Cache-Control: max-age=100"], (false, 0, 0, 0)),
        (
            &["Vary: Accept, *", "Cache-Control: max-age=100"],
            (false, 0, 0, 0),
        ),
        // RFC 5861, unless 5.2.2.2 and 5.2.2.8 forbid it.
        (
            &["Cache-Control: max-age=100, stale-while-revalidate=30, stale-if-error=600"],
            (true, 98, 30, 600),
        ),
        (
            &["Cache-Control: s-maxage=100, stale-while-revalidate=30"],
            (true, 98, 30, 0),
        ),
        (&["Cache-Control: stale-if-error=600"], (true, 58, 0, 600)),
        (
            &[
                "Cache-Control: max-age=100, must-revalidate, stale-while-revalidate=30, stale-if-error=600",
            ],
            (true, 98, 0, 0),
        ),
        (
            &[
                "Cache-Control: max-age=100, proxy-revalidate, stale-while-revalidate=30, stale-if-error=600",
            ],
            (true, 98, 0, 0),
        ),
    ] {
        assert_eq!(terms(lines, asked(200, false)), expected, "{lines:?}");
    }
}

#[test]
fn the_answer_to_credentials_is_kept_only_where_it_says_so() {
    // RFC 9111, 3.5.
    for (cache_control, kept) in [
        ("max-age=100", false),
        ("max-age=100, public", true),
        ("max-age=100, must-revalidate", true),
        ("s-maxage=100", true),
        ("s-maxage=100, private", false),
    ] {
        let line = format!("Cache-Control: {cache_control}");
        assert_eq!(terms(&[&line], asked(200, true)).0, kept, "{cache_control}");
    }
}

#[test]
fn what_is_no_plain_success_is_fresh_only_where_it_says_so() {
    assert_eq!(terms(&[], asked(201, false)), (true, 0, 0, 0));
    assert_eq!(
        terms(&["Cache-Control: max-age=100"], asked(201, false)),
        (true, 98, 0, 0)
    );
    assert_eq!(terms(&[], asked(204, false)), (true, 58, 0, 0));
}

#[test]
fn an_answer_that_nothing_has_changed_renews_what_it_says() {
    // RFC 9111, 4.3.4: the fields of the newer answer go before those that are kept; its age is its own.
    let kept = said(&["Cache-Control: max-age=100", "Vary: Accept", "Age: 90"]);
    let renewed = kept
        .clone()
        .renewed_by(said(&["Date: Sun, 22 Nov 2026 12:00:00 GMT"]));
    assert_eq!(
        renewed.terms(asked(200, false)).fresh,
        Duration::from_secs(98)
    );
    let renewed = kept.renewed_by(said(&["Cache-Control: max-age=500", "Vary: *"]));
    assert!(!renewed.terms(asked(200, false)).is_storable);
}

#[test]
fn of_answers_that_are_needed_together_the_shorter_counts() {
    let of = |text: &str| said(&[&format!("Cache-Control: {text}")]).terms(asked(302, false));
    let long = of("max-age=500, stale-while-revalidate=30, stale-if-error=30");
    assert_eq!(long.and(of("max-age=50")), of("max-age=50"));
    assert!(!long.and(of("no-store")).is_storable);
}

#[test]
fn what_takes_time_to_come_is_fresh_for_less() {
    let terms =
        said(&["Cache-Control: max-age=12, stale-while-revalidate=5"]).terms(asked(200, false));
    let later = terms.after(Duration::from_secs(4));
    assert_eq!(
        (later.fresh.as_secs(), later.while_revalidating.as_secs()),
        (6, 5)
    );
    assert_eq!(terms.after(Duration::from_secs(40)).fresh, Duration::ZERO);
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    for (text, wait) in [
        ("120", Some(120)),
        ("0", Some(0)),
        ("Sun, 22 Nov 2026 12:05:00 GMT", Some(300)),
        ("Sun, 22 Nov 2026 11:00:00 GMT", Some(0)),
        ("soon", None),
        ("-1", None),
    ] {
        assert_eq!(
            retry_after(text, came()),
            wait.map(Duration::from_secs),
            "{text}"
        );
    }
}
