//! How soon a job starts.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use larder::database::Engine;
use larder::{JobError, Queue, Worker};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};

use super::Nothing;
use super::place::{Place, connect, scatter, spread};

/// Of the one clock that all processes of a machine have.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap().as_nanos()).unwrap()
}

pub(crate) async fn start(engine: Engine, elsewhere: bool, count: u64, milliseconds: u64) {
    let place = Place::new(engine);
    let database = place.connect().await;
    let queue = Queue::new(database.clone());
    let (begun, mut begins) = mpsc::unbounded_channel();
    let (ready, is_ready) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let worker = Worker::new(database)
        .register(move |job: Nothing| {
            let _ = begun.send(Duration::from_nanos(now().saturating_sub(job.at)));
            std::future::ready(Ok::<_, JobError>(()))
        })
        .on_ready(|| ready.send(()).unwrap());
    let working = tokio::spawn(worker.run_until(async {
        let _ = stopped.await;
    }));
    is_ready.await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;

    if elsewhere {
        let (count, milliseconds) = (count.to_string(), milliseconds.to_string());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--figures", "enqueuer", &place.url, &place.schema])
            .args([count, milliseconds])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        assert!(child.wait().await.unwrap().success());
    } else {
        enqueue(&queue, count, milliseconds).await;
    }
    let mut took = Vec::new();
    while took.len() as u64 <= count {
        took.push(begins.recv().await.unwrap());
    }
    stop.send(()).unwrap();
    working.await.unwrap().unwrap();
    queue.database().close().await;
    place.end().await;
    let cold = took.remove(0);
    println!(
        "{{{}, \"cold\": {:.2}}}",
        spread(took),
        cold.as_nanos() as f64 / 1e3
    );
}

/// Another process, which enqueues and ends.
pub(crate) async fn enqueuer(url: &str, schema: &str, count: u64, milliseconds: u64) {
    let queue = Queue::new(connect(url, schema).await);
    enqueue(&queue, count, milliseconds).await;
    queue.database().close().await;
}

/// One more than the count: the first opens connections. In no step with anybody who looks at intervals.
async fn enqueue(queue: &Queue, count: u64, milliseconds: u64) {
    for number in 0..=count {
        let job = Nothing { at: now() };
        queue.enqueue(&job).await.unwrap();
        let wait = milliseconds + scatter(number) % 50;
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}
