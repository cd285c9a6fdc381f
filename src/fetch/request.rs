//! What is fetched: a URL and headers, checked.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use url::{Host, Url};

use crate::error::{Error, Result};

/// The longest URL, in bytes.
const LONGEST_URL: usize = 8_192;
/// What is said by the client itself, or would change what an answer means.
const OURS: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What is said to other hosts too that a redirect names. Any other header may be a credential.
const FOR_ALL: &[&str] = &["accept", "accept-language", "user-agent"];

/// A GET of a URL of http or https. Its [`Debug`](fmt::Debug) shows no secret.
///
/// ```
/// use larder::fetch::Request;
///
/// let request = Request::new("https://user:secret@api.example.com/prices?key=s3cret#top", [("X-Token", "t0ken")])?;
/// assert_eq!(request.host(), "api.example.com");
/// assert_eq!(format!("{request:?}"), r#"Request("https://api.example.com/prices?…")"#);
///
/// let error = Request::new("ftp://example.com/", []).unwrap_err().to_string();
/// assert_eq!(error, "url: only http and https are fetched, and not ftp");
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone)]
pub struct Request {
    url: Url,
    headers: HeaderMap,
}

impl Request {
    /// Of this URL, with these headers besides those of the client's own. A user and password in the URL are sent as
    /// `Authorization`, unless that is among the headers.
    ///
    /// # Errors
    /// Where the URL is not one of http or https with a host, or a header is not valid, is given twice, or is not for
    /// the caller to set. No message shows a secret.
    pub fn new<'a>(
        url: &str,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self> {
        if url.len() > LONGEST_URL {
            return Err(Error::invalid(format!(
                "url: it has {} bytes, and may have {LONGEST_URL}",
                url.len()
            )));
        }
        let mut url = Url::parse(url).map_err(|error| Error::invalid(format!("url: {error}")))?;
        check_scheme(&url).map_err(|why| Error::invalid(format!("url: {why}")))?;
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            let (name, value) = header(name, value)?;
            if all.contains_key(&name) {
                return Err(Error::invalid(format!("headers: {name} is given twice")));
            }
            all.insert(name, value);
        }
        if let Some(basic) = take_credentials(&mut url)
            && !all.contains_key(AUTHORIZATION)
        {
            all.insert(AUTHORIZATION, basic);
        }
        url.set_fragment(None);
        Ok(Self { url, headers: all })
    }

    /// The host, as the URL names it.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// What tells requests apart that may have different answers: the host, and a hash of the URL and the headers.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        // In the order of their names, and each part by its length.
        let headers: BTreeMap<&str, &[u8]> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let headers = headers.into_iter();
        let headers = headers.flat_map(|(name, value)| [name.as_bytes(), value]);
        let mut hash = Sha256::new();
        for part in std::iter::once(self.url.as_str().as_bytes()).chain(headers) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let hash: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{}:{hash}", self.host())
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether answers may be meant for one person (RFC 9111, 3.5).
    pub(super) fn is_authorized(&self) -> bool {
        self.headers.contains_key(AUTHORIZATION)
    }

    /// What is sent to whom the caller named, or only what is for all.
    pub(super) fn headers(&self, trusted: bool) -> HeaderMap {
        if trusted {
            return self.headers.clone();
        }
        FOR_ALL
            .iter()
            .filter_map(|name| {
                let value = self.headers.get(*name)?.clone();
                Some((HeaderName::from_static(name), value))
            })
            .collect()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:?})", shown(&self.url))
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue)> {
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(Error::invalid(format!(
            "headers: {name:?} cannot name a header"
        )));
    };
    if OURS.contains(&parsed.as_str()) {
        return Err(Error::invalid(format!(
            "headers: {parsed} is not for a payload to set: leave it out"
        )));
    }
    let Ok(mut value) = HeaderValue::from_str(value) else {
        return Err(Error::invalid(format!(
            "headers: the value of {parsed} has characters that no header can hold"
        )));
    };
    value.set_sensitive(true);
    Ok((parsed, value))
}

