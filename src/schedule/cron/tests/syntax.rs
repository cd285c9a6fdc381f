//! What expressions mean by the calendar, and what is wrong with those that mean
//! nothing.

use super::*;

fn dates(expression: &str, after: &str, count: usize) -> Vec<String> {
    let ticks = next(expression, "UTC", after, count);
    ticks
        .into_iter()
        .map(|tick| tick[..10].to_owned())
        .collect()
}

fn fault(expression: &str) -> (usize, String) {
    let error = Cron::parse(expression, Tz::UTC).expect_err(expression);
    let message = error.to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains(&format!("{expression:?}")), "{message}");
    (error.column().unwrap(), message)
}

#[test]
fn fault_names_its_column_and_its_field() {
    let cases = [
        ("", 1, "found 0 fields"),
        ("  ", 1, "found 0 fields"),
        ("* * * *", 8, "found 4 fields"),
        ("5", 2, "found 1 field,"),
        ("0 0 0 1 1 * 2030", 13, "found 7 fields"),
        ("60 * * * *", 1, "minute: 60 is out of range"),
        ("  60 * * * *", 3, "minute: 60 is out of range"),
        ("0\t24 * * *", 3, "hour: 24"),
        ("0 0 0 * *", 5, "day of month: 0 is"),
        ("0 0 32 * *", 5, "day of month: 32"),
        ("0 0 1 13 *", 7, "month: 13"),
        ("0 0 1 0 *", 7, "month: 0 is"),
        ("0 0 * * 8", 9, "day of week: 8"),
        ("60 0 0 * * *", 1, "seconds: 60"),
        ("0 0 60,5 * * *", 5, "hour: 60"),
        (
            "0-99999999999999999999 * * * *",
            3,
            "minute: 99999999999999999999 is out of range",
        ),
        ("*/0 * * * *", 3, "a step of 1 to 60"),
        ("*/61 * * * *", 3, "a step of 1 to 60"),
        ("0 */25 * * *", 5, "a step of 1 to 24"),
        ("*/ * * * *", 3, "a value is missing"),
        ("*/-5 * * * *", 3, "'-' is not allowed"),
        (
            "5-1 * * * *",
            3,
            "the range 5-1 runs backwards; swap its ends, or write 5-59,0-1",
        ),
        ("0 22-6 * * *", 6, "write 22-23,0-6"),
        ("0 0 * * FRI-MON", 13, "write 5-7,0-1"),
        ("0 0 * * 5-0", 11, "backwards"),
        ("1,,2 * * * *", 3, "',' is not allowed"),
        ("1, * * * *", 3, "a value is missing"),
        ("1- * * * *", 3, "a value is missing"),
        ("1-2-3 * * * *", 4, "'-' is not allowed"),
        ("*5 * * * *", 2, "'5' is not allowed"),
        ("-5 * * * *", 1, "'-' is not allowed"),
        ("+5 * * * *", 1, "'+' is not allowed"),
        ("5x * * * *", 2, "'x' is not allowed"),
        (
            "0 0 1 jam *",
            7,
            "month: unknown name JAM; use 1 to 12 or JAN to DEC",
        ),
        ("0 0 * * MONDAY", 9, "unknown name MONDAY"),
        ("0 0 * * MON-FRY", 13, "unknown name FRY"),
        ("0 0 * * L", 9, "unknown name L"),
        ("0 0 * JUL#1 *", 10, "'#' is not allowed"),
        ("? * * * *", 1, "'?' is not allowed"),
        ("0 L * * *", 3, "'L' is not allowed"),
        (
            "0 0 * * 5#6",
            11,
            "day of week: 6 is out of range; use 1 to 5",
        ),
        ("0 0 * * 5#", 11, "a value is missing"),
        ("0 0 * * *#2", 10, "'#' is not allowed"),
        ("0 0 5#2 * *", 6, "'#' is not allowed"),
        ("0 0 1-5W * *", 8, "'W' is not allowed"),
        ("0 0 W * *", 5, "'W' is not allowed"),
        ("0 0 32W * *", 5, "32 is out of range"),
        ("0 0 L-3 * *", 6, "'-' is not allowed"),
        ("0 0 * * ÄÖ", 9, "'Ä' is not allowed"),
        ("ä 0 * * 9", 1, "'ä' is not allowed"),
        ("0 0 * *\u{a0}9", 9, "9 is out of range"),
        ("0\n0 * * \u{1b}", 9, r"'\u{1b}' is not allowed"),
        ("@every 5m", 1, "unknown alias @every; use @yearly,"),
        ("@reboot", 1, "unknown alias @reboot"),
        ("  @daily 5", 10, "nothing may follow an alias"),
        ("0 0 31 2 *", 5, "day of month: never fires"),
        ("0 0 0 30,31 FEB ?", 7, "day of month: never fires"),
        ("0 0 31 4,6,9,11 *", 5, "never fires"),
        ("0 0 30W 2 *", 5, "never fires"),
        ("0 0 */31 2 5#5", 5, "never fires"),
    ];
    for (expression, column, expected) in cases {
        let (found, message) = fault(expression);
        assert_eq!(found, column, "{message}");
        assert!(message.contains(expected), "{message}, expected {expected}");
    }
}

