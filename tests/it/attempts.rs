//! What is kept of attempts, and sending jobs back to their queue.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use larder::queue::{AttemptRecord, JobId, JobSelection, JobStatus, NewJob, Retried};
use larder::worker::WorkerOptions;
use larder::{JobContext, JobError, Queue, Worker};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::Semaphore;

use crate::support::{TestDatabase, both_engines, noon};
use crate::work::{
    Other, Probe, becomes, eventually, job, lively, once, probe, run, start, ticking,
    without_polling,
};

/// Fails as its payload says: twice, always, or never.
async fn fail(job: Probe, cx: JobContext) -> Result<Value, JobError> {
    match job.value.as_str().unwrap() {
        "twice" if cx.attempt > 2 => Ok(Value::from("at last")),
        "fine" => Ok(Value::Null),
        "abort" => Err(JobError::abort("hopeless")),
        "long" => Err(JobError::abort("x".repeat(1_000_000))),
        _ => Err(JobError::retry(format!("failure {}", cx.attempt))),
    }
}

async fn work(db: &TestDatabase) {
    let worker = Worker::new(db.open().await).options(once()).register(fail);
    run(worker).await;
}

/// Number and error of each.
fn told(attempts: &[AttemptRecord]) -> Vec<(i32, Option<&str>)> {
    attempts
        .iter()
        .map(|attempt| (attempt.attempt, attempt.error.as_deref()))
        .collect()
}

async fn dead(
    db: &TestDatabase,
    queue: &Queue,
    jobs: impl IntoIterator<Item = NewJob>,
) -> Vec<JobId> {
    let ids = queue.enqueue_many(jobs).await.unwrap();
    work(db).await;
    let ids: Vec<JobId> = ids.into_iter().map(|enqueued| enqueued.id).collect();
    for id in &ids {
        assert_eq!(job(queue, *id).await.status, JobStatus::Dead);
    }
    ids
}

async fn refused(queue: &Queue, id: JobId) -> String {
    let before = format!("{:?}", job(queue, id).await);
    let error = queue.retry(id).await.unwrap_err();
    assert!(error.is_invalid(), "{error}");
    assert_eq!(format!("{:?}", job(queue, id).await), before);
    error.to_string()
}

/// The job as a worker that fell silent left it.
async fn abandoned(db: &TestDatabase, id: JobId) {
    let ghost = "019aabcd-0000-7000-8000-00000000dead";
    let ghost = if db.is_sqlite() {
        format!("'{ghost}'")
    } else {
        format!("CAST('{ghost}' AS uuid)")
    };
    db.execute(&format!(
        "UPDATE {{}}job SET status = 'running', due = FALSE, attempt = attempt + 1, worker = {ghost}, started_at = created_at \
         WHERE CAST(id AS text) = '{id}'"
    )).await;
}

