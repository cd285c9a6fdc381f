//! An HTTP server of one test, on a port of its own. It answers one request a connection, as the test says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) path: String,
    /// By their names in lower case.
    pub(super) headers: BTreeMap<String, String>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What is written back; a silent one leaves the connection open after it.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    bytes: Vec<u8>,
    is_silent: bool,
}

impl Reply {
    /// A status line such as `200 OK`, header lines, and a body of the length that is told.
    pub(super) fn new(status: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Self {
        let length = format!("Content-Length: {}", body.as_ref().len());
        let mut lines = vec![length.as_str()];
        lines.extend(headers);
        Self::raw(status, &lines, body)
    }

    /// The same, with these header lines alone.
    pub(super) fn raw(status: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Self {
        let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\n").into_bytes();
        for line in headers {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body.as_ref());
        Self {
            bytes,
            is_silent: false,
        }
    }

    pub(super) fn redirect(to: impl AsRef<str>) -> Self {
        Self::new("302 Found", &[&format!("Location: {}", to.as_ref())], "")
    }

    /// Not a word, and no end.
    pub(super) fn silence() -> Self {
        Self {
            bytes: Vec::new(),
            is_silent: true,
        }
    }

    /// This much, and no end.
    pub(super) fn then_silence(self) -> Self {
        Self {
            is_silent: true,
            ..self
        }
    }
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, answer) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::new(answer));
        let all = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, all.clone(), answer.clone()));
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }

    /// One that answers each request in turn, and the last way from then on.
    pub(super) async fn answering(replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies: Vec<Reply> = replies.into_iter().collect();
        let next = Mutex::new(0);
        Self::start(move |_| {
            let mut next = next.lock().unwrap();
            *next += 1;
            replies[(*next - 1).min(replies.len() - 1)].clone()
        })
        .await
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Nobody answers any more.
    pub(super) async fn end(mut self) {
        self.task.abort();
        // The port is closed when the task is gone.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: TcpStream,
    all: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<impl Fn(&Seen) -> Reply>,
) {
    let mut stream = BufReader::new(stream);
    let Some(seen) = read(&mut stream).await else {
        return;
    };
    all.lock().unwrap().push(seen.clone());
    let reply = answer(&seen);
    // Who has read enough closes the connection.
    let _ = stream.write_all(&reply.bytes).await;
    let _ = stream.flush().await;
    if reply.is_silent {
        let mut rest = String::new();
        let _ = stream.read_line(&mut rest).await;
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let path = line.strip_prefix("GET ")?.split(' ').next()?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            return Some(Seen { path, headers });
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
}
