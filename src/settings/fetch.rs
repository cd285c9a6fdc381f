//! `[fetch]`: how URLs are fetched for jobs.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::Settings;
use super::section::{bytes, duration};
use super::source::Source;
use super::value::{Found, Written};
use crate::Error;
use crate::fetch::{AllowPrivate, FetchOptions};

/// As much as the cache may be told to hold.
const MOST_BYTES: u64 = 1_000_000_000;
const MOST_REDIRECTS: i64 = 50;

/// `[fetch]`.
///
/// ```
/// use larder::settings::Settings;
///
/// let env = [("LARDER_FETCH__ALLOW_PRIVATE".into(), "10.0.0.0/8, intranet.example.com".into())];
/// let fetch = Settings::load(None, env)?.settings.fetch;
/// assert_eq!(fetch.max_bytes, 4 << 20);
/// assert!(fetch.options().allow_private.allows("wiki", "10.1.2.3".parse().unwrap()));
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FetchSettings {
    /// The most bytes of a body.
    #[serde(serialize_with = "bytes")]
    pub max_bytes: u64,
    /// How many redirects are followed.
    pub max_redirects: u32,
    /// How long all of a fetch may take.
    #[serde(serialize_with = "duration")]
    pub timeout: Duration,
    /// How long one connection may take.
    #[serde(serialize_with = "duration")]
    pub connect_timeout: Duration,
    /// Which private addresses may be fetched from.
    #[serde(serialize_with = "allow_private")]
    pub allow_private: AllowPrivate,
    /// How long an answer is fresh that does not say.
    #[serde(serialize_with = "duration")]
    pub fresh_for: Duration,
    /// How long after its freshness a response is kept that can be asked for again by its `ETag` or `Last-Modified`.
    #[serde(serialize_with = "duration")]
    pub keep_for: Duration,
}

impl Default for FetchSettings {
    fn default() -> Self {
        let FetchOptions {
            max_bytes,
            max_redirects,
            timeout,
            connect_timeout,
            allow_private,
            fresh_for,
            keep_for,
        } = FetchOptions::default();
        Self {
            max_bytes,
            max_redirects,
            timeout,
            connect_timeout,
            allow_private,
            fresh_for,
            keep_for,
        }
    }
}

impl FetchSettings {
    /// These settings, as [`Fetcher`](crate::fetch::Fetcher) takes them.
    #[must_use]
    pub fn options(&self) -> FetchOptions {
        FetchOptions {
            max_bytes: self.max_bytes,
            max_redirects: self.max_redirects,
            timeout: self.timeout,
            connect_timeout: self.connect_timeout,
            allow_private: self.allow_private.clone(),
            fresh_for: self.fresh_for,
            keep_for: self.keep_for,
        }
    }
}

pub(super) fn read(source: &Source, settings: &mut Settings) -> Result<(), Error> {
    let fetch = &mut settings.fetch;
    source.read(&mut fetch.max_bytes, &["fetch", "max_bytes"], |found| {
        found.bytes(1, MOST_BYTES)
    })?;
    source.read(
        &mut fetch.max_redirects,
        &["fetch", "max_redirects"],
        |found| found.whole(0, MOST_REDIRECTS),
    )?;
    for (time, key) in [
        (&mut fetch.timeout, "timeout"),
        (&mut fetch.connect_timeout, "connect_timeout"),
    ] {
        source.read(time, &["fetch", key], Found::positive_duration)?;
    }
    for (time, key) in [
        (&mut fetch.fresh_for, "fresh_for"),
        (&mut fetch.keep_for, "keep_for"),
    ] {
        source.read(time, &["fetch", key], Found::duration)?;
    }
    source.read(
        &mut fetch.allow_private,
        &["fetch", "allow_private"],
        read_allow_private,
    )
}

fn read_allow_private(found: &Found<'_>) -> Result<AllowPrivate, Error> {
    const SHAPE: &str = "true, false, or networks, addresses and hosts, such as [\"10.0.0.0/8\", \"intranet.example.com\"]";
    let listed: Option<Vec<&str>> = match &found.written {
        Written::Toml(toml::Value::Boolean(all)) => return Ok(all_or_none(*all)),
        Written::Toml(toml::Value::Array(values)) => {
            values.iter().map(toml::Value::as_str).collect()
        }
        Written::Toml(_) => None,
        Written::Variable(text) => match text.parse() {
            Ok(all) => return Ok(all_or_none(all)),
            Err(_) => Some(text.split(',').map(str::trim).collect()),
        },
    };
    let listed = listed.ok_or_else(|| found.expected(SHAPE))?;
    let these = AllowPrivate::these(listed);
    these.map_err(|error| found.wrong(&format!("{error}; expected {SHAPE}")))
}

fn all_or_none(all: bool) -> AllowPrivate {
    if all {
        AllowPrivate::All
    } else {
        AllowPrivate::None
    }
}

fn allow_private<S: Serializer>(allowed: &AllowPrivate, serializer: S) -> Result<S::Ok, S::Error> {
    match allowed {
        AllowPrivate::None => serializer.serialize_bool(false),
        AllowPrivate::All => serializer.serialize_bool(true),
        AllowPrivate::These(these) => serializer.collect_seq(these.iter().map(ToString::to_string)),
    }
}
