//! How long a response may be given again, by RFC 9111 and RFC 5861. It is pure: no clock, no client.
//!
//! larder is a shared cache: `s-maxage` and `proxy-revalidate` are for it, and what is `private` it does not keep.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// What a response says of its own keeping: the fields as they came, those of several lines joined by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Said {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vary: Option<String>,
    /// Of this very answer, and not kept.
    #[serde(skip)]
    pub(super) date: Option<String>,
    #[serde(skip)]
    pub(super) age: Option<String>,
}

/// What is asked of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) status: u16,
    /// Whether the request had credentials.
    pub(super) authorized: bool,
    /// When the request was sent.
    pub(super) sent: Timestamp,
    /// When the answer came.
    pub(super) came: Timestamp,
    /// How long it is fresh where it does not say.
    pub(super) unless_said: Duration,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Whether it may be kept at all, if only to be revalidated.
    pub(super) is_storable: bool,
    /// How much longer it is fresh.
    pub(super) fresh: Duration,
    /// How long after that it may be given while it is asked for again.
    pub(super) while_revalidating: Duration,
    /// How long after that it may be given where asking fails.
    pub(super) if_error: Duration,
}

impl Terms {
    const NOT: Self = Self {
        is_storable: false,
        fresh: Duration::ZERO,
        while_revalidating: Duration::ZERO,
        if_error: Duration::ZERO,
    };

    /// The same so much later.
    pub(super) fn after(self, spent: Duration) -> Self {
        Self {
            fresh: self.fresh.saturating_sub(spent),
            ..self
        }
    }

    /// Of an answer that both are needed for.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            is_storable: self.is_storable && other.is_storable,
            fresh: self.fresh.min(other.fresh),
            while_revalidating: self.while_revalidating.min(other.while_revalidating),
            if_error: self.if_error.min(other.if_error),
        }
    }
}

impl Said {
    /// What holds after an answer that the response has not changed (RFC 9111, 3.2).
    pub(super) fn renewed_by(self, newer: Self) -> Self {
        Self {
            cache_control: newer.cache_control.or(self.cache_control),
            expires: newer.expires.or(self.expires),
            vary: newer.vary.or(self.vary),
            date: newer.date,
            age: newer.age,
        }
    }

    pub(super) fn terms(&self, asked: Asked) -> Terms {
        let directives = Directives::of(self.cache_control.as_deref().unwrap_or_default());
        let allowed_to_authorized = ["public", "must-revalidate", "s-maxage"];
        let varies = self.vary.as_deref().unwrap_or_default();
        if directives.has("no-store")
            || directives.has("private")
            || varies.split(',').any(|name| name.trim() == "*")
            || asked.authorized
                && !allowed_to_authorized
                    .iter()
                    .any(|name| directives.has(name))
        {
            return Terms::NOT;
        }
        let date = self.date.as_deref().and_then(instant);
        let date = date.unwrap_or(asked.came);
        let lifetime = directives
            .seconds("s-maxage")
            .or_else(|| directives.seconds("max-age"))
            .or_else(|| {
                // What is no date, as 0 often is, means that it has expired.
                let expires = self.expires.as_deref()?;
                Some(instant(expires).map_or(Duration::ZERO, |expires| expires.since(date)))
            });
        // What says nothing and is no plain success is not for guessing (RFC 9111, 4.2.2).
        let guessed = if matches!(asked.status, 200 | 203 | 204 | 301 | 302 | 303 | 307 | 308) {
            asked.unless_said
        } else {
            Duration::ZERO
        };
        let fresh = if directives.has("no-cache") {
            Duration::ZERO
        } else {
            let age = self.age(asked, date);
            lifetime.unwrap_or(guessed).saturating_sub(age)
        };
        let never_stale = ["no-cache", "must-revalidate", "proxy-revalidate"];
        let stale = |name: &str| {
            if never_stale.iter().any(|forbids| directives.has(forbids)) {
                Duration::ZERO
            } else {
                directives.seconds(name).unwrap_or_default()
            }
        };
        Terms {
            is_storable: true,
            fresh,
            while_revalidating: stale("stale-while-revalidate"),
            if_error: stale("stale-if-error"),
        }
    }

    /// RFC 9111, 4.2.3.
    fn age(&self, asked: Asked, date: Timestamp) -> Duration {
        let apparent = asked.came.since(date);
        let told = self.age.as_deref().unwrap_or_default();
        let told = told.split(',').next().and_then(seconds).unwrap_or_default();
        apparent.max(told.saturating_add(asked.came.since(asked.sent)))
    }
}

/// The directives of `Cache-Control`, in lower case, with their arguments.
struct Directives(Vec<(String, Option<String>)>);

impl Directives {
    fn of(text: &str) -> Self {
        let (mut all, mut one) = (Vec::new(), String::new());
        let (mut quoted, mut escaped) = (false, false);
        for c in text.chars().chain([',']) {
            match c {
                _ if escaped => {
                    escaped = false;
                    one.push(c);
                }
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ',' if !quoted => all.push(std::mem::take(&mut one)),
                _ => one.push(c),
            }
        }
        // A quote that nobody closed.
        all.push(one);
        let directives = all.iter().map(|directive| match directive.split_once('=') {
            Some((name, argument)) => (name, Some(argument.trim().to_owned())),
            None => (directive.as_str(), None),
        });
        Self(
            directives
                .map(|(name, argument)| (name.trim().to_ascii_lowercase(), argument))
                .filter(|(name, _)| !name.is_empty())
                .collect(),
        )
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(directive, _)| directive == name)
    }

    /// The shortest that it is given; none at all where one is no number, which is to count as stale.
    fn seconds(&self, name: &str) -> Option<Duration> {
        let given = self.0.iter().filter(|(directive, _)| directive == name);
        given
            .map(|(_, argument)| argument.as_deref().and_then(seconds).unwrap_or_default())
            .min()
    }
}

/// RFC 9111, 1.2.2: what is larger than a cache can count is very long.
fn seconds(text: &str) -> Option<Duration> {
    const LONGEST: u64 = 1 << 31;
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Duration::from_secs(text.parse().unwrap_or(LONGEST).min(LONGEST)))
}

/// An HTTP date, in any of its three forms.
fn instant(text: &str) -> Option<Timestamp> {
    let date = httpdate::parse_http_date(text.trim()).ok()?;
    let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    Timestamp::from_millis(i64::try_from(since.as_millis()).ok()?).ok()
}

/// How long `Retry-After` asks to wait: so many seconds, or until a date.
pub(super) fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    seconds(text).or_else(|| Some(instant(text)?.since(now)))
}

#[cfg(test)]
mod tests;
