//! A queue that is paused is so for the whole fleet, at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder::queue::{JobStatus, NewJob};
use larder::{JobError, Queue, Worker};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Semaphore;

use crate::support::{TestDatabase, both_engines};
use crate::work::{
    Probe, becomes, count, eventually, job, lively, once, probe, run, start, ticking, within,
    without_polling,
};

async fn give_back(job: Probe) -> Result<Value, JobError> {
    Ok(job.value)
}

const BEGUN: &str = "SELECT CAST(COALESCE(SUM(attempt), 0) AS bigint) FROM {}job";

both_engines! {
    async fn once_a_queue_is_paused_nothing_of_it_begins_and_what_runs_goes_on(db) {
        let queue = Queue::new(ticking(db).await);
        let jobs = (0..600).map(|n| match n % 3 {
            0 => NewJob::new(&probe(n)).limit_running(format!("key {}", n % 7), 3).queue("keyed"),
            _ => NewJob::new(&probe(n)),
        });
        queue.enqueue_many(jobs).await.unwrap();
        let mut workers = Vec::new();
        for _ in 0..3 {
            let mut options = lively();
            options.concurrency = 4;
            workers.push(start(Worker::new(ticking(db).await).options(options).register(give_back)));
        }
        eventually("some are done", async || count(&queue, JobStatus::Done).await >= 30).await;
        assert!(queue.pause("keyed").await.unwrap());
        assert!(queue.pause("default").await.unwrap());
        let begun = db.number(BEGUN).await;
        let other = queue.enqueue(&probe("other")).queue("other").await.unwrap().id;
        becomes(&queue, other, JobStatus::Done).await;
        eventually("none runs", async || count(&queue, JobStatus::Running).await == 0).await;
        assert_eq!(db.number(BEGUN).await, begun + 1);
        assert_eq!(count(&queue, JobStatus::Done).await, begun + 1);
        assert!(begun < 600, "it was paused too late to tell");
        queue.enqueue(&probe("more")).await.unwrap();
        assert!(queue.resume("default").await.unwrap() && queue.resume("keyed").await.unwrap());
        eventually("all are done", async || count(&queue, JobStatus::Done).await == 602).await;
        for worker in workers {
            worker.end().await;
        }
    }

    async fn a_running_job_of_a_paused_queue_ends_well_and_resuming_wakes_at_once(db) {
        let database = ticking(db).await;
        let queue = Queue::new(database.clone());
        let gate = Arc::new(Semaphore::new(0));
        let pass = gate.clone();
        let worker = Worker::new(database).options(without_polling()).register(move |_: Probe| {
            let pass = pass.clone();
            async move {
                pass.acquire().await?.forget();
                Ok::<_, JobError>(Value::Null)
            }
        });
        let worker = start(worker);
        let first = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, first, JobStatus::Running).await;
        queue.pause("default").await.unwrap();
        let second = queue.enqueue(&probe(2)).await.unwrap().id;
        let keyed = queue.enqueue(&probe(3)).limit_running("key", 1).await.unwrap().id;
        gate.add_permits(100);
        becomes(&queue, first, JobStatus::Done).await;
        let other = queue.enqueue(&probe(4)).queue("other").await.unwrap().id;
        becomes(&queue, other, JobStatus::Done).await;
        for id in [second, keyed] {
            assert_eq!(job(&queue, id).await.status, JobStatus::Queued);
        }
        queue.resume("default").await.unwrap();
        for id in [second, keyed] {
            becomes(&queue, id, JobStatus::Done).await;
        }
        worker.end().await;
    }

    async fn once_does_not_wait_for_a_paused_queue(db) {
        let queue = Queue::new(db.open().await);
        queue.pause("default").await.unwrap();
        queue.pause("keyed").await.unwrap();
        let paused = queue.enqueue(&probe(1)).await.unwrap().id;
        let keyed = queue.enqueue(&probe(1)).limit_running("key", 1).queue("keyed").await.unwrap().id;
        let other = queue.enqueue(&probe(2)).queue("other").await.unwrap().id;
        within(run(Worker::new(db.open().await).options(once()).register(give_back))).await;
        assert_eq!(job(&queue, other).await.status, JobStatus::Done);
        for id in [paused, keyed] {
            assert_eq!((job(&queue, id).await.status, job(&queue, id).await.attempt), (JobStatus::Queued, 0));
        }
        queue.resume("default").await.unwrap();
        queue.resume("keyed").await.unwrap();
        within(run(Worker::new(db.open().await).options(once()).register(give_back))).await;
        assert_eq!(count(&queue, JobStatus::Done).await, 3);
    }

    async fn pausing_says_whether_it_changed_anything_and_queues_tell_how_they_stand(db) {
        let queue = Queue::new(db.open().await);
        assert!(!queue.resume("mail").await.unwrap());
        assert!(queue.pause("mail").await.unwrap());
        db.advance(5);
        assert!(!queue.pause("mail").await.unwrap());
        queue.enqueue(&probe(1)).queue("mail").await.unwrap();
        queue.enqueue(&probe(1)).queue("mail").limit_running("k", 1).await.unwrap();
        queue.enqueue(&probe(1)).queue("mail").delay(std::time::Duration::from_secs(60)).await.unwrap();
        queue.enqueue(&probe(1)).queue("a").await.unwrap();
        db.execute("UPDATE {}job SET status = 'running', due = FALSE WHERE queue = 'a'").await;
        let queues = queue.queues().await.unwrap();
        let told: Vec<_> = queues.iter().map(|q| (q.name.as_str(), q.paused_at, q.ready, q.waiting, q.running)).collect();
        assert_eq!(told, [("a", None, 0, 0, 1), ("mail", Some(crate::support::noon()), 2, 1, 0)]);
        assert_eq!(queue.paused().await.unwrap().into_keys().collect::<Vec<_>>(), ["mail"]);
        assert!(queue.resume("mail").await.unwrap());
        assert!(!queue.resume("mail").await.unwrap());
        assert!(queue.pause("").await.unwrap_err().is_invalid());
        assert!(queue.resume(&"x".repeat(256)).await.unwrap_err().is_invalid());
    }

    async fn a_paused_queue_makes_no_worker_spin(db) {
        let rounds = crate::limits::rounds();
        let queue = Queue::new(db.open().await);
        queue.pause("default").await.unwrap();
        queue.enqueue_many((0..50).map(|n| NewJob::new(&probe(n)))).await.unwrap();
        queue.enqueue(&probe(1)).limit_running("key", 1).await.unwrap();
        let other = queue.enqueue(&probe(1)).queue("other").await.unwrap().id;
        let worker = start(Worker::new(db.open().await).options(without_polling()).register(give_back));
        becomes(&queue, other, JobStatus::Done).await;
        let before = rounds.load(Ordering::SeqCst);
        for _ in 0..300 {
            assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE status = 'done'").await, 1);
        }
        let looked = rounds.load(Ordering::SeqCst) - before;
        assert!(looked < 10, "{looked} looks");
        worker.end().await;
    }
}

