//! The fleet's clock: instants in whole milliseconds, and where "now" comes from.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::error::{Error, Result};

/// An instant, floored to whole milliseconds, between the years 1 and 9999: what both engines store exactly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 0001-01-01T00:00:00Z.
    const EARLIEST: i64 = -62_135_596_800_000;
    /// 9999-12-31T23:59:59.999Z.
    const LATEST: i64 = 253_402_300_799_999;

    /// No instant is before this one.
    pub(crate) const MIN: Self = Self(Self::EARLIEST);

    /// The instant `milliseconds` after the Unix epoch.
    ///
    /// # Errors
    /// Where it lies outside the years 1 to 9999.
    pub fn from_millis(milliseconds: i64) -> Result<Self> {
        if (Self::EARLIEST..=Self::LATEST).contains(&milliseconds) {
            Ok(Self(milliseconds))
        } else {
            Err(Error::invalid(
                "an instant must lie between the years 1 and 9999; choose a nearer one",
            ))
        }
    }

    /// The instant that is nearest to `milliseconds` after the Unix epoch.
    pub(crate) fn nearest_to_millis(milliseconds: i64) -> Self {
        Self(milliseconds.clamp(Self::EARLIEST, Self::LATEST))
    }

    /// Whole milliseconds since the Unix epoch.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// This instant moved by `delta`, which may be negative.
    ///
    /// # Errors
    /// Where the result lies outside the years 1 to 9999.
    pub fn checked_add(self, delta: TimeDelta) -> Result<Self> {
        // Floored, as every instant is: half a millisecond ago is a millisecond ago.
        let whole = delta.num_milliseconds();
        let floored = if TimeDelta::milliseconds(whole) > delta {
            whole - 1
        } else {
            whole
        };
        Self::from_millis(self.0.saturating_add(floored))
    }

    /// This instant moved by `delta`, held within the years 1 to 9999.
    #[must_use]
    pub fn saturating_add(self, delta: TimeDelta) -> Self {
        Self(
            self.0
                .saturating_add(delta.num_milliseconds())
                .clamp(Self::EARLIEST, Self::LATEST),
        )
    }

    /// The time from `earlier` to this instant; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl TryFrom<DateTime<Utc>> for Timestamp {
    type Error = Error;

    fn try_from(instant: DateTime<Utc>) -> Result<Self> {
        // chrono floors towards the past, also before the epoch.
        Self::from_millis(instant.timestamp_millis())
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(timestamp: Timestamp) -> Self {
        // The range of a Timestamp lies within that of a DateTime.
        DateTime::from_timestamp_millis(timestamp.0).unwrap_or_default()
    }
}

/// RFC 3339 in UTC, with milliseconds where there are any.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = if self.0 % 1000 == 0 {
            SecondsFormat::Secs
        } else {
            SecondsFormat::Millis
        };
        f.write_str(&DateTime::<Utc>::from(*self).to_rfc3339_opts(format, true))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where "now" comes from. The fleet's clock is the database's: this machine's, plus a measured offset.
///
/// ```
/// use larder::clock::Clock;
///
/// let clock = Clock::manual("2026-11-22T12:00:00Z".parse().unwrap());
/// clock.advance(chrono::TimeDelta::seconds(90));
/// assert_eq!(clock.now().to_string(), "2026-11-22T12:01:30Z");
/// ```
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    System { offset_millis: Arc<AtomicI64> },
    Manual { now_millis: Arc<AtomicI64> },
}

impl Clock {
    /// This machine's clock, to which a connection adds the database's offset.
    #[must_use]
    pub fn system() -> Self {
        Self {
            source: Source::System {
                offset_millis: Arc::default(),
            },
        }
    }

    /// A clock that stands still until it is moved, for tests that wait for nothing.
    #[must_use]
    pub fn manual(now: DateTime<Utc>) -> Self {
        Self {
            source: Source::Manual {
                now_millis: Arc::new(AtomicI64::new(now.timestamp_millis())),
            },
        }
    }

    /// Moves a manual clock; a system clock stays as it is.
    pub fn advance(&self, by: TimeDelta) {
        if let Source::Manual { now_millis } = &self.source {
            now_millis.fetch_add(by.num_milliseconds(), Ordering::SeqCst);
        }
    }

    /// The present instant.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let millis = match &self.source {
            Source::System { offset_millis } => {
                Utc::now().timestamp_millis() + offset_millis.load(Ordering::Relaxed)
            }
            Source::Manual { now_millis } => now_millis.load(Ordering::SeqCst),
        };
        Timestamp(millis.clamp(Timestamp::EARLIEST, Timestamp::LATEST))
    }

    /// Milliseconds that the database's clock is ahead of this machine's, as last measured.
    #[must_use]
    pub fn offset_millis(&self) -> i64 {
        match &self.source {
            Source::System { offset_millis } => offset_millis.load(Ordering::Relaxed),
            Source::Manual { .. } => 0,
        }
    }

    pub(crate) fn set_offset_millis(&self, offset: i64) {
        if let Source::System { offset_millis } = &self.source {
            offset_millis.store(offset, Ordering::Relaxed);
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_floored_to_milliseconds_also_before_the_epoch() {
        let before = DateTime::from_timestamp(-1, 999_900_000).unwrap();
        assert_eq!(Timestamp::try_from(before).unwrap().as_millis(), -1);
        let zero = Timestamp::from_millis(0).unwrap();
        assert_eq!(
            zero.checked_add(TimeDelta::microseconds(-1))
                .unwrap()
                .as_millis(),
            -1
        );
        assert_eq!(
            zero.checked_add(TimeDelta::microseconds(1_999))
                .unwrap()
                .as_millis(),
            1
        );
    }

    #[test]
    fn an_instant_out_of_range_is_an_error_and_not_a_panic() {
        let now = Timestamp::from_millis(0).unwrap();
        assert!(now.checked_add(TimeDelta::MAX).is_err());
        assert!(now.checked_add(TimeDelta::MIN).is_err());
        assert_eq!(
            now.saturating_add(TimeDelta::MAX).to_string(),
            "9999-12-31T23:59:59.999Z"
        );
        assert!(Timestamp::try_from(DateTime::<Utc>::MAX_UTC).is_err());
    }
}
