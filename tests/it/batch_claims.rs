//! Jobs that are claimed many at once, by one row: whatever befalls them, they are as jobs that were claimed by their own rows.
//! PostgreSQL alone claims so; on SQLite the same is asked of claims by rows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use larder::database::{DatabaseOptions, Transaction, Tx};
use larder::queue::{Cancelled, JobSelection, JobStatus, NewJob};
use larder::worker::Ended;
use larder::{JobContext, JobError, Queue, Worker};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::sync::Semaphore;

use crate::support::{TestDatabase, both_engines};
use crate::work::{
    Anything, Probe, count, eventually, gated, give_back, job, lively, probe, start, ticking,
};

const MANY: i64 = 3_000;
const SLOTS: usize = 500;

/// A queue with so many jobs.
async fn filled(db: &TestDatabase, count: i64) -> Queue {
    let queue = Queue::new(db.open().await);
    let jobs = (0..count).map(|number| NewJob::new(&probe(number)));
    queue.enqueue_many(jobs).await.unwrap();
    queue
}

async fn worker(db: &TestDatabase) -> Worker {
    let mut options = lively();
    options.concurrency = SLOTS;
    Worker::new(db.open().await).options(options)
}

/// A claim of queued jobs by a worker that nobody has heard of, as it would have left it.
async fn lay_claim(db: &TestDatabase, which: &str) {
    db.execute(&format!(
        "INSERT INTO {{}}job_claim (id, worker, queue, started_at, jobs, attempts, priority, run_at, last) \
         SELECT gen_random_uuid(), gen_random_uuid(), 'default', now(), array_agg(id), array_agg(1), 0, now(), MAX(CAST(id AS text))::uuid \
         FROM {{}}job {which}"
    ))
    .await;
}

