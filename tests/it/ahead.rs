//! Jobs that are claimed before there is a slot for them: those that take long are left to others.

use std::sync::Arc;

use larder::queue::JobStatus;
use larder::worker::Ended;
use larder::{JobError, Queue, Worker};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::support::{TestDatabase, both_engines};
use crate::work::{Probe, count, eventually, give_back, lively, probe, start, within};

const QUICK: u64 = 3_000;
const LONG: u64 = 3_000;
const SLOTS: i64 = 4;

/// How often a job went back to its queue.
const WENT_BACK: &str = "SELECT COUNT(*) FROM {}went_back";

/// A worker for which jobs take nothing, and after a while what the gate says; with jobs of both kinds.
async fn slowing_down(db: &TestDatabase, gate: &Arc<Semaphore>) -> (Queue, Worker) {
    let queue = Queue::new(db.open().await);
    db.execute("CREATE TABLE {}went_back (id text)").await;
    db.execute(if db.is_sqlite() {
        "CREATE TRIGGER went_back AFTER UPDATE ON job WHEN OLD.status = 'running' AND NEW.status = 'queued' \
         BEGIN INSERT INTO went_back VALUES (NEW.id); END"
    } else {
        "CREATE FUNCTION {}went_back() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN EXECUTE format('INSERT INTO %I.went_back VALUES ($1)', TG_TABLE_SCHEMA) USING NEW.id; RETURN NULL; END $$; \
         CREATE TRIGGER went_back AFTER UPDATE ON {}job FOR EACH ROW \
         WHEN (OLD.status = 'running' AND NEW.status = 'queued') EXECUTE FUNCTION {}went_back()"
    })
    .await;
    for jobs in [0..QUICK, QUICK..QUICK + LONG] {
        let jobs = jobs.map(|number| larder::queue::NewJob::new(&probe(number)));
        queue.enqueue_many(jobs).await.unwrap();
    }
    let mut options = lively();
    options.concurrency = usize::try_from(SLOTS).unwrap();
    let gate = gate.clone();
    let worker = Worker::new(db.open().await)
        .options(options)
        .register(move |job: Probe| {
            let gate = gate.clone();
            async move {
                if job.value.as_u64() >= Some(QUICK) {
                    gate.acquire().await?.forget();
                }
                Ok::<_, JobError>(job.value)
            }
        });
    (queue, worker)
}

/// Nothing of an attempt is left on the jobs that wait.
async fn look_unclaimed(db: &TestDatabase) -> bool {
    let touched = "SELECT COUNT(*) FROM {}job WHERE status = 'queued' AND (attempt <> 0 OR released <> 0 \
                   OR started_at IS NOT NULL OR worker IS NOT NULL)";
    db.number(touched).await == 0 && db.number("SELECT COUNT(*) FROM {}job_attempt").await == 0
}

both_engines! {
    async fn what_was_claimed_ahead_goes_back_where_jobs_turn_out_long_and_others_run_it(db) {
        let gate = Arc::new(Semaphore::new(0));
        let (queue, worker) = slowing_down(db, &gate).await;
        let worker = start(worker);
        eventually("the slots are taken, and the rest has gone back", async || {
            db.number(WENT_BACK).await > 0
                && count(&queue, JobStatus::Running).await == SLOTS
                && count(&queue, JobStatus::Queued).await == i64::try_from(LONG).unwrap() - SLOTS
        })
        .await;
        assert!(look_unclaimed(db).await);
        let other = start(Worker::new(db.open().await).options(lively()).register(give_back));
        eventually("the other worker runs them", async || {
            count(&queue, JobStatus::Queued).await == 0
                && count(&queue, JobStatus::Running).await == SLOTS
        })
        .await;
        gate.add_permits(usize::try_from(LONG).unwrap());
        eventually("all are done", async || {
            count(&queue, JobStatus::Done).await == i64::try_from(QUICK + LONG).unwrap()
        })
        .await;
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE attempt <> 1").await, 0);
        assert_eq!(worker.end().await, Ended::Drained);
        assert_eq!(other.end().await, Ended::Drained);
    }

    async fn a_drain_begins_nothing_that_was_claimed_ahead(db) {
        let gate = Arc::new(Semaphore::new(0));
        let (queue, worker) = slowing_down(db, &gate).await;
        let worker = start(worker);
        eventually("quick jobs run", async || count(&queue, JobStatus::Done).await > 0).await;
        let ended = tokio::spawn(worker.stop());
        gate.add_permits(usize::try_from(SLOTS).unwrap());
        assert_eq!(within(ended).await.unwrap(), Ended::Drained);
        assert_eq!(count(&queue, JobStatus::Running).await, 0);
        assert!(look_unclaimed(db).await);
        let done = count(&queue, JobStatus::Done).await;
        let queued = count(&queue, JobStatus::Queued).await;
        assert_eq!(done + queued, i64::try_from(QUICK + LONG).unwrap());
        assert!(queued > 0);
    }

    async fn of_two_claims_of_the_same_number_only_the_one_that_is_meant_goes_back(db) {
        // As a give-back that is sent again, since its answer was lost: the job is the same worker's again by then.
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe(Value::Null)).await.unwrap().id;
        let worker = uuid::Uuid::now_v7();
        let (at, then) = if db.is_sqlite() {
            ("1795348800000", "1795348800001")
        } else {
            ("TIMESTAMPTZ '2026-11-22T12:00:00Z'", "TIMESTAMPTZ '2026-11-22T12:00:00.001Z'")
        };
        for (started_at, goes_back) in [(then, false), (at, true)] {
            db.execute(&format!(
                "UPDATE {{}}job SET status = 'running', attempt = 1, worker = '{worker}', due = {}, started_at = {started_at}",
                if db.is_sqlite() { "1" } else { "TRUE" },
            ))
            .await;
            let batch = format!(r#"[["{id}",1,null,null,null,null,null,null,1795348800000]]"#);
            for statement in ["AttemptKeep", "JobUnclaim", "JobRelease"] {
                crate::plans_queue::carry_out(db, statement, &batch, worker).await;
            }
            assert_eq!(count(&queue, JobStatus::Queued).await == 1, goes_back);
        }
        assert_eq!(queue.attempts(id).await.unwrap().len(), 1);
    }
}
