//! When an item ends.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// When an item that is written expires.
///
/// ```
/// use chrono::TimeDelta;
/// use larder::Expiration;
/// use std::time::Duration;
///
/// assert_eq!(Expiration::from(Duration::from_secs(60)), Expiration::After(TimeDelta::seconds(60)));
/// assert_eq!(Expiration::from(60), Expiration::After(TimeDelta::seconds(60)));
/// assert_eq!(Expiration::from_secs_f64(0.5)?, Expiration::After(TimeDelta::milliseconds(500)));
/// assert!(Expiration::from_secs_f64(f64::NAN).is_err());
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiration {
    /// A live item keeps its deadline; a new or expired one gets none.
    #[default]
    Keep,
    /// No deadline.
    Never,
    /// This long after the write. Zero or negative: stored, and already expired.
    After(TimeDelta),
    /// At this instant, floored to whole milliseconds.
    At(DateTime<Utc>),
}

impl Expiration {
    /// After `duration`. One that is too long is refused by the write.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self::After(TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX))
    }

    /// After `seconds`, floored to whole milliseconds.
    ///
    /// # Errors
    /// Where `seconds` is not a number, infinite or too large to be a deadline.
    pub fn from_secs_f64(seconds: f64) -> Result<Self> {
        let milliseconds = (seconds * 1000.0).floor();
        // Farther than this no instant between the years 1 and 9999 is from another.
        if !milliseconds.is_finite() || milliseconds.abs() > 4.0e14 {
            return Err(Error::invalid(format!(
                "{seconds} seconds is not a time to live: give a finite number of at most 10,000 years"
            )));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the range was checked above"
        )]
        Ok(Self::After(TimeDelta::milliseconds(milliseconds as i64)))
    }

    /// The deadline of an item written at `now`, and whether a live item keeps its own instead.
    pub(crate) fn deadline(self, now: Timestamp) -> Result<Deadline> {
        Ok(match self {
            Self::Keep => Deadline {
                at: None,
                keep: true,
            },
            Self::Never => Deadline {
                at: None,
                keep: false,
            },
            Self::After(delta) => Deadline {
                at: Some(now.checked_add(delta)?),
                keep: false,
            },
            Self::At(instant) => Deadline {
                at: Some(instant.try_into()?),
                keep: false,
            },
        })
    }
}

/// What an [`Expiration`] comes to at an instant.
pub(crate) struct Deadline {
    pub(crate) at: Option<Timestamp>,
    pub(crate) keep: bool,
}

impl From<Duration> for Expiration {
    fn from(duration: Duration) -> Self {
        Self::after(duration)
    }
}

impl From<TimeDelta> for Expiration {
    fn from(delta: TimeDelta) -> Self {
        Self::After(delta)
    }
}

impl From<DateTime<Utc>> for Expiration {
    fn from(instant: DateTime<Utc>) -> Self {
        Self::At(instant)
    }
}

/// Whole seconds.
impl From<i64> for Expiration {
    fn from(seconds: i64) -> Self {
        Self::After(TimeDelta::try_seconds(seconds).unwrap_or(if seconds < 0 {
            TimeDelta::MIN
        } else {
            TimeDelta::MAX
        }))
    }
}
