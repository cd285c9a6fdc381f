//! What is kept of finished jobs: by age and by number, with their attempts.

use std::time::Duration;

use chrono::TimeDelta;
use larder::jobs::prune_jobs::PruneJobs;
use larder::queue::{JobFilter, JobStatus, NewJob, Retention};
use larder::{Queue, Worker, jobs};

use crate::support::{TestDatabase, both_engines};
use crate::work::{count, job, once, probe, run};

/// So many jobs of `status` that ended so many seconds ago, all at once, each with a failed attempt behind it.
async fn insert(db: &TestDatabase, status: &str, seconds_ago: i64, many: i64) {
    let queue = Queue::new(db.open().await);
    let jobs = (0..many).map(|_| NewJob::new(&probe(seconds_ago)));
    queue.enqueue_many(jobs).await.unwrap();
    let at = db
        .clock
        .now()
        .saturating_add(-TimeDelta::seconds(seconds_ago));
    let at = if db.is_sqlite() {
        at.as_millis().to_string()
    } else {
        format!("TIMESTAMPTZ '{at}'")
    };
    db.execute(&format!(
        "INSERT INTO {{}}job_attempt (job, attempt, started_at, ended_at, error) \
         SELECT id, 1, {at}, {at}, 'why' FROM {{}}job WHERE status = 'queued'"
    ))
    .await;
    db.execute(&format!(
        "UPDATE {{}}job SET status = '{status}', due = FALSE, finished_at = {at} WHERE status = 'queued'"
    ))
    .await;
}

/// How many jobs of `status` are left, by how long ago they ended.
async fn left(db: &TestDatabase, status: JobStatus) -> Vec<(i64, usize)> {
    let filter = JobFilter {
        status: Some(status),
        limit: 10_000,
        ..JobFilter::default()
    };
    let now: chrono::DateTime<chrono::Utc> = db.clock.now().into();
    let mut left = std::collections::BTreeMap::new();
    for job in Queue::new(db.open().await).list(&filter).await.unwrap() {
        let ago = (now - job.finished_at.unwrap()).num_seconds();
        *left.entry(ago).or_insert(0) += 1;
    }
    left.into_iter().collect()
}

const ATTEMPTS: &str = "SELECT COUNT(*) FROM {}job_attempt";
const STRAY: &str = "SELECT COUNT(*) FROM {}job_attempt WHERE job NOT IN (SELECT id FROM {}job)";

both_engines! {
    async fn exactly_the_newest_are_kept_of_each_status(db) {
        for (status, ago, many) in [
            ("done", 50, 2), ("done", 40, 3), ("done", 30, 4), ("done", 20, 1),
            ("dead", 9, 3), ("dead", 8, 1), ("cancelled", 7, 2),
        ] {
            insert(db, status, ago, many).await;
        }
        let queue = Queue::new(db.open().await);
        queue.enqueue(&probe(1)).await.unwrap();
        let keep = Retention { max_done: Some(3), max_dead: Some(2), ..Retention::default() };
        assert_eq!(queue.prune().keep(keep).run().await.unwrap(), 7 + 2);
        assert_eq!(left(db, JobStatus::Done).await, [(20, 1), (30, 2)]);
        assert_eq!(left(db, JobStatus::Dead).await, [(8, 1), (9, 1)]);
        assert_eq!(left(db, JobStatus::Cancelled).await, [(7, 2)]);
        assert_eq!(queue.prune().keep(keep).run().await.unwrap(), 0);
        assert_eq!((db.number(ATTEMPTS).await, db.number(STRAY).await), (7, 0));

        assert_eq!(queue.prune().keep_newest(1).status(JobStatus::Done).run().await.unwrap(), 2);
        assert_eq!(queue.prune().keep_newest(0).run().await.unwrap(), 1 + 2 + 2);
        assert_eq!((db.number(ATTEMPTS).await, count(&queue, JobStatus::Queued).await), (0, 1));
    }

    async fn age_and_number_hold_both(db) {
        for ago in [50, 40, 30, 20, 10] {
            insert(db, "done", ago, 1).await;
        }
        let queue = Queue::new(db.open().await);
        let keep = |seconds, max_done| Retention {
            keep_done: Duration::from_secs(seconds), max_done, ..Retention::default()
        };
        assert_eq!(queue.prune().keep(keep(45, Some(9))).run().await.unwrap(), 1);
        assert_eq!(queue.prune().keep(keep(45, Some(2))).run().await.unwrap(), 2);
        assert_eq!(left(db, JobStatus::Done).await, [(10, 1), (20, 1)]);
        assert_eq!(queue.prune().keep(keep(15, None)).run().await.unwrap(), 1);
    }

    async fn thousands_that_ended_at_once_go_in_batches_and_leave_no_attempt_behind(db) {
        insert(db, "done", 60, 1_500).await;
        insert(db, "done", 20, 2_600).await;
        let queue = Queue::new(db.open().await);
        assert_eq!(queue.prune().keep_newest(100).run().await.unwrap(), 4_000);
        assert_eq!(left(db, JobStatus::Done).await, [(20, 100)]);
        assert_eq!((db.number(ATTEMPTS).await, db.number(STRAY).await), (100, 0));
        assert_eq!(queue.prune().older_than(Duration::ZERO).run().await.unwrap(), 100);
        assert_eq!(db.number(ATTEMPTS).await, 0);
    }

    async fn prune_jobs_keeps_as_many_as_its_worker_says(db) {
        insert(db, "done", 60, 5).await;
        insert(db, "dead", 60, 5).await;
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&PruneJobs {}).await.unwrap().id;
        let retention = Retention { max_done: Some(1), max_dead: Some(2), ..Retention::default() };
        run(Worker::new(db.open().await).options(once()).register_all(jobs::all()).data(retention)).await;
        assert_eq!(job(&queue, id).await.result.unwrap().get(), r#"{"deleted":7}"#);
    }

    async fn what_is_known_of_a_queue_goes_when_it_says_nothing(db) {
        let queue = Queue::new(db.open().await);
        for name in ["paused", "resumed", "rated"] {
            queue.pause(name).await.unwrap();
        }
        queue.resume("resumed").await.unwrap();
        queue.resume("rated").await.unwrap();
        db.execute("UPDATE {}job_queue SET starts = '[[1,1]]' WHERE name = 'rated'").await;
        assert_eq!(queue.prune().run().await.unwrap(), 0);
        assert_eq!(db.texts("SELECT name FROM {}job_queue ORDER BY name").await, ["paused", "rated"]);
    }
}