both_engines! {
    async fn each_attempt_that_failed_is_kept_with_its_times_its_worker_and_its_error(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe("twice")).await.unwrap().id;
        let fine = queue.enqueue(&probe("fine")).await.unwrap().id;
        for _ in 0..3 {
            work(db).await;
            db.advance(60);
        }
        let attempts = queue.attempts(id).await.unwrap();
        assert_eq!(told(&attempts), [(1, Some("failure 1")), (2, Some("failure 2"))]);
        assert_eq!(attempts[0].ended_at, noon());
        assert_eq!(attempts[1].ended_at, noon() + TimeDelta::seconds(60));
        assert!(attempts[1].started_at == attempts[1].ended_at && attempts[0].worker.is_some());
        assert_ne!(attempts[0].worker, attempts[1].worker);
        let job = job(&queue, id).await;
        assert_eq!((job.status, job.attempt, job.error), (JobStatus::Done, 3, None));
        assert!(queue.attempts(fine).await.unwrap().is_empty());
    }

    async fn the_last_attempt_of_a_dead_job_is_kept_too(db) {
        let queue = Queue::new(db.open().await);
        let ids = dead(db, &queue, [NewJob::new(&probe("abort")), NewJob::new(&probe("always")).max_attempts(1)]).await;
        assert_eq!(told(&queue.attempts(ids[0]).await.unwrap()), [(1, Some("hopeless"))]);
        assert_eq!(told(&queue.attempts(ids[1]).await.unwrap()), [(1, Some("failure 1"))]);
    }

    async fn an_attempt_that_a_drain_gave_back_is_kept_without_an_error_and_a_counted_one_with(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe(0)).max_attempts(2).await.unwrap().id;
        for _ in 0..5 {
            let mut options: WorkerOptions = lively();
            options.shutdown_timeout = Duration::from_millis(10);
            let worker = start(Worker::new(db.open().await).options(options).register(|_: Probe| async {
                std::future::pending::<()>().await;
                Ok::<_, JobError>(Value::Null)
            }));
            becomes(&queue, id, JobStatus::Running).await;
            db.advance(1);
            worker.end().await;
        }
        let interrupted = Some("it was interrupted by the end of its worker");
        let attempts = queue.attempts(id).await.unwrap();
        assert_eq!(told(&attempts), [(1, None), (1, None), (1, None), (1, interrupted), (2, interrupted)]);
        let job = job(&queue, id).await;
        assert_eq!((job.status, job.started_at), (JobStatus::Dead, Some(attempts[4].started_at)));
    }

    async fn the_attempt_of_a_worker_that_fell_silent_is_kept(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe("fine")).await.unwrap().id;
        let other = queue.enqueue(&probe("fine")).max_attempts(1).await.unwrap().id;
        for id in [id, other] {
            abandoned(db, id).await;
        }
        db.advance(7);
        work(db).await;
        let silent = Some("its worker fell silent for 30 s and is taken for dead");
        for (id, status, attempt) in [(id, JobStatus::Done, 2), (other, JobStatus::Dead, 1)] {
            let attempts = queue.attempts(id).await.unwrap();
            assert_eq!(told(&attempts), [(1, silent)]);
            assert_eq!(attempts[0].worker.unwrap().to_string(), "019aabcd-0000-7000-8000-00000000dead");
            assert_eq!((attempts[0].started_at, attempts[0].ended_at), (noon(), noon() + TimeDelta::seconds(7)));
            let job = job(&queue, id).await;
            assert_eq!((job.status, job.attempt), (status, attempt));
        }
    }

    async fn of_an_attempt_that_was_taken_away_the_late_failure_is_not_kept(db) {
        let queue = Queue::new(db.open().await);
        let gate = Arc::new(Semaphore::new(0));
        let id = queue.enqueue(&probe("late")).await.unwrap().id;
        let handler = {
            let gate = gate.clone();
            move |_: Probe| {
                let gate = gate.clone();
                async move {
                    gate.acquire().await?.forget();
                    Err::<Value, _>(JobError::abort("too late"))
                }
            }
        };
        let mut options = lively();
        options.concurrency = 1;
        let late = start(Worker::new(db.open().await).options(options).register(handler));
        becomes(&queue, id, JobStatus::Running).await;
        // Somebody took it for dead, and nobody who knows it is there.
        db.execute("UPDATE {}job SET status = 'queued', due = FALSE, worker = NULL, run_at = created_at").await;
        db.execute("UPDATE {}job SET name = 'unknown'").await;
        gate.add_permits(1);
        late.end().await;
        assert!(queue.attempts(id).await.unwrap().is_empty());
        assert_eq!(job(&queue, id).await.status, JobStatus::Queued);
    }

    async fn a_long_error_is_stored_without_its_middle(db) {
        let queue = Queue::new(db.open().await);
        let ids = dead(db, &queue, [NewJob::new(&probe("long"))]).await;
        let stored = job(&queue, ids[0]).await.error.unwrap();
        assert!(stored.len() <= 65_536 && stored.contains("bytes left out"), "{}", stored.len());
        assert_eq!(queue.attempts(ids[0]).await.unwrap()[0].error.as_ref(), Some(&stored));
    }

    async fn a_dead_job_goes_back_and_its_attempts_are_counted_on(db) {
        let queue = Queue::new(db.open().await);
        let ids = dead(db, &queue, [NewJob::new(&probe("always")).max_attempts(1), NewJob::new(&probe("abort")).max_attempts(9)]).await;
        db.advance(5);
        for (id, attempts) in [(ids[0], 2), (ids[1], 9)] {
            assert!(queue.retry(id).await.unwrap());
            let job = job(&queue, id).await;
            assert_eq!((job.status, job.attempt, job.max_attempts), (JobStatus::Queued, 1, attempts));
            assert_eq!(job.run_at, noon() + TimeDelta::seconds(5));
            assert!(job.finished_at.is_none() && job.worker.is_none() && job.error.is_some());
        }
        work(db).await;
        let first = job(&queue, ids[0]).await;
        assert_eq!((first.status, first.attempt, first.error.as_deref()), (JobStatus::Dead, 2, Some("failure 2")));
        assert_eq!(told(&queue.attempts(ids[0]).await.unwrap()), [(1, Some("failure 1")), (2, Some("failure 2"))]);
    }

    async fn a_cancelled_job_goes_back_and_one_that_waits_for_its_next_attempt_starts_now(db) {
        let queue = Queue::new(db.open().await);
        let cancelled = queue.enqueue(&probe("fine")).delay(Duration::from_secs(3600)).await.unwrap().id;
        assert!(queue.cancel(cancelled).await.unwrap());
        assert!(queue.retry(cancelled).await.unwrap());
        assert!(job(&queue, cancelled).await.cancelled_at.is_none());
        let waits = queue.enqueue(&probe("twice")).await.unwrap().id;
        work(db).await;
        assert_eq!(job(&queue, cancelled).await.status, JobStatus::Done);
        assert!(job(&queue, waits).await.run_at > noon());
        for _ in 0..2 {
            assert!(queue.retry(waits).await.unwrap());
            assert_eq!(job(&queue, waits).await.run_at, noon());
            work(db).await;
        }
        assert_eq!(job(&queue, waits).await.status, JobStatus::Done);
        assert!(!queue.retry("019aabcd-0000-7000-8000-000000000000".parse().unwrap()).await.unwrap());
    }

    async fn a_job_that_cannot_be_retried_is_refused_and_stays_as_it_is(db) {
        let queue = Queue::new(db.open().await);
        let new = queue.enqueue(&probe("fine")).queue("other").delay(Duration::from_secs(60)).await.unwrap().id;
        let refusal = refused(&queue, new).await;
        assert!(refusal.contains("was not tried yet") && refusal.contains("2026-11-22T12:01:00Z"), "{refusal}");
        let done = queue.enqueue(&probe("fine")).await.unwrap().id;
        work(db).await;
        assert!(refused(&queue, done).await.contains("it is done"));
        db.execute(&format!("UPDATE {{}}job SET status = 'running' WHERE CAST(id AS text) = '{done}'")).await;
        assert!(refused(&queue, done).await.contains("it is running"));
        db.execute(&format!("UPDATE {{}}job SET status = 'dead', attempt = 32767, max_attempts = 32767 WHERE CAST(id AS text) = '{done}'")).await;
        assert!(refused(&queue, done).await.contains("32,767 times"));
        let all = queue.retry_many(&JobSelection::default()).await.unwrap();
        assert_eq!(all, Retried { retried: 0, skipped: 1 });
    }

    async fn a_retry_is_refused_while_another_job_has_the_unique_key(db) {
        let queue = Queue::new(db.open().await);
        let new = || NewJob::new(&probe("abort")).unique_key("k");
        let first = dead(db, &queue, [new()]).await[0];
        let holder = queue.enqueue_new(new()).await.unwrap().id;
        let refusal = refused(&queue, first).await;
        assert!(refusal.contains(&holder.to_string()) && refusal.contains(&first.to_string()), "{refusal}");
        // Another name has keys of its own.
        work(db).await;
        queue.enqueue(&Other {}).unique_key("k").await.unwrap();
        assert!(queue.retry(first).await.unwrap());
        assert!(refused(&queue, holder).await.contains(&first.to_string()));
    }

    async fn in_a_transaction_a_refusal_leaves_it_usable_and_a_rollback_takes_the_retry_back(db) {
        let queue = Queue::new(db.open().await);
        let new = || NewJob::new(&probe("abort")).unique_key("k");
        let first = dead(db, &queue, [new()]).await[0];
        let second = dead(db, &queue, [new()]).await[0];
        let mut tx = queue.database().begin().await.unwrap();
        assert!(queue.retry_in(&mut tx, first).await.unwrap());
        assert!(queue.retry_in(&mut tx, second).await.unwrap_err().is_invalid());
        assert_eq!(queue.get_in(&mut tx, first).await.unwrap().unwrap().status, JobStatus::Queued);
        drop(tx);
        assert_eq!(job(&queue, first).await.status, JobStatus::Dead);
        let mut tx = queue.database().begin().await.unwrap();
        assert!(queue.retry_in(&mut tx, second).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(job(&queue, second).await.status, JobStatus::Queued);
    }

    async fn all_dead_jobs_go_back_but_those_whose_key_is_taken_and_one_of_each_key(db) {
        let queue = Queue::new(db.open().await);
        let many = || (0..1_200).map(|_| NewJob::new(&probe("abort")));
        dead(db, &queue, many()).await;
        let keyed = |key: &str| NewJob::new(&probe("abort")).unique_key(key);
        let mut twice = Vec::new();
        for _ in 0..2 {
            twice.extend(dead(db, &queue, [keyed("twice"), keyed("taken")]).await);
        }
        let holder = queue.enqueue_new(keyed("taken")).await.unwrap().id;
        let elsewhere = dead(db, &queue, [NewJob::new(&probe("abort")).queue("elsewhere")]).await[0];
        // The holder was run too, and is the newest that is dead.
        let retried = queue.retry_many(&JobSelection { queue: Some("default".to_owned()), ..JobSelection::default() }).await.unwrap();
        assert_eq!(retried, Retried { retried: 1_202, skipped: 3 });
        assert_eq!(job(&queue, holder).await.status, JobStatus::Queued);
        assert_eq!(job(&queue, twice[2]).await.status, JobStatus::Queued);
        assert_eq!(job(&queue, twice[0]).await.status, JobStatus::Dead);
        assert_eq!(job(&queue, elsewhere).await.status, JobStatus::Dead);
        assert_eq!(queue.retry_many(&JobSelection { name: Some("none".to_owned()), ..JobSelection::default() }).await.unwrap(), Retried::default());
        let again = queue.retry_many(&JobSelection::default()).await.unwrap();
        assert_eq!(again, Retried { retried: 1, skipped: 3 });
        for status in [JobStatus::Queued, JobStatus::Running, JobStatus::Done] {
            let refused = queue.retry_many(&JobSelection { status: Some(status), ..JobSelection::default() }).await;
            assert!(refused.unwrap_err().to_string().contains("dead or cancelled"));
        }
    }

    async fn a_retry_wakes_a_worker_that_does_not_poll(db) {
        let database = ticking(db).await;
        let queue = Queue::new(database.clone());
        let worker = start(Worker::new(database).options(without_polling()).register(fail));
        let id = queue.enqueue(&probe("abort")).await.unwrap().id;
        // Often, since it may look once more by itself while it is not quite idle yet.
        for attempt in 1..=12 {
            eventually("it is dead again", async || {
                let job = job(&queue, id).await;
                (job.status, job.attempt) == (JobStatus::Dead, attempt)
            }).await;
            let of_another = Queue::new(ticking(db).await);
            // PostgreSQL tells other connections, SQLite its own process.
            let queue = if db.is_sqlite() { &queue } else { &of_another };
            if attempt % 2 == 1 {
                assert!(queue.retry(id).await.unwrap());
            } else {
                assert_eq!(queue.retry_many(&JobSelection::default()).await.unwrap().retried, 1);
            }
        }
        worker.end().await;
    }
}