// PostgreSQL alone tells other processes, and has claims that go on beside a pause.
#[test]
fn resuming_wakes_the_workers_of_other_processes() {
    crate::support::run(TestDatabase::postgres, async |db| {
        let queue = Queue::new(ticking(db).await);
        queue.pause("default").await.unwrap();
        let id = queue.enqueue(&probe(1)).await.unwrap().id;
        let worker = Worker::new(ticking(db).await)
            .options(without_polling())
            .register(give_back);
        let worker = start(worker);
        let other = queue.enqueue(&probe(1)).queue("other").await.unwrap().id;
        becomes(&queue, other, JobStatus::Done).await;
        // Whatever that job woke has looked by then.
        for _ in 0..50 {
            assert_eq!(job(&queue, id).await.status, JobStatus::Queued);
        }
        queue.resume("default").await.unwrap();
        becomes(&queue, id, JobStatus::Done).await;
        worker.end().await;
    });
}

#[test]
fn pausing_waits_for_the_claims_that_are_under_way() {
    crate::support::run(TestDatabase::postgres, async |db| {
        let queue = Queue::new(ticking(db).await);
        queue.pause("default").await.unwrap();
        queue.resume("default").await.unwrap();
        let mut claim = PgConnection::connect(&db.url).await.unwrap();
        let mut claim = claim.begin().await.unwrap();
        let hold = format!(
            "SELECT 1 FROM \"{}\".job_queue FOR KEY SHARE",
            db.schema.replace('"', "\"\"")
        );
        sqlx::query(AssertSqlSafe(hold))
            .execute(&mut *claim)
            .await
            .unwrap();
        let paused = Arc::new(AtomicUsize::new(0));
        let pausing = tokio::spawn({
            let (queue, paused) = (queue.clone(), paused.clone());
            async move {
                queue.pause("default").await.unwrap();
                paused.store(1, Ordering::SeqCst);
            }
        });
        let waits = "SELECT COUNT(*) FROM pg_catalog.pg_locks WHERE NOT granted AND pid IN \
            (SELECT pid FROM pg_catalog.pg_stat_activity WHERE query LIKE '%paused_at = excluded.paused_at%')";
        eventually("the pause waits", async || db.number(waits).await > 0).await;
        assert_eq!(paused.load(Ordering::SeqCst), 0);
        claim.commit().await.unwrap();
        within(pausing).await.unwrap();

        // And a claim that waits for a pause sees it then.
        queue.resume("default").await.unwrap();
        let mut pause = PgConnection::connect(&db.url).await.unwrap();
        let mut pause = pause.begin().await.unwrap();
        let schema = db.schema.replace('"', "\"\"");
        let hold = format!(
            "SELECT 1 FROM \"{schema}\".job_queue FOR UPDATE; UPDATE \"{schema}\".job_queue SET paused_at = now()"
        );
        sqlx::raw_sql(AssertSqlSafe(hold))
            .execute(&mut *pause)
            .await
            .unwrap();
        let id = queue.enqueue(&probe(1)).await.unwrap().id;
        let worker = Worker::new(ticking(db).await).options(lively());
        let worker = start(worker.register(give_back));
        let waits = "SELECT COUNT(*) FROM pg_catalog.pg_locks WHERE NOT granted AND pid IN \
            (SELECT pid FROM pg_catalog.pg_stat_activity WHERE query LIKE '%.job_queue %')";
        eventually("the claim waits", async || db.number(waits).await > 0).await;
        pause.commit().await.unwrap();
        let other = queue.enqueue(&probe(2)).queue("other").await.unwrap().id;
        becomes(&queue, other, JobStatus::Done).await;
        let job = job(&queue, id).await;
        assert_eq!((job.status, job.attempt), (JobStatus::Queued, 0));
        worker.end().await;
    });
}
