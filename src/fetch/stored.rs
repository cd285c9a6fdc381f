//! A response as its caller has it, and as it is kept to be asked for again.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use url::Url;

use super::caching::Said;
use crate::clock::Timestamp;

/// What was fetched. Exactly one of `body` and `body_base64` is there.
///
/// ```
/// use larder::fetch::Fetched;
///
/// let json = r#"{"status":200,"url":"https://example.com/","content_type":"text/plain","body":"hello\n"}"#;
/// let fetched: Fetched = serde_json::from_str(json)?;
/// assert_eq!(fetched.bytes(), Some(b"hello\n".to_vec()));
/// assert_eq!(serde_json::to_string(&fetched)?, json);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fetched {
    /// The status, of 200 to 299.
    pub status: u16,
    /// Where it came from: the URL of the request, or the one that it redirected to in the end.
    pub url: String,
    /// Its `Content-Type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Its `ETag`, as it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Its `Last-Modified`, as it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// Whether it is an earlier response, given because asking for another failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// The body, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body in base64, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

impl Fetched {
    pub(super) fn new(status: u16, url: &Url, head: &HeaderMap, body: Vec<u8>) -> Self {
        let text = |name: HeaderName| Some(head.get(name)?.to_str().ok()?.to_owned());
        let (body, body_base64) = match String::from_utf8(body) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        Self {
            status,
            url: url.to_string(),
            content_type: text(header::CONTENT_TYPE),
            etag: text(header::ETAG),
            last_modified: text(header::LAST_MODIFIED),
            stale: false,
            body,
            body_base64,
        }
    }

    /// The body; none where there is neither form of it, or its base64 is broken.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.body, &self.body_base64) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, Some(base64)) => STANDARD.decode(base64).ok(),
            (None, None) => None,
        }
    }

    pub(super) fn stale(self) -> Self {
        Self {
            stale: true,
            ..self
        }
    }
}

/// A response that is kept: to be asked for again, and to be given where asking fails. Whoever keeps it gives it to the
/// next [`Fetcher::get`](super::Fetcher::get).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    response: Fetched,
    said: Said,
    usable_until: Option<DateTime<Utc>>,
}

impl Stored {
    pub(super) fn new(response: Fetched, said: Said) -> Self {
        Self {
            response,
            said,
            usable_until: None,
        }
    }

    /// Until when it may be given where asking fails.
    pub(super) fn usable_until(self, until: Timestamp) -> Self {
        Self {
            usable_until: Some(until.into()),
            ..self
        }
    }

    pub(super) fn response(&self) -> &Fetched {
        &self.response
    }

    /// The response, with what of its head an answer that it has not changed says anew.
    pub(super) fn renewed_by(self, head: &HeaderMap) -> Fetched {
        let text = |name: HeaderName| Some(head.get(name)?.to_str().ok()?.to_owned());
        let mut response = self.response;
        response.etag = text(header::ETAG).or(response.etag);
        response.last_modified = text(header::LAST_MODIFIED).or(response.last_modified);
        response
    }

    pub(super) fn said(&self) -> Said {
        self.said.clone()
    }

    /// How much longer it may be given where asking fails.
    pub(super) fn left(&self, now: Timestamp) -> Option<std::time::Duration> {
        let until = Timestamp::try_from(self.usable_until?).ok()?;
        Some(until.since(now))
    }

    /// The headers that ask for it only where it has changed; none where the server gave nothing to compare.
    pub(super) fn conditions(&self) -> HeaderMap {
        let condition = |name: HeaderName, text: &Option<String>| {
            Some((name, HeaderValue::from_str(text.as_deref()?).ok()?))
        };
        let Fetched {
            etag,
            last_modified,
            ..
        } = &self.response;
        [
            condition(header::IF_NONE_MATCH, etag),
            condition(header::IF_MODIFIED_SINCE, last_modified),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
