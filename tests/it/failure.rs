//! Failures of one job stay with it, and a worker that dies loses none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use larder::queue::{Backoff, Job, JobRecord, JobStatus, NewJob};
use larder::worker::WorkerOptions;
use larder::{JobContext, JobError, Queue, Worker};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use crate::support::{TestDatabase, both_engines, noon};
use crate::work::{
    Anything, Other, Probe, becomes, eventually, give_back, job, lively, once, probe, run, start,
    ticking,
};

const GHOST: &str = "019aabcd-0000-7000-8000-00000000dead";

/// What goes wrong, by the payload.
async fn fail(job: Probe, cx: JobContext) -> Result<Value, JobError> {
    match job.value.as_str().unwrap() {
        "retry" => Err(JobError::retry("try again")),
        "later" => Err(JobError::retry_after("come back", Duration::from_secs(90))),
        "abort" => Err(JobError::abort("hopeless")),
        "chain" => Err(std::io::Error::other("x".parse::<i32>().unwrap_err()))?,
        "caused" => Err(Caused(std::io::Error::other("the disk is full")))?,
        "panic" => panic!("boom {}", cx.attempt),
        "nul" => Err(JobError::abort("a\0b")),
        "fine" => Ok(Value::Bool(true)),
        other => Err(JobError::abort(other)),
    }
}

#[derive(Debug)]
struct Caused(std::io::Error);

impl std::fmt::Display for Caused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot write the report")
    }
}

impl std::error::Error for Caused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// A job whose type has a timeout, and whose result does not serialise.
#[derive(Serialize, Deserialize)]
struct Odd {
    sleeps: bool,
}

impl Job for Odd {
    const NAME: &'static str = "odd";
    type Output = Unwritable;
    const TIMEOUT: Option<Duration> = Some(Duration::from_millis(50));
}

#[derive(Deserialize)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not for writing"))
    }
}

/// The job after one run of a worker that fails it as its payload says, beside one that goes well.
async fn after_failing(db: &TestDatabase, how: &str, attempts: u16) -> JobRecord {
    let queue = Queue::new(db.open().await);
    let id = queue
        .enqueue(&probe(how))
        .max_attempts(attempts)
        .await
        .unwrap()
        .id;
    let fine = queue.enqueue(&probe("fine")).await.unwrap().id;
    run(Worker::new(db.open().await).options(once()).register(fail)).await;
    assert_eq!(job(&queue, fine).await.status, JobStatus::Done);
    job(&queue, id).await
}

/// A worker that was last seen so many seconds ago.
async fn insert_ghost(db: &TestDatabase, seconds_ago: i64) {
    let seen = noon() - TimeDelta::seconds(seconds_ago);
    let (id, at) = if db.is_sqlite() {
        (format!("'{GHOST}'"), seen.timestamp_millis().to_string())
    } else {
        (
            format!("CAST('{GHOST}' AS uuid)"),
            format!("TIMESTAMPTZ '{}'", seen.to_rfc3339()),
        )
    };
    db.execute(&format!(
        "INSERT INTO {{}}job_worker (id, host, process, version, names, started_at, heartbeat_at) VALUES ({id}, 'gone', 1, '0', '[]', {at}, {at})"
    ))
    .await;
}

/// Gives every job to the ghost, as its attempt `attempt`.
async fn haunt(db: &TestDatabase, attempt: u32) {
    let ghost = if db.is_sqlite() {
        format!("'{GHOST}'")
    } else {
        format!("CAST('{GHOST}' AS uuid)")
    };
    db.execute(&format!(
        "UPDATE {{}}job SET status = 'running', due = FALSE, attempt = {attempt}, worker = {ghost}, started_at = created_at"
    ))
    .await;
}

fn never_polling() -> WorkerOptions {
    let mut options = lively();
    options.concurrency = 1;
    options
}

