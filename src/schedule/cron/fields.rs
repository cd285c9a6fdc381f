//! The field sets of a cron expression, searched in wall-clock time.
//!
//! A wall-clock time is the number of seconds from 1970-01-01 00:00 on a clock
//! that knows no timezone.

use std::ops::RangeInclusive;

use chrono::{Datelike, NaiveDate};

const MINUTE: u32 = 60;
const HOUR: u32 = 60 * MINUTE;
const DAY: i64 = 24 * 60 * 60;

/// The calendar repeats, weekdays included, after 400 years: what is not found
/// within them never comes.
const HORIZON_MONTHS: i32 = 400 * 12;

const FIRST_WALL: i64 = NaiveDate::MIN.to_epoch_days() as i64 * DAY;
const LAST_WALL: i64 = (NaiveDate::MAX.to_epoch_days() as i64 + 1) * DAY - 1;
const SUNDAY: u32 = 0;
const SATURDAY: u32 = 6;

/// A set of numbers from 0 to 63.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    pub(super) fn of(value: u32) -> Set {
        Set(1 << value)
    }

    pub(super) fn insert(&mut self, value: u32) {
        self.0 |= Set::of(value).0;
    }

    pub(super) fn insert_every(&mut self, step: u32, range: RangeInclusive<u32>) {
        for value in range.step_by(step as usize) {
            self.insert(value);
        }
    }

    fn has(self, value: u32) -> bool {
        self.0 & Set::of(value).0 != 0
    }

    fn at_or_after(self, value: u32) -> Option<u32> {
        let left = self.0 & u64::MAX.checked_shl(value).unwrap_or(0);
        (left != 0).then(|| left.trailing_zeros())
    }

    fn at_or_before(self, value: u32) -> Option<u32> {
        let left = self.0 & (u64::MAX >> 63u32.saturating_sub(value));
        left.checked_ilog2()
    }

    fn before(self, value: u32) -> Option<u32> {
        self.at_or_before(value.checked_sub(1)?)
    }

    fn first(self) -> Option<u32> {
        self.at_or_after(0)
    }

    fn last(self) -> Option<u32> {
        self.at_or_before(63)
    }
}

/// What an expression allows, field by field.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    pub(super) seconds: Set,
    pub(super) minutes: Set,
    pub(super) hours: Set,
    pub(super) days: Days,
    pub(super) months: Set,
}

/// The day of month and the day of week, which only together decide on a date.
#[derive(Debug, Clone, Default)]
pub(super) struct Days {
    /// `1` to `31`.
    pub(super) of_month: Set,
    /// `L`
    pub(super) last: bool,
    /// `15W`: the weekday, Monday to Friday, nearest to each of these days.
    pub(super) nearest_weekday: Set,
    /// `LW`
    pub(super) last_weekday: bool,
    /// 0 is Sunday, 6 Saturday, 7 Sunday again.
    pub(super) of_week: Set,
    /// `5#2`: days of the week by their occurrence in the month, less one.
    pub(super) nth_of_week: [Set; 5],
    /// `5#L`
    pub(super) last_of_week: Set,
    /// A date matches when one of the two fields does, instead of both.
    pub(super) either: bool,
}

impl Fields {
    /// The first matching time from `wall` on.
    pub(super) fn at_or_after(&self, wall: i64) -> Option<i64> {
        let (date, second) = split(wall.max(FIRST_WALL))?;
        let month = month_index(date);
        if self.days_of(month).has(date.day())
            && let Some(time) = self.time_at_or_after(second)
        {
            return Some(join(date, time));
        }
        let time = self.time_at_or_after(0)?;
        (month..=month + HORIZON_MONTHS).find_map(|candidate| {
            let from = if candidate == month {
                date.day() + 1
            } else {
                1
            };
            let day = self.days_of(candidate).at_or_after(from)?;
            Some(join(date_in(candidate, day)?, time))
        })
    }

