//! Cron expressions, and the instants they stand for in a timezone.

mod fields;
mod parse;

use chrono::{DateTime, Offset, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};

use fields::Fields;

/// Two days, in seconds. Two facts about the timezone database rest on it: no two
/// offsets are this far apart, so all instants of a wall-clock time lie within it;
/// and no zone changed its offset twice within thrice of it (the closest two changes
/// are 6.9 days apart), so equal offsets at both ends mean the same in between.
const SPAN: i64 = 2 * 24 * 60 * 60;

/// A cron expression read in one timezone.
///
/// Five fields: minute, hour, day of month, month, day of week; or six, with the
/// seconds first.
///
/// | field | values | besides `*` `,` `-` `/` |
/// | --- | --- | --- |
/// | seconds, minute | 0 to 59 | |
/// | hour | 0 to 23 | |
/// | day of month | 1 to 31 | `?`, `L` the last day, `15W` the weekday (Monday to Friday) of the month nearest to the 15th, `LW` the last weekday |
/// | month | 1 to 12, `JAN` to `DEC` | |
/// | day of week | 0 to 7, `SUN` to `SAT`; 0 and 7 are Sunday | `?`, `FRI#2` the second Friday, `FRI#L` or `FRIL` the last |
///
/// `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`, `@midnight` and
/// `@hourly` stand for an expression each. Letters may be lower case. `5/15` is
/// every fifteenth from 5 on. A range does not wrap around, except that `SUN` may
/// end one.
///
/// With both the day of month and the day of week restricted, a date that
/// satisfies either will do. A field that begins with `*` or is `?` restricts
/// nothing in this sense, so `0 12 */2 * 1` is noon on Mondays with an odd date:
/// both have to be satisfied. This is Vixie cron's rule.
///
/// # When clocks change
///
/// An expression without `*` in its seconds, minute and hour names fixed times: one
/// that the clocks skip comes at the first instant after the gap, and one that they
/// show twice comes the first time only. Any other expression follows real time:
/// it does not come in a gap, and comes in both passes of an overlap. Times
/// that fall onto the same instant come once. From 2100 on, chrono-tz knows of no more
/// changes.
///
/// ```
/// use chrono::{DateTime, Utc};
/// use larder::schedule::Cron;
///
/// // In Berlin, 2024-03-31 had no time from 02:00 to 03:00.
/// let nightly = Cron::parse_in("30 2 * * *", "Europe/Berlin")?;
/// let after: DateTime<Utc> = "2024-03-30T12:00:00Z".parse()?;
/// let next = nightly.next_after(after).map(|tick| tick.to_rfc3339());
/// assert_eq!(next.as_deref(), Some("2024-03-31T01:00:00+00:00"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Cron {
    expression: String,
    timezone: Tz,
    // Owned field sets, not croner's: they cost no more than the checks that a
    // column and Vixie's rule need in any case, they search whole months by mask,
    // and they search backwards as they do forwards.
    fields: Fields,
    fixed: bool,
}

impl Cron {
    /// Reads an expression.
    ///
    /// # Errors
    ///
    /// A [`CronError`] when the expression is malformed, or fires on no date of
    /// the calendar.
    ///
    /// ```
    /// use larder::schedule::Cron;
    ///
    /// assert!(Cron::parse("0 9 * * MON-FRI", chrono_tz::UTC).is_ok());
    ///
    /// let error = Cron::parse("0 0 31 2 *", chrono_tz::UTC).unwrap_err();
    /// assert!(error.to_string().contains("never fires"));
    /// ```
    pub fn parse(expression: &str, timezone: Tz) -> Result<Cron, CronError> {
        match parse::parse(expression) {
            Ok(parse::Parsed { fields, fixed }) => Ok(Cron {
                expression: expression.to_owned(),
                timezone,
                fields,
                fixed,
            }),
            Err(parse::Fault { column, reason }) => Err(CronError {
                message: format!("cron expression {expression:?}, column {column}: {reason}"),
                column: Some(column),
            }),
        }
    }

