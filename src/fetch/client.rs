//! One request and the head of its answer: TLS, and no connection to an address that is not allowed.

use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

use super::error::FetchError;
use super::request::shown;
use super::{AllowPrivate, FetchOptions, Resolver};

/// How this client names itself, where the caller does not.
const AGENT: &str = concat!("larder/", env!("CARGO_PKG_VERSION"));

/// A client that keeps to the options. It holds no connection open: one that is used again would not be asked whether it
/// is allowed still.
pub(super) fn client(
    options: &FetchOptions,
    resolver: &Resolver,
) -> Result<reqwest::Client, FetchError> {
    let failed = |error: &dyn StdError| {
        FetchError::passing(
            format!("the HTTP client does not start: {}", root(error)),
            None,
        )
    };
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls().map_err(|error| failed(&error))?)
        .dns_resolver(Checked {
            allowed: options.allow_private.clone(),
            resolver: resolver.clone(),
        })
        // Whoever set a proxy in the environment did not mean it for what jobs fetch, and it would connect in our place,
        // to addresses that nobody checks.
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(options.connect_timeout)
        .pool_max_idle_per_host(0)
        .referer(false)
        .user_agent(AGENT)
        .build()
        .map_err(|error| failed(&error))
}

/// Trusts whom the system trusts, as `SSL_CERT_FILE` and `SSL_CERT_DIR` may say; where it trusts nobody, as in a bare
/// container, those whom Mozilla does.
fn tls() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        for error in system.errors {
            tracing::warn!(%error, "the system's certificates cannot be read; Mozilla's are trusted instead");
        }
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    Ok(builder
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Resolves names to those of their addresses that are allowed. The connection is made to these and no others: there is
/// no second look-up that somebody could answer differently.
struct Checked {
    allowed: AllowPrivate,
    resolver: Resolver,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let (allowed, resolver) = (self.allowed.clone(), self.resolver.clone());
        Box::pin(async move {
            let host = name.as_str();
            let all = resolver(host.to_owned()).await?;
            let Some(first) = all.first().copied() else {
                return Err("it has no address".into());
            };
            let fit: Vec<IpAddr> = all
                .into_iter()
                .filter(|address| allowed.allows(host, *address))
                .collect();
            if fit.is_empty() {
                return Err(Refused(first).into());
            }
            let addresses = fit.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

/// A private address that is not allowed.
#[derive(Debug)]
struct Refused(IpAddr);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is a private address: `fetch.allow_private` can allow it",
            self.0
        )
    }
}

impl StdError for Refused {}

/// Refuses a URL whose host is an address itself, which is not looked up.
pub(super) fn check_literal(url: &Url, allowed: &AllowPrivate) -> Result<(), FetchError> {
    let address: IpAddr = match url.host() {
        Some(Host::Ipv4(address)) => address.into(),
        Some(Host::Ipv6(address)) => address.into(),
        Some(Host::Domain(_)) | None => return Ok(()),
    };
    if allowed.allows(url.host_str().unwrap_or_default(), address) {
        return Ok(());
    }
    Err(refused(url, &Refused(address)))
}

fn refused(url: &Url, refused: &Refused) -> FetchError {
    FetchError::last(format!("{} is refused: {refused}", shown(url)))
}

/// What an error of the client means for the fetch of `url`.
pub(super) fn failed(url: &Url, error: reqwest::Error, options: &FetchOptions) -> FetchError {
    let error = error.without_url();
    let mut source: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(private) = cause.downcast_ref::<Refused>() {
            return refused(url, private);
        }
        source = cause.source();
    }
    let why = if error.is_timeout() && error.is_connect() {
        format!(
            "no connection within `fetch.connect_timeout`, {:?}",
            options.connect_timeout
        )
    } else {
        root(&error)
    };
    FetchError::failing(format!("cannot fetch {}: {why}", shown(url)), None)
}

/// What is at the bottom of an error: what is above it says no more than that a request failed.
fn root(error: &dyn StdError) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
