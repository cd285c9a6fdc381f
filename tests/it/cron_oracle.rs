//! Ticks against those of croniter and of clocks read second by second, which
//! `cron_oracle.py` wrote to `cron_oracle.tsv`; and what must hold for any.

use chrono::{DateTime, Duration, Offset, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use larder::schedule::Cron;
use proptest::prelude::*;

const TABLE: &str = include_str!("cron_oracle.tsv");

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn numbers(columns: &[&str]) -> Vec<i64> {
    columns
        .iter()
        .map(|column| column.parse().unwrap())
        .collect()
}

#[test]
fn timezones_are_those_of_the_oracle() {
    let mut changes = 0;
    for line in TABLE.lines().filter(|line| line.starts_with("offsets\t")) {
        let columns: Vec<&str> = line.split('\t').collect();
        let timezone: Tz = columns[1].parse().unwrap();
        let offset = |instant: i64| {
            let offset = timezone.offset_from_utc_datetime(&at(instant).naive_utc());
            i64::from(offset.fix().local_minus_utc())
        };
        let mut from = 0;
        let mut before = None;
        for pair in numbers(&columns[2..]).chunks(2) {
            from += pair[0];
            assert_eq!(offset(from), pair[1], "{timezone} at {}", at(from));
            if let Some(before) = before {
                assert_eq!(offset(from - 1), before, "{timezone} before {}", at(from));
                changes += 1;
            }
            before = Some(pair[1]);
        }
    }
    assert!(changes > 1000, "{changes} changes");
}

#[test]
fn ticks_are_those_of_the_oracle() {
    let mut rows = 0;
    let mut wrong = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with("offsets\t")) {
        let columns: Vec<&str> = line.split('\t').collect();
        let cron = Cron::parse_in(columns[1], columns[2]).unwrap();
        let numbers = numbers(&columns[3..]);
        let start = at(numbers[0]);
        let [latest, first, second] = [1, 2, 3].map(|n| at(numbers[0] + numbers[n]));

        let between: Vec<_> = cron.ticks_between(latest, second).collect();
        let right = cron.next_after(start) == Some(first)
            && cron
                .next_after(start - Duration::nanoseconds(1))
                .is_some_and(|tick| tick >= start)
            && cron.next_after(first) == Some(second)
            && cron.latest_at_or_before(start, DateTime::UNIX_EPOCH) == Some(latest)
            && cron.latest_at_or_before(start, latest).is_none()
            && cron.latest_at_or_before(second, start) == Some(second)
            && cron.latest_at_or_before(second - Duration::nanoseconds(1), start) == Some(first)
            && between == [first, second];
        if !right {
            wrong.push(format!(
                "{line}\n  {start}, expected {latest}, {first}, {second}, {between:?}"
            ));
        }
        rows += 1;
    }
    assert!(rows > 14_000, "{rows} rows");
    let shown = &wrong[..wrong.len().min(10)];
    assert!(
        wrong.is_empty(),
        "{} of {rows} rows:\n{}",
        wrong.len(),
        shown.join("\n")
    );
}

fn field(min: u32, max: u32) -> BoxedStrategy<String> {
    let item = prop_oneof![
        Just("*".to_owned()),
        (2..=(max - min)).prop_map(|step| format!("*/{step}")),
        (min..=max).prop_map(|value| value.to_string()),
        (min..=max, 1..=(max - min)).prop_map(|(value, step)| format!("{value}/{step}")),
        (min..=max, min..=max).prop_map(|(one, two)| format!("{}-{}", one.min(two), one.max(two))),
        (min..=max, min..=max, 1..=(max - min)).prop_map(|(one, two, step)| format!(
            "{}-{}/{step}",
            one.min(two),
            one.max(two)
        )),
    ];
    // Boxed, for the unboxed strategies of six fields overflow a test's stack.
    let item = item.boxed();
    prop_oneof![
        item.clone(),
        (item.clone(), item).prop_map(|(one, two)| format!("{one},{two}")),
    ]
    .boxed()
}

