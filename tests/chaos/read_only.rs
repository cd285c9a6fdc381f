//! A server that takes no writes for a while, as one does that is being replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::database::DatabaseOptions;
use larder::queue::{JobId, JobStatus};
use larder::worker::WorkerOptions;
use larder::{JobError, Queue, Worker};
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::Notify;

use crate::server::Server;
use crate::worker::{Deed, Deeds};

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "it did not come to this: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn set_read_only(server: &Server, yes: bool) {
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    // A session of its own may write, or there would be no way back.
    connection
        .execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    let set = format!("ALTER SYSTEM SET default_transaction_read_only = {yes}");
    connection.execute(sqlx::AssertSqlSafe(set)).await.unwrap();
    connection.execute("SELECT pg_reload_conf()").await.unwrap();
}

#[test]
fn outcomes_wait_until_a_server_takes_writes_again() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = Server::start();
        let open = async || DatabaseOptions::new(&server.url()).connect().await.unwrap();
        let queue = Queue::new(open().await);
        let (go_on, has_ended) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let handler = {
            let (go_on, has_ended) = (go_on.clone(), has_ended.clone());
            move |_: Deeds| {
                let (go_on, has_ended) = (go_on.clone(), has_ended.clone());
                async move {
                    go_on.notified().await;
                    has_ended.store(true, Ordering::Release);
                    Ok::<_, JobError>(())
                }
            }
        };
        let mut options = WorkerOptions::default();
        options.heartbeat = Duration::from_millis(50);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let worker = Worker::new(open().await).options(options).register(handler);
        let worker = tokio::spawn(worker.run_until(async move {
            let _ = stopped.await;
        }));
        let status = async |id: JobId| queue.get(id).await.unwrap().unwrap();
        let first = queue.enqueue(&Deeds { deed: Deed::Fail }).await.unwrap().id;
        eventually("it runs", async || {
            status(first).await.status == JobStatus::Running
        })
        .await;
        let second = queue
            .enqueue(&Deeds { deed: Deed::Fail })
            .delay(Duration::from_secs(1))
            .await
            .unwrap()
            .id;

        set_read_only(&server, true).await;
        eventually("nobody may write", async || {
            queue
                .enqueue(&Deeds { deed: Deed::Fail })
                .await
                .is_err_and(|error| error.is_transient())
        })
        .await;
        go_on.notify_one();
        eventually("the handler has ended", async || {
            has_ended.load(Ordering::Acquire)
        })
        .await;
        let of_second = queue.get(second).await.unwrap().unwrap();
        eventually("the second one's time has come", async || {
            chrono::Utc::now() > of_second.run_at
        })
        .await;
        assert_eq!(status(first).await.status, JobStatus::Running);
        assert!(!worker.is_finished());

        set_read_only(&server, false).await;
        eventually("the outcome is written", async || {
            status(first).await.status == JobStatus::Done
        })
        .await;
        // One of those that were to be refused may have come through, and wait too.
        eventually("the next one is done", async || {
            go_on.notify_one();
            status(second).await.status == JobStatus::Done
        })
        .await;
        assert_eq!(
            (status(first).await.attempt, status(second).await.attempt),
            (1, 1)
        );
        stop.send(()).unwrap();
        worker.await.unwrap().unwrap();
    });
}
