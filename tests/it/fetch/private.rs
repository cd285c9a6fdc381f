//! Private addresses, which are refused wherever they come from; and secrets, which are shown nowhere.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder::fetch::{AllowPrivate, Fetcher};
use larder::jobs::fetch_url::FetchUrl;
use larder::queue::JobStatus;

use super::server::{Reply, Server};
use super::{failed, fetched, fetcher, keys, ok, options, tried};
use crate::support::both_engines;

/// What resolves a name to the next of these each time, and the last from then on.
fn resolving(answers: &[&[&str]]) -> (Fetcher, Arc<AtomicUsize>) {
    let answers: Vec<Vec<IpAddr>> = answers
        .iter()
        .map(|answer| answer.iter().map(|text| text.parse().unwrap()).collect())
        .collect();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let fetcher = fetcher().resolving(move |_| {
        let nth = counted.fetch_add(1, Ordering::SeqCst);
        let answer = answers[nth.min(answers.len() - 1)].clone();
        Box::pin(async move { Ok(answer) })
    });
    (fetcher, asked)
}

fn is_refused(error: &str, address: &str) -> bool {
    error.contains(&format!(
        "is refused: {address} is a private address: `fetch.allow_private` can allow it"
    ))
}

both_engines! {
    async fn private_addresses_are_refused_unless_they_are_allowed(db) {
        let server = Server::answering([ok(&[], "private")]).await;
        let port = server.address.port();
        let none = Fetcher::default();
        for (host, address) in [
            ("127.0.0.1", "127.0.0.1"), ("2130706433", "127.0.0.1"), ("0x7f.1", "127.0.0.1"), ("0177.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"), ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"), ("[::1]", "::1"),
            ("0.0.0.0", "0.0.0.0"), ("localhost", ""), ("169.254.169.254", "169.254.169.254"), ("10.1.2.3", "10.1.2.3"),
        ] {
            let (error, status) = failed(db, &none, &format!("http://{host}:{port}/")).await;
            // localhost is one of IPv4 or of IPv6, as the system says.
            let refused = if host == "localhost" { error.contains("is a private address") } else { is_refused(&error, address) };
            assert!(refused, "{host}: {error}");
            assert_eq!(status, JobStatus::Dead, "{host}");
        }
        assert_eq!(server.seen().len(), 0);
        for allowed in ["127.0.0.0/8", "127.0.0.1", "name.test"] {
            let mut options = options();
            options.allow_private = AllowPrivate::these([allowed]).unwrap();
            let fetcher = Fetcher::new(options).resolving(|_| Box::pin(async { Ok(vec!["127.0.0.1".parse().unwrap()]) }));
            let record = tried(db, &fetcher, &FetchUrl::new(format!("http://name.test:{port}/{allowed}"))).await;
            assert_eq!(record.status, JobStatus::Done, "{allowed}: {:?}", record.error);
        }
        let mut all = options();
        all.allow_private = AllowPrivate::All;
        let record = tried(db, &Fetcher::new(all), &FetchUrl::new(server.url("/all"))).await;
        assert_eq!(record.status, JobStatus::Done);
    }

    async fn a_redirect_to_a_private_address_is_refused(db) {
        let inner = Server::answering([ok(&[], "inner")]).await;
        let port = inner.address.port();
        // 127.0.0.1 is allowed, and 127.0.0.2 is not; both reach this machine.
        for host in ["127.0.0.2", "[::ffff:127.0.0.2]", "0.0.0.0"] {
            let server = Server::answering([Reply::redirect(format!("http://{host}:{port}/"))]).await;
            let (error, status) = failed(db, &fetcher(), &server.url("/")).await;
            assert!(error.contains("is a private address"), "{error}");
            assert_eq!((status, inner.seen().len()), (JobStatus::Dead, 0), "{host}");
        }
    }

    async fn a_name_that_is_answered_differently_the_second_time_gains_nothing(db) {
        let server = Server::start(|seen| match seen.path.as_str() {
            "/redirects" => Reply::redirect("/there"),
            _ => ok(&[], "there"),
        }).await;
        let url = |path: &str| format!("http://rebinding.test:{}{path}", server.address.port());
        // It is looked up once for a connection, and connected to what was checked.
        let (fetcher, asked) = resolving(&[&["127.0.0.1"], &["127.0.0.2"]]);
        let record = tried(db, &fetcher, &FetchUrl::new(url("/"))).await;
        assert_eq!((record.status, asked.load(Ordering::SeqCst)), (JobStatus::Done, 1));
        // A second connection is checked as the first.
        let (fetcher, asked) = resolving(&[&["127.0.0.1"], &["127.0.0.2"]]);
        let (error, status) = failed(db, &fetcher, &url("/redirects")).await;
        assert!(is_refused(&error, "127.0.0.2"), "{error}");
        assert_eq!((status, asked.load(Ordering::SeqCst)), (JobStatus::Dead, 2));
        // Of several addresses those are tried that are allowed.
        let before = server.seen().len();
        let (fetcher, _) = resolving(&[&["127.0.0.2", "::1", "127.0.0.1"]]);
        assert_eq!(tried(db, &fetcher, &FetchUrl::new(url("/mixed"))).await.status, JobStatus::Done);
        assert_eq!(server.seen().len(), before + 1);
        let (fetcher, _) = resolving(&[&[]]);
        let (error, status) = failed(db, &fetcher, &url("/none")).await;
        assert!(error.ends_with("it has no address"), "{error}");
        assert_eq!(status, JobStatus::Queued);
    }

    async fn no_secret_is_in_a_key_an_error_or_a_result(db) {
        let server = Server::start(|seen| match seen.path.split('?').next().unwrap() {
            "/ok" => ok(&["ETag: \"1\"", "Cache-Control: public"], "fine"),
            "/redirects" => Reply::redirect("ftp://other:sEcret@h/?sEcret"),
            "/loop" => Reply::redirect("/loop?sEcret"),
            _ => Reply::new("500 Internal Server Error", &[], ""),
        }).await;
        let secret = |path: &str| {
            let url = server.url(path).replace("http://", "http://user:sEcret@");
            let mut payload = FetchUrl::new(format!("{url}?token=sEcret#sEcret"));
            payload.headers.insert("X-Token".to_owned(), "sEcret".to_owned());
            payload
        };
        assert!(!format!("{:?}", secret("/ok")).contains("sEcret"));
        let fetcher = fetcher();
        let record = tried(db, &fetcher, &secret("/ok")).await;
        assert_eq!(record.status, JobStatus::Done);
        // Where it came from is the caller's own URL, without user and password.
        let result = record.result.unwrap().get().to_owned();
        assert!(result.contains(&server.url("/ok?token=sEcret")) && !result.contains("user"), "{result}");
        assert_eq!(keys(&db.cache().await).await.len(), 2);
        let record = tried(db, &fetcher, &secret("/redirects")).await;
        let mut errors = vec![record.error.unwrap()];
        for path in ["/loop", "/fails"] {
            errors.push(tried(db, &fetcher, &secret(path)).await.error.unwrap());
        }
        let mut gone = secret("/fails");
        gone.headers.clear();
        server.end().await;
        errors.push(tried(db, &fetcher, &gone).await.error.unwrap());
        errors.extend(keys(&db.cache().await).await);
        errors.extend(db.texts("SELECT COALESCE(unique_key, '') FROM {}job").await);
        for text in errors {
            assert!(!text.contains("sEcret") && !text.contains("user"), "{text}");
        }
    }

    async fn options_are_replaced_for_all_who_share_them(db) {
        let server = Server::answering([ok(&[], "private")]).await;
        let fetcher = Fetcher::default();
        let shared = fetcher.clone();
        assert_eq!(failed(db, &shared, &server.url("/")).await.1, JobStatus::Dead);
        fetcher.replace(options());
        let record = tried(db, &shared, &FetchUrl::new(server.url("/"))).await;
        assert_eq!(record.status, JobStatus::Done, "{:?}", record.error);
        assert!(!fetched(db, &server.url("/")).await.stale);
    }
}
