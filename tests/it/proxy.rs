//! A network between larder and PostgreSQL that can fail.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// Connections are closed, and new ones too.
    is_cut: bool,
    /// How often what was connected fell silent.
    silences: u64,
    /// Bytes a second that it carries to the server on each connection, where it is slow.
    pace: Option<usize>,
}

/// Hands connections on to the server.
pub(crate) struct Proxy {
    /// The database's URL by way of the proxy.
    pub(crate) url: String,
    line: watch::Sender<Line>,
}

impl Proxy {
    pub(crate) async fn before(url: &str) -> Self {
        let server = PgConnectOptions::from_str(url).unwrap();
        let (host, port) = (server.get_host().to_owned(), server.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let through = url.replace(&format!("{host}:{port}"), &address.to_string());
        assert_ne!(through, url, "the URL names its host and port");
        let line = watch::Sender::new(Line::default());
        let state = line.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(hand_on(near, (host.clone(), port), state.subscribe()));
            }
        });
        Self { url: through, line }
    }

    pub(crate) fn cut(&self) {
        self.line.send_modify(|line| line.is_cut = true);
    }

    pub(crate) fn mend(&self) {
        self.line.send_modify(|line| line.is_cut = false);
    }

    /// Carries no more than so many bytes a second to the server, on each connection.
    pub(crate) fn slow_down(&self, pace: usize) {
        self.line.send_modify(|line| line.pace = Some(pace));
    }

    /// What is connected stays so, and hears and says nothing more: both ends lost each other. New connections pass.
    pub(crate) fn silence(&self) {
        self.line.send_modify(|line| line.silences += 1);
    }
}

async fn hand_on(mut near: TcpStream, server: (String, u16), mut line: watch::Receiver<Line>) {
    let at_first = *line.borrow();
    if at_first.is_cut {
        return;
    }
    let mut far = TcpStream::connect(server).await.unwrap();
    let changed = |line: &Line| line.is_cut || line.silences > at_first.silences;
    let became = tokio::select! {
        () = carry(&mut near, &mut far, line.clone()) => return,
        became = line.wait_for(changed) => became.map(|line| *line),
    };
    if became.is_ok_and(|line| line.silences > at_first.silences) {
        // Held open, until the proxy itself is gone.
        while line.changed().await.is_ok() {}
    }
}

/// Carries bytes both ways until one side is closed.
async fn carry(near: &mut TcpStream, far: &mut TcpStream, line: watch::Receiver<Line>) {
    let ((mut from, mut back), (mut answers, mut to)) = (near.split(), far.split());
    let there = async {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut bytes).await.unwrap_or(0);
            if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
            let pace = line.borrow().pace;
            if let Some(pace) = pace {
                tokio::time::sleep(Duration::from_secs_f64(count as f64 / pace as f64)).await;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = tokio::io::copy(&mut answers, &mut back) => {}
    }
}