    /// The last matching time up to `wall`.
    pub(super) fn at_or_before(&self, wall: i64) -> Option<i64> {
        let (date, second) = split(wall.min(LAST_WALL))?;
        let month = month_index(date);
        if self.days_of(month).has(date.day())
            && let Some(time) = self.time_at_or_before(second)
        {
            return Some(join(date, time));
        }
        let time = self.time_at_or_before(24 * HOUR - 1)?;
        (month - HORIZON_MONTHS..=month)
            .rev()
            .find_map(|candidate| {
                let below = if candidate == month { date.day() } else { 32 };
                let day = self.days_of(candidate).before(below)?;
                Some(join(date_in(candidate, day)?, time))
            })
    }

    fn time_at_or_after(&self, second: u32) -> Option<u32> {
        let (hour, minute, second) = hms(second);
        if self.hours.has(hour) {
            if self.minutes.has(minute)
                && let Some(second) = self.seconds.at_or_after(second)
            {
                return Some(hour * HOUR + minute * MINUTE + second);
            }
            if let Some(minute) = self.minutes.at_or_after(minute + 1) {
                return Some(hour * HOUR + minute * MINUTE + self.seconds.first()?);
            }
        }
        let hour = self.hours.at_or_after(hour + 1)?;
        Some(hour * HOUR + self.minutes.first()? * MINUTE + self.seconds.first()?)
    }

    fn time_at_or_before(&self, second: u32) -> Option<u32> {
        let (hour, minute, second) = hms(second);
        if self.hours.has(hour) {
            if self.minutes.has(minute)
                && let Some(second) = self.seconds.at_or_before(second)
            {
                return Some(hour * HOUR + minute * MINUTE + second);
            }
            if let Some(minute) = self.minutes.before(minute) {
                return Some(hour * HOUR + minute * MINUTE + self.seconds.last()?);
            }
        }
        let hour = self.hours.before(hour)?;
        Some(hour * HOUR + self.minutes.last()? * MINUTE + self.seconds.last()?)
    }

    /// The matching days of a month; none outside chrono's calendar.
    fn days_of(&self, month: i32) -> Set {
        match date_in(month, 1) {
            Some(first) if self.months.has(first.month()) => self.days.of(first),
            _ => Set::default(),
        }
    }
}

impl Days {
    /// The matching days of the month that begins at `first`.
    fn of(&self, first: NaiveDate) -> Set {
        let length = u32::from(first.num_days_in_month());
        let weekday = |day: u32| (first.weekday().num_days_from_sunday() + day - 1) % 7;
        let nearest_weekday = |day: u32| match weekday(day) {
            SATURDAY if day > 1 => day - 1,
            SATURDAY => day + 2,
            SUNDAY if day < length => day + 1,
            SUNDAY => day - 2,
            _ => day,
        };

        let mut of_month = self.of_month;
        if self.last {
            of_month.insert(length);
        }
        if self.last_weekday {
            of_month.insert(nearest_weekday(length));
        }
        for day in (1..=length).filter(|&day| self.nearest_weekday.has(day)) {
            of_month.insert(nearest_weekday(day));
        }

        let mut days = Set::default();
        for day in 1..=length {
            let weekday = weekday(day);
            let in_set = |set: Set| set.has(weekday) || (weekday == SUNDAY && set.has(7));
            let of_week = in_set(self.of_week)
                || in_set(self.nth_of_week[(day - 1) as usize / 7])
                || (day + 7 > length && in_set(self.last_of_week));
            let matches = match self.either {
                true => of_month.has(day) || of_week,
                false => of_month.has(day) && of_week,
            };
            if matches {
                days.insert(day);
            }
        }
        days
    }
}

fn split(wall: i64) -> Option<(NaiveDate, u32)> {
    let days = i32::try_from(wall.div_euclid(DAY)).ok()?;
    Some((
        NaiveDate::from_epoch_days(days)?,
        wall.rem_euclid(DAY) as u32,
    ))
}

fn join(date: NaiveDate, second: u32) -> i64 {
    i64::from(date.to_epoch_days()) * DAY + i64::from(second)
}

fn hms(second: u32) -> (u32, u32, u32) {
    (second / HOUR, second / MINUTE % 60, second % MINUTE)
}

/// Months since January of the year 0.
fn month_index(date: NaiveDate) -> i32 {
    date.year() * 12 + date.month0() as i32
}

fn date_in(month: i32, day: u32) -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(month.div_euclid(12), month.rem_euclid(12) as u32 + 1, day)
}
