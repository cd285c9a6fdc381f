//! Fetches a URL, once for all who ask while the answer is fresh, and asks again only whether it has changed. Runs when
//! somebody calls or enqueues it, or by a schedule.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Memo};
use crate::fetch::{Answer, Fetched, Fetcher, Keep, Request, Stored};
use crate::{Data, Job, JobContext, JobError};

/// What fetches where a worker is given nothing else.
static PLAIN: LazyLock<Fetcher> = LazyLock::new(Fetcher::default);

/// Its payload: `{"url": "https://…", "headers": {"Accept": "…"}}`. Its [`Debug`](fmt::Debug) shows no secret.
///
/// ```
/// use larder::jobs::fetch_url::FetchUrl;
///
/// let payload = r#"{"url":"https://example.com/","headers":{"Accept":"text/html"}}"#;
/// let job: FetchUrl = serde_json::from_str(payload)?;
/// assert_eq!(serde_json::to_string(&job)?, payload);
/// assert!(serde_json::from_str::<FetchUrl>(r#"{"url":"file:///etc/passwd"}"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Payload")]
pub struct FetchUrl {
    /// The URL, of http or https.
    pub url: String,
    /// Headers of the request, by their names. They reach the URL's own host alone, but for `Accept`,
    /// `Accept-Language` and `User-Agent`. The payload is kept with its job, and with what is remembered of it, as it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// The payload as it is written, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl TryFrom<Payload> for FetchUrl {
    type Error = crate::Error;

    fn try_from(Payload { url, headers }: Payload) -> crate::Result<Self> {
        let job = Self { url, headers };
        job.request()?;
        Ok(job)
    }
}

impl FetchUrl {
    /// This URL, without headers.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            headers: BTreeMap::new(),
        }
    }

    fn request(&self) -> crate::Result<Request> {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_str()));
        Request::new(&self.url, headers)
    }
}

impl fmt::Debug for FetchUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.request() {
            Ok(request) => request.fmt(f),
            Err(error) => error.fmt(f),
        }
    }
}

impl Job for FetchUrl {
    const NAME: &'static str = "fetch_url";
    /// The answer, which tells itself how long it is remembered.
    type Output = Fetched;

    fn memo(&self) -> Option<Memo> {
        let key = key(&self.request().ok()?);
        Some(Memo::new(key).fresh_for(Duration::ZERO))
    }
}

/// Where the answer is remembered: by the host, so that one's can be cleared by their prefix.
fn key(request: &Request) -> String {
    format!("{}:{}", FetchUrl::NAME, request.fingerprint())
}

/// Fetches the URL, as the [`Fetcher`] that the worker is given by [`Worker::data`](crate::Worker::data) does, or else one
/// of the default options.
///
/// # Errors
/// Where its payload cannot be fetched, the answer is not within the limits, or its status is 400 to 499 (the job is then
/// dead at once, but for 408, 425 and 429); or where nothing comes, or a status of 500 or more (it is then tried again,
/// not before `Retry-After`).
pub async fn fetch_url(
    job: FetchUrl,
    fetcher: Option<Data<Fetcher>>,
    cache: Data<Cache>,
    cx: JobContext,
) -> Result<Fetched, JobError> {
    let request = job.request().map_err(JobError::abort)?;
    let fetcher = fetcher.map_or_else(|| PLAIN.clone(), |fetcher| (*fetcher).clone());
    let key = format!("{}:stored", key(&request));
    let stored = match cache.get::<Stored>(&key).await {
        // What another version left is not understood, and not needed.
        Err(error) if error.is_corrupt() => None,
        stored => stored?,
    };
    let fetching = fetcher.get(&request, stored, cache.database().clock());
    let Some(answer) = cx.cancellation().run_until_cancelled(fetching).await else {
        return Err(JobError::retry("it was cancelled while it fetched"));
    };
    let Answer {
        response,
        fresh,
        stale,
        keep,
        ..
    } = answer.map_err(|error| match error.retry_after() {
        _ if error.is_last() => JobError::abort(error),
        Some(wait) => JobError::retry_after(error, wait),
        None => JobError::retry(error),
    })?;
    let kept = match keep {
        Keep::Until(until, stored) => cache.set_with(&key, &*stored, until).await,
        Keep::Nothing => cache.delete(&key).await.map(drop),
        Keep::AsItIs => Ok(()),
    };
    if let Err(error) = kept {
        tracing::warn!(key, %error, "what was fetched is not kept for the next time");
    }
    if fresh.is_zero() && stale.is_zero() {
        cx.do_not_remember();
    } else {
        cx.remember_for(fresh, stale);
    }
    Ok(response)
}
