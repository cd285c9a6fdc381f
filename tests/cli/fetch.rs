//! Fetching URLs by the command line, and by a worker of its own process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Daemon, Home, both_engines, text};

/// A server that answers every request with this body, until the test's process ends.
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn start(body: &'static str) -> Self {
        Self::over(body, Some)
    }

    /// What a connection is read from and written to.
    fn over<S: Read + Write>(
        body: &'static str,
        open: impl Fn(std::net::TcpStream) -> Option<S> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(stream) = open(stream) else { continue };
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                    line.clear();
                }
                counted.fetch_add(1, Ordering::SeqCst);
                let length = body.len();
                let _ = write!(
                    stream.get_mut(),
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                let _ = stream.get_mut().flush();
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn payload(url: &str) -> String {
    format!("{{\"url\":{url:?}}}")
}

/// A worker whose environment names a proxy that nobody serves.
fn worker(home: &Home) -> Daemon {
    let mut command = home.larder();
    for name in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ] {
        command.env(name, "http://127.0.0.1:1");
    }
    Daemon::start(command.env_remove("NO_PROXY").arg("worker"))
}

both_engines! {
    fn call_fetches_a_url_once_and_then_prints_what_is_remembered(home) {
        home.write("larder.toml", "[fetch]\nallow_private = [\"127.0.0.1\"]\n");
        let server = Server::start("hello\n");
        let url = format!("http://{}/greeting", server.address);
        let worker = worker(home);
        let printed = format!("{{\"status\":200,\"url\":\"{url}\",\"body\":\"hello\\n\"}}\n");
        home.run(&["call", "fetch_url", &payload(&url)]).prints(&printed);
        drop(worker);
        home.run(&["call", "fetch_url", &payload(&url), "--timeout", "0"]).prints(&printed);
        assert_eq!(server.requests(), 1);
        assert!(home.run(&["jobs", "names"]).stdout.contains("fetch_url"));
        let keys = home.run(&["cache", "keys", "--prefix", "fetch_url:127.0.0.1:"]).stdout;
        assert_eq!(keys.lines().count(), 1, "{keys}");
    }

    fn what_may_be_fetched_changes_without_a_restart(home) {
        let server = Server::start("private");
        let mut worker = worker(home);
        let fetch = |path: &str| {
            let payload = payload(&format!("http://{}{path}", server.address));
            home.run(&["enqueue", "fetch_url", &payload, "--wait=60s"])
        };
        fetch("/1").fails_with(1, &["127.0.0.1 is a private address: `fetch.allow_private` can allow it"]);
        assert_eq!(server.requests(), 0);
        home.write("larder.toml", "[fetch]\nallow_private = true\n");
        worker.wait_for(|line| line.contains("what may be fetched has changed"));
        let fetched = fetch("/2");
        assert_eq!((fetched.status, fetched.stderr.as_str()), (0, ""), "{fetched:?}");
        assert!(!worker.log.iter().any(|line| line.contains("restart")), "{:#?}", worker.log);
    }

    fn a_payload_that_cannot_be_fetched_is_refused_when_it_is_enqueued(home) {
        for (payload, part) in [
            ("{\"url\":\"ftp://user:s3cret@h/\"}", "only http and https are fetched, and not ftp"),
            ("{\"url\":\"nowhere\"}", "relative URL without a base"),
            ("{\"url\":\"http://h/\",\"headers\":{\"Range\":\"s3cret\"}}", "range is not for a payload to set"),
            ("{\"url\":\"http://h/\",\"body\":\"\"}", "unknown field `body`"),
            ("{}", "missing field `url`"),
        ] {
            for command in ["enqueue", "call"] {
                let ended = home.run(&[command, "fetch_url", payload]);
                ended.fails(&["\"fetch_url\"", part]);
                assert!(!ended.stderr.contains("s3cret"), "{ended:?}");
            }
        }
        assert_eq!(home.json(&["jobs", "list"]).as_array().unwrap().len(), 0);
    }
}

/// SQLite alone: whom a worker trusts is no matter of the database.
#[test]
fn who_speaks_tls_is_trusted_where_the_system_trusts_it() {
    let home = &Home::sqlite();
    home.write("larder.toml", "[fetch]\nallow_private = [\"localhost\"]\n");
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let trusted = home.write("trusted.pem", signed.cert.pem());
    let key = rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key.unwrap())
        .unwrap();
    let config = Arc::new(config);
    let server = Server::over("confidential", move |mut stream| {
        let mut connection = rustls::ServerConnection::new(config.clone()).ok()?;
        // It ends in an error where it is not trusted.
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).ok()?;
        }
        Some(rustls::StreamOwned::new(connection, stream))
    });
    let url = format!("https://localhost:{}/", server.address.port());
    let mut doubtful = worker(home);
    let ended = home.run(&[
        "enqueue",
        "fetch_url",
        &payload(&url),
        "--max-attempts",
        "1",
        "--wait=60s",
    ]);
    ended.fails_with(
        1,
        &[
            "cannot fetch https://localhost:",
            "invalid peer certificate",
        ],
    );
    doubtful.signal("-TERM");
    doubtful.ended();
    assert_eq!(server.requests(), 0);

    let _worker = Daemon::start(home.larder().env("SSL_CERT_FILE", &trusted).arg("worker"));
    let ended = home.run(&["call", "fetch_url", &payload(&url)]);
    assert!(
        ended.stdout.contains("\"body\":\"confidential\""),
        "{ended:?} {}",
        text(&trusted)
    );
    assert_eq!(server.requests(), 1);
}