    /// Reads an expression in the timezone with this IANA name.
    ///
    /// # Errors
    ///
    /// As [`parse`](Cron::parse), and when no timezone has this name.
    ///
    /// ```
    /// use larder::schedule::Cron;
    ///
    /// let error = Cron::parse_in("@daily", "Europe/Berln").unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     r#"unknown timezone "Europe/Berln"; did you mean "Europe/Berlin"?"#,
    /// );
    /// ```
    pub fn parse_in(expression: &str, timezone: &str) -> Result<Cron, CronError> {
        match timezone.parse() {
            Ok(timezone) => Cron::parse(expression, timezone),
            Err(_) => Err(CronError {
                message: format!("unknown timezone {timezone:?}; {}", remedy_for(timezone)),
                column: None,
            }),
        }
    }

    /// The expression as it was written.
    ///
    /// ```
    /// # use larder::schedule::Cron;
    /// let cron = Cron::parse("@daily", chrono_tz::UTC)?;
    /// assert_eq!(cron.expression(), "@daily");
    /// # Ok::<(), larder::schedule::CronError>(())
    /// ```
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The timezone it is read in.
    ///
    /// ```
    /// # use larder::schedule::Cron;
    /// let cron = Cron::parse_in("@daily", "Asia/Tokyo")?;
    /// assert_eq!(cron.timezone(), chrono_tz::Asia::Tokyo);
    /// # Ok::<(), larder::schedule::CronError>(())
    /// ```
    pub fn timezone(&self) -> Tz {
        self.timezone
    }

    /// The first tick strictly later than `after`, or `None` if none comes within
    /// 400 years or the calendar of chrono.
    ///
    /// ```
    /// use chrono::{DateTime, Utc};
    /// use larder::schedule::Cron;
    ///
    /// let cron = Cron::parse("*/15 * * * *", chrono_tz::UTC)?;
    /// let after: DateTime<Utc> = "2024-05-01T10:15:00Z".parse()?;
    /// assert_eq!(cron.next_after(after), Some("2024-05-01T10:30:00Z".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // Ticks are whole seconds, so a fraction of a second changes nothing.
        let after = after.timestamp();
        let tick = match self.fixed {
            true => {
                let wall = self.fields.at_or_after(self.highest_wall(after) + 1)?;
                self.first_reading(wall)
            }
            false => self.real_time(after + 1, Direction::Forwards)?,
        };
        DateTime::from_timestamp(tick, 0)
    }

    /// The last tick up to and including `at`, if it is later than `not_before`.
    ///
    /// ```
    /// use chrono::{DateTime, Utc};
    /// use larder::schedule::Cron;
    ///
    /// let cron = Cron::parse("@hourly", chrono_tz::UTC)?;
    /// let at: DateTime<Utc> = "2024-05-01T10:59:00Z".parse()?;
    /// let tick: DateTime<Utc> = "2024-05-01T10:00:00Z".parse()?;
    /// assert_eq!(cron.latest_at_or_before(at, DateTime::UNIX_EPOCH), Some(tick));
    /// assert_eq!(cron.latest_at_or_before(at, tick), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn latest_at_or_before(
        &self,
        at: DateTime<Utc>,
        not_before: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let at = at.timestamp();
        let tick = match self.fixed {
            true => {
                let wall = self.fields.at_or_before(self.highest_wall(at))?;
                self.first_reading(wall)
            }
            false => self.real_time(at, Direction::Backwards)?,
        };
        DateTime::from_timestamp(tick, 0).filter(|tick| *tick > not_before)
    }

    /// The ticks later than `after`, up to and including `until`, in order.
    ///
    /// ```
    /// use chrono::{DateTime, Utc};
    /// use larder::schedule::Cron;
    ///
    /// let cron = Cron::parse("0 */6 * * *", chrono_tz::UTC)?;
    /// let after: DateTime<Utc> = "2024-05-01T00:00:00Z".parse()?;
    /// let until: DateTime<Utc> = "2024-05-02T00:00:00Z".parse()?;
    /// assert_eq!(cron.ticks_between(after, until).count(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ticks_between(
        &self,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        let up_to = move |tick: &DateTime<Utc>| *tick <= until;
        std::iter::successors(self.next_after(after).filter(up_to), move |tick| {
            self.next_after(*tick).filter(up_to)
        })
    }

    /// The tick nearest to `at`, itself included, of an expression that follows
    /// real time.
    fn real_time(&self, mut at: i64, direction: Direction) -> Option<i64> {
        loop {
            let offset = self.offset(at);
            let wall = match direction {
                Direction::Forwards => self.fields.at_or_after(at + offset)?,
                Direction::Backwards => self.fields.at_or_before(at + offset)?,
            };
            // Right as long as the offset holds. Where it changes, search anew; what
            // lies more than a span from both ends cannot show a time beyond them.
            let tick = wall - offset;
            let near = at + (tick - at).clamp(-SPAN, SPAN);
            at = match self.offset_change(at, near) {
                Some(changed) => changed,
                None if near == tick => return Some(tick),
                None => tick - (tick - near).clamp(-SPAN, SPAN),
            };
        }
    }

    /// The first instant at which clocks show `wall`, or where they skip it, a later
    /// time.
    fn first_reading(&self, wall: i64) -> i64 {
        let mut at = wall - SPAN;
        loop {
            let tick = at.max(wall - self.offset(at));
            match self.offset_change(at, tick) {
                Some(changed) => at = changed,
                None => return tick,
            }
        }
    }

    /// The latest time that clocks have shown up to `at`: in the second pass of an
    /// overlap not the present one.
    fn highest_wall(&self, at: i64) -> i64 {
        let wall = at + self.offset(at);
        match self.offset_change(at, at - SPAN) {
            Some(before) => wall.max(before + self.offset(before)),
            None => wall,
        }
    }

    /// Walks from an instant to another, at most a span away, and returns the first
    /// that has another offset.
    fn offset_change(&self, from: i64, to: i64) -> Option<i64> {
        let offset = self.offset(from);
        if self.offset(to) == offset {
            return None;
        }
        let (mut same, mut other) = (from, to);
        while same.abs_diff(other) > 1 {
            let middle = same + (other - same) / 2;
            match self.offset(middle) == offset {
                true => same = middle,
                false => other = middle,
            }
        }
        Some(other)
    }

    /// Seconds east of Greenwich.
    fn offset(&self, at: i64) -> i64 {
        let nearest = if at < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        };
        let at = DateTime::from_timestamp(at, 0)
            .unwrap_or(nearest)
            .naive_utc();
        i64::from(
            self.timezone
                .offset_from_utc_datetime(&at)
                .fix()
                .local_minus_utc(),
        )
    }
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Forwards,
    Backwards,
}