both_engines! {
    async fn a_row_that_somebody_else_wrote_keeps_nobody_from_the_others(db) {
        let queue = Queue::new(db.open().await);
        let insert = async |id: &str, run_at: &str, payload: &str| {
            let (yes, now) = if db.is_sqlite() { ("1", "0") } else { ("TRUE", "now()") };
            db.try_execute(&format!(
                "INSERT INTO {{}}job (id, name, queue, status, due, priority, max_attempts, run_at, created_at, payload) \
                 VALUES ('{id}', 'probe', 'default', 'queued', {yes}, 9, 20, {run_at}, {now}, '{payload}')"
            ))
            .await
        };
        let long_ago = if db.is_sqlite() { "-9000000000000000000" } else { "'-infinity'" };
        assert!(insert("no id", long_ago, "{}").await.is_err());
        assert!(insert("zzzzzzzz-0000-7000-8000-000000000000", long_ago, "{}").await.is_err());
        insert("019aabcd-0000-7000-8000-000000000001", long_ago, "{\"value\": 7}").await.unwrap();
        let broken = insert("019aabcd-0000-7000-8000-000000000002", long_ago, "{\"value\":").await;
        assert_eq!(broken.is_ok(), db.is_sqlite(), "PostgreSQL's type takes JSON alone");
        let good = queue.enqueue(&probe(1)).await.unwrap().id;

        run(Worker::new(db.open().await).options(once()).register(give_back)).await;
        assert_eq!(job(&queue, good).await.status, JobStatus::Done);
        let theirs = job(&queue, "019aabcd-0000-7000-8000-000000000001".parse().unwrap()).await;
        assert_eq!((theirs.status, theirs.result.unwrap().get()), (JobStatus::Done, "7"));
        assert_eq!(theirs.run_at.to_rfc3339(), "0001-01-01T00:00:00+00:00");
        let listed = queue.list(&larder::queue::JobFilter::default()).await.unwrap();
        assert_eq!(listed.len(), if db.is_sqlite() { 3 } else { 2 });
        for job in listed.iter().filter(|job| job.status == JobStatus::Dead) {
            assert_eq!(job.payload.get(), "\"{\\\"value\\\":\"");
            assert!(job.error.as_deref().unwrap().contains("payload"), "{job:?}");
        }
    }

    async fn a_failed_attempt_leaves_its_error_and_waits(db) {
        let job = after_failing(db, "retry", 5).await;
        assert_eq!((job.status, job.attempt), (JobStatus::Queued, 1));
        assert_eq!(job.error.as_deref(), Some("try again"));
        let wait = job.run_at - noon();
        assert!(wait >= TimeDelta::milliseconds(800) && wait <= TimeDelta::milliseconds(1_200), "{wait}");
        assert!(job.finished_at.is_none() && job.worker.is_none());
    }

    async fn an_error_is_told_with_its_causes(db) {
        assert_eq!(after_failing(db, "chain", 5).await.error.as_deref(), Some("invalid digit found in string"));
        assert_eq!(after_failing(db, "caused", 5).await.error.as_deref(), Some("cannot write the report: the disk is full"));
    }

    async fn an_error_with_a_nul_is_stored_all_the_same(db) {
        assert_eq!(after_failing(db, "nul", 5).await.error.as_deref(), Some("a\u{fffd}b"));
    }

    async fn a_handler_says_when_to_try_again_or_never(db) {
        let job = after_failing(db, "later", 5).await;
        assert_eq!((job.status, job.run_at), (JobStatus::Queued, noon() + TimeDelta::seconds(90)));
        let job = after_failing(db, "abort", 5).await;
        assert_eq!((job.status, job.attempt, job.finished_at), (JobStatus::Dead, 1, Some(noon())));
    }

    async fn the_last_attempt_that_fails_leaves_the_job_dead_with_its_error(db) {
        for how in ["retry", "later", "panic"] {
            let job = after_failing(db, how, 1).await;
            assert_eq!((job.status, job.attempt), (JobStatus::Dead, 1));
            assert!(job.error.is_some());
        }
    }

    async fn a_panic_fails_its_own_job_alone(db) {
        let job = after_failing(db, "panic", 5).await;
        assert_eq!((job.status, job.error.as_deref()), (JobStatus::Queued, Some("its handler panicked: boom 1")));
        // Before the handler's future is made, too.
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe(1)).queue("sync").await.unwrap().id;
        let handler = |job: Probe| {
            assert!(!job.value.is_number(), "a number");
            async { Ok::<_, JobError>(Value::Null) }
        };
        run(Worker::new(db.open().await).options(once()).register(handler)).await;
        let job = crate::work::job(&queue, id).await;
        assert_eq!((job.status, job.error.as_deref()), (JobStatus::Queued, Some("its handler panicked: a number")));
    }

    async fn a_timeout_and_an_unwritable_result_fail_their_job_alone(db) {
        let queue = Queue::new(db.open().await);
        let slow = queue.enqueue(&Odd { sleeps: true }).await.unwrap().id;
        let unwritable = queue.enqueue(&Odd { sleeps: false }).max_attempts(1).await.unwrap().id;
        let dropped = Arc::new(AtomicBool::new(false));
        struct SetOnDrop(Arc<AtomicBool>);
        impl Drop for SetOnDrop {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let flag = dropped.clone();
        run(Worker::new(db.open().await).options(once()).register(move |job: Odd| {
            let guard = SetOnDrop(flag.clone());
            async move {
                let guard = guard;
                if job.sleeps {
                    std::future::pending::<()>().await;
                }
                drop(guard);
                Ok::<_, JobError>(Unwritable)
            }
        })).await;
        let slow = job(&queue, slow).await;
        assert_eq!((slow.status, slow.error.as_deref()), (JobStatus::Queued, Some("it took longer than its timeout of 0.05 s")));
        assert!(dropped.load(Ordering::SeqCst), "the handler was ended");
        let unwritable = job(&queue, unwritable).await;
        assert_eq!(unwritable.status, JobStatus::Dead);
        assert!(unwritable.error.unwrap().contains("not for writing"));
    }

    async fn a_payload_that_does_not_fit_leaves_its_job_dead_and_no_other(db) {
        let queue = Queue::new(db.open().await);
        let bad = NewJob::named("probe", &RawValue::from_string(r#"{"valve":1}"#.to_owned()).unwrap());
        let mut ids = vec![queue.enqueue_new(bad).priority(9).await.unwrap().id];
        if db.is_sqlite() {
            // What PostgreSQL's type refuses, SQLite's text may hold.
            let broken = queue.enqueue(&probe(1)).priority(9).await.unwrap().id;
            db.execute(&format!("UPDATE {{}}job SET payload = '{{\"value\": tru' WHERE CAST(id AS text) = '{broken}'")).await;
            let id = queue.enqueue(&probe("fine")).await.unwrap().id;
            run(Worker::new(db.open().await).options(once()).register(fail)).await;
            assert_eq!(job(&queue, id).await.status, JobStatus::Done);
            assert_eq!(db.number("SELECT COUNT(*) FROM job WHERE status = 'dead'").await, 2);
        } else {
            let id = queue.enqueue(&probe("fine")).await.unwrap().id;
            run(Worker::new(db.open().await).options(once()).register(fail)).await;
            assert_eq!(job(&queue, id).await.status, JobStatus::Done);
        }
        let job = job(&queue, ids.pop().unwrap()).await;
        assert_eq!(job.status, JobStatus::Dead);
        assert_eq!(job.error.as_deref(), Some("its payload does not fit the job: missing field `value` at line 1 column 11"));
    }

    async fn a_result_that_the_database_refuses_ends_its_job_and_no_other(db) {
        let queue = Queue::new(db.open().await);
        // Deeper than PostgreSQL reads; SQLite takes it.
        let deep = queue.enqueue(&probe(200_000)).await.unwrap().id;
        let fine = queue.enqueue_many((0..20).map(|_| NewJob::new(&probe(3)))).await.unwrap();
        run(Worker::new(db.open().await).options(once()).register(|job: Anything| async move {
            let depth = usize::try_from(job.value.as_u64().unwrap()).unwrap();
            Ok::<_, JobError>(RawValue::from_string(format!("{}{}", "[".repeat(depth), "]".repeat(depth))).unwrap())
        })).await;
        for id in fine {
            assert_eq!(job(&queue, id.id).await.status, JobStatus::Done);
        }
        let deep = job(&queue, deep).await;
        if db.is_sqlite() {
            assert_eq!(deep.status, JobStatus::Done);
        } else {
            assert_eq!(deep.status, JobStatus::Dead);
            assert!(deep.error.unwrap().starts_with("its outcome could not be stored"));
        }
    }

    async fn the_wait_grows_from_attempt_to_attempt(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe("retry")).await.unwrap().id;
        for seconds in [1, 2, 4, 8, 10, 10] {
            let mut options = once();
            options.backoff = Backoff { cap: Duration::from_secs(10), jitter: 0.0, ..Backoff::default() };
            run(Worker::new(db.open().await).options(options).register(fail)).await;
            let job = job(&queue, id).await;
            assert_eq!(job.run_at, noon() + (db.clock.now() .since(larder::clock::Timestamp::try_from(noon()).unwrap())) + Duration::from_secs(seconds));
            db.advance(i64::try_from(seconds).unwrap());
        }
    }

    async fn the_outcome_of_an_attempt_that_was_taken_away_changes_nothing(db) {
        let queue = Queue::new(db.open().await);
        let gate = Arc::new(Semaphore::new(0));
        let id = queue.enqueue(&probe("first")).await.unwrap().id;
        let handler = {
            let gate = gate.clone();
            move |_: Probe| {
                let gate = gate.clone();
                async move {
                    gate.acquire().await?.forget();
                    Ok::<_, JobError>(Value::from("late"))
                }
            }
        };
        // It has no slot for the job a second time.
        let mut options = never_polling();
        options.concurrency = 1;
        let late = start(Worker::new(db.open().await).options(options).register(handler));
        becomes(&queue, id, JobStatus::Running).await;
        // Somebody took it for dead.
        db.execute("UPDATE {}job SET status = 'queued', due = TRUE, worker = NULL").await;
        run(Worker::new(db.open().await).options(once()).register(|_: Probe| async { Ok::<_, JobError>(Value::from("in time")) })).await;
        assert_eq!(job(&queue, id).await.result.unwrap().get(), r#""in time""#);
        gate.add_permits(1);
        late.end().await;
        let job = job(&queue, id).await;
        assert_eq!((job.status, job.attempt, job.result.unwrap().get()), (JobStatus::Done, 2, r#""in time""#));
    }

    async fn the_jobs_of_a_silent_worker_go_back_at_once_with_their_attempt_counted(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe("fine")).max_attempts(2).await.unwrap().id;
        insert_ghost(db, 30).await;
        haunt(db, 1).await;
        run(Worker::new(db.open().await).options(once()).register(fail)).await;
        let job = job(&queue, id).await;
        assert_eq!((job.status, job.attempt), (JobStatus::Done, 2));
    }

    async fn a_worker_that_beats_as_seldom_as_it_may_rescues_all_the_same(db) {
        let queue = Queue::new(ticking(db).await);
        let id = queue.enqueue(&probe(0)).await.unwrap().id;
        let mut options = lively();
        options.heartbeat = Duration::from_millis(100);
        options.rescue_after = Duration::from_millis(200);
        let (tell, ready) = tokio::sync::oneshot::channel();
        let worker = Worker::new(ticking(db).await).options(options).register(async |_: Other| Ok::<_, JobError>(()));
        let worker = start(worker.on_ready(|| tell.send(()).unwrap()));
        ready.await.unwrap();
        // Not before: it rescues when it starts too.
        haunt(db, 1).await;
        becomes(&queue, id, JobStatus::Queued).await;
        worker.end().await;
    }

    async fn a_worker_without_a_row_is_a_silent_one(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe("fine")).await.unwrap().id;
        haunt(db, 1).await;
        run(Worker::new(db.open().await).options(once()).register(fail)).await;
        assert_eq!(job(&queue, id).await.status, JobStatus::Done);
    }

    async fn a_live_workers_job_is_left_to_it_however_long(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe("fine")).run_at(noon() - TimeDelta::days(30)).await.unwrap().id;
        insert_ghost(db, 29).await;
        haunt(db, 1).await;
        run(Worker::new(db.open().await).options(once()).register(fail)).await;
        assert_eq!(job(&queue, id).await.status, JobStatus::Running);
    }

    async fn a_job_that_kills_its_workers_ends_dead(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe("fine")).max_attempts(3).unique_key("k").await.unwrap().id;
        for attempt in 1..=3 {
            haunt(db, attempt).await;
            // This worker does not know the job, and rescues it all the same.
            run(Worker::new(db.open().await).options(once()).register(|_: Other| async { Ok::<_, JobError>(()) })).await;
            let status = job(&queue, id).await.status;
            assert_eq!(status, if attempt < 3 { JobStatus::Queued } else { JobStatus::Dead });
        }
        let job = job(&queue, id).await;
        assert_eq!(job.error.as_deref(), Some("its worker fell silent for 30 s and is taken for dead"));
        assert!(job.finished_at.is_some());
        assert!(queue.enqueue(&probe("fine")).unique_key("k").await.unwrap().inserted);
    }

    async fn a_worker_at_work_rescues_too(db) {
        let database = ticking(db).await;
        let queue = Queue::new(database.clone());
        let mut options = lively();
        options.rescue_after = Duration::from_millis(400);
        let worker = start(Worker::new(database).options(options).register(fail));
        let first = queue.enqueue(&probe("fine")).await.unwrap().id;
        becomes(&queue, first, JobStatus::Done).await;
        let later = queue.enqueue(&probe("fine")).run_at(chrono::Utc::now() + TimeDelta::days(1)).await.unwrap().id;
        insert_ghost(db, 0).await;
        haunt(db, 1).await;
        becomes(&queue, later, JobStatus::Done).await;
        worker.end().await;
    }

    async fn whoever_was_cut_off_itself_rescues_nobody_until_the_others_had_time_to_come_back(db) {
        let queue = Queue::new(db.open().await);
        let worker = start(Worker::new(db.open().await).options(lively()).register(|_: Other| async { Ok::<_, JobError>(()) }));
        let beaten = async || {
            let at = db.clock.now();
            let at = if db.is_sqlite() { at.as_millis().to_string() } else { format!("'{at}'") };
            eventually("its heartbeat is written", async || {
                db.number(&format!("SELECT COUNT(*) FROM {{}}job_worker WHERE host <> 'gone' AND heartbeat_at = {at}")).await == 1
            }).await;
        };
        // The first beat is that of its start, the second one of its rhythm.
        beaten().await;
        db.advance(1);
        beaten().await;
        let id = queue.enqueue(&probe("fine")).await.unwrap().id;
        insert_ghost(db, 0).await;
        haunt(db, 1).await;
        // For half a minute nobody's heartbeat came through.
        db.advance(31);
        for seconds in [1, 13] {
            beaten().await;
            db.advance(seconds);
        }
        beaten().await;
        assert_eq!(job(&queue, id).await.status, JobStatus::Running);
        db.advance(3);
        becomes(&queue, id, JobStatus::Queued).await;
        worker.end().await;
    }

    async fn whoever_starts_when_nobody_has_beaten_of_late_rescues_nobody_until_the_others_had_time_to_come_back(db) {
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe("fine")).await.unwrap().id;
        insert_ghost(db, 31).await;
        haunt(db, 1).await;
        let worker = start(Worker::new(db.open().await).options(lively()).register(|_: Other| async { Ok::<_, JobError>(()) }));
        let beaten = async || {
            let now = DateTime::<Utc>::from(db.clock.now());
            eventually("its heartbeat is written", async || {
                queue.workers().await.unwrap().iter().any(|worker| worker.heartbeat_at == now)
            }).await;
        };
        for seconds in [1, 14] {
            beaten().await;
            db.advance(seconds);
        }
        beaten().await;
        assert_eq!(job(&queue, id).await.status, JobStatus::Running);
        db.advance(3);
        becomes(&queue, id, JobStatus::Queued).await;
        worker.end().await;

        // Another one beats: the database was there, and who fell silent did so by itself.
        let alive = start(Worker::new(db.open().await).options(never_polling()).register(|_: Other| async { Ok::<_, JobError>(()) }));
        beaten().await;
        haunt(db, 2).await;
        let starts = start(Worker::new(db.open().await).options(never_polling()).register(|_: Other| async { Ok::<_, JobError>(()) }));
        becomes(&queue, id, JobStatus::Queued).await;
        starts.end().await;
        alive.end().await;
    }

    async fn a_claim_that_was_lost_with_its_connection_is_given_back(db) {
        let database = ticking(db).await;
        let queue = Queue::new(database.clone());
        let mut options = lively();
        options.rescue_after = Duration::from_millis(400);
        let worker = start(Worker::new(database).options(options).register(fail));
        let first = queue.enqueue(&probe("fine")).await.unwrap().id;
        becomes(&queue, first, JobStatus::Done).await;
        // The database made the claim, and its answer never came.
        let lost = queue.enqueue(&probe("fine")).run_at(chrono::Utc::now() + TimeDelta::days(1)).await.unwrap().id;
        db.execute(&format!(
            "UPDATE {{}}job SET status = 'running', attempt = 1, worker = (SELECT id FROM {{}}job_worker) WHERE CAST(id AS text) = '{lost}'"
        )).await;
        let job = becomes(&queue, lost, JobStatus::Done).await;
        assert_eq!(job.attempt, 1, "the attempt was given back");
        worker.end().await;
    }

    async fn a_worker_that_ended_well_leaves_no_row_and_silent_ones_are_forgotten(db) {
        drop(db.open().await);
        let workers = async || db.number("SELECT COUNT(*) FROM {}job_worker").await;
        insert_ghost(db, 599).await;
        run(Worker::new(db.open().await).options(once()).register(fail)).await;
        assert_eq!(workers().await, 1);
        db.advance(1);
        run(Worker::new(db.open().await).options(once()).register(fail)).await;
        assert_eq!(workers().await, 0);
    }
}

proptest! {
    #[test]
    fn a_wait_keeps_within_its_bounds(
        base in 0_u64..100_000, factor in 1.0_f64..10.0, cap in 0_u64..10_000_000, jitter in 0.0_f64..=1.0,
        attempt in 0_u32..40_000, random in 0.0_f64..=1.0,
    ) {
        let (base, cap) = (Duration::from_millis(base), Duration::from_millis(cap));
        let backoff = Backoff { base, factor, cap, jitter };
        let wait = backoff.delay(attempt, random);
        let plain = Backoff { jitter: 0.0, ..backoff }.delay(attempt, random);
        let tolerance = Duration::from_millis(1);
        prop_assert!(wait <= cap.mul_f64(1.0 + jitter) + tolerance);
        prop_assert!(wait + tolerance >= plain.mul_f64(1.0 - jitter) && wait <= plain.mul_f64(1.0 + jitter) + tolerance);
        prop_assert!(plain <= cap + tolerance && plain + tolerance >= base.min(cap));
        let next = Backoff { jitter: 0.0, ..backoff }.delay(attempt + 1, random);
        prop_assert!(next >= plain);
    }
}