fn expression() -> impl Strategy<Value = String> {
    let seconds = prop_oneof![
        4 => Just(String::new()),
        1 => field(0, 59).prop_map(|field| field + " "),
    ];
    let day_of_month = prop_oneof![
        4 => Just("*".to_owned()),
        3 => field(1, 31),
        1 => (1..=31).prop_map(|day| format!("{day}W")),
        1 => prop::sample::select(vec!["L", "LW", "?", "1,L", "LW,15"]).prop_map(str::to_owned),
    ];
    let month = prop_oneof![3 => Just("*".to_owned()), 1 => field(1, 12)];
    let day_of_week = prop_oneof![
        4 => Just("*".to_owned()),
        2 => field(0, 7),
        1 => (0..=7, 1..=5).prop_map(|(day, nth)| format!("{day}#{nth}")),
        1 => prop::sample::select(vec!["FRI#L", "mon-fri", "?", "SAT-SUN"]).prop_map(str::to_owned),
    ];
    (
        seconds,
        field(0, 59),
        field(0, 23),
        day_of_month,
        month,
        day_of_week,
    )
        .prop_map(
            |(seconds, minute, hour, day_of_month, month, day_of_week)| {
                format!("{seconds}{minute} {hour} {day_of_month} {month} {day_of_week}")
            },
        )
}

/// Any zone in the years 1843 to 2160, or one of the table's within a day or so of one
/// of its changes.
fn zone_and_instant() -> impl Strategy<Value = (Tz, DateTime<Utc>)> {
    let changes: Vec<(Tz, i64)> = TABLE
        .lines()
        .filter_map(|line| line.strip_prefix("offsets\t"))
        .flat_map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let timezone: Tz = columns[0].parse().unwrap();
            let changes = numbers(&columns[1..])
                .into_iter()
                .step_by(2)
                .scan(0, |sum, next| {
                    *sum += next;
                    Some(*sum)
                });
            changes.map(|change| (timezone, change)).collect::<Vec<_>>()
        })
        .collect();
    let anywhere = (
        prop::sample::select(&TZ_VARIANTS[..]),
        -4_000_000_000_i64..6_000_000_000,
    )
        .boxed();
    let distance = prop_oneof![-4_000_i64..4_000, -100_000_i64..100_000];
    let near_a_change = (prop::sample::select(changes), distance)
        .prop_map(|((timezone, change), seconds)| (timezone, change + seconds))
        .boxed();
    let fraction = prop_oneof![Just(0), 0_u32..1_000_000_000];
    (prop_oneof![anywhere, near_a_change], fraction).prop_map(|((timezone, second), nanosecond)| {
        (
            timezone,
            DateTime::from_timestamp(second, nanosecond).unwrap(),
        )
    })
}

fn cron_and_instant() -> impl Strategy<Value = (Cron, DateTime<Utc>)> {
    (expression().boxed(), zone_and_instant().boxed()).prop_filter_map(
        "never fires",
        |(expression, (timezone, instant))| match Cron::parse(&expression, timezone) {
            Ok(cron) => Some((cron, instant)),
            Err(error) if error.to_string().contains("never fires") => None,
            Err(error) => panic!("{error}"),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn next_is_later_and_the_first((cron, after) in cron_and_instant()) {
        let Some(next) = cron.next_after(after) else {
            return Ok(());
        };
        prop_assert!(next > after);
        prop_assert_eq!(next.timestamp_subsec_nanos(), 0);
        prop_assert_eq!(cron.latest_at_or_before(next, after), Some(next));
        prop_assert_eq!(cron.latest_at_or_before(next - Duration::nanoseconds(1), after), None);
        prop_assert_eq!(cron.next_after(next - Duration::nanoseconds(1)), Some(next));
    }

    #[test]
    fn latest_is_not_later_and_the_last((cron, instant) in cron_and_instant()) {
        let Some(latest) = cron.latest_at_or_before(instant, DateTime::<Utc>::MIN_UTC) else {
            return Ok(());
        };
        prop_assert!(latest <= instant);
        prop_assert!(cron.next_after(latest).is_none_or(|next| next > instant));
        prop_assert_eq!(cron.latest_at_or_before(instant, latest), None);
    }

    #[test]
    fn later_starts_have_no_earlier_ticks(
        (cron, one) in cron_and_instant(),
        seconds in prop_oneof![0_i64..200_000, 0_i64..400_000_000],
    ) {
        let other = one + Duration::seconds(seconds);
        if let (Some(next), Some(later)) = (cron.next_after(one), cron.next_after(other)) {
            prop_assert!(next <= later);
        }
    }

    #[test]
    fn any_text_is_an_expression_or_a_fault_within_it(text in "[0-9*/,LW# -]{0,12}|(\\* ){4}[0-9*/,LW#-]{1,4}|(?s:.{0,20})") {
        if let Err(error) = Cron::parse(&text, Tz::UTC) {
            let column = error.column().unwrap();
            prop_assert!((1..=text.chars().count() + 1).contains(&column), "{}", error);
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}