#[test]
fn unknown_timezone_is_named_with_the_nearest_known_one() {
    let error = |name: &str| {
        let error = Cron::parse_in("@daily", name).unwrap_err();
        assert_eq!(error.column(), None);
        error.to_string()
    };
    assert_eq!(
        error("utc+1\n"),
        r#"unknown timezone "utc+1\n"; did you mean "UTC"?"#
    );
    assert!(error("europe/berlin").ends_with(r#"did you mean "Europe/Berlin"?"#));
    assert!(error("America/NewYork").ends_with(r#"did you mean "America/New_York"?"#));
    assert!(error("").ends_with(r#"use an IANA name such as "Europe/Berlin" or "UTC""#));
    assert!(error("Mordor").contains("use an IANA name"));
}

#[test]
fn aliases_stand_for_their_expressions() {
    let pairs = [
        ("@yearly", "0 0 1 1 *"),
        ("@Annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        (" @HOURLY ", "0 * * * *"),
    ];
    for (alias, expression) in pairs {
        let after = "2024-02-27T23:59:59Z";
        assert_eq!(
            next(alias, "UTC", after, 5),
            next(expression, "UTC", after, 5),
            "{alias}"
        );
    }
}

#[test]
fn equal_expressions_are_equal_in_any_spelling() {
    let pairs = [
        ("0 9 * * MON-FRI", "0 9 * * 1-5"),
        ("0 9 * jan,Dec sun", "0 9 ? 1,12 0"),
        ("0 9 * * 7", "0 9 * * 0"),
        ("0 9 * * SAT-SUN", "0 9 * * 0,6"),
        ("0 9 * * 5-7", "0 9 * * 5,6,0"),
        ("0 9 * * */2", "0 9 * * 0,2,4,6"),
        ("0 9 * * 7#2", "0 9 * * SUN#2"),
        ("0 9 * * FRIL", "0 9 * * 5#L"),
        ("0 9 * * fril", "0 9 * * 5L"),
        ("0 9 l * *", "0 9 L * ?"),
        ("7/20 * * * *", "7-59/20 * * * *"),
        ("0 9 * * 1/2", "0 9 * * 1,3,5"),
        ("0 9 * * 7/2", "0 9 * * 0"),
        ("*/60 */24 * * *", "0 0 * * *"),
        ("0 30 9 * * *", "30 9 * * *"),
        ("  30   9\t* * *  ", "30 9 * * *"),
    ];
    for (one, other) in pairs {
        let after = "2024-02-27T23:59:59Z";
        assert_eq!(
            next(one, "UTC", after, 20),
            next(other, "UTC", after, 20),
            "{one}"
        );
    }
}

#[test]
fn day_of_month_or_day_of_week_unless_one_begins_with_a_star() {
    let after = "2024-06-01T12:00:00Z";
    assert_eq!(
        dates("0 12 10 * 1", after, 3),
        ["2024-06-03", "2024-06-10", "2024-06-17"]
    );
    assert_eq!(
        dates("0 12 11 * 1", after, 3),
        ["2024-06-03", "2024-06-10", "2024-06-11"]
    );
    assert_eq!(
        dates("0 12 */2 * 1", after, 3),
        ["2024-06-03", "2024-06-17", "2024-07-01"]
    );
    assert_eq!(
        dates("0 12 1-31/2 * 1", after, 3),
        ["2024-06-03", "2024-06-05", "2024-06-07"]
    );
    assert_eq!(
        dates("0 12 13 * */5", after, 3),
        ["2024-09-13", "2024-10-13", "2024-12-13"]
    );
    assert_eq!(
        dates("0 12 L * FRI#1", after, 3),
        ["2024-06-07", "2024-06-30", "2024-07-05"]
    );
    assert_eq!(dates("0 12 ? * 1", after, 2), ["2024-06-03", "2024-06-10"]);
}

#[test]
fn last_nth_and_nearest_weekday_stay_in_their_month() {
    let after = "2024-05-31T12:00:00Z";
    assert_eq!(
        dates("0 0 L 2 *", after, 4),
        ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]
    );
    assert_eq!(
        dates("0 0 * * FRI#5", after, 2),
        ["2024-08-30", "2024-11-29"]
    );
    assert_eq!(
        dates("0 0 * * MON#L", after, 3),
        ["2024-06-24", "2024-07-29", "2024-08-26"]
    );
    assert_eq!(
        dates("0 0 * * MON-TUE#2", after, 3),
        ["2024-06-10", "2024-06-11", "2024-07-08"]
    );
    // A Saturday that begins the month, Sundays in and at the end of it.
    assert_eq!(dates("0 0 1W 6 *", after, 1), ["2024-06-03"]);
    assert_eq!(dates("0 0 16W 6 *", after, 1), ["2024-06-17"]);
    assert_eq!(dates("0 0 15W 6 *", after, 1), ["2024-06-14"]);
    assert_eq!(dates("0 0 30W 6 *", after, 1), ["2024-06-28"]);
    assert_eq!(
        dates("0 0 LW * *", after, 3),
        ["2024-06-28", "2024-07-31", "2024-08-30"]
    );
    assert_eq!(dates("0 0 31W * *", after, 2), ["2024-07-31", "2024-08-30"]);
}

#[test]
fn rare_dates_are_found_in_the_whole_calendar_cycle() {
    assert_eq!(
        dates("0 0 29 2 *", "2096-03-01T00:00:00Z", 2),
        ["2104-02-29", "2108-02-29"]
    );
    // The 29th of February is a Monday every 28 years, 40 around 2100.
    assert_eq!(
        dates("0 0 29 2 */7", "2076-03-01T00:00:00Z", 1),
        ["2088-02-29"].map(str::to_owned).to_vec()
    );
}
