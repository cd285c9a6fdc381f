//! Durations as people write them: `1h30m`, `0.5s`, `90`.

use std::time::Duration;

use chrono::TimeDelta;
use fundu::{DurationParser, TimeUnit};

use super::value::quote;
use crate::Error;

/// What a duration looks like, for every message that has to say so.
pub(super) const SHAPE: &str = "a duration in ms, s, m, h, d or w, such as 0.5s, 10m, 1h30m or 7d, or in plain seconds, such as 90";

const UNITS: &[TimeUnit] = &[
    TimeUnit::MilliSecond,
    TimeUnit::Second,
    TimeUnit::Minute,
    TimeUnit::Hour,
    TimeUnit::Day,
    TimeUnit::Week,
];

const PARSER: DurationParser<'static> = DurationParser::builder()
    .time_units(UNITS)
    .default_unit(TimeUnit::Second)
    .disable_exponent()
    .disable_infinity()
    .parse_multiple(None)
    .build();

/// Reads a duration that is not negative.
///
/// Units are `ms`, `s`, `m`, `h`, `d` and `w`. They combine (`1h30m`) and take fractions (`0.5s`);
/// a number alone is in seconds (`90`, `0.25`). What is finer than a nanosecond is dropped.
///
/// ```
/// use larder::settings::parse_duration;
/// use std::time::Duration;
///
/// assert_eq!(parse_duration("1h30m")?, Duration::from_secs(5_400));
/// assert_eq!(parse_duration("0.5s")?, Duration::from_millis(500));
/// assert_eq!(parse_duration("90")?, Duration::from_secs(90));
/// assert!(parse_duration("-1s").is_err());
/// # Ok::<(), larder::Error>(())
/// ```
///
/// # Errors
///
/// If the text is anything else, is negative, or is longer than `i64::MAX` milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, Error> {
    parse(text)
        .map_err(|reason| Error::invalid(format!("invalid duration {}: {reason}", quote(text))))
}

/// Reads a duration that may be negative: a leading `-` negates all of it, so `-1h30m` is 90 minutes ago.
///
/// ```
/// use chrono::TimeDelta;
/// use larder::settings::parse_signed_duration;
///
/// assert_eq!(parse_signed_duration("-1h30m")?, TimeDelta::minutes(-90));
/// assert_eq!(parse_signed_duration("2d")?, TimeDelta::days(2));
/// # Ok::<(), larder::Error>(())
/// ```
///
/// # Errors
///
/// As [`parse_duration`], a negative duration excepted.
pub fn parse_signed_duration(text: &str) -> Result<TimeDelta, Error> {
    let invalid =
        |reason: String| Error::invalid(format!("invalid duration {}: {reason}", quote(text)));
    let (magnitude, negative) = match text.strip_prefix('-') {
        Some(magnitude) => (magnitude, true),
        None => (text, false),
    };
    let magnitude = parse_magnitude(magnitude).map_err(invalid)?;
    let magnitude = TimeDelta::from_std(magnitude).map_err(|_| invalid(too_long()))?;
    Ok(if negative { -magnitude } else { magnitude })
}

/// Writes a duration so that [`parse_duration`] reads the same one back.
///
/// ```
/// use larder::settings::format_duration;
/// use std::time::Duration;
///
/// assert_eq!(format_duration(Duration::from_secs(25)), "25s");
/// assert_eq!(format_duration(Duration::from_millis(90_500)), "1m30s500ms");
/// assert_eq!(format_duration(Duration::from_secs(30 * 86_400)), "30d");
/// assert_eq!(format_duration(Duration::from_micros(1_500)), "1.5ms");
/// assert_eq!(format_duration(Duration::ZERO), "0s");
/// ```
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut text = String::new();
    let mut seconds = duration.as_secs();
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if seconds >= length {
            text += &format!("{}{unit}", seconds / length);
            seconds %= length;
        }
    }
    match (
        duration.subsec_millis(),
        duration.subsec_nanos() % 1_000_000,
    ) {
        (0, 0) if text.is_empty() => text += "0s",
        (0, 0) => {}
        (millis, 0) => text += &format!("{millis}ms"),
        (millis, nanos) => {
            let fraction = format!("{nanos:06}");
            text += &format!("{millis}.{}ms", fraction.trim_end_matches('0'));
        }
    }
    text
}

/// [`parse_duration`], with only the reason for an error.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    match text.strip_prefix('-') {
        Some(magnitude) => Err(parse_magnitude(magnitude)
            .map_or_else(|reason| reason, |_| "it must not be negative".into())),
        None => parse_magnitude(text),
    }
}

