//! The job that fetches URLs, against a server of the test's own.

mod limits;
mod private;
mod server;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use larder::fetch::{AllowPrivate, FetchOptions, Fetched, Fetcher};
use larder::jobs::fetch_url::FetchUrl;
use larder::queue::{Job, JobRecord, JobStatus, NewJob};
use larder::{Cache, Larder, Queue, Worker, jobs};

use crate::support::{TestDatabase, both_engines, raw};
use crate::work::{count, job, once, run};
use server::{Reply, Server};

/// What fetches from the test's servers, which are private.
fn options() -> FetchOptions {
    let mut options = FetchOptions::default();
    options.allow_private = AllowPrivate::these(["127.0.0.1"]).unwrap();
    options
}

fn fetcher() -> Fetcher {
    Fetcher::new(options())
}

async fn work(db: &TestDatabase, fetcher: &Fetcher) {
    let worker = Worker::new(db.open().await).register_all(jobs::all());
    run(worker.options(once()).data(fetcher.clone())).await;
}

/// A job of this payload, after one attempt.
async fn tried(db: &TestDatabase, fetcher: &Fetcher, new: &FetchUrl) -> JobRecord {
    let queue = Queue::new(db.open().await);
    let id = queue.enqueue(new).await.unwrap().id;
    work(db, fetcher).await;
    job(&queue, id).await
}

/// What a job fetches from a URL.
async fn fetched(db: &TestDatabase, url: &str) -> Fetched {
    let record = tried(db, &fetcher(), &FetchUrl::new(url)).await;
    assert_eq!(record.status, JobStatus::Done, "{:?}", record.error);
    serde_json::from_str(record.result.unwrap().get()).unwrap()
}

async fn body(db: &TestDatabase, url: &str) -> String {
    fetched(db, url).await.body.unwrap()
}

/// The error of a job after one attempt, and what became of the job.
async fn failed(db: &TestDatabase, fetcher: &Fetcher, url: &str) -> (String, JobStatus) {
    let record = tried(db, fetcher, &FetchUrl::new(url)).await;
    (record.error.expect("it failed"), record.status)
}

fn ok(headers: &[&str], body: &str) -> Reply {
    Reply::new("200 OK", headers, body)
}

/// For how many seconds what was fetched from a URL is fresh, and may be given at all.
async fn times(db: &TestDatabase, url: &str) -> (i64, i64) {
    let key = FetchUrl::new(url).memo().unwrap().key().to_owned();
    let info = db.cache().await.info(&key).await.unwrap().unwrap();
    let now: DateTime<Utc> = db.clock.now().into();
    let seconds = |at: Option<DateTime<Utc>>| (at.unwrap() - now).num_seconds();
    (seconds(info.stale_at), seconds(info.expires_at))
}

async fn keys(cache: &Cache) -> Vec<String> {
    cache.keys("fetch_url:").try_collect().await.unwrap()
}

