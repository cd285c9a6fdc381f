//! Outcomes that the database is slow to take, or does not take.

use std::sync::Arc;
use std::time::Duration;

use larder::database::{Database, DatabaseOptions};
use larder::queue::{JobStatus, NewJob};
use larder::worker::WorkerOptions;
use larder::{JobError, Queue, Worker};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::sync::Semaphore;

use crate::proxy::Proxy;
use crate::support::{TestDatabase, both_engines, run};
use crate::work::{
    Probe, becomes, count, eventually, gated, give_back, job, lively, probe, start, ticking,
};

/// The database as a role has it whose statements may take no longer than this.
async fn hurried(db: &TestDatabase, limit: &str) -> Database {
    let url = format!("{}?options=-c%20statement_timeout%3D{limit}", db.url);
    let options = DatabaseOptions::new(&url).schema(&db.schema);
    options.clock(db.clock.clone()).connect().await.unwrap()
}

/// The statements that wait for a lock of this test's tables, and since when.
async fn waiting(db: &TestDatabase) -> Vec<String> {
    db.texts(&format!(
        "SELECT CAST(query_start AS text) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'",
        db.schema.trim_start_matches("Test ")
    ))
    .await
}

// PostgreSQL alone, three times: SQLite has no timeout of a statement, and no network.
#[test]
fn an_outcome_that_the_servers_timeout_cut_short_is_written_when_it_may() {
    run(TestDatabase::postgres, async |db| {
        let queue = Queue::new(db.open().await);
        let gate = Arc::new(Semaphore::new(0));
        let handler = {
            let gate = gate.clone();
            move |job| gated(gate.clone(), job)
        };
        let worker = Worker::new(hurried(db, "500ms").await).options(lively());
        let worker = start(worker.register(handler));
        let id = queue.enqueue(&probe(1)).max_attempts(1).await.unwrap().id;
        becomes(&queue, id, JobStatus::Running).await;
        let mut other = PgConnection::connect(&db.url).await.unwrap();
        let mut held = other.begin().await.unwrap();
        let hold = format!("SELECT id FROM \"{}\".job FOR UPDATE", db.schema);
        sqlx::query(sqlx::AssertSqlSafe(hold))
            .execute(&mut *held)
            .await
            .unwrap();
        gate.add_permits(1);
        let mut first = Vec::new();
        eventually("its outcome waits", async || {
            first = waiting(db).await;
            !first.is_empty()
        })
        .await;
        eventually("that was cut short, and another waits", async || {
            let now = waiting(db).await;
            !now.is_empty() && now.iter().all(|one| !first.contains(one))
        })
        .await;
        held.rollback().await.unwrap();
        eventually("it has ended", async || {
            job(&queue, id).await.status != JobStatus::Running
        })
        .await;
        let done = job(&queue, id).await;
        assert_eq!((done.status, done.error), (JobStatus::Done, None));
        worker.end().await;
    });
}

#[test]
fn what_takes_a_server_too_long_together_is_claimed_and_written_in_parts() {
    run(TestDatabase::postgres, async |db| {
        let queue = Queue::new(db.open().await);
        db.execute(
            "CREATE FUNCTION {}dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$; \
             CREATE TRIGGER dawdle BEFORE UPDATE ON {}job FOR EACH ROW EXECUTE FUNCTION {}dawdle()",
        )
        .await;
        let jobs = (0..60).map(|n| NewJob::new(&probe(n)).max_attempts(1));
        queue.enqueue_many(jobs).await.unwrap();
        let all = Arc::new(tokio::sync::Barrier::new(60));
        let handler = move |job: Probe| {
            let all = all.clone();
            async move {
                all.wait().await;
                Ok::<Value, JobError>(job.value)
            }
        };
        let mut options = lively();
        options.concurrency = 60;
        // None is taken for dead while claims take long.
        options.rescue_after = Duration::from_secs(3600);
        let worker = Worker::new(hurried(db, "600ms").await).options(options);
        let worker = start(worker.register(handler));
        eventually("all are done", async || {
            count(&queue, JobStatus::Done).await == 60
        })
        .await;
        worker.end().await;
    });
}