/// Carries out SQL of the test's own in a transaction on PostgreSQL.
async fn carry_out(transaction: &mut Transaction, sql: &str) {
    let Tx::Postgres(connection) = Tx::from(transaction) else {
        panic!("it is PostgreSQL's");
    };
    sqlx::query(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .unwrap();
}

/// How many claims of many there are.
async fn claims(db: &TestDatabase) -> i64 {
    if db.is_sqlite() {
        return 0;
    }
    db.number("SELECT COUNT(*) FROM {}job_claim").await
}

/// How many were made of the default queue.
async fn claimed_many(db: &TestDatabase) -> i64 {
    let claims = "SELECT COALESCE(MAX(claims), 0) FROM {}job_queue WHERE name = 'default'";
    db.number(claims).await
}

both_engines! {
    async fn jobs_that_are_claimed_many_at_once_end_as_any_other(db) {
        let queue = filled(db, MANY).await;
        let worker = start(worker(db).await.register(give_back));
        eventually("all are done", async || count(&queue, JobStatus::Done).await == MANY).await;
        assert_eq!(claimed_many(db).await > 0, !db.is_sqlite());
        let as_they_should = "SELECT COUNT(*) FROM {}job WHERE status = 'done' AND attempt = 1 AND worker IS NOT NULL \
            AND started_at <= finished_at AND error IS NULL AND CAST(result AS text) = CAST(payload->'value' AS text)";
        assert_eq!(db.number(as_they_should).await, MANY);
        eventually("no claim is left", async || claims(db).await == 0).await;
        assert_eq!(worker.end().await, Ended::Drained);
    }

    async fn what_one_worker_has_claimed_no_other_begins(db) {
        let ran: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
        let queue = filled(db, 0).await;
        let mut workers = Vec::new();
        for _ in 0..3 {
            let ran = ran.clone();
            let handler = move |job: Probe| {
                let ran = ran.clone();
                async move {
                    *ran.lock().unwrap().entry(job.value.as_u64().unwrap()).or_default() += 1;
                    Ok::<_, JobError>(job.value)
                }
            };
            workers.push(start(worker(db).await.register(handler)));
        }
        for part in 0..4 {
            let jobs = (part * MANY..(part + 1) * MANY).map(|number| NewJob::new(&probe(number)));
            queue.enqueue_many(jobs).await.unwrap();
        }
        eventually("all are done", async || count(&queue, JobStatus::Done).await == 4 * MANY).await;
        for worker in workers {
            assert_eq!(worker.end().await, Ended::Drained);
        }
        assert_eq!(claimed_many(db).await > 0, !db.is_sqlite());
        let ran = std::mem::take(&mut *ran.lock().unwrap());
        assert_eq!(ran.len() as i64, 4 * MANY);
        assert!(ran.values().all(|times| *times == 1));
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE attempt <> 1").await, 0);
    }

    // PostgreSQL alone: SQLite has no such default. Somebody else claims one job after the other by its row.
    async fn a_claim_sees_what_it_has_waited_for_whatever_transactions_see_by_default(db) {
        if db.is_sqlite() {
            return;
        }
        let queue = filled(db, 2 * MANY).await;
        db.execute("INSERT INTO {}job_queue (name) VALUES ('default')").await;
        db.execute(
            "INSERT INTO {}job_worker (id, host, process, version, names, started_at, heartbeat_at, batch_claims) \
             VALUES ('019aabcd-0000-7000-8000-000000000000', 'elsewhere', 1, '', '[]', now(), now() + interval '1 hour', TRUE)",
        )
        .await;
        let share = format!("SELECT name FROM \"{}\".job_queue FOR KEY SHARE", db.schema);
        let claim = format!(
            "UPDATE \"{0}\".job SET status = 'running', attempt = 1, started_at = now(), worker = '019aabcd-0000-7000-8000-000000000000' \
             WHERE id = (SELECT id FROM \"{0}\".job WHERE status = 'queued' AND id NOT IN (SELECT unnest(jobs) FROM \"{0}\".job_claim) \
             ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)",
            db.schema
        );
        let one_by_one = async {
            let database = db.open().await;
            loop {
                let mut transaction = database.begin().await.unwrap();
                carry_out(&mut transaction, &share).await;
                carry_out(&mut transaction, &claim).await;
                carry_out(&mut transaction, "SELECT pg_sleep(0.01)").await;
                transaction.commit().await.unwrap();
            }
        };
        let url = format!("{}?options[default_transaction_isolation]=repeatable%20read", db.url);
        let options = DatabaseOptions::new(&url).schema(&db.schema).clock(db.clock.clone());
        let ran: Arc<Mutex<Vec<i64>>> = Arc::default();
        let all_are_claimed = async {
            let ran = ran.clone();
            let handler = move |job: Probe| {
                ran.lock().unwrap().push(job.value.as_i64().unwrap());
                async { Ok::<_, JobError>(job.value) }
            };
            let mut its = lively();
            its.concurrency = SLOTS;
            let database = options.connect().await.unwrap();
            let worker = start(Worker::new(database).options(its).register(handler));
            eventually("all are claimed", async || count(&queue, JobStatus::Queued).await == 0).await;
            assert_eq!(worker.end().await, Ended::Drained);
        };
        tokio::select! {
            () = one_by_one => {}
            () = all_are_claimed => {}
        }
        assert!(claimed_many(db).await > 0);
        let theirs = db.number("SELECT COUNT(*) FROM {}job WHERE status = 'running'").await;
        assert!(theirs > 0);
        assert_eq!(ran.lock().unwrap().len() as i64, 2 * MANY - theirs);
    }

    async fn jobs_that_take_longer_are_seen_to_run_and_are_given_back_by_a_drain(db) {
        let gate = Arc::new(Semaphore::new(0));
        let slots = i64::try_from(SLOTS).unwrap();
        let queue = filled(db, MANY).await;
        let handler = gate.clone();
        let mut options = lively();
        options.concurrency = SLOTS;
        options.shutdown_timeout = std::time::Duration::from_millis(50);
        let worker = Worker::new(db.open().await)
            .options(options)
            .register(move |job: Probe| gated(handler.clone(), job));
        let worker = start(worker);
        eventually("their rows say so", async || count(&queue, JobStatus::Running).await == slots).await;
        assert_eq!(claimed_many(db).await > 0, !db.is_sqlite());
        eventually("no claim is left", async || claims(db).await == 0).await;
        gate.add_permits(100);
        eventually("some are done", async || count(&queue, JobStatus::Done).await == 100).await;
        assert_eq!(worker.end().await, Ended::Drained);
        assert_eq!(count(&queue, JobStatus::Running).await, 0);
        assert_eq!(count(&queue, JobStatus::Queued).await, MANY - 100);
        assert_eq!(claims(db).await, 0);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE status = 'queued' AND attempt <> 0").await, 0);
    }

    async fn what_fails_is_tried_again_and_what_reports_is_heard(db) {
        let queue = filled(db, MANY).await;
        let handler = |job: Probe, cx: JobContext| async move {
            let number = job.value.as_u64().unwrap();
            if number.is_multiple_of(10) && cx.attempt == 1 {
                return Err(JobError::retry_after("not yet", std::time::Duration::ZERO));
            }
            if number % 10 == 1 {
                cx.progress(1, 2);
            }
            if number % 10 == 2 {
                return Err(JobError::abort("never"));
            }
            Ok(job.value)
        };
        let worker = start(worker(db).await.register(handler));
        let tenth = MANY / 10;
        eventually("all have ended", async || {
            count(&queue, JobStatus::Done).await == MANY - tenth && count(&queue, JobStatus::Dead).await == tenth
        })
        .await;
        assert_eq!(worker.end().await, Ended::Drained);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE status = 'done' AND attempt = 2").await, tenth);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job_attempt WHERE error = 'not yet' AND attempt = 1").await, tenth);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE status = 'dead' AND attempt = 1 AND error = 'never'").await, tenth);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE progress_done = 1 AND progress_total = 2").await, tenth);
        assert_eq!(claims(db).await, 0);
    }

    async fn a_result_that_is_refused_is_the_end_of_its_job(db) {
        let queue = filled(db, MANY).await;
        // Deeper than PostgreSQL reads; SQLite takes it.
        let worker = worker(db).await.register(|job: Anything| async move {
            let deep = job.value.as_i64() == Some(MANY - 1);
            let depth = if deep { 200_000 } else { 1 };
            let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            Ok::<_, JobError>(RawValue::from_string(nested).unwrap())
        });
        let worker = start(worker);
        let refused = i64::from(!db.is_sqlite());
        eventually("all have ended", async || {
            count(&queue, JobStatus::Done).await == MANY - refused && count(&queue, JobStatus::Dead).await == refused
        })
        .await;
        assert_eq!(worker.end().await, Ended::Drained);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE attempt <> 1").await, 0);
        assert_eq!(claims(db).await, 0);
    }

    // PostgreSQL alone has such claims: here one is laid by hand, as its worker left it.
    async fn what_a_dead_worker_had_claimed_is_rescued_and_its_attempt_counted(db) {
        if db.is_sqlite() {
            return;
        }
        let queue = filled(db, 3).await;
        lay_claim(db, "WHERE CAST(payload AS text) <> CAST((SELECT payload FROM {}job ORDER BY id LIMIT 1) AS text)").await;
        let gate = Arc::new(Semaphore::new(0));
        let handler = gate.clone();
        let mut options = lively();
        options.rescue_after = std::time::Duration::from_millis(200);
        let worker = Worker::new(ticking(db).await)
            .options(options)
            .register(move |job: Probe| gated(handler.clone(), job));
        let worker = start(worker);
        eventually("the one that nobody has claimed runs", async || count(&queue, JobStatus::Running).await > 0).await;
        gate.add_permits(3);
        eventually("all are done", async || count(&queue, JobStatus::Done).await == 3).await;
        assert_eq!(worker.end().await, Ended::Drained);
        assert_eq!(claims(db).await, 0);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE attempt = 1").await, 1);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE attempt = 2").await, 2);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job_attempt WHERE error LIKE '%silent%'").await, 2);
    }

    // PostgreSQL alone, see above.
    async fn a_job_of_a_claim_that_is_cancelled_counts_as_running(db) {
        if db.is_sqlite() {
            return;
        }
        let queue = filled(db, 2).await;
        lay_claim(db, "").await;
        let id = db.texts("SELECT CAST(id AS text) FROM {}job ORDER BY id").await[0].parse().unwrap();
        assert!(queue.cancel(id).await.unwrap());
        let cancelled = job(&queue, id).await;
        assert_eq!((cancelled.status, cancelled.attempt), (JobStatus::Running, 1));
        assert!(cancelled.cancelled_at.is_some() && cancelled.worker.is_some());
        assert_eq!(count(&queue, JobStatus::Queued).await, 1);
        assert_eq!(count(&queue, JobStatus::Running).await, 1);
    }

    // PostgreSQL alone, see above.
    async fn all_that_run_are_cancelled_those_of_a_claim_too(db) {
        if db.is_sqlite() {
            return;
        }
        let queue = filled(db, 3).await;
        lay_claim(db, "WHERE id <> (SELECT id FROM {}job ORDER BY id LIMIT 1)").await;
        let running = JobSelection { status: Some(JobStatus::Running), ..JobSelection::default() };
        let elsewhere = JobSelection { queue: Some("elsewhere".to_owned()), ..running.clone() };
        assert_eq!(queue.cancel_many(&elsewhere).await.unwrap(), Cancelled::default());
        let cancelled = queue.cancel_many(&running).await.unwrap();
        assert_eq!((cancelled.running, cancelled.queued), (2, 0));
        let queued = JobSelection { status: Some(JobStatus::Queued), ..JobSelection::default() };
        let cancelled = queue.cancel_many(&queued).await.unwrap();
        assert_eq!((cancelled.running, cancelled.queued), (0, 1));
    }

    async fn payloads_that_are_large_together_come_with_their_jobs(db) {
        let large = 500;
        let queue = filled(db, 0).await;
        // Each of another length beyond 128 KiB: 65 MB in all.
        let payload = |number: usize| Value::String("x".repeat(131_072 + number));
        let jobs = (0..large).map(|number| NewJob::new(&Probe { value: payload(number) }));
        queue.enqueue_many(jobs).await.unwrap();
        let length = |job: Probe| async move { Ok::<_, JobError>(json!(job.value.as_str().map_or(0, str::len))) };
        let worker = start(worker(db).await.register(length));
        let all = i64::try_from(large).unwrap();
        eventually("all are done", async || count(&queue, JobStatus::Done).await == all).await;
        assert_eq!(claimed_many(db).await > 0, !db.is_sqlite());
        let results = "SELECT DISTINCT CAST(result AS text) FROM {}job WHERE CAST(result AS text) <> '0' ORDER BY 1";
        let lengths: Vec<_> = (0..large).map(|number| (131_072 + number).to_string()).collect();
        assert_eq!(db.texts(results).await, lengths);
        assert_eq!(worker.end().await, Ended::Drained);
    }

    // PostgreSQL alone: on SQLite nobody claims beside a transaction that writes.
    async fn a_job_that_is_being_cancelled_is_claimed_by_nobody(db) {
        if db.is_sqlite() {
            return;
        }
        let queue = filled(db, MANY).await;
        let mut transaction = db.open().await.begin().await.unwrap();
        let ids = db.texts("SELECT CAST(id AS text) FROM {}job ORDER BY id DESC").await;
        let id = ids[0].parse().unwrap();
        assert!(queue.cancel_in(&mut transaction, id).await.unwrap());
        let worker = start(worker(db).await.register(give_back));
        eventually("the others are done", async || count(&queue, JobStatus::Done).await == MANY - 1).await;
        assert_eq!(job(&queue, id).await.status, JobStatus::Queued);
        assert_eq!(claims(db).await, 0);
        transaction.commit().await.unwrap();
        assert_eq!(worker.end().await, Ended::Drained);
        let cancelled = job(&queue, id).await;
        assert_eq!((cancelled.status, cancelled.attempt), (JobStatus::Cancelled, 0));
    }

    // PostgreSQL alone: transactions on SQLite see what there is, or are refused.
    async fn a_transaction_that_does_not_see_the_latest_claims_cancels_nothing(db) {
        if db.is_sqlite() {
            return;
        }
        let queue = filled(db, MANY).await;
        let later = NewJob::new(&probe(MANY)).delay(std::time::Duration::from_secs(3600));
        let later = queue.enqueue_many([later]).await.unwrap()[0].id;
        let mut transaction = db.open().await.begin().await.unwrap();
        carry_out(&mut transaction, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await;
        carry_out(&mut transaction, "SELECT 1").await;
        let worker = start(worker(db).await.register(give_back));
        eventually("all are done", async || count(&queue, JobStatus::Done).await == MANY).await;
        assert!(claimed_many(db).await > 0);
        let error = queue.cancel_in(&mut transaction, later).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        drop(transaction);
        let mut transaction = db.open().await.begin().await.unwrap();
        carry_out(&mut transaction, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await;
        assert!(queue.cancel_in(&mut transaction, later).await.unwrap());
        transaction.commit().await.unwrap();
        assert_eq!(job(&queue, later).await.status, JobStatus::Cancelled);
        assert_eq!(worker.end().await, Ended::Drained);
    }

    // PostgreSQL alone: SQLite has no locks of rows.
    async fn a_job_that_somebody_holds_keeps_no_other_from_saying_that_it_runs(db) {
        if db.is_sqlite() {
            return;
        }
        let slots = i64::try_from(SLOTS).unwrap();
        let gate = Arc::new(Semaphore::new(0));
        let handler = gate.clone();
        let queue = filled(db, MANY).await;
        let mut holder = db.open().await.begin().await.unwrap();
        let lock = format!(
            "SELECT id FROM \"{}\".job ORDER BY id LIMIT 1 FOR UPDATE",
            db.schema
        );
        carry_out(&mut holder, &lock).await;
        let worker = start(worker(db).await.register(move |job: Probe| gated(handler.clone(), job)));
        eventually("the others run", async || count(&queue, JobStatus::Running).await == slots - 1).await;
        assert_eq!(claims(db).await, 1);
        holder.rollback().await.unwrap();
        eventually("it does too, and no claim is left", async || claims(db).await == 0).await;
        gate.add_permits(MANY as usize);
        eventually("all are done", async || count(&queue, JobStatus::Done).await == MANY).await;
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE attempt <> 1").await, 0);
        assert_eq!(worker.end().await, Ended::Drained);
    }

    // PostgreSQL alone, see above.
    async fn where_others_claim_all_the_time_jobs_are_claimed_by_their_own_rows(db) {
        if db.is_sqlite() {
            return;
        }
        let queue = filled(db, MANY).await;
        db.execute("INSERT INTO {}job_queue (name) VALUES ('default')").await;
        let mut other = db.open().await.begin().await.unwrap();
        let share = format!("SELECT name FROM \"{}\".job_queue FOR KEY SHARE", db.schema);
        carry_out(&mut other, &share).await;
        let worker = start(worker(db).await.register(give_back));
        eventually("all are done", async || count(&queue, JobStatus::Done).await == MANY).await;
        assert_eq!(claimed_many(db).await, 0);
        drop(other);
        assert_eq!(worker.end().await, Ended::Drained);
    }

    // PostgreSQL alone, see above.
    async fn whoever_claims_a_few_is_not_starved_by_those_who_claim_many_all_the_time(db) {
        if db.is_sqlite() {
            return;
        }
        let queue = filled(db, 0).await;
        let claim = format!(
            "INSERT INTO \"{}\".job_queue AS queue (name, claims) VALUES ('default', 1) \
             ON CONFLICT (name) DO UPDATE SET name = excluded.name, claims = queue.claims + 1",
            db.schema
        );
        let claimer = async || {
            let database = db.open().await;
            loop {
                let mut transaction = database.begin().await.unwrap();
                carry_out(&mut transaction, &claim).await;
                carry_out(&mut transaction, "SELECT pg_sleep(0.02)").await;
                transaction.commit().await.unwrap();
            }
        };
        let all_are_done = async {
            let worker = start(Worker::new(db.open().await).options(lively()).register(give_back));
            filled(db, 50).await;
            eventually("all are done", async || count(&queue, JobStatus::Done).await == 50).await;
            assert_eq!(worker.end().await, Ended::Drained);
        };
        tokio::select! {
            () = claimer() => {}
            () = claimer() => {}
            () = claimer() => {}
            () = all_are_done => {}
        }
    }

    // PostgreSQL alone, see above.
    async fn beside_a_worker_that_does_not_see_them_no_many_are_claimed(db) {
        if db.is_sqlite() {
            return;
        }
        let queue = filled(db, MANY).await;
        db.execute(
            "INSERT INTO {}job_worker (id, host, process, version, names, started_at, heartbeat_at) \
             VALUES (gen_random_uuid(), 'elsewhere', 1, '0.0.1', '[]', now(), now() + interval '1 hour')",
        )
        .await;
        let worker = start(worker(db).await.register(give_back));
        eventually("all are done", async || count(&queue, JobStatus::Done).await == MANY).await;
        assert_eq!(claimed_many(db).await, 0);
        assert_eq!(worker.end().await, Ended::Drained);
    }
}
