//! Values that several commands take.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::cache::Expiration;
use crate::error::Error;
use crate::settings::{parse_duration, parse_signed_duration};

/// When an item expires: one of three.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct Deadline {
    /// It expires this long from now, such as 90, 1h30m or 7d; zero or less is at once
    #[arg(long, value_name = "D", value_parser = signed_duration, allow_hyphen_values = true)]
    expires_in: Option<TimeDelta>,
    /// It expires at this instant, such as 2026-11-22T13:00:00+01:00
    #[arg(long, value_name = "T", value_parser = instant, allow_hyphen_values = true)]
    expires_at: Option<DateTime<Utc>>,
    /// It does not expire
    #[arg(long)]
    never: bool,
}

impl Deadline {
    /// What was asked for, or else `unless_said`.
    pub(super) fn expiration(&self, unless_said: Expiration) -> Expiration {
        match (self.expires_in, self.expires_at) {
            (Some(delta), _) => Expiration::After(delta),
            (_, Some(instant)) => Expiration::At(instant),
            _ if self.never => Expiration::Never,
            _ => unless_said,
        }
    }
}

/// `JSON|@FILE|-`. It may begin with a hyphen, as a number does; one that begins with two is a misspelt option.
pub(super) fn json_or_file(text: &str) -> Result<String, String> {
    if text.starts_with("--") {
        return Err("there is no such option, and it is not JSON".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn duration(text: &str) -> Result<Duration, Error> {
    parse_duration(text)
}

pub(super) fn signed_duration(text: &str) -> Result<TimeDelta, Error> {
    parse_signed_duration(text)
}

/// RFC 3339 with an offset.
pub(super) fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(Into::into)
        .map_err(|error| {
            format!("{error}; write RFC 3339 with an offset, such as 2026-11-22T12:00:00Z or 2026-11-22T13:00:00+01:00")
        })
}

/// A name that is there.
pub(super) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(text.to_owned())
}