/// Takes user and password out of the URL.
fn take_credentials(url: &mut Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut plain: Vec<u8> = percent_decode_str(url.username()).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(url.password().unwrap_or_default()));
    let basic = STANDARD.encode(plain);
    forget_credentials(url);
    let mut value = HeaderValue::from_str(&format!("Basic {basic}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

pub(super) fn forget_credentials(url: &mut Url) {
    // It fails for URLs without a host alone, which have none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
}

/// Whether it is a URL that is fetched, or why not.
pub(super) fn check_scheme(url: &Url) -> Result<(), String> {
    match url.scheme() {
        "http" | "https" => {}
        other => return Err(format!("only http and https are fetched, and not {other}")),
    }
    match url.host() {
        None | Some(Host::Domain("")) => Err("it has no host".to_owned()),
        Some(_) => Ok(()),
    }
}

/// The URL for errors and logs: without its query, which may be a secret. It never has a user, a password or a fragment
/// where it is fetched.
pub(super) fn shown(url: &Url) -> String {
    let mut plain = url.clone();
    plain.set_query(None);
    let query = if url.query().is_some() { "?…" } else { "" };
    format!("{plain}{query}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn print(url: &str, headers: &[(&str, &str)]) -> String {
        Request::new(url, headers.iter().copied())
            .unwrap()
            .fingerprint()
    }

    #[test]
    fn a_fingerprint_tells_urls_and_headers_apart_and_shows_the_host_alone() {
        let url = "https://h.test/a?b=1";
        let prints = [
            print(url, &[]),
            print("http://h.test/a?b=1", &[]),
            print("https://h.test/a?b=2", &[]),
            print("https://h.test:8443/a?b=1", &[]),
            print("https://u:p@h.test/a?b=1", &[]),
            print("https://u:q@h.test/a?b=1", &[]),
            print(url, &[("accept", "a")]),
            print(url, &[("accept", "b")]),
            print(url, &[("accep", "ta")]),
            print(url, &[("accept", "a"), ("x", "y")]),
        ];
        let different: std::collections::BTreeSet<_> = prints.iter().collect();
        assert_eq!(different.len(), prints.len(), "{prints:#?}");
        assert!(
            prints
                .iter()
                .all(|print| print.starts_with("h.test:") && print.len() == 71)
        );
        // What is said twice differently is said once.
        assert_eq!(print("HTTPS://H.test:443/a?b=1#c", &[]), prints[0]);
        assert_eq!(print(url, &[("X", "y"), ("Accept", "a")]), prints[9]);
        let basic = [("authorization", "Basic dTpw")];
        assert_eq!(print(url, &basic), prints[4]);
    }

    #[test]
    fn what_cannot_be_fetched_is_refused_without_its_secrets() {
        for (url, headers, message) in [
            ("no url", &[][..], "url: relative URL without a base"),
            (
                "ftp://a:secret@h/",
                &[],
                "url: only http and https are fetched, and not ftp",
            ),
            (
                "file:///etc/passwd",
                &[],
                "url: only http and https are fetched, and not file",
            ),
            ("http://", &[], "url: empty host"),
            ("http://a:secret@h:x/", &[], "url: invalid port number"),
            (
                "http://h/",
                &[("a b", "secret")],
                "headers: \"a b\" cannot name a header",
            ),
            (
                "http://h/",
                &[("X-A", "sec\nret")],
                "headers: the value of x-a has characters that no header can hold",
            ),
            (
                "http://h/",
                &[("Host", "other")],
                "headers: host is not for a payload to set: leave it out",
            ),
            (
                "http://h/",
                &[("If-None-Match", "*")],
                "headers: if-none-match is not for a payload to set: leave it out",
            ),
            (
                "http://h/",
                &[("X-A", "1"), ("x-a", "2")],
                "headers: x-a is given twice",
            ),
        ] {
            let error = Request::new(url, headers.iter().copied()).unwrap_err();
            assert_eq!(error.to_string(), message, "{url}");
        }
        let long = format!("http://h/{}", "a".repeat(LONGEST_URL));
        let error = Request::new(&long, []).unwrap_err().to_string();
        assert_eq!(error, "url: it has 8201 bytes, and may have 8192");
    }

    #[test]
    fn credentials_of_a_url_become_a_header_of_its_host_alone() {
        let request = Request::new(
            "http://us%40er:p%3Aw%@h/",
            [("Accept", "a"), ("X-Key", "k")],
        )
        .unwrap();
        assert_eq!(request.url().as_str(), "http://h/");
        // us@er:p:w%
        let all = request.headers(true);
        assert_eq!(all.get(AUTHORIZATION).unwrap(), "Basic dXNAZXI6cDp3JQ==");
        assert!(request.is_authorized() && all.len() == 3);
        let others = request.headers(false);
        assert_eq!(
            (
                others.len(),
                others.get("accept").unwrap().to_str().unwrap()
            ),
            (1, "a")
        );
    }
}