/// A transaction that holds this job's row, and its process.
async fn holding(db: &TestDatabase, id: JobId) -> (PgConnection, i32) {
    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    connection.execute("BEGIN").await.unwrap();
    hold(&mut connection, db, id).await.unwrap();
    let process = sqlx::query_scalar("SELECT pg_backend_pid()");
    let process = process.fetch_one(&mut connection).await.unwrap();
    (connection, process)
}

async fn hold(connection: &mut PgConnection, db: &TestDatabase, id: JobId) -> sqlx::Result<()> {
    let schema = db.schema.replace('"', "\"\"");
    let lock = format!("SELECT 1 FROM \"{schema}\".job WHERE id = '{id}' FOR UPDATE NOWAIT");
    let lock = sqlx::raw_sql(AssertSqlSafe(lock));
    connection.execute(lock).await.map(drop)
}

async fn is_waited_for(db: &TestDatabase, process: i32) {
    let waiting = format!(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE {process} = ANY (pg_blocking_pids(pid))"
    );
    eventually("somebody waits for it", async || {
        db.number(&waiting).await > 0
    })
    .await;
}

// SQLite has one writer, and no rows that somebody holds.
#[test]
fn whoever_waits_to_write_what_is_done_holds_nothing_that_failed() {
    crate::support::run(TestDatabase::postgres, async |db| {
        let queue = Queue::new(db.open().await);
        let gates: Arc<[Semaphore; 3]> = Arc::new(std::array::from_fn(|_| Semaphore::new(0)));
        let handler = {
            let gates = gates.clone();
            move |job: Probe| {
                let gates = gates.clone();
                async move {
                    let value = job.value.as_str().unwrap().to_owned();
                    let gate = match &*value {
                        "before" => 0,
                        "fine" | "fails" => 1,
                        _ => 2,
                    };
                    gates[gate].acquire().await?.forget();
                    match &*value {
                        "fails" => Err(JobError::abort("hopeless")),
                        _ => Ok(Value::Null),
                    }
                }
            }
        };
        let mut ids = Vec::new();
        for value in ["before", "fine", "fails", "after", "after", "after"] {
            ids.push(queue.enqueue(&probe(value)).await.unwrap().id);
        }
        let [before, fine, fails] = [ids[0], ids[1], ids[2]];
        let mut options = lively();
        options.concurrency = 3;
        let worker = Worker::new(db.open().await).options(options);
        let worker = start(worker.register(handler));
        for id in [before, fine, fails] {
            becomes(&queue, id, JobStatus::Running).await;
        }
        // Behind an outcome that cannot be written yet, both of the others are one batch. They are there as soon as
        // other jobs have their slots.
        let (mut of_before, process) = holding(db, before).await;
        gates[0].add_permits(1);
        is_waited_for(db, process).await;
        let (mut of_fine, process) = holding(db, fine).await;
        gates[1].add_permits(2);
        for id in &ids[3..] {
            becomes(&queue, *id, JobStatus::Running).await;
        }
        of_before.execute("COMMIT").await.unwrap();
        is_waited_for(db, process).await;
        hold(&mut of_fine, db, fails).await.unwrap();
        of_fine.execute("COMMIT").await.unwrap();

        becomes(&queue, fine, JobStatus::Done).await;
        becomes(&queue, fails, JobStatus::Dead).await;
        gates[2].add_permits(3);
        worker.end().await;
    });
}
