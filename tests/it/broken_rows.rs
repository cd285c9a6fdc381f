//! Rows that larder cannot read, of which SQLite takes more than PostgreSQL: they harm no others.

use larder::queue::{JobStatus, NewJob};
use larder::{JobError, Queue, Worker};
use serde_json::Value;

use crate::support::{TestDatabase, both_engines, run};
use crate::work::{
    Probe, becomes, count, eventually, give_back, job, lively, once, probe, run as work, start,
};

const BROKEN: &str = "019aabcd-0000-7000-8000-000000000001";
const ANOTHER: &str = "019aabcd-0000-7000-8000-000000000002";
/// No UTF-8, as text.
const TEXT: &str = "CAST(x'22ff22' AS TEXT)";

/// A job that somebody else wrote: more urgent than all others, and with what stands in these columns.
async fn insert(db: &TestDatabase, id: &str, columns: &str, values: &str) {
    db.execute(&format!(
        "INSERT INTO job (id, name, status, due, priority, max_attempts, run_at, created_at, {columns}) \
         VALUES ('{id}', 'probe', 'queued', 1, 9, 2, 0, 0, {values})"
    ))
    .await;
}

/// The database by a URL that has options, whose statements all go by the pool.
fn by_the_pool(db: &TestDatabase) -> String {
    format!("{}?mode=rwc", db.url)
}

async fn broken_payloads_end_their_own_jobs_alone(db: &TestDatabase, url: &str) {
    let connect = async || {
        let options = larder::database::DatabaseOptions::new(url).clock(db.clock.clone());
        options.connect().await.unwrap()
    };
    let queue = Queue::new(connect().await);
    let jobs = (0..8).map(|n| NewJob::new(&probe(n)).max_attempts(1));
    let good = queue.enqueue_many(jobs).await.unwrap();
    let limited = (0..2).map(|n| {
        NewJob::new(&probe(n))
            .limit_running("key", 4)
            .max_attempts(1)
    });
    queue.enqueue_many(limited).await.unwrap();
    let columns = "queue, payload, schedule, limit_key, max_running";
    insert(
        db,
        BROKEN,
        columns,
        &format!("'default', {TEXT}, NULL, NULL, NULL"),
    )
    .await;
    insert(
        db,
        ANOTHER,
        columns,
        &format!("'default', {TEXT}, {TEXT}, 'key', 4"),
    )
    .await;
    work(
        Worker::new(connect().await)
            .options(once())
            .register(give_back),
    )
    .await;
    assert_eq!(count(&queue, JobStatus::Done).await, 10);
    assert_eq!(job(&queue, good[0].id).await.attempt, 1);
    for id in [BROKEN, ANOTHER] {
        let broken = job(&queue, id.parse().unwrap()).await;
        assert_eq!((broken.status, broken.attempt), (JobStatus::Dead, 1));
        assert!(
            broken.error.as_deref().unwrap().contains("UTF-8"),
            "{broken:?}"
        );
        assert_eq!(broken.payload.get(), "\"\u{fffd}\"");
    }
}

async fn a_queue_whose_name_is_broken_is_passed_over(db: &TestDatabase, url: &str) {
    let connect = async || {
        let options = larder::database::DatabaseOptions::new(url).clock(db.clock.clone());
        options.connect().await.unwrap()
    };
    let queue = Queue::new(connect().await);
    let columns = "queue, payload, limit_key, max_running";
    insert(db, BROKEN, columns, &format!("{TEXT}, 'null', NULL, NULL")).await;
    insert(
        db,
        ANOTHER,
        columns,
        &format!("'default', 'null', {TEXT}, 1"),
    )
    .await;
    let good = queue.enqueue(&probe(1)).await.unwrap().id;
    let limited = NewJob::new(&probe(2)).limit_running("key", 1);
    let limited = queue.enqueue_new(limited).await.unwrap().id;
    let worker = start(
        Worker::new(connect().await)
            .options(lively())
            .register(give_back),
    );
    for id in [good, limited] {
        assert_eq!(becomes(&queue, id, JobStatus::Done).await.attempt, 1);
    }
    worker.end().await;
    let left = "SELECT COUNT(*) FROM job WHERE status = 'queued' AND attempt = 0";
    assert_eq!(db.number(left).await, 2);
}

// SQLite alone, four times: what PostgreSQL takes for text is text.
#[test]
fn a_payload_that_is_no_text_ends_its_own_job_alone() {
    run(TestDatabase::sqlite, async |db| {
        broken_payloads_end_their_own_jobs_alone(db, &db.url).await;
    });
}

#[test]
fn a_payload_that_is_no_text_ends_its_own_job_alone_by_the_pool_too() {
    run(TestDatabase::sqlite, async |db| {
        broken_payloads_end_their_own_jobs_alone(db, &by_the_pool(db)).await;
    });
}

#[test]
fn a_queue_whose_name_is_no_text_keeps_no_worker_from_the_others() {
    run(TestDatabase::sqlite, async |db| {
        a_queue_whose_name_is_broken_is_passed_over(db, &db.url).await;
    });
}

#[test]
fn a_queue_whose_name_is_no_text_keeps_no_worker_from_the_others_by_the_pool_too() {
    run(TestDatabase::sqlite, async |db| {
        a_queue_whose_name_is_broken_is_passed_over(db, &by_the_pool(db)).await;
    });
}

both_engines! {
    async fn a_job_that_was_claimed_and_never_begun_is_given_back_as_if_it_had_not_been(db) {
        let queue = Queue::new(db.open().await);
        let mut options = lively();
        options.rescue_after = std::time::Duration::from_millis(500);
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let worker = {
            let seen = seen.clone();
            Worker::new(db.open().await).options(options).register(
                move |job: Probe, cx: larder::JobContext| {
                    seen.lock().unwrap().push(cx.attempt);
                    async move { Ok::<Value, JobError>(job.value) }
                },
            )
        };
        let worker = start(worker);
        let workers = "SELECT COUNT(*) FROM {}job_worker";
        eventually("it is there", async || db.number(workers).await == 1).await;
        let later = NewJob::new(&probe(1)).delay(std::time::Duration::from_secs(3600)).max_attempts(1);
        let id = queue.enqueue_new(later).await.unwrap().id;
        // By its row it is the worker's, which knows nothing of it; and it was given back as often as a drain may.
        db.execute(
            "UPDATE {}job SET status = 'running', attempt = 1, released = 3, started_at = created_at, \
             worker = (SELECT id FROM {}job_worker)",
        )
        .await;
        let done = becomes(&queue, id, JobStatus::Done).await;
        assert_eq!((done.attempt, seen.lock().unwrap().as_slice()), (1, &[1][..]));
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job_attempt").await, 0);
        worker.end().await;
    }
}