#[test]
fn outcomes_of_many_bytes_reach_a_server_by_a_slow_network() {
    run(TestDatabase::postgres, async |db| {
        let proxy = Proxy::before(&db.url).await;
        let queue = Queue::new(db.open().await);
        let slow = DatabaseOptions::new(&proxy.url)
            .schema(&db.schema)
            .clock(db.clock.clone())
            .acquire_timeout(Duration::from_millis(250));
        let all = Arc::new(tokio::sync::Barrier::new(8));
        let handler = {
            let all = all.clone();
            move |_: Probe| {
                let all = all.clone();
                async move {
                    all.wait().await;
                    Ok::<Value, JobError>(Value::String("x".repeat(4 << 20)))
                }
            }
        };
        let worker = Worker::new(slow.connect().await.unwrap()).options(lively());
        let worker = start(worker.register(handler));
        let jobs = (0..7).map(|n| NewJob::new(&probe(n)).max_attempts(1));
        queue.enqueue_many(jobs).await.unwrap();
        eventually("all but one run", async || {
            count(&queue, JobStatus::Running).await == 7
        })
        .await;
        // They end together, and what they send is slow from now on.
        proxy.slow_down(8 << 20);
        queue.enqueue(&probe(7)).await.unwrap();
        eventually("all are done", async || {
            count(&queue, JobStatus::Done).await == 8
        })
        .await;
        worker.end().await;
    });
}

both_engines! {
    async fn of_attempts_that_end_alike_those_of_others_are_left_to_them(db) {
        let queue = Queue::new(db.open().await);
        let gate = Arc::new(Semaphore::new(0));
        let handler = {
            let gate = gate.clone();
            move |job| gated(gate.clone(), job)
        };
        let mut elsewhere = lively();
        elsewhere.queues = Some(vec!["elsewhere".to_owned()]);
        let other = start(Worker::new(db.open().await).options(elsewhere).register(give_back));
        let worker = start(Worker::new(db.open().await).options(lively()).register(handler));
        let mut ids = Vec::new();
        for _ in 0..3 {
            let id = queue.enqueue(&probe(Value::Null)).await.unwrap().id;
            becomes(&queue, id, JobStatus::Running).await;
            ids.push(id);
        }
        db.execute(&format!("UPDATE {{}}job SET attempt = 2 WHERE id = '{}'", ids[0])).await;
        let others = "SELECT id FROM {}job_worker WHERE id NOT IN (SELECT worker FROM {}job WHERE worker IS NOT NULL)";
        db.execute(&format!("UPDATE {{}}job SET worker = ({others}) WHERE id = '{}'", ids[1])).await;
        gate.add_permits(3);
        assert_eq!(becomes(&queue, ids[2], JobStatus::Done).await.result.unwrap().get(), "null");
        worker.end().await;
        for id in &ids[..2] {
            let left = job(&queue, *id).await;
            assert_eq!((left.status, left.result.is_none()), (JobStatus::Running, true));
        }
        other.end().await;
    }

    async fn an_attempt_that_cannot_be_given_back_is_left_to_the_rescue(db) {
        let queue = Queue::new(ticking(db).await);
        let mut options: WorkerOptions = lively();
        options.shutdown_timeout = Duration::ZERO;
        let worker = Worker::new(ticking(db).await).options(options).register(async |_: Probe| {
            std::future::pending::<()>().await;
            Ok::<Value, JobError>(Value::Null)
        });
        let worker = start(worker);
        let id = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, id, JobStatus::Running).await;
        db.execute(if db.is_sqlite() {
            "CREATE TRIGGER kept BEFORE UPDATE ON job WHEN NEW.status = 'queued' BEGIN SELECT RAISE(ABORT, 'kept'); END"
        } else {
            "CREATE FUNCTION {}kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'kept'; END $$; \
             CREATE TRIGGER kept BEFORE UPDATE ON {}job FOR EACH ROW WHEN (NEW.status = 'queued') EXECUTE FUNCTION {}kept()"
        })
        .await;
        worker.end().await;
        let left = job(&queue, id).await;
        assert_eq!((left.status, left.attempt, left.error), (JobStatus::Running, 1, None));

        db.execute(if db.is_sqlite() { "DROP TRIGGER kept" } else { "DROP TRIGGER kept ON {}job" }).await;
        let mut options = lively();
        options.rescue_after = Duration::from_millis(400);
        let other = start(Worker::new(ticking(db).await).options(options).register(give_back));
        assert_eq!(becomes(&queue, id, JobStatus::Done).await.attempt, 2);
        other.end().await;
    }
}