/// What is wrong with an expression or a timezone, where, and what to do about it,
/// in one line.
///
/// ```
/// use larder::schedule::Cron;
///
/// let error = Cron::parse("0 24 * * *", chrono_tz::UTC).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#"cron expression "0 24 * * *", column 3: hour: 24 is out of range; use 0 to 23"#,
/// );
/// assert_eq!(error.column(), Some(3));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CronError {
    message: String,
    column: Option<usize>,
}

impl CronError {
    /// Where in the expression, as it was written, the fault is: in characters,
    /// counted from 1. `None` when the timezone is at fault.
    ///
    /// ```
    /// use larder::schedule::Cron;
    ///
    /// let error = Cron::parse("0 0 1 jam *", chrono_tz::UTC).unwrap_err();
    /// assert_eq!(error.column(), Some(7));
    /// ```
    pub fn column(&self) -> Option<usize> {
        self.column
    }
}

fn remedy_for(timezone: &str) -> String {
    let wanted = timezone.to_lowercase();
    TZ_VARIANTS
        .iter()
        .map(|known| {
            (
                strsim::jaro_winkler(&wanted, &known.name().to_lowercase()),
                known.name(),
            )
        })
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .filter(|(similarity, _)| *similarity > 0.85)
        .map_or_else(
            || r#"use an IANA name such as "Europe/Berlin" or "UTC""#.to_owned(),
            |(_, name)| format!("did you mean {name:?}?"),
        )
}

#[cfg(test)]
mod tests;
