//! Where a worker of the same process waits for jobs, they are begun by their own insertion: nobody can tell but by the time it
//! takes, and that nobody claims them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use larder::database::{Database, DatabaseOptions};
use larder::queue::{JobId, JobStatus, NewJob, QueueLimits};
use larder::worker::WorkerOptions;
use larder::{JobContext, JobError, Queue, Worker};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::support::{TestDatabase, both_engines};
use crate::work::{
    Probe, Started, becomes, count, eventually, gated, give_back, job, lively, once, probe, run,
    start, ticking, without_polling,
};

/// Has each claim of a job leave its id in a table.
async fn note_claims(db: &TestDatabase) {
    db.execute(if db.is_sqlite() {
        "CREATE TABLE claimed (id TEXT NOT NULL); \
         CREATE TRIGGER claims AFTER UPDATE ON job WHEN OLD.status = 'queued' AND NEW.status = 'running' \
         BEGIN INSERT INTO claimed VALUES (NEW.id); END"
    } else {
        "CREATE TABLE {}claimed (id text NOT NULL); \
         CREATE FUNCTION {}note() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO {}claimed VALUES (CAST(NEW.id AS text)); RETURN NEW; END $$; \
         CREATE TRIGGER claims AFTER UPDATE ON {}job FOR EACH ROW \
         WHEN (OLD.status = 'queued' AND NEW.status = 'running') EXECUTE FUNCTION {}note()"
    })
    .await;
}

async fn claims_of(db: &TestDatabase, id: JobId) -> i64 {
    db.number(&format!(
        "SELECT COUNT(*) FROM {{}}claimed WHERE id = '{id}'"
    ))
    .await
}

/// Enqueues until a worker was found waiting: a job that runs, or has run, and that nobody has claimed.
async fn begun_at_once(
    db: &TestDatabase,
    enqueue: impl AsyncFn() -> larder::Result<larder::queue::Enqueued>,
) -> JobId {
    let mut begun = None;
    eventually("a job is begun as it is enqueued", async || {
        let id = enqueue().await.unwrap().id;
        let began =
            format!("SELECT COUNT(*) FROM {{}}job WHERE id = '{id}' AND status <> 'queued'");
        let at_once = db.number(&began).await == 1 && claims_of(db, id).await == 0;
        begun = at_once.then_some(id);
        at_once
    })
    .await;
    begun.unwrap()
}

/// A worker whose jobs go by `handler`, and that is found waiting.
async fn waiting<Args: 'static>(
    db: &TestDatabase,
    database: Database,
    options: WorkerOptions,
    handler: impl larder::worker::Handler<Probe, Args>,
) -> (Queue, Started) {
    note_claims(db).await;
    let queue = Queue::new(database.clone());
    let worker = start(Worker::new(database).options(options).register(handler));
    let first = begun_at_once(db, async || queue.enqueue(&probe(0)).await).await;
    becomes(&queue, first, JobStatus::Done).await;
    (queue, worker)
}

/// How often each value was run.
type Runs = Arc<Mutex<BTreeMap<i64, u32>>>;

async fn counted(runs: Runs, job: Probe) -> Result<Value, JobError> {
    let value = job.value.as_i64().unwrap();
    *runs.lock().unwrap().entry(value).or_default() += 1;
    Ok(job.value)
}

