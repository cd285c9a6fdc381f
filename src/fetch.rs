//! Fetching URLs for jobs: with limits, from public addresses alone unless others are allowed, and by the rules of a
//! shared HTTP cache.
//!
//! What it decides by is RFC 9111, with the stale-while-revalidate and stale-if-error of RFC 5861. larder is a **shared**
//! cache: `s-maxage` goes before `max-age`, what is `private` is not kept, nor the answer to a request with
//! `Authorization` unless it is `public`, `must-revalidate` or has `s-maxage`. `no-store` and `Vary: *` are not kept
//! either; other `Vary` are met, since requests with other headers are other requests. An answer that says nothing of its
//! freshness is fresh for [`FetchOptions::fresh_for`]: nothing is guessed from `Last-Modified`. Where an answer gives
//! `s-maxage` and permits stale use in so many words, that permission counts. Of redirects and what they lead to, the
//! shortest freshness counts.
//!
//! It speaks HTTP/1.1, plain and over TLS, takes gzip, and uses no proxy, whatever the environment says.

mod address;
mod caching;
mod client;
mod error;
mod request;
mod run;
mod stored;

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::OnceCell;

pub use address::{AllowPrivate, Allowed};
pub use error::FetchError;
pub use request::Request;
pub use stored::{Fetched, Stored};

use crate::clock::Clock;

/// How URLs are fetched. The defaults are those of `larder.toml`.
///
/// ```
/// use larder::fetch::{AllowPrivate, FetchOptions, Fetcher};
///
/// let mut options = FetchOptions::default();
/// assert_eq!((options.max_bytes, options.max_redirects), (4 * 1024 * 1024, 5));
/// options.allow_private = AllowPrivate::these(["intranet.example.com"])?;
/// let fetcher = Fetcher::new(options); // for `Worker::data`
/// # drop(fetcher);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FetchOptions {
    /// The most bytes of a body, also after it was decompressed; 4 MiB unless said.
    pub max_bytes: u64,
    /// How many redirects are followed; 5 unless said.
    pub max_redirects: u32,
    /// How long all of it may take, redirects and body included; 30 s unless said.
    pub timeout: Duration,
    /// How long one connection may take, its TLS included; 5 s unless said.
    pub connect_timeout: Duration,
    /// Which private addresses may be fetched from; none unless said.
    pub allow_private: AllowPrivate,
    /// How long an answer is fresh that does not say; a minute unless said.
    pub fresh_for: Duration,
    /// How long after its freshness a response with an `ETag` or a `Last-Modified` is kept, so that asking for it again
    /// need not download it again; 7 days unless said.
    pub keep_for: Duration,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            max_bytes: 4 << 20,
            max_redirects: 5,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            allow_private: AllowPrivate::None,
            fresh_for: Duration::from_secs(60),
            keep_for: Duration::from_hours(7 * 24),
        }
    }
}

type Resolver = Arc<dyn Fn(String) -> Resolved + Send + Sync>;
/// The addresses of a name, when they are there.
pub type Resolved = Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>>;

/// Fetches URLs. Clones share their options, so that [`Fetcher::replace`] concerns all.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use larder::clock::Clock;
/// use larder::fetch::{Fetcher, Request};
///
/// let fetcher = Fetcher::default();
/// let metadata = Request::new("http://169.254.169.254/latest/meta-data/", [])?;
/// let error = fetcher.get(&metadata, None, &Clock::system()).await.unwrap_err();
/// assert!(error.is_last());
/// assert_eq!(
///     error.to_string(),
///     "http://169.254.169.254/latest/meta-data/ is refused: 169.254.169.254 is a private address: `fetch.allow_private` can allow it"
/// );
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Fetcher {
    current: Arc<RwLock<Arc<Current>>>,
    resolver: Resolver,
}

/// Options, and the client that keeps to them, made when it is first needed.
struct Current {
    options: FetchOptions,
    client: OnceCell<reqwest::Client>,
}

/// What came of a fetch, and what may be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The response.
    pub response: Fetched,
    /// How long it may be given to others from now on.
    pub fresh: Duration,
    /// How long after that it may be given while it is asked for again.
    pub stale: Duration,
    /// What to keep for the next time.
    pub keep: Keep,
}

/// What to do with the [`Stored`] of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// To keep this one until then.
    Until(DateTime<Utc>, Box<Stored>),
    /// To leave what is kept as it is.
    AsItIs,
    /// To keep none, and no longer the one that is kept.
    Nothing,
}

impl Fetcher {
    /// Fetches as `options` say.
    #[must_use]
    pub fn new(options: FetchOptions) -> Self {
        Self {
            current: Arc::new(RwLock::new(Arc::new(Current::new(options)))),
            resolver: Arc::new(|host| Box::pin(look_up(host))),
        }
    }

    /// With `resolver` in place of the system's look-up of names. Each connection is made to an address of the answer
    /// that is allowed, and to no other.
    #[must_use]
    pub fn resolving(
        mut self,
        resolver: impl Fn(String) -> Resolved + Send + Sync + 'static,
    ) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// Fetches as these `options` say from now on; what is under way goes on as it was.
    pub fn replace(&self, options: FetchOptions) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(Current::new(options));
    }

    /// Fetches, or asks whether the `stored` response of the same request has changed. `clock` tells the time that
    /// freshness is counted by.
    ///
    /// # Errors
    /// Where an address is refused, no whole answer comes in time or within the limits, or its status is not 200 to 299.
    /// Such an error is no reason to forget what is stored; where that says so it is the answer.
    pub async fn get(
        &self,
        request: &Request,
        stored: Option<Stored>,
        clock: &Clock,
    ) -> Result<Answer, FetchError> {
        let current = self
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let make = || async { client::client(&current.options, &self.resolver) };
        let run = run::Run {
            client: current.client.get_or_try_init(make).await?,
            options: &current.options,
            request,
            stored,
            clock,
        };
        run.answer().await
    }
}

impl Default for Fetcher {
    fn default() -> Self {
        Self::new(FetchOptions::default())
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Fetcher")
            .field("options", &current.options)
            .finish_non_exhaustive()
    }
}

impl Current {
    fn new(options: FetchOptions) -> Self {
        Self {
            options,
            client: OnceCell::new(),
        }
    }
}

/// The system's look-up, `/etc/hosts` and all.
async fn look_up(host: String) -> std::io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}
