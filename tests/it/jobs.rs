//! The jobs that ship.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chrono::TimeDelta;
use futures::TryStreamExt;
use larder::jobs::clear_expired::ClearExpired;
use larder::jobs::file_digest::{Digest, FileDigest};
use larder::jobs::prune_jobs::PruneJobs;
use larder::queue::{Job, JobRecord, JobStatus, NewJob, Retention};
use larder::{Cache, Expiration, Queue, Worker, jobs};

use crate::support::{TestDatabase, both_engines};
use crate::work::{count, job, once, probe, run};

/// A job of one of the types that ship, after one attempt.
async fn ran<J: Job>(db: &TestDatabase, new: &J) -> JobRecord {
    let queue = Queue::new(db.open().await);
    let id = queue.enqueue(new).await.unwrap().id;
    run(Worker::new(db.open().await)
        .options(once())
        .register_all(jobs::all()))
    .await;
    job(&queue, id).await
}

async fn digest_of(db: &TestDatabase, path: &Path) -> JobRecord {
    ran(
        db,
        &FileDigest {
            path: path.to_owned(),
        },
    )
    .await
}

async fn digest(db: &TestDatabase, path: &Path) -> Digest {
    let record = digest_of(db, path).await;
    assert_eq!(record.status, JobStatus::Done, "{:?}", record.error);
    serde_json::from_str(record.result.unwrap().get()).unwrap()
}

fn file(db: &TestDatabase, content: &[u8]) -> PathBuf {
    let path = db.path().join("file of the test");
    std::fs::write(&path, content).unwrap();
    path
}

/// Finished jobs of each status, so many seconds ago.
async fn insert_finished(db: &TestDatabase, seconds_ago: &[i64]) {
    let queue = Queue::new(db.open().await);
    for status in ["done", "dead", "cancelled"] {
        for seconds in seconds_ago {
            let id = queue.enqueue(&probe(1)).await.unwrap().id;
            let at = db.clock.now().saturating_add(-TimeDelta::seconds(*seconds));
            let at = if db.is_sqlite() {
                at.as_millis().to_string()
            } else {
                format!("'{at}'")
            };
            db.execute(&format!(
                "UPDATE {{}}job SET status = '{status}', finished_at = {at} WHERE CAST(id AS text) = '{id}'"
            ))
            .await;
        }
    }
}