both_engines! {
    async fn an_answer_is_what_the_server_said_and_is_remembered_for_as_long_as_it_said(db) {
        let headers = [
            "Cache-Control: max-age=100", "Content-Type: text/plain; charset=utf-8", "ETag: W/\"1\"",
            "Last-Modified: Sun, 22 Nov 2026 11:00:00 GMT", "X-Other: 1",
        ];
        let server = Server::answering([ok(&headers, "one\n")]).await;
        let url = server.url("/a?b=c");
        let record = tried(db, &fetcher(), &FetchUrl::new(format!("{url}#d"))).await;
        assert_eq!(record.result.unwrap().get(), format!(
            "{{\"status\":200,\"url\":\"{url}\",\"content_type\":\"text/plain; charset=utf-8\",\"etag\":\"W/\\\"1\\\"\",\
             \"last_modified\":\"Sun, 22 Nov 2026 11:00:00 GMT\",\"body\":\"one\\n\"}}"
        ));
        let seen = server.seen();
        assert_eq!((seen[0].path.as_str(), seen[0].header("accept-encoding")), ("/a?b=c", Some("gzip")));
        assert_eq!(seen[0].header("user-agent"), Some(concat!("larder/", env!("CARGO_PKG_VERSION"))));
        db.advance(99);
        assert_eq!(body(db, &url).await, "one\n");
        assert_eq!(server.seen().len(), 1);
        db.advance(1);
        assert_eq!(body(db, &url).await, "one\n");
        assert_eq!(server.seen().len(), 2);
        let larder = Larder::new(&db.open().await);
        assert_eq!(larder.call(&FetchUrl::new(&url)).await.unwrap().body.as_deref(), Some("one\n"));
    }

    async fn an_answer_that_says_nothing_is_fresh_for_a_minute_or_as_the_options_say(db) {
        let server = Server::answering([ok(&[], "1"), ok(&[], "2"), ok(&[], "3")]).await;
        let url = server.url("/");
        for (seconds, expected) in [(0, "1"), (59, "1"), (1, "2")] {
            db.advance(seconds);
            assert_eq!(body(db, &url).await, expected);
        }
        let mut longer = options();
        longer.fresh_for = Duration::from_secs(600);
        let longer = Fetcher::new(longer);
        db.advance(60);
        tried(db, &longer, &FetchUrl::new(&url)).await;
        db.advance(599);
        assert_eq!(body(db, &url).await, "3");
        assert_eq!(server.seen().len(), 3);
        // It gave nothing to ask for it by, and so nothing else is kept.
        assert_eq!(keys(&db.cache().await).await.len(), 1);
    }

    async fn what_is_not_to_be_stored_is_its_jobs_alone(db) {
        let may_be_stale = "Cache-Control: max-age=10, stale-while-revalidate=1000";
        let server = Server::answering([
            ok(&[may_be_stale, "ETag: \"1\""], "at first"),
            ok(&["Cache-Control: no-store", "ETag: \"2\""], "sEcret"),
            ok(&["Cache-Control: private, max-age=100"], "sEcret"),
            ok(&["Vary: *"], "sEcret"),
        ]).await;
        let url = server.url("/");
        let cache = db.cache().await;
        assert_eq!(body(db, &url).await, "at first");
        assert_eq!(keys(&cache).await.len(), 2);
        db.advance(10);
        for requests in 2..=4 {
            assert_eq!(body(db, &url).await, "sEcret");
            assert_eq!(server.seen().len(), requests);
            assert_eq!(keys(&cache).await.len(), 0, "what was before it is superseded");
        }
        for value in db.texts("SELECT CAST(value AS text) FROM {}cached_item").await {
            assert!(!value.contains("sEcret"), "{value}");
        }
    }

    async fn the_answer_to_credentials_is_remembered_only_where_it_says_so(db) {
        let server = Server::start(|seen| match seen.path.as_str() {
            "/public" => ok(&["Cache-Control: max-age=100, public"], "for all"),
            _ => ok(&["Cache-Control: max-age=100"], "for one"),
        }).await;
        for (path, requests) in [("/public", 1), ("/", 2)] {
            let before = server.seen().len();
            for _ in 0..2 {
                body(db, &server.url(path).replace("http://", "http://user:password@")).await;
            }
            assert_eq!(server.seen().len(), before + requests, "{path}");
        }
    }

    async fn what_has_not_changed_is_not_downloaded_again(db) {
        let modified = "Last-Modified: Sun, 22 Nov 2026 11:00:00 GMT";
        let server = Server::answering([
            ok(&["Cache-Control: max-age=10", "ETag: \"1\"", modified], "the body"),
            Reply::raw("304 Not Modified", &["ETag: \"1b\""], ""),
            Reply::raw("304 Not Modified", &["Cache-Control: max-age=50"], ""),
            ok(&["Cache-Control: no-cache", "ETag: \"2\""], "another body"),
            Reply::raw("304 Not Modified", &[], ""),
        ]).await;
        let url = server.url("/");
        assert_eq!(body(db, &url).await, "the body");
        for seconds in [10, 10] {
            db.advance(seconds);
            let again = fetched(db, &url).await;
            assert_eq!((again.status, again.body.as_deref(), again.stale), (200, Some("the body"), false));
        }
        let seen = server.seen();
        assert_eq!((seen[0].header("if-none-match"), seen[0].header("if-modified-since")), (None, None));
        for (seen, tag) in seen[1..].iter().zip(["\"1\"", "\"1b\""]) {
            assert_eq!(seen.header("if-none-match"), Some(tag));
            assert_eq!(seen.header("if-modified-since"), Some("Sun, 22 Nov 2026 11:00:00 GMT"));
        }
        db.advance(49);
        assert_eq!(body(db, &url).await, "the body");
        assert_eq!(server.seen().len(), 3, "the second answer that it has not changed renewed it for longer");
        db.advance(1);
        assert_eq!(body(db, &url).await, "another body");
        // Not fresh for a moment, and asked for by what came last.
        assert_eq!(body(db, &url).await, "another body");
        let seen = server.seen();
        assert_eq!((seen.len(), seen[4].header("if-none-match")), (5, Some("\"2\"")));
        assert_eq!(seen[4].header("if-modified-since"), None);
    }

    async fn the_time_that_an_answer_takes_counts(db) {
        let clock = db.clock.clone();
        let server = Server::start(move |_| {
            clock.advance(TimeDelta::seconds(30));
            ok(&["Cache-Control: max-age=100", "Age: 20"], "slow")
        }).await;
        let url = server.url("/");
        body(db, &url).await;
        assert_eq!(times(db, &url).await, (50, 50));
    }

    async fn a_response_is_kept_to_be_asked_for_as_long_as_the_options_say(db) {
        let server = Server::answering([ok(&["Cache-Control: max-age=10", "ETag: \"1\""], "the body")]).await;
        let url = server.url("/");
        let mut options = options();
        options.keep_for = Duration::from_secs(100);
        let fetcher = Fetcher::new(options);
        for (seconds, condition) in [(0, None), (109, Some("\"1\"")), (110, None)] {
            db.advance(seconds);
            tried(db, &fetcher, &FetchUrl::new(&url)).await;
            let seen = server.seen();
            assert_eq!(seen.last().unwrap().header("if-none-match"), condition, "after {seconds} s");
        }
        assert_eq!(server.seen().len(), 3);
    }

    async fn a_stale_response_is_given_while_one_job_asks_for_another(db) {
        let may_be_stale = "Cache-Control: max-age=10, stale-while-revalidate=30";
        let server = Server::answering([ok(&[may_be_stale], "1"), ok(&[may_be_stale], "2")]).await;
        let payload = FetchUrl::new(server.url("/"));
        let larder = Larder::new(&db.open().await);
        tried(db, &fetcher(), &payload).await;
        db.advance(39);
        for _ in 0..2 {
            assert_eq!(larder.call(&payload).await.unwrap().body.as_deref(), Some("1"));
        }
        assert_eq!(count(larder.queue(), JobStatus::Queued).await, 1);
        work(db, &fetcher()).await;
        assert_eq!(larder.call(&payload).await.unwrap().body.as_deref(), Some("2"));
        db.advance(40);
        let late = larder.call(&payload).timeout(Duration::from_millis(10)).await;
        assert!(late.unwrap_err().is_timeout(), "it is too stale to be given");
    }

    async fn where_asking_fails_an_earlier_response_is_given_if_it_said_so(db) {
        // Kept for that alone, and kept to be asked for besides.
        for other in ["X-Other: 1", "ETag: \"1\""] {
            let server = Server::answering([
                ok(&["Cache-Control: max-age=10, stale-if-error=60", other], "the body"),
                Reply::new("503 Service Unavailable", &["Retry-After: 20"], ""),
                Reply::new("429 Too Many Requests", &[], ""),
            ]).await;
            let url = server.url("/");
            assert!(!fetched(db, &url).await.stale);
            db.advance(10);
            let again = fetched(db, &url).await;
            assert_eq!((again.body.as_deref(), again.stale), (Some("the body"), true));
            db.advance(19);
            assert!(fetched(db, &url).await.stale);
            assert_eq!(server.seen().len(), 2, "it is not asked again before it wants to be");
            db.advance(1);
            let (error, status) = failed(db, &fetcher(), &url).await;
            assert!(error.ends_with("/ answered 429 Too Many Requests"), "{error}");
            assert_eq!(status, JobStatus::Queued, "an answer that there were too many is no failure of the server");
            // It is away altogether.
            server.end().await;
            db.execute("DELETE FROM {}job").await;
            assert!(fetched(db, &url).await.stale);
            db.advance(9);
            let (stale, _) = times(db, &url).await;
            assert_eq!(stale, 1, "after 10 s it is asked again");
            db.advance(1);
            assert!(fetched(db, &url).await.stale);
            db.advance(29);
            assert!(fetched(db, &url).await.stale);
            let (stale, _) = times(db, &url).await;
            assert_eq!(stale, 1, "its time is nearly over");
            db.advance(1);
            let (error, status) = failed(db, &fetcher(), &url).await;
            assert!(error.contains("Connection refused"), "{error}");
            assert_eq!(status, JobStatus::Queued, "its time is over");
            db.execute("DELETE FROM {}job").await;
        }
    }

    async fn what_did_not_say_so_is_not_given_where_asking_fails(db) {
        let server = Server::answering([
            ok(&["Cache-Control: max-age=10", "ETag: \"1\""], "the body"),
            Reply::new("503 Service Unavailable", &[], ""),
        ]).await;
        let url = server.url("/");
        body(db, &url).await;
        db.advance(10);
        let (error, status) = failed(db, &fetcher(), &url).await;
        assert!(error.ends_with("/ answered 503 Service Unavailable"), "{error}");
        assert_eq!(status, JobStatus::Queued);
    }

    async fn a_status_that_is_no_success_is_final_or_tried_again_when_the_server_says(db) {
        let now = db.clock.now();
        for (status, headers, outcome, wait) in [
            ("400 Bad Request", &[][..], JobStatus::Dead, None),
            ("401 Unauthorized", &[], JobStatus::Dead, None),
            ("404 Not Found", &["Retry-After: 1"], JobStatus::Dead, None),
            ("410 Gone", &[], JobStatus::Dead, None),
            ("408 Request Timeout", &["Retry-After: 7"], JobStatus::Queued, Some(7)),
            ("425 Too Early", &["Retry-After: 7"], JobStatus::Queued, Some(7)),
            ("429 Too Many Requests", &["Retry-After: 120"], JobStatus::Queued, Some(120)),
            ("500 Internal Server Error", &[], JobStatus::Queued, None),
            ("501 Not Implemented", &[], JobStatus::Queued, None),
            ("502 Bad Gateway", &["Retry-After: soon"], JobStatus::Queued, None),
            ("503 Service Unavailable", &["Retry-After: Sun, 22 Nov 2026 12:05:00 GMT"], JobStatus::Queued, Some(300)),
            ("503 Service Unavailable", &["Retry-After: 99999999"], JobStatus::Queued, Some(86_400)),
            // Asked for no wait at all, it waits as any job does, and does not try again at once.
            ("503 Service Unavailable", &["Retry-After: 0"], JobStatus::Queued, None),
            ("206 Partial Content", &[], JobStatus::Dead, None),
            ("300 Multiple Choices", &[], JobStatus::Dead, None),
            ("302 Found", &[], JobStatus::Dead, None),
            ("304 Not Modified", &[], JobStatus::Dead, None),
        ] {
            let server = Server::answering([Reply::new(status, headers, "")]).await;
            let record = tried(db, &fetcher(), &FetchUrl::new(server.url("/"))).await;
            assert_eq!((record.status, record.attempt), (outcome, 1), "{status}");
            let error = record.error.unwrap();
            assert!(error.contains(&server.url("/")), "{error}");
            assert!(error.contains(status) || status == "302 Found", "{error}");
            if let Some(wait) = wait {
                let expected = now.saturating_add(TimeDelta::seconds(wait));
                assert_eq!(record.run_at, expected.into(), "{status} {headers:?}");
            }
        }
    }

    async fn a_body_that_is_not_utf_8_comes_in_base64_and_an_empty_one_is_empty(db) {
        let binary = [0xff, 0x00, 0xfe];
        let server = Server::start(move |seen| match seen.path.as_str() {
            "/binary" => Reply::new("200 OK", &[], binary),
            "/nul" => Reply::new("200 OK", &[], "a\0b"),
            _ => Reply::raw("204 No Content", &[], ""),
        })
        .await;
        let fetched_binary = fetched(db, &server.url("/binary")).await;
        assert_eq!((&fetched_binary.body, fetched_binary.body_base64.as_deref()), (&None, Some("/wD+")));
        assert_eq!(fetched_binary.bytes().unwrap(), binary);
        assert_eq!(body(db, &server.url("/nul")).await, "a\0b");
        let none = fetched(db, &server.url("/none")).await;
        assert_eq!((none.status, none.body.as_deref()), (204, Some("")));
    }

    async fn requests_with_other_headers_are_remembered_apart(db) {
        let server = Server::start(|seen| ok(&["Vary: Accept-Language"], seen.header("accept-language").unwrap())).await;
        for language in ["de", "en", "de"] {
            let mut payload = FetchUrl::new(server.url("/"));
            payload.headers.insert("Accept-Language".to_owned(), language.to_owned());
            let record = tried(db, &fetcher(), &payload).await;
            assert!(record.result.unwrap().get().ends_with(&format!("\"body\":\"{language}\"}}")));
        }
        assert_eq!(server.seen().len(), 2);
        assert!(keys(&db.cache().await).await.iter().all(|key| key.starts_with("fetch_url:127.0.0.1:")));
    }

    async fn a_payload_that_cannot_be_fetched_is_dead_and_says_why(db) {
        let queue = Queue::new(db.open().await);
        for (payload, why) in [
            ("{\"url\":\"http://h/\",\"method\":\"POST\"}", "unknown field `method`"),
            ("{}", "missing field `url`"),
            ("{\"url\":\"ftp://u:sEcret@h/\"}", "only http and https are fetched, and not ftp"),
            ("{\"url\":\"http://h/\",\"headers\":{\"Host\":\"x\"}}", "host is not for a payload to set"),
        ] {
            let id = queue.enqueue_new(NewJob::named("fetch_url", &raw(payload))).await.unwrap().id;
            work(db, &fetcher()).await;
            let record = job(&queue, id).await;
            assert_eq!(record.status, JobStatus::Dead);
            let error = record.error.unwrap();
            assert!(error.contains(why) && !error.contains("sEcret"), "{error}");
        }
    }

    async fn what_another_version_has_kept_does_not_stand_in_the_way(db) {
        let server = Server::answering([ok(&["ETag: \"1\""], "the body")]).await;
        let url = server.url("/");
        let cache = db.cache().await;
        body(db, &url).await;
        for key in keys(&cache).await {
            if key.ends_with(":stored") {
                cache.set(&key, "something else").await.unwrap();
            } else {
                cache.delete(&key).await.unwrap();
            }
        }
        assert_eq!(body(db, &url).await, "the body");
        assert_eq!(server.seen()[1].header("if-none-match"), None);
    }
}