both_engines! {
    async fn a_job_that_is_begun_by_its_insertion_is_in_all_like_one_that_was_claimed(db) {
        let gate = Arc::new(Semaphore::new(0));
        let handler = {
            let gate = gate.clone();
            move |job: Probe| gated(gate.clone(), job)
        };
        let database = db.open().await;
        note_claims(db).await;
        let queue = Queue::new(database.clone());
        let mut options = lively();
        options.concurrency = 1_000;
        let worker = start(Worker::new(database).options(options).register(handler));
        let claimed = queue.enqueue(&probe("some text")).await.unwrap().id;
        becomes(&queue, claimed, JobStatus::Running).await;
        assert_eq!(claims_of(db, claimed).await, 1, "nothing is known of the queue yet");
        let at_once = begun_at_once(db, async || queue.enqueue(&probe("some text")).await).await;
        // The clock stands still.
        let columns = "name, queue, status, due, priority, attempt, max_attempts, released, unique_key, schedule, tick, \
            run_at, created_at, started_at, finished_at, worker, error, CAST(payload AS text), CAST(result AS text), cancelled_at, \
            progress_done, progress_total, limit_key, max_running";
        let kinds = async || db.number(&format!(
            "SELECT COUNT(*) FROM (SELECT DISTINCT {columns} FROM {{}}job WHERE id IN ('{claimed}', '{at_once}')) AS kinds"
        )).await;
        assert_eq!(kinds().await, 1);
        gate.add_permits(1_000);
        for id in [claimed, at_once] {
            let done = becomes(&queue, id, JobStatus::Done).await;
            assert_eq!((done.attempt, done.result.unwrap().get()), (1, "\"some text\""));
            assert_eq!(done.started_at, Some(done.created_at));
            assert!(done.worker.is_some() && queue.attempts(id).await.unwrap().is_empty());
        }
        worker.end().await;
    }

    async fn no_more_run_at_once_than_there_are_slots(db) {
        let (gate, begun) = (Arc::new(Semaphore::new(1_000)), Arc::new(AtomicUsize::new(0)));
        let handler = {
            let (gate, begun) = (gate.clone(), begun.clone());
            move |job: Probe| {
                begun.fetch_add(1, Ordering::SeqCst);
                gated(gate.clone(), job)
            }
        };
        let mut options = lively();
        options.concurrency = 2;
        let (queue, worker) = waiting(db, ticking(db).await, options, handler).await;
        gate.forget_permits(1_000);
        begun.store(0, Ordering::SeqCst);
        // Some at once, and those one after the other.
        for _ in 0..4 {
            let calls = (0..4).map(|n| queue.enqueue(&probe(n)).into_future());
            for told in join_all(calls).await {
                assert!(told.unwrap().inserted);
            }
        }
        for ended in 0..=14 {
            eventually("the slots are taken", async || begun.load(Ordering::SeqCst) >= 2 + ended).await;
            assert_eq!(begun.load(Ordering::SeqCst), 2 + ended);
            gate.add_permits(1);
        }
        gate.add_permits(1);
        eventually("all are done", async || count(&queue, JobStatus::Running).await == 0).await;
        assert_eq!(count(&queue, JobStatus::Queued).await, 0);
        worker.end().await;
    }

    async fn one_that_is_ready_and_that_the_worker_has_not_heard_of_is_not_overtaken(db) {
        let order = Arc::<Mutex<Vec<Value>>>::default();
        let handler = {
            let order = order.clone();
            move |job: Probe| {
                order.lock().unwrap().push(job.value.clone());
                give_back(job)
            }
        };
        let mut options = without_polling();
        (options.concurrency, options.listen) = (1, false);
        let (queue, worker) = waiting(db, ticking(db).await, options, handler).await;
        // One who opens the database for itself counts as another process.
        let other = Queue::new(ticking(db).await);
        for round in 0..10 {
            order.lock().unwrap().clear();
            let theirs = probe("theirs");
            let theirs = match round % 2 {
                0 => other.enqueue(&theirs),
                _ => other.enqueue(&theirs).limit_running("key", 1),
            };
            let theirs = theirs.await.unwrap().id;
            let ours = queue.enqueue(&probe("ours")).await.unwrap().id;
            for id in [theirs, ours] {
                becomes(&queue, id, JobStatus::Done).await;
            }
// Those that are claimed by one statement may begin in either order.
            let in_order = *order.lock().unwrap() == ["theirs", "ours"];
            assert!(in_order || claims_of(db, ours).await == 1, "round {round}");
        }
        worker.end().await;
    }

    async fn nothing_of_a_paused_queue_is_begun_and_all_of_it_is_when_it_is_resumed(db) {
        let (queue, worker) = waiting(db, ticking(db).await, without_polling(), give_back).await;
        assert!(queue.pause("default").await.unwrap());
        let mut jobs = Vec::new();
        for n in 0..30 {
            jobs.push(queue.enqueue(&probe(n)).await.unwrap().id);
            // Time for the worker to find nothing, and to wait again.
            let other = queue.enqueue(&probe(n)).queue("other").await.unwrap().id;
            becomes(&queue, other, JobStatus::Done).await;
        }
        for id in &jobs {
            let job = job(&queue, *id).await;
            assert_eq!((job.status, job.attempt, job.worker), (JobStatus::Queued, 0, None));
            assert_eq!(job.started_at, None);
        }
        queue.resume("default").await.unwrap();
        for id in jobs {
            assert_eq!(becomes(&queue, id, JobStatus::Done).await.attempt, 1);
        }
        worker.end().await;
    }

    async fn what_has_a_limit_or_a_time_or_a_name_that_nobody_knows_is_not(db) {
        let mut options = without_polling();
        let mut limits = QueueLimits::default();
        limits.max_running = Some(1_000);
        options.queue_limits.insert("limited".to_owned(), limits);
        let (queue, worker) = waiting(db, ticking(db).await, options, give_back).await;
        for n in 0..10 {
            let unknown = NewJob::named("unknown", &crate::support::raw("{}"));
            let later = queue.enqueue(&probe(n)).delay(Duration::from_secs(3600)).await.unwrap().id;
            // Of a queue of its own: what nobody claims would be before all that comes.
            let unknown = queue.enqueue_new(unknown.queue("unknown")).await.unwrap().id;
            let limited = queue.enqueue(&probe(n)).queue("limited").await.unwrap().id;
            let keyed = queue.enqueue(&probe(n)).limit_running("key", 1_000).await.unwrap().id;
            for id in [limited, keyed] {
                becomes(&queue, id, JobStatus::Done).await;
                assert_eq!(claims_of(db, id).await, 1);
            }
            for id in [later, unknown] {
                let job = job(&queue, id).await;
                assert_eq!((job.status, job.attempt), (JobStatus::Queued, 0));
            }
            // The worker does wait.
            let at_once = begun_at_once(db, async || queue.enqueue(&probe(n)).await).await;
            becomes(&queue, at_once, JobStatus::Done).await;
        }
        worker.end().await;
    }

    async fn a_name_that_nobody_knows_stays_queued_in_a_queue_that_is_served(db) {
        let (queue, worker) = waiting(db, ticking(db).await, without_polling(), give_back).await;
        let unknown = || NewJob::named("unknown", &crate::support::raw("{}"));
        let ids = join_all((0..10).map(|_| queue.enqueue_new(unknown()).into_future())).await;
        let known = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, known, JobStatus::Done).await;
        for id in ids {
            let job = job(&queue, id.unwrap().id).await;
            assert_eq!((job.status, job.attempt, job.worker), (JobStatus::Queued, 0, None));
        }
        worker.end().await;
    }

    async fn one_that_fails_is_tried_again_and_its_attempt_is_kept(db) {
        let handler = async |job: Probe, cx: JobContext| {
            if job.value == "fails" && cx.attempt == 1 {
                return Err(JobError::retry_after("not yet", Duration::from_millis(1)));
            }
            Ok(job.value)
        };
        let (queue, worker) = waiting(db, ticking(db).await, lively(), handler).await;
        for _ in 0..10 {
            let id = queue.enqueue(&probe("fails")).await.unwrap().id;
            let done = becomes(&queue, id, JobStatus::Done).await;
            let attempts = queue.attempts(id).await.unwrap();
            assert_eq!((done.attempt, attempts.len()), (2, 1));
            assert_eq!((attempts[0].attempt, attempts[0].error.as_deref()), (1, Some("not yet")));
            assert!(attempts[0].worker.is_some());
        }
        worker.end().await;
    }

    async fn one_is_begun_where_statements_have_no_names(db) {
        let database = db.options().prepared(false).connect().await.unwrap();
        let (queue, worker) = waiting(db, database, lively(), give_back).await;
        let id = begun_at_once(db, async || queue.enqueue(&probe(1)).await).await;
        becomes(&queue, id, JobStatus::Done).await;
        worker.end().await;
    }

    async fn one_that_runs_is_cancelled(db) {
        let handler = async |job: Probe, cx: JobContext| {
            if job.value == "waits" {
                cx.cancellation().cancelled().await;
                return Err(JobError::abort("it was told"));
            }
            Ok(job.value)
        };
        let mut options = without_polling();
        // Of those that were not begun at once it need not wait.
        options.shutdown_timeout = Duration::from_millis(50);
        let (queue, worker) = waiting(db, ticking(db).await, options, handler).await;
        let id = begun_at_once(db, async || queue.enqueue(&probe("waits")).await).await;
        assert!(queue.cancel(id).await.unwrap());
        let cancelled = becomes(&queue, id, JobStatus::Cancelled).await;
        assert_eq!(cancelled.error.as_deref(), Some("it was told"));
        worker.end().await;
    }

    async fn a_worker_that_stops_while_others_enqueue_leaves_nothing_running_and_nothing_runs_twice(db) {
        let (database, runs) = (ticking(db).await, Runs::default());
        let queue = Queue::new(database.clone());
        let mut sent = 0;
        for _ in 0..10 {
            let counts = runs.clone();
            let worker = Worker::new(database.clone()).options(lively());
            let worker = start(worker.register(move |job: Probe| counted(counts.clone(), job)));
            let enqueue = async |value| {
                queue.enqueue(&probe(value)).await.unwrap();
            };
            // One by one, so that the worker is found waiting.
            for value in sent..sent + 20 {
                enqueue(value).await;
            }
            let stopped = worker.stop();
            join_all((sent + 20..sent + 40).map(enqueue)).await;
            stopped.await;
            assert_eq!(count(&queue, JobStatus::Running).await, 0);
            sent += 40;
        }
        let counts = runs.clone();
        run(Worker::new(database).options(once()).register(move |job: Probe| counted(counts.clone(), job))).await;
        assert_eq!(count(&queue, JobStatus::Done).await, sent);
        assert_eq!(*runs.lock().unwrap(), (0..sent).map(|value| (value, 1)).collect());
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE attempt <> 1").await, 0);
    }

    async fn nothing_is_begun_by_a_worker_that_was_dropped(db) {
        let database = ticking(db).await;
        note_claims(db).await;
        let queue = Queue::new(database.clone());
        let worker = Worker::new(database).options(without_polling()).register(give_back);
        let worker = tokio::spawn(worker.run_until(std::future::pending()));
        let first = begun_at_once(db, async || queue.enqueue(&probe(0)).await).await;
        becomes(&queue, first, JobStatus::Done).await;
        worker.abort();
        assert!(worker.await.unwrap_err().is_cancelled());
        for n in 0..20 {
            let id = queue.enqueue(&probe(n)).await.unwrap().id;
            assert_eq!(job(&queue, id).await.status, JobStatus::Queued);
        }
    }

    async fn each_of_many_runs_once_beside_a_worker_of_another_process(db) {
        const TASKS: i64 = 16;
        const EACH: i64 = 25;
        let (database, runs) = (ticking(db).await, Runs::default());
        let worker = async |database| {
            let runs = runs.clone();
            let worker = Worker::new(database).options(lively());
            start(worker.register(move |job: Probe| counted(runs.clone(), job)))
        };
        // One who opens the database for itself counts as another process.
        let workers = [worker(database.clone()).await, worker(ticking(db).await).await];
        let queue = Queue::new(database.clone());
        let tasks = (0..TASKS).map(|task| {
            // Queues of their own, whose statements go beside each other, and one that they share.
            let queue = if task % 2 == 0 { queue.clone() } else { Queue::new(database.clone()) };
            tokio::spawn(async move {
                for at in 0..EACH {
                    queue.enqueue(&probe(task * EACH + at)).await.unwrap();
                    if at % 5 == 0 {
                        tokio::time::sleep(Duration::from_millis(3)).await;
                    }
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let all = TASKS * EACH;
        eventually("all are done", async || count(&queue, JobStatus::Done).await == all).await;
        for worker in workers {
            worker.end().await;
        }
        assert_eq!(*runs.lock().unwrap(), (0..all).map(|value| (value, 1)).collect());
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE attempt <> 1").await, 0);
    }
}

/// PostgreSQL's own: locks that a test holds keep an insertion under way, and a network loses its answer. SQLite has neither.
mod postgres_answer {
    use sqlx::{Connection, PgConnection};

    use super::*;
    use crate::proxy::Proxy;

    /// Has insertions of jobs that run wait for whoever holds them.
    async fn hold_insertions(db: &TestDatabase) {
        db.execute(
            "CREATE FUNCTION {}wait() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared(hashtext(TG_TABLE_SCHEMA)); RETURN NEW; END $$; \
             CREATE TRIGGER wait BEFORE INSERT ON {}job FOR EACH ROW WHEN (NEW.status = 'running') \
             EXECUTE FUNCTION {}wait()",
        )
        .await;
    }

    /// How many insertions wait.
    async fn under_way(db: &TestDatabase) -> i64 {
        let waits =
            "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE '%";
        db.number(&format!(
            "{waits}{}%'",
            db.schema.trim_start_matches("Test ")
        ))
        .await
    }

    /// By the proxy, so that what falls silent is found out with the first of them.
    async fn by_one_connection(db: &TestDatabase, proxy: &Proxy) -> Database {
        let options = DatabaseOptions::new(&proxy.url).schema(&db.schema);
        let options = options.acquire_timeout(Duration::from_millis(300));
        options.max_connections(1).connect().await.unwrap()
    }

    type Asked = tokio::task::JoinHandle<larder::Result<larder::queue::Enqueued>>;

    /// A job whose insertion as running is under way, until the lock is given up.
    async fn enqueued(db: &TestDatabase, queue: &Queue) -> Asked {
        let mut asked = None;
        eventually("an insertion is under way", async || {
            let queue = queue.clone();
            let call = tokio::spawn(async move { queue.enqueue(&probe(1)).await });
            eventually("it is answered or under way", async || {
                call.is_finished() || under_way(db).await == 1
            })
            .await;
            let waits = !call.is_finished();
            asked = waits.then_some(call);
            waits
        })
        .await;
        asked.unwrap()
    }

    struct Held {
        queue: Queue,
        worker: Started,
        runs: Runs,
        told: Arc<Semaphore>,
    }

    /// A worker that is found waiting, and looks for nothing by itself.
    async fn found_waiting(db: &TestDatabase, database: Database) -> Held {
        let mut options = without_polling();
        (options.listen, options.rescue_after) = (false, Duration::from_secs(3600));
        let runs = Runs::default();
        let told = Arc::new(Semaphore::new(0));
        let handler = {
            let (runs, told) = (runs.clone(), told.clone());
            move |job: Probe, cx: JobContext| {
                let (runs, told) = (runs.clone(), told.clone());
                async move {
                    if job.value == "until the stop" {
                        told.add_permits(1);
                        cx.stopping().cancelled().await;
                        told.add_permits(1);
                        return Ok(job.value);
                    }
                    counted(runs, job).await
                }
            }
        };
        let (queue, worker) = waiting(db, database, options, handler).await;
        hold_insertions(db).await;
        runs.lock().unwrap().clear();
        Held {
            queue,
            worker,
            runs,
            told,
        }
    }

    impl Held {
        /// Returns when a job runs that notices the stop.
        async fn notices_the_stop(&self) {
            self.queue.enqueue(&probe("until the stop")).await.unwrap();
            self.is_told().await;
        }

        async fn is_told(&self) {
            let told = self.told.acquire();
            crate::work::within(told).await.unwrap().forget();
        }

        /// Those of the value 1 are done, each by one run of one attempt.
        async fn each_is_done_once(self) {
            eventually("all are done", async || {
                let counts = self.queue.counts().await;
                let runs = self.runs.lock().unwrap().contains_key(&1);
                runs && counts
                    .is_ok_and(|counts| counts.iter().all(|of| of.status == JobStatus::Done))
            })
            .await;
            self.worker.end().await;
            let mut jobs = Vec::new();
            eventually("they are listed", async || {
                let listed = self.queue.list(&larder::queue::JobFilter::default()).await;
                listed.map(|listed| jobs = listed).is_ok()
            })
            .await;
            assert!(jobs.iter().all(|job| job.attempt == 1));
            let ones = jobs.iter().filter(|job| job.payload.get().contains('1'));
            let run = self.runs.lock().unwrap().get(&1).copied();
            assert_eq!(run, Some(u32::try_from(ones.count()).unwrap()));
        }
    }

    #[test]
    fn one_whose_answer_never_comes_runs_once_and_soon() {
        crate::support::run(TestDatabase::postgres, async |db| {
            let proxy = Proxy::before(&db.url).await;
            let database = by_one_connection(db, &proxy).await;
            let waiting = found_waiting(db, database).await;
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let lock = crate::work::hold_waits(db, &mut other).await;
            let asked = enqueued(db, &waiting.queue).await;
            proxy.silence();
            lock.rollback().await.unwrap();
            assert!(asked.await.unwrap().unwrap().inserted, "it was sent again");
            waiting.each_is_done_once().await;
        });
    }

    #[test]
    fn one_that_is_there_after_all_when_its_caller_was_told_of_an_error_runs_once_and_soon() {
        crate::support::run(TestDatabase::postgres, async |db| {
            let proxy = Proxy::before(&db.url).await;
            let database = by_one_connection(db, &proxy).await;
            let waiting = found_waiting(db, database).await;
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let lock = crate::work::hold_waits(db, &mut other).await;
            let asked = enqueued(db, &waiting.queue).await;
            proxy.silence();
            eventually("it is sent again", async || under_way(db).await == 2).await;
            proxy.silence();
            let told = asked.await.unwrap();
            assert!(told.unwrap_err().is_transient());
            let looked = "SELECT COUNT(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE                  'SELECT id, attempt, started_at FROM%";
            let looked = format!("{looked}{}%'", db.schema.trim_start_matches("Test "));
            eventually("its worker has looked, and found nothing", async || {
                db.number(&looked).await > 0
            })
            .await;
            lock.rollback().await.unwrap();
            waiting.each_is_done_once().await;
        });
    }

    #[test]
    fn one_that_is_under_way_or_runs_is_not_taken_for_a_claim_that_was_lost() {
        crate::support::run(TestDatabase::postgres, async |db| {
            let (runs, gate) = (Runs::default(), Arc::new(Semaphore::new(0)));
            let handler = {
                let (runs, gate) = (runs.clone(), gate.clone());
                move |job: Probe| {
                    let (runs, gate) = (runs.clone(), gate.clone());
                    async move {
                        if job.value == 1 {
                            counted(runs, probe(1)).await?;
                            gate.acquire().await?.forget();
                        }
                        Ok::<_, JobError>(job.value)
                    }
                }
            };
            let mut options = without_polling();
            // So often it looks for them.
            options.rescue_after = Duration::from_millis(1_500);
            let (queue, worker) = waiting(db, ticking(db).await, options, handler).await;
            hold_insertions(db).await;
            gate.add_permits(1_000);
            let looked = async || {
                let since = db
                    .number("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS bigint)");
                let looks = format!(
                    "SELECT COUNT(*) FROM pg_stat_activity WHERE state = 'idle' AND query_start >= to_timestamp({} / 1000.0) \
                     AND query LIKE 'SELECT id, attempt, started_at FROM%{}%'",
                    since.await,
                    db.schema.trim_start_matches("Test ")
                );
                eventually("it looks", async || db.number(&looks).await > 0).await;
            };
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let lock = crate::work::hold_waits(db, &mut other).await;
            let asked = enqueued(db, &queue).await;
            gate.forget_permits(1_000);
            runs.lock().unwrap().clear();
            looked().await;
            lock.rollback().await.unwrap();
            let id = asked.await.unwrap().unwrap().id;
            looked().await;
            assert_eq!(job(&queue, id).await.status, JobStatus::Running);
            gate.add_permits(1);
            assert_eq!(becomes(&queue, id, JobStatus::Done).await.attempt, 1);
            assert_eq!(runs.lock().unwrap().get(&1), Some(&1));
            worker.end().await;
        });
    }

    #[test]
    fn one_whose_caller_has_gone_runs_once() {
        crate::support::run(TestDatabase::postgres, async |db| {
            let waiting = found_waiting(db, ticking(db).await).await;
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let lock = crate::work::hold_waits(db, &mut other).await;
            let asked = enqueued(db, &waiting.queue).await;
            asked.abort();
            assert!(asked.await.unwrap_err().is_cancelled());
            lock.rollback().await.unwrap();
            eventually("it is there", async || {
                db.number("SELECT COUNT(*) FROM {}job WHERE CAST(payload AS text) LIKE '%1%'")
                    .await
                    > 0
            })
            .await;
            waiting.each_is_done_once().await;
        });
    }

    #[test]
    fn one_whose_insertion_is_under_way_at_the_signal_goes_back() {
        crate::support::run(TestDatabase::postgres, async |db| {
            let waiting = found_waiting(db, ticking(db).await).await;
            waiting.notices_the_stop().await;
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let lock = crate::work::hold_waits(db, &mut other).await;
            let asked = enqueued(db, &waiting.queue).await;
            let told = waiting.told.clone();
            let ended = waiting.worker.stop();
            crate::work::within(told.acquire()).await.unwrap().forget();
            lock.rollback().await.unwrap();
            let id = asked.await.unwrap().unwrap().id;
            ended.await;
            let job = job(&waiting.queue, id).await;
            assert_eq!((job.status, job.attempt), (JobStatus::Queued, 0));
            assert_eq!(waiting.runs.lock().unwrap().get(&1), None);
        });
    }

    #[test]
    fn one_whose_answer_never_comes_to_a_worker_that_stops_goes_back_before_that_ends() {
        crate::support::run(TestDatabase::postgres, async |db| {
            let proxy = Proxy::before(&db.url).await;
            let database = by_one_connection(db, &proxy).await;
            let waiting = found_waiting(db, database).await;
            waiting.notices_the_stop().await;
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let lock = crate::work::hold_waits(db, &mut other).await;
            let asked = enqueued(db, &waiting.queue).await;
            let told = waiting.told.clone();
            let ended = waiting.worker.stop();
            crate::work::within(told.acquire()).await.unwrap().forget();
            proxy.silence();
            lock.rollback().await.unwrap();
            let id = asked.await.unwrap().unwrap().id;
            ended.await;
            let queue = Queue::new(ticking(db).await);
            let job = job(&queue, id).await;
            assert_eq!((job.status, job.attempt), (JobStatus::Queued, 0));
            assert_eq!(waiting.runs.lock().unwrap().get(&1), None);
        });
    }

    #[test]
    fn one_whose_worker_is_dropped_meanwhile_goes_back() {
        crate::support::run(TestDatabase::postgres, async |db| {
            // The one that the insertion has.
            let options = DatabaseOptions::new(&db.url).schema(&db.schema);
            let database = options.max_connections(1).connect().await.unwrap();
            note_claims(db).await;
            let queue = Queue::new(database.clone());
            let worker = Worker::new(database)
                .options(without_polling())
                .register(give_back);
            let worker = tokio::spawn(worker.run_until(std::future::pending()));
            begun_at_once(db, async || queue.enqueue(&probe(0)).await).await;
            hold_insertions(db).await;
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let lock = crate::work::hold_waits(db, &mut other).await;
            let asked = enqueued(db, &queue).await;
            worker.abort();
            assert!(worker.await.unwrap_err().is_cancelled());
            lock.rollback().await.unwrap();
            let id = asked.await.unwrap().unwrap().id;
            let job = becomes(&queue, id, JobStatus::Queued).await;
            assert_eq!((job.attempt, job.worker), (0, None));
        });
    }

    #[test]
    fn a_pause_waits_for_an_insertion_that_is_under_way() {
        crate::support::run(TestDatabase::postgres, async |db| {
            let waiting = found_waiting(db, ticking(db).await).await;
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let lock = crate::work::hold_waits(db, &mut other).await;
            let asked = enqueued(db, &waiting.queue).await;
            let pausing = tokio::spawn({
                let queue = waiting.queue.clone();
                async move { queue.pause("default").await }
            });
            eventually("the pause waits, or has returned", async || {
                let waits = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND locktype IN ('tuple', 'transactionid')                      AND pid IN (SELECT pid FROM pg_stat_activity WHERE query LIKE '%";
                let waits = format!("{waits}{}%')", db.schema.trim_start_matches("Test "));
                pausing.is_finished() || db.number(&waits).await > 0
            })
            .await;
            assert!(
                !pausing.is_finished(),
                "it has returned, and a job of its queue begins"
            );
            lock.rollback().await.unwrap();
            assert!(pausing.await.unwrap().unwrap());
            let id = asked.await.unwrap().unwrap().id;
            becomes(&waiting.queue, id, JobStatus::Done).await;
            waiting.worker.end().await;
        });
    }

    #[test]
    fn who_has_the_row_of_the_queue_holds_up_nobody_who_enqueues() {
        crate::support::run(TestDatabase::postgres, async |db| {
            let waiting = found_waiting(db, ticking(db).await).await;
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let mut pause = other.begin().await.unwrap();
            let hold = format!("SELECT 1 FROM \"{}\".job_queue FOR UPDATE", db.schema);
            sqlx::query(sqlx::AssertSqlSafe(hold))
                .execute(&mut *pause)
                .await
                .unwrap();
            for _ in 0..5 {
                let asked = waiting.queue.enqueue(&probe(1)).into_future();
                let id = crate::work::within(asked).await.unwrap().id;
                assert_eq!(job(&waiting.queue, id).await.status, JobStatus::Queued);
            }
            pause.rollback().await.unwrap();
            waiting.each_is_done_once().await;
        });
    }
}
