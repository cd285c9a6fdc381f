//! One fetch, from its first request to its answer: redirects, limits, and what was fetched before.

use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use url::Url;

use super::caching::{Asked, Said, Terms, retry_after};
use super::client::{check_literal, failed};
use super::error::FetchError;
use super::request::{Request, check_scheme, forget_credentials, shown};
use super::stored::{Fetched, Stored};
use super::{Answer, FetchOptions, Keep};
use crate::clock::{Clock, Timestamp};

/// The longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);
/// How long a response that is given because asking failed is given without asking again.
const PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Run<'a> {
    pub(super) client: &'a reqwest::Client,
    pub(super) options: &'a FetchOptions,
    pub(super) request: &'a Request,
    pub(super) stored: Option<Stored>,
    pub(super) clock: &'a Clock,
}

/// The head of an answer that is no redirect.
struct Landed {
    url: Url,
    response: Response,
    came: Timestamp,
    terms: Terms,
    said: Said,
}

impl Run<'_> {
    pub(super) async fn answer(self) -> Result<Answer, FetchError> {
        let limit = self.options.timeout;
        let fetched = match tokio::time::timeout(limit, self.fetch()).await {
            Ok(fetched) => fetched,
            Err(_) => Err(FetchError::failing(
                format!(
                    "cannot fetch {}: no whole answer within `fetch.timeout`, {limit:?}",
                    shown(self.request.url())
                ),
                None,
            )),
        };
        match fetched {
            Err(error) if error.allows_stale() => self.stale_instead(error),
            fetched => fetched,
        }
    }

    async fn fetch(&self) -> Result<Answer, FetchError> {
        let landed = self.follow().await?;
        let status = landed.response.status();
        if status == StatusCode::NOT_MODIFIED {
            return match self.stored_for(&landed.url) {
                Some(stored) => Ok(self.renewed(stored.clone(), landed)),
                None => Err(unexpected(&landed.url, status)),
            };
        }
        if !status.is_success() || status == StatusCode::PARTIAL_CONTENT {
            return Err(self.unsuccessful(&landed));
        }
        let Landed {
            url,
            response,
            came,
            terms,
            said,
        } = landed;
        let head = response.headers().clone();
        let body = self.body(&url, response).await?;
        let terms = terms.after(self.clock.now().since(came));
        let fetched = Fetched::new(status.as_u16(), &url, &head, body);
        let keep = if terms.is_storable && status == StatusCode::OK {
            self.keep(Stored::new(fetched.clone(), said), terms)
        } else {
            Keep::Nothing
        };
        Ok(Answer {
            response: fetched,
            fresh: terms.fresh,
            stale: terms.while_revalidating,
            keep,
        })
    }

    /// The answer to the URL, or to the one that it redirects to in the end.
    async fn follow(&self) -> Result<Landed, FetchError> {
        let (mut url, mut trusted) = (self.request.url().clone(), true);
        let (mut so_far, mut hops) = (None::<Terms>, 0);
        loop {
            check_literal(&url, &self.options.allow_private)?;
            let sent = self.clock.now();
            let response = self.send(&url, trusted).await?;
            let came = self.clock.now();
            let mut said = said(response.headers());
            if let Some(stored) = self.stored_for(&url)
                && response.status() == StatusCode::NOT_MODIFIED
            {
                said = stored.said().renewed_by(said);
            }
            let mut terms = said.terms(Asked {
                status: match response.status() {
                    StatusCode::NOT_MODIFIED => StatusCode::OK.as_u16(),
                    status => status.as_u16(),
                },
                authorized: trusted && self.request.is_authorized(),
                sent,
                came,
                unless_said: self.options.fresh_for,
            });
            if let Some(so_far) = so_far {
                terms = so_far.and(terms);
            }
            if !is_redirect(response.status()) {
                return Ok(Landed {
                    url,
                    response,
                    came,
                    terms,
                    said,
                });
            }
            if hops == self.options.max_redirects {
                return Err(FetchError::last(format!(
                    "{} redirects more often than the {hops} times that `fetch.max_redirects` allows",
                    shown(self.request.url())
                )));
            }
            hops += 1;
            let next = next(&url, &response)?;
            // Once it was elsewhere it is not ours any more, though it may come back.
            trusted = trusted && next.origin() == url.origin();
            (url, so_far) = (next, Some(terms));
        }
    }

    async fn send(&self, url: &Url, trusted: bool) -> Result<Response, FetchError> {
        let mut headers = self.request.headers(trusted);
        if let Some(stored) = self.stored_for(url) {
            headers.extend(stored.conditions());
        }
        let sent = self.client.get(url.clone()).headers(headers).send().await;
        sent.map_err(|error| failed(url, error, self.options))
    }

    /// What was fetched before from this very URL.
    fn stored_for(&self, url: &Url) -> Option<&Stored> {
        let stored = self.stored.as_ref()?;
        (stored.response().url == url.as_str()).then_some(stored)
    }

    async fn body(&self, url: &Url, mut response: Response) -> Result<Vec<u8>, FetchError> {
        let most = self.options.max_bytes;
        let too_large = || {
            FetchError::last(format!(
                "{} has more than the {most} bytes that `fetch.max_bytes` allows",
                shown(url)
            ))
        };
        if let Some(encoding) = response.headers().get(header::CONTENT_ENCODING)
            && encoding != "identity"
        {
            return Err(FetchError::last(format!(
                "{} came with content-encoding {encoding:?}, which was not asked for",
                shown(url)
            )));
        }
        if response
            .content_length()
            .is_some_and(|length| length > most)
        {
            return Err(too_large());
        }
        let mut body = Vec::new();
        // What was compressed comes decompressed, in pieces.
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|error| failed(url, error, self.options))?
        {
            if (body.len() + piece.len()) as u64 > most {
                return Err(too_large());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The stored response, which the server says has not changed.
    fn renewed(&self, stored: Stored, landed: Landed) -> Answer {
        let response = stored.renewed_by(landed.response.headers());
        let keep = if landed.terms.is_storable {
            self.keep(Stored::new(response.clone(), landed.said), landed.terms)
        } else {
            Keep::Nothing
        };
        Answer {
            response,
            fresh: landed.terms.fresh,
            stale: landed.terms.while_revalidating,
            keep,
        }
    }

    /// What of a response is kept for later, besides its being remembered.
    fn keep(&self, stored: Stored, terms: Terms) -> Keep {
        let revalidated = if stored.conditions().is_empty() {
            Duration::ZERO
        } else {
            self.options.keep_for
        };
        let after = revalidated.max(terms.if_error);
        if after.is_zero() {
            return Keep::Nothing;
        }
        let fresh_until = later(self.clock.now(), terms.fresh);
        let until = later(fresh_until, after);
        Keep::Until(
            until.into(),
            Box::new(stored.usable_until(later(fresh_until, terms.if_error))),
        )
    }

    fn unsuccessful(&self, landed: &Landed) -> FetchError {
        let status = landed.response.status();
        let wait = landed.response.headers().get(header::RETRY_AFTER);
        let wait = wait
            .and_then(|value| retry_after(value.to_str().ok()?, self.clock.now()))
            .filter(|wait| !wait.is_zero())
            .map(|wait| wait.min(LONGEST_WAIT));
        let message = format!("{} answered {status}", shown(&landed.url));
        match status.as_u16() {
            500 | 502..=504 => FetchError::failing(message, wait),
            408 | 425 | 429 | 501 | 505..=599 => FetchError::passing(message, wait),
            400..=499 => FetchError::last(message),
            _ => unexpected(&landed.url, status),
        }
    }

    /// What was fetched before, where it said that it may be given when asking fails.
    fn stale_instead(&self, error: FetchError) -> Result<Answer, FetchError> {
        let now = self.clock.now();
        let left = |stored: &Stored| stored.left(now).filter(|left| !left.is_zero());
        let Some((stored, left)) = self
            .stored
            .as_ref()
            .and_then(|stored| Some((stored, left(stored)?)))
        else {
            return Err(error);
        };
        tracing::warn!(%error, "what was fetched before is given instead");
        Ok(Answer {
            response: stored.response().clone().stale(),
            fresh: error.retry_after().unwrap_or(PAUSE).min(left),
            stale: Duration::ZERO,
            keep: Keep::AsItIs,
        })
    }
}

fn later(instant: Timestamp, time: Duration) -> Timestamp {
    instant.saturating_add(chrono::TimeDelta::from_std(time).unwrap_or(chrono::TimeDelta::MAX))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn unexpected(url: &Url, status: StatusCode) -> FetchError {
    let url = shown(url);
    FetchError::last(format!(
        "{url} answered {status}, which is no answer to this request"
    ))
}

/// Where an answer redirects to.
fn next(url: &Url, response: &Response) -> Result<Url, FetchError> {
    let wrong =
        |why: &str| FetchError::last(format!("the redirect of {} is refused: {why}", shown(url)));
    let location = response.headers().get(header::LOCATION);
    let location = location.ok_or_else(|| wrong("it does not say where to"))?;
    let location =
        std::str::from_utf8(location.as_bytes()).map_err(|_| wrong("its location is not UTF-8"))?;
    let mut next = url
        .join(location)
        .map_err(|error| wrong(&error.to_string()))?;
    check_scheme(&next).map_err(|why| wrong(&why))?;
    forget_credentials(&mut next);
    next.set_fragment(None);
    Ok(next)
}

fn said(headers: &HeaderMap) -> Said {
    let all = |name: HeaderName| {
        let values: Vec<&str> = headers
            .get_all(name)
            .iter()
            .filter_map(|value: &HeaderValue| value.to_str().ok())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    };
    let one = |name: HeaderName| Some(headers.get(name)?.to_str().ok()?.to_owned());
    Said {
        cache_control: all(header::CACHE_CONTROL),
        expires: one(header::EXPIRES),
        vary: all(header::VARY),
        date: one(header::DATE),
        age: one(header::AGE),
    }
}