fn parse_magnitude(text: &str) -> Result<Duration, String> {
    let junk = || format!("expected {SHAPE}");
    // fundu also takes signs, exponents, `1.2.3s` as 1.2s and 0.3s, and a bare number at the end (`1h30`, which might
    // mean minutes).
    let written_plainly = text
        .chars()
        .all(|c| c.is_ascii_digit() || ".msdhw".contains(c));
    let one_point_each = text
        .split(char::is_alphabetic)
        .all(|number| number.matches('.').count() <= 1);
    let all_have_units = text.ends_with(char::is_alphabetic) || !text.contains(char::is_alphabetic);
    if !(written_plainly && one_point_each && all_have_units) {
        return Err(junk());
    }
    let parsed = PARSER.parse(text).map_err(|_| junk())?;
    let duration = Duration::try_from(parsed).map_err(|_| too_long())?;
    match i64::try_from(duration.as_millis()) {
        Ok(millis) if millis < i64::MAX => Ok(duration),
        _ => Err(too_long()),
    }
}

fn too_long() -> String {
    "it is too long, over 292 million years".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_combine_and_take_fractions() {
        for (text, millis) in [
            ("1ms", 1),
            ("250ms", 250),
            ("1s", 1_000),
            ("1m", 60_000),
            ("1.5h", 5_400_000),
            ("1h30m", 5_400_000),
            ("1d12h", 129_600_000),
            ("2w", 1_209_600_000),
            ("0.1s", 100),
            ("0.25", 250),
            ("90", 90_000),
            ("0", 0),
            ("1w2d3h4m5s6ms", 788_645_006),
        ] {
            assert_eq!(
                parse_duration(text).unwrap(),
                Duration::from_millis(millis),
                "{text}"
            );
        }
    }

    #[test]
    fn junk_is_one_clear_line_that_names_the_text_and_shows_examples() {
        for text in [
            "",
            " ",
            "x",
            "10 parsecs",
            "10 s",
            "1h 30m",
            "1h30",
            "NaN",
            "inf",
            "1e3",
            "1e3s",
            "+5s",
            "--5s",
            "5S",
            "5M",
            "1y",
            "5us",
            "s",
            "ms",
            "1.2.3s",
            ".",
            "1,5s",
            "١s",
            "5s\n",
            "\0",
        ] {
            let message = parse_duration(text).unwrap_err().to_string();
            assert!(message.starts_with("invalid duration \""), "{message}");
            assert!(message.contains("1h30m"), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
            assert!(parse_signed_duration(text).is_err(), "{text:?}");
        }
        let message = parse_duration("10 parsecs").unwrap_err().to_string();
        assert!(message.contains("\"10 parsecs\""), "{message}");
    }

    #[test]
    fn overflow_is_an_error() {
        for text in [
            "99999999999999999999w",
            "9223372036854775807",
            "15250284452w9d",
            "9223372036854775807ms",
        ] {
            let message = parse_duration(text).unwrap_err().to_string();
            assert!(message.contains("too long"), "{text}: {message}");
            assert!(
                parse_signed_duration(&format!("-{text}")).is_err(),
                "{text}"
            );
        }
        let nines = "9".repeat(5_000);
        let message = parse_duration(&nines).unwrap_err().to_string();
        assert!(message.len() < 200, "{message}");
    }

    #[test]
    fn only_the_signed_one_may_be_negative() {
        assert!(
            parse_duration("-5s")
                .unwrap_err()
                .to_string()
                .contains("negative")
        );
        assert_eq!(
            parse_signed_duration("-5s").unwrap(),
            TimeDelta::seconds(-5)
        );
        assert_eq!(parse_signed_duration("-0").unwrap(), TimeDelta::zero());
    }

    proptest! {
        #[test]
        fn a_formatted_duration_parses_back_to_itself(seconds in 0..9_223_372_036_854_775u64, nanos in 0..1_000_000_000u32) {
            let millis = Duration::new(seconds, nanos / 1_000_000 * 1_000_000);
            prop_assert_eq!(parse_duration(&format_duration(millis)).unwrap(), millis);
            let exact = Duration::new(seconds, nanos);
            prop_assert_eq!(parse_duration(&format_duration(exact)).unwrap(), exact);
        }

        #[test]
        fn a_negative_duration_mirrors_the_positive_one(millis in 0..100_000_000_000i64) {
            let text = format_duration(Duration::from_millis(millis.unsigned_abs()));
            prop_assert_eq!(parse_signed_duration(&text).unwrap(), TimeDelta::milliseconds(millis));
            prop_assert_eq!(parse_signed_duration(&format!("-{text}")).unwrap(), TimeDelta::milliseconds(-millis));
        }

        #[test]
        fn any_text_gives_a_duration_or_one_line(text in "(?s).{0,20}|[-0-9.msdhweE+ ]{0,12}") {
            if let Err(error) = parse_duration(&text) {
                prop_assert_eq!(error.to_string().lines().count(), 1);
            }
        }
    }
}