both_engines! {
    async fn clear_expired_deletes_expired_items_of_every_namespace_and_counts_them(db) {
        let cache = db.cache().await;
        for namespace in ["", "one", "two"] {
            let cache = if namespace.is_empty() { cache.clone() } else { cache.namespace(namespace).unwrap() };
            for key in 0..3 {
                cache.set_with(&format!("gone {key}"), &1, Expiration::after(Duration::from_secs(5))).await.unwrap();
            }
            cache.set_with("stays", &1, Expiration::Never).await.unwrap();
        }
        db.advance(5);
        let record = ran(db, &ClearExpired {}).await;
        assert_eq!(record.result.unwrap().get(), r#"{"deleted":9}"#);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}cached_item").await, 3);
        assert_eq!(ran(db, &ClearExpired {}).await.result.unwrap().get(), r#"{"deleted":0}"#);
    }

    async fn prune_jobs_keeps_each_status_for_its_time(db) {
        let day = 86_400;
        insert_finished(db, &[0, 6 * day, 7 * day, 29 * day, 30 * day]).await;
        let queue = Queue::new(db.open().await);
        queue.enqueue(&probe(1)).queue("never").delay(Duration::from_secs(60)).await.unwrap();
        let record = ran(db, &PruneJobs {}).await;
        // Of those done three, of the dead and the cancelled one each.
        assert_eq!(record.result.unwrap().get(), r#"{"deleted":5}"#);
        // And the job itself, done.
        assert_eq!(count(&queue, JobStatus::Done).await, 2 + 1);
        assert_eq!((count(&queue, JobStatus::Dead).await, count(&queue, JobStatus::Cancelled).await), (4, 4));
        assert_eq!(count(&queue, JobStatus::Queued).await, 1);
    }

    async fn prune_jobs_keeps_to_the_retention_that_its_worker_gives(db) {
        insert_finished(db, &[5, 15, 25]).await;
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&PruneJobs {}).await.unwrap().id;
        let retention = Retention { keep_done: Duration::from_secs(10), keep_dead: Duration::from_secs(20), ..Retention::default() };
        run(Worker::new(db.open().await).options(once()).register_all(jobs::all()).data(retention)).await;
        assert_eq!(job(&queue, id).await.result.unwrap().get(), r#"{"deleted":4}"#);
    }

    async fn pruning_deletes_what_is_finished_and_asked_for_and_nothing_else(db) {
        insert_finished(db, &[1, 100]).await;
        let queue = Queue::new(db.open().await);
        queue.enqueue_many((0..3).map(|n| NewJob::new(&probe(n)))).await.unwrap();
        db.execute("UPDATE {}job SET status = 'running' WHERE CAST(payload AS text) = '{\"value\":2}'").await;
        let prune = |status| queue.prune().older_than(Duration::from_secs(50)).status(status).run();
        for (status, pruned) in [(JobStatus::Queued, 0), (JobStatus::Running, 0), (JobStatus::Dead, 1), (JobStatus::Dead, 0)] {
            assert_eq!(prune(status).await.unwrap(), pruned, "{status}");
        }
        assert_eq!(queue.prune().older_than(Duration::ZERO).run().await.unwrap(), 5);
        assert_eq!((count(&queue, JobStatus::Queued).await, count(&queue, JobStatus::Running).await), (2, 1));
        assert_eq!(Retention::default().keep_done, Duration::from_secs(7 * 86_400));
    }

    async fn pruning_goes_on_batch_by_batch_to_the_end(db) {
        let queue = Queue::new(db.open().await);
        queue.enqueue_many((0..2_500).map(|n| NewJob::new(&probe(n)))).await.unwrap();
        db.execute("UPDATE {}job SET status = 'done', finished_at = run_at").await;
        assert_eq!(queue.prune().older_than(Duration::ZERO).run().await.unwrap(), 2_500);
    }

    async fn the_digest_of_a_file_is_right(db) {
        let abc = digest(db, &file(db, b"abc")).await;
        // FIPS 180-4, example B.1.
        assert_eq!(abc.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((abc.bytes, abc.lines), (3, 0));
        let empty = digest(db, &file(db, b"")).await;
        assert_eq!((empty.bytes, empty.lines, &empty.sha256[..8]), (0, 0, "e3b0c442"));
        let lines = digest(db, &file(db, "a\n\r\n\u{fc}\nno end".repeat(50_000).as_bytes())).await;
        assert_eq!((lines.bytes, lines.lines), (50_000 * 13, 150_000));
    }

    async fn a_digest_is_taken_once_for_each_size_and_time_of_change(db) {
        let path = file(db, b"abc");
        let first = digest(db, &path).await;
        // The cached digest is made recognisable: whoever reads the file again gives another.
        let cache = db.cache().await;
        let keys: Vec<String> = cache.keys("file_digest:").try_collect().await.unwrap();
        let [key] = &keys[..] else { unreachable!("one key, and not {keys:?}") };
        let marked = Digest { sha256: "marked".to_owned(), ..first.clone() };
        cache.set_with(key, &marked, Expiration::Keep).await.unwrap();
        assert_eq!(digest(db, &path).await, marked);

        let touched = SystemTime::now() - Duration::from_secs(3_600);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(touched).unwrap();
        assert_eq!(digest(db, &path).await, first);
        std::fs::write(&path, b"abcd\n").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(touched).unwrap();
        let longer = digest(db, &path).await;
        assert_eq!((longer.bytes, longer.lines), (5, 1));
        assert_ne!(longer.sha256, first.sha256);
        assert!(Cache::new(db.open().await).ttl(key).await.unwrap().is_some());
    }

    async fn a_file_that_cannot_be_read_is_a_failed_attempt_that_names_it(db) {
        let missing = db.path().join("missing");
        let record = digest_of(db, &missing).await;
        assert_eq!((record.status, record.attempt), (JobStatus::Queued, 1));
        let error = record.error.unwrap();
        assert!(error.contains(missing.to_str().unwrap()) && error.contains("No such file"), "{error}");

        let record = digest_of(db, db.path()).await;
        assert_eq!(record.status, JobStatus::Queued);
        assert!(record.error.unwrap().ends_with("is not a file"));

        let record = digest_of(db, Path::new("Cargo.toml")).await;
        assert_eq!(record.status, JobStatus::Dead);
        assert_eq!(record.error.as_deref(), Some("Cargo.toml is not an absolute path"));
    }

    async fn a_payload_with_a_key_that_there_is_not_is_dead_and_says_so(db) {
        let queue = Queue::new(db.open().await);
        let payload = serde_json::value::RawValue::from_string(r#"{"pth":"/etc/hosts"}"#.to_owned()).unwrap();
        let id = queue.enqueue_new(NewJob::named("file_digest", &payload)).await.unwrap().id;
        run(Worker::new(db.open().await).options(once()).register_all(jobs::all())).await;
        let record = job(&queue, id).await;
        assert_eq!(record.status, JobStatus::Dead);
        assert!(record.error.unwrap().contains("unknown field `pth`"));
    }
}
