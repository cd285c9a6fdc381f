//! The limits of a fetch: bytes, redirects, time.

use std::time::Duration;

use larder::fetch::{FetchOptions, Fetcher};
use larder::jobs::fetch_url::FetchUrl;
use larder::queue::JobStatus;

use super::server::{Reply, Server};
use super::{body, failed, fetched, fetcher, ok, options, tried};
use crate::support::both_engines;
use crate::work::within;

/// Ten thousand times the letter a, compressed to 46 bytes.
const GZIP: &[u8] =
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xed\xc1\x01\x0d\x00\x00\x00\xc2\xa0\xac\xef\x5f\xc2\
    \x1c\x6e\x40\x01\x00\x00\x00\x00\x00\x00\x00\x00\xc0\xbf\x01\x97\xd4\x7e\x46\x10\x27\x00\x00";

fn with(change: impl FnOnce(&mut FetchOptions)) -> Fetcher {
    let mut options = options();
    change(&mut options);
    Fetcher::new(options)
}

both_engines! {
    async fn a_body_has_its_most_bytes_however_it_comes(db) {
        let chunks = |piece: &str, count: usize| {
            let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
            format!("{}0\r\n\r\n", chunk.repeat(count))
        };
        let hundreds = chunks(&"a".repeat(100), 10);
        let server = Server::start(move |seen| match seen.path.as_str() {
            "/told" => ok(&[], &"a".repeat(1_001)),
            // It would go on for ever: who believes the length does not wait for it.
            "/boasts" => Reply::raw("200 OK", &["Content-Length: 1001"], "").then_silence(),
            "/chunks" => Reply::raw("200 OK", &["Transfer-Encoding: chunked"], format!("1\r\na\r\n{hundreds}")),
            "/endless" => Reply::raw("200 OK", &[], "a".repeat(1_001)).then_silence(),
            "/gzip" => Reply::new("200 OK", &["Content-Encoding: gzip"], GZIP),
            "/fits" => Reply::raw("200 OK", &["Transfer-Encoding: chunked"], &hundreds),
            _ => ok(&[], &"a".repeat(1_000)),
        }).await;
        let thousand = with(|options| options.max_bytes = 1_000);
        for path in ["/told", "/boasts", "/chunks", "/endless", "/gzip"] {
            let (error, status) = within(failed(db, &thousand, &server.url(path))).await;
            let expected = format!("{} has more than the 1000 bytes that `fetch.max_bytes` allows", server.url(path));
            assert_eq!((error, status), (expected, JobStatus::Dead));
        }
        for path in ["/fits", "/exact"] {
            let record = tried(db, &thousand, &FetchUrl::new(server.url(path))).await;
            assert_eq!(record.status, JobStatus::Done, "{path}: {:?}", record.error);
        }
        let ten_thousand = with(|options| options.max_bytes = 10_000);
        let record = tried(db, &ten_thousand, &FetchUrl::new(server.url("/gzip"))).await;
        assert!(record.result.unwrap().get().contains(&format!("\"body\":\"{}\"", "a".repeat(10_000))));
    }

    async fn a_body_that_breaks_off_or_is_packed_otherwise_is_none(db) {
        let server = Server::start(|seen| match seen.path.as_str() {
            "/short" => Reply::raw("200 OK", &["Content-Length: 10"], "short"),
            "/gzip" => Reply::new("200 OK", &["Content-Encoding: gzip"], &GZIP[..30]),
            _ => Reply::new("200 OK", &["Content-Encoding: br"], "packed"),
        }).await;
        for path in ["/short", "/gzip"] {
            let (error, status) = failed(db, &fetcher(), &server.url(path)).await;
            assert!(error.starts_with(&format!("cannot fetch {}: ", server.url(path))), "{error}");
            assert_eq!(status, JobStatus::Queued, "{path}");
        }
        let (error, status) = failed(db, &fetcher(), &server.url("/br")).await;
        assert!(error.ends_with("came with content-encoding \"br\", which was not asked for"), "{error}");
        assert_eq!(status, JobStatus::Dead);
    }

    async fn redirects_are_followed_as_often_as_is_allowed(db) {
        let server = Server::start(|seen| match seen.path.as_str() {
            "/3" => Reply::redirect("/2"),
            "/2" => Reply::redirect("1?a=b#c"),
            "/1?a=b" => ok(&[], "there"),
            "/permanent" => Reply::new("308 Permanent Redirect", &["Location: /3"], ""),
            _ => Reply::redirect("/round"),
        }).await;
        let there = fetched(db, &server.url("/3")).await;
        assert_eq!((there.url, there.body.as_deref()), (server.url("/1?a=b"), Some("there")));
        assert_eq!(body(db, &server.url("/permanent")).await, "there");
        let twice = with(|options| options.max_redirects = 2);
        assert_eq!(tried(db, &twice, &FetchUrl::new(server.url("/3"))).await.status, JobStatus::Done);
        let (error, status) = failed(db, &twice, &server.url("/permanent?again")).await;
        assert_eq!(status, JobStatus::Dead);
        assert!(error.contains("redirects more often than the 2 times that `fetch.max_redirects` allows"), "{error}");
        let (error, _) = failed(db, &fetcher(), &server.url("/round")).await;
        assert!(error.contains("5 times"), "{error}");
        let never = with(|options| options.max_redirects = 0);
        assert_eq!(failed(db, &never, &server.url("/2")).await.1, JobStatus::Dead);
    }

    async fn redirects_lead_to_http_alone(db) {
        for location in ["ftp://h/", "file:///etc/passwd", "javascript:alert(1)", "http://", "//"] {
            let server = Server::answering([Reply::redirect(location)]).await;
            let (error, status) = failed(db, &fetcher(), &server.url("/")).await;
            assert!(error.starts_with(&format!("the redirect of {} is refused: ", server.url("/"))), "{error}");
            assert_eq!(status, JobStatus::Dead, "{location}");
        }
    }

    async fn of_redirects_and_where_they_lead_the_shortest_freshness_counts(db) {
        let server = Server::start(|seen| match seen.path.as_str() {
            "/short" => Reply::new("302 Found", &["Location: /", "Cache-Control: max-age=10"], ""),
            "/not" => Reply::new("302 Found", &["Location: /", "Cache-Control: no-store"], ""),
            "/says-nothing" => Reply::redirect("/"),
            _ => ok(&["Cache-Control: max-age=1000"], "there"),
        }).await;
        for (path, fresh) in [("/short", 10), ("/says-nothing", 60), ("/not", 0)] {
            let before = server.seen().len();
            body(db, &server.url(path)).await;
            if fresh > 0 {
                db.advance(fresh - 1);
                body(db, &server.url(path)).await;
                assert_eq!(server.seen().len(), before + 2, "{path}");
                db.advance(1);
            }
            body(db, &server.url(path)).await;
            assert_eq!(server.seen().len(), before + 4, "{path}");
        }
    }

    async fn what_is_kept_is_asked_for_where_it_came_from(db) {
        let server = Server::start(|seen| match seen.path.as_str() {
            "/" => Reply::new("302 Found", &["Location: /there", "Cache-Control: no-cache"], ""),
            _ if seen.header("if-none-match").is_some() => Reply::raw("304 Not Modified", &[], ""),
            _ => ok(&["ETag: \"1\""], "there"),
        }).await;
        for _ in 0..2 {
            assert_eq!(body(db, &server.url("/")).await, "there");
        }
        let conditions: Vec<_> = server
            .seen()
            .iter()
            .map(|seen| (seen.path.clone(), seen.header("if-none-match").is_some()))
            .collect();
        let expected = [("/", false), ("/there", false), ("/", false), ("/there", true)];
        assert_eq!(conditions, expected.map(|(path, asked)| (path.to_owned(), asked)));
    }

    async fn credentials_reach_the_urls_own_origin_alone(db) {
        let other = Server::start(|seen| match seen.path.as_str() {
            "/back" => Reply::redirect(seen.header("accept-language").unwrap()),
            _ => ok(&[], "elsewhere"),
        }).await;
        let there = other.url("/back").replace("http://", "http://other:pass@");
        let server = Server::start(move |seen| match seen.path.as_str() {
            "/" => Reply::redirect("/same"),
            "/same" => Reply::redirect(&there),
            _ => ok(&[], "home again"),
        }).await;
        let mut payload = FetchUrl::new(server.url("/").replace("http://", "http://user:sEcret@"));
        // Where it is sent back to.
        let home = server.url("/home");
        for (name, value) in [("X-Api-Key", "sEcret"), ("Cookie", "sEcret"), ("Accept-Language", &home)] {
            payload.headers.insert(name.to_owned(), value.to_owned());
        }
        let record = tried(db, &fetcher(), &payload).await;
        let result = record.result.unwrap();
        assert!(result.get().contains("home again") && !result.get().contains("sEcret"), "{result}");
        let secrets = ["authorization", "x-api-key", "cookie"];
        let [first, same, back] = &server.seen()[..] else { unreachable!("three requests") };
        for seen in [first, same] {
            assert!(secrets.iter().all(|name| seen.header(name).is_some()), "{seen:?}");
        }
        assert_eq!(first.header("authorization"), Some("Basic dXNlcjpzRWNyZXQ="));
        for seen in [&other.seen()[0], back] {
            assert!(secrets.iter().all(|name| seen.header(name).is_none()), "{seen:?}");
            assert_eq!(seen.header("accept-language"), Some(home.as_str()));
        }
    }

    async fn a_fetch_ends_at_its_timeout_and_a_connection_at_its_own(db) {
        let server = Server::start(|seen| match seen.path.as_str() {
            "/silent" => Reply::silence(),
            "/half" => Reply::raw("200 OK", &["Content-Length: 10"], "half").then_silence(),
            _ => Reply::redirect("/silent"),
        }).await;
        let short = with(|options| options.timeout = Duration::from_millis(100));
        for path in ["/silent", "/half", "/redirects"] {
            let (error, status) = within(failed(db, &short, &server.url(path))).await;
            assert!(error.ends_with("no whole answer within `fetch.timeout`, 100ms"), "{error}");
            assert_eq!(status, JobStatus::Queued, "{path}");
        }
        // Whoever waits for TLS waits for a connection, and this server says nothing of the kind.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let impatient = with(|options| options.connect_timeout = Duration::from_millis(100));
        let (error, status) = within(failed(db, &impatient, &url)).await;
        assert_eq!(error, format!("cannot fetch {url}: no connection within `fetch.connect_timeout`, 100ms"));
        assert_eq!(status, JobStatus::Queued);
    }
}
