//! What holds over the fleet: how many jobs of a queue or of a key run at once, and how many start in a stretch of time.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use larder::queue::{JobFilter, JobId, JobStatus, NewJob, QueueLimits, Rate};
use larder::worker::WorkerOptions;
use larder::{JobError, Queue, Worker};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use tokio::sync::Semaphore;

use crate::support::{TestDatabase, both_engines};
use crate::work::{
    Other, Probe, Started, becomes, count, eventually, job, lively, once, probe, run, start,
    ticking, within, without_polling,
};

const RUNNING: &str = "SELECT COUNT(*) FROM {}job WHERE status = 'running'";
/// Of the key that has most of them.
const RUNNING_OF_A_KEY: &str = "SELECT COALESCE(MAX(n), 0) FROM \
    (SELECT COUNT(*) AS n FROM {}job WHERE status = 'running' AND limit_key IS NOT NULL GROUP BY limit_key) AS counts";

fn limits(max_running: Option<u32>, rate: Option<(u32, u64)>) -> QueueLimits {
    let mut limits = QueueLimits::default();
    limits.max_running = max_running;
    limits.rate = rate.map(|(limit, millis)| Rate {
        limit,
        per: Duration::from_millis(millis),
    });
    limits
}

/// The options of a worker that holds the default queue to these limits.
fn within_limits(mut options: WorkerOptions, limits: QueueLimits) -> WorkerOptions {
    options.queue_limits = BTreeMap::from([("default".to_owned(), limits)]);
    options
}

/// How many handlers run at once of each key, by the payload, and the most that ever did.
#[derive(Clone, Default)]
struct Gauge {
    now: Arc<Mutex<HashMap<String, usize>>>,
    most: Arc<Mutex<HashMap<String, usize>>>,
}

impl Gauge {
    fn step(&self, key: &str, by: isize) -> usize {
        let mut now = self.now.lock().unwrap();
        let count = now.entry(key.to_owned()).or_default();
        *count = count.checked_add_signed(by).unwrap();
        let count = *count;
        let mut most = self.most.lock().unwrap();
        let most = most.entry(key.to_owned()).or_default();
        *most = count.max(*most);
        count
    }

    fn most(&self, key: &str) -> usize {
        self.most.lock().unwrap().get(key).copied().unwrap_or(0)
    }

    /// A handler that is at work for a moment.
    fn handler(&self) -> impl AsyncHandler {
        let gauge = self.clone();
        move |job: Probe| {
            let gauge = gauge.clone();
            Box::pin(async move {
                let key = job.value.as_str().unwrap_or("").to_owned();
                gauge.step(&key, 1);
                gauge.step("all", 1);
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                gauge.step(&key, -1);
                gauge.step("all", -1);
                Ok::<_, JobError>(Value::Null)
            })
        }
    }
}

type Handled = std::pin::Pin<Box<dyn Future<Output = Result<Value, JobError>> + Send>>;

trait AsyncHandler: Fn(Probe) -> Handled + Clone + Send + Sync + 'static {}

impl<F: Fn(Probe) -> Handled + Clone + Send + Sync + 'static> AsyncHandler for F {}

/// Handlers that tell that they have begun, and wait to be let through.
#[derive(Clone)]
struct Gate {
    begun: Arc<AtomicUsize>,
    pass: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self {
            begun: Arc::default(),
            pass: Arc::new(Semaphore::new(0)),
        }
    }

    fn handler(&self) -> impl AsyncHandler {
        let gate = self.clone();
        move |_: Probe| {
            let gate = gate.clone();
            Box::pin(async move {
                gate.begun.fetch_add(1, Ordering::SeqCst);
                gate.pass.acquire().await?.forget();
                Ok::<_, JobError>(Value::Null)
            })
        }
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

/// Workers of one process that have nothing in common but the database, as on several machines.
async fn fleet<H: AsyncHandler>(
    db: &TestDatabase,
    size: usize,
    options: &WorkerOptions,
    handler: &H,
) -> Vec<Started> {
    let mut workers = Vec::new();
    for _ in 0..size {
        let worker = Worker::new(ticking(db).await).options(options.clone());
        workers.push(start(worker.register(handler.clone())));
    }
    workers
}

async fn end(workers: Vec<Started>) {
    for worker in workers {
        worker.end().await;
    }
}

/// Looks at the database all the while until every job is done; gives the most that a statement ever counted.
async fn most_until_done(db: &TestDatabase, queue: &Queue, jobs: i64, counting: &str) -> i64 {
    let mut most = 0;
    eventually("all jobs are done", async || {
        for _ in 0..5 {
            most = most.max(db.number(counting).await);
        }
        count(queue, JobStatus::Done).await == jobs
    })
    .await;
    most
}

/// All `started_at`, in order.
async fn starts(queue: &Queue) -> Vec<chrono::DateTime<chrono::Utc>> {
    let filter = JobFilter {
        limit: 10_000,
        ..JobFilter::default()
    };
    let jobs = queue.list(&filter).await.unwrap();
    let mut starts: Vec<_> = jobs.iter().filter_map(|job| job.started_at).collect();
    starts.sort();
    starts
}

async fn enqueue(queue: &Queue, keys: impl IntoIterator<Item = (&'static str, u32)>) -> Vec<JobId> {
    let jobs = keys.into_iter().map(|(key, most)| match key {
        "" => NewJob::new(&probe("")),
        key => NewJob::new(&probe(key)).limit_running(key, most),
    });
    let enqueued = queue.enqueue_many(jobs).await.unwrap();
    enqueued.iter().map(|enqueued| enqueued.id).collect()
}

both_engines! {
    async fn a_fleet_never_runs_more_of_a_queue_than_max_running(db) {
        let queue = Queue::new(ticking(db).await);
        let (gate, options) = (Gate::new(), within_limits(lively(), limits(Some(3), None)));
        enqueue(&queue, (0..12).map(|n| (["", "key"][n % 2], 9))).await;
        let workers = fleet(db, 4, &options, &gate.handler()).await;
        eventually("three have begun", async || gate.begun() == 3).await;
        // There is room again, however much of it, for as many as have ended.
        gate.pass.add_permits(2);
        eventually("two more have begun", async || gate.begun() >= 5).await;
        assert_eq!((gate.begun(), db.number(RUNNING).await), (5, 3));
        gate.pass.add_permits(100);
        assert!(most_until_done(db, &queue, 12, RUNNING).await <= 3);
        end(workers).await;
    }

    async fn hammered_by_many_workers_a_queue_keeps_to_max_running(db) {
        let queue = Queue::new(ticking(db).await);
        let (gauge, options) = (Gauge::default(), within_limits(lively(), limits(Some(3), None)));
        enqueue(&queue, (0..150).map(|n| (["", "", "key"][n % 3], 2))).await;
        let workers = fleet(db, 4, &options, &gauge.handler()).await;
        assert!(most_until_done(db, &queue, 150, RUNNING).await <= 3);
        assert!((2..=3).contains(&gauge.most("all")), "{}", gauge.most("all"));
        end(workers).await;
    }

    async fn a_fleet_never_runs_more_of_a_key_than_its_jobs_allow(db) {
        let queue = Queue::new(ticking(db).await);
        let gauge = Gauge::default();
        let keys = [("a", 1), ("b", 2), ("c", 2), ("", 0), ("d", 1)];
        enqueue(&queue, (0..200).map(|n| keys[n % 5])).await;
        let workers = fleet(db, 4, &lively(), &gauge.handler()).await;
        assert!(most_until_done(db, &queue, 200, RUNNING_OF_A_KEY).await <= 2);
        for (key, most) in keys {
            assert!(key.is_empty() || gauge.most(key) <= most as usize, "{key}: {}", gauge.most(key));
        }
        assert!(gauge.most("all") > 2, "keys run beside each other");
        end(workers).await;
    }

    async fn a_key_runs_as_many_at_once_as_its_jobs_allow(db) {
        let queue = Queue::new(ticking(db).await);
        let gate = Gate::new();
        enqueue(&queue, [("wide", 5); 9].into_iter().chain([("narrow", 1); 3])).await;
        let worker = start(Worker::new(ticking(db).await).options(without_polling()).register(gate.handler()));
        eventually("five and one have begun", async || gate.begun() == 6).await;
        assert_eq!(db.number(RUNNING_OF_A_KEY).await, 5);
        // Nobody polls: the end of each makes room for the next.
        gate.pass.add_permits(100);
        eventually("all are done", async || count(&queue, JobStatus::Done).await == 12).await;
        worker.end().await;
    }

    async fn a_worker_looks_for_the_next_job_when_the_outcome_of_the_last_is_written(db) {
        let queue = Queue::new(ticking(db).await);
        let gate = Gate::new();
        enqueue(&queue, [("key", 1); 2]).await;
        let worker = start(Worker::new(ticking(db).await).options(without_polling()).register(gate.handler()));
        eventually("the first has begun", async || gate.begun() == 1).await;
        // Nobody can write it yet, and who looked now would find no room, and sleep.
        let lock = Lock::of_what_runs(db).await;
        gate.pass.add_permits(2);
        for _ in 0..100 {
            assert_eq!(db.number(RUNNING).await, 1);
        }
        lock.release().await;
        eventually("both are done", async || count(&queue, JobStatus::Done).await == 2).await;
        worker.end().await;
    }

    async fn the_least_that_jobs_of_a_key_allow_holds(db) {
        let queue = Queue::new(ticking(db).await);
        let gate = Gate::new();
        let database = ticking(db).await;
        let one = queue.enqueue(&probe("k")).limit_running("k", 1).priority(1).await.unwrap().id;
        enqueue(&queue, [("k", 3); 4]).await;
        let worker = start(Worker::new(database).options(lively()).register(gate.handler()));
        becomes(&queue, one, JobStatus::Running).await;
        let other = queue.enqueue(&probe("x")).await.unwrap().id;
        becomes(&queue, other, JobStatus::Running).await;
        assert_eq!(db.number(RUNNING_OF_A_KEY).await, 1);
        gate.pass.add_permits(2);
        eventually("three run", async || db.number(RUNNING_OF_A_KEY).await == 3).await;
        gate.pass.add_permits(100);
        eventually("all are done", async || count(&queue, JobStatus::Done).await == 6).await;
        worker.end().await;
    }

    async fn a_full_key_stands_before_nobody(db) {
        let database = ticking(db).await;
        let queue = Queue::new(database.clone());
        let gate = Gate::new();
        let full = (0..3_000).map(|_| NewJob::new(&probe("a")).limit_running("a", 1).priority(9));
        queue.enqueue_many(full).await.unwrap();
        let mut options = without_polling();
        options.concurrency = 2;
        let worker = Worker::new(database).options(options).register(gate.handler());
        let worker = start(worker.register(async |_: Other| Ok::<_, JobError>(())));
        eventually("the first has begun", async || gate.begun() == 1).await;
        let of_other_key = queue.enqueue(&Other {}).limit_running("b", 1).await.unwrap().id;
        let of_none = queue.enqueue(&Other {}).await.unwrap().id;
        for id in [of_other_key, of_none] {
            becomes(&queue, id, JobStatus::Done).await;
        }
        assert_eq!((gate.begun(), db.number(RUNNING).await), (1, 1));
        gate.pass.close();
        worker.end().await;
    }

    async fn priority_holds_between_jobs_with_keys_and_without(db) {
        let queue = Queue::new(db.open().await);
        let jobs = (0..12_i16).map(|n| {
            let job = NewJob::new(&probe(n)).priority(n * 7 % 12);
            if n % 3 == 0 { job } else { job.limit_running(format!("key {}", n % 3), 20) }
        });
        queue.enqueue_many(jobs).await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (order, mut options) = (seen.clone(), once());
        options.concurrency = 1;
        run(Worker::new(db.open().await).options(options).register(move |job: Probe| {
            order.lock().unwrap().push(job.value.as_i64().unwrap() * 7 % 12);
            async { Ok::<_, JobError>(Value::Null) }
        })).await;
        assert_eq!(*seen.lock().unwrap(), (0..12).rev().collect::<Vec<_>>());
    }

    async fn thousands_of_keys_take_turns(db) {
        let queue = Queue::new(db.open().await);
        let jobs = (0..1_200).map(|n| NewJob::new(&probe(n)).limit_running(format!("key {n:04}"), 1));
        queue.enqueue_many(jobs).await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (order, again, mut options) = (seen.clone(), queue.clone(), once());
        options.concurrency = 16;
        run(Worker::new(db.open().await).options(options).register(move |job: Probe| {
            let (order, again) = (order.clone(), again.clone());
            async move {
                let number = job.value.as_i64().unwrap();
                order.lock().unwrap().push(number);
                // The first keys never run dry while the last ones wait.
                if number < 300 && order.lock().unwrap().len() < 2_000 {
                    again.enqueue(&job).limit_running(format!("key {number:04}"), 1).await?;
                }
                Ok::<_, JobError>(Value::Null)
            }
        })).await;
        let seen = seen.lock().unwrap();
        let last = seen.iter().position(|number| *number == 1_199).unwrap();
        // Where the first keys went before it would come behind 2,000 of them and the 900 others.
        assert!(last < 2_500, "the last key came as number {last} of {}", seen.len());
    }

    async fn no_stretch_of_time_has_more_starts_than_the_rate_over_a_fleet(db) {
        let queue = Queue::new(ticking(db).await);
        let options = within_limits(lively(), limits(None, Some((7, 400))));
        enqueue(&queue, (0..40).map(|n| (["", "", "key"][n % 3], 9))).await;
        let gauge = Gauge::default();
        let workers = fleet(db, 3, &options, &gauge.handler()).await;
        eventually("all are done", async || count(&queue, JobStatus::Done).await == 40).await;
        let starts = starts(&queue).await;
        assert_eq!(starts.len(), 40);
        for window in starts.windows(8) {
            assert!(window[7] - window[0] >= TimeDelta::milliseconds(400), "{window:?}");
        }
        end(workers).await;
    }

    async fn a_rate_lets_a_burst_through_and_then_waits_for_its_window(db) {
        let queue = Queue::new(db.open().await);
        enqueue(&queue, [("", 0); 7]).await;
        let mut options = within_limits(lively(), limits(None, Some((3, 60_000))));
        options.shutdown_timeout = Duration::ZERO;
        let gauge = Gauge::default();
        let worker = start(Worker::new(db.open().await).options(options).register(gauge.handler()));
        let other = queue.enqueue(&probe("")).queue("other").await.unwrap().id;
        eventually("the burst is done", async || count(&queue, JobStatus::Done).await == 4).await;
        becomes(&queue, other, JobStatus::Done).await;
        for (millis, done) in [(59_999, 4), (1, 7), (60_000, 8)] {
            db.advance_millis(millis);
            // What is enqueued now is looked for, and the rest with it.
            let other = queue.enqueue(&probe("")).queue("other").await.unwrap().id;
            becomes(&queue, other, JobStatus::Done).await;
            let others = "SELECT COUNT(*) FROM {}job WHERE queue = 'other' AND status = 'done'";
            eventually("as many as the rate allows", async || {
                count(&queue, JobStatus::Done).await - db.number(others).await == done - 1
            }).await;
        }
        worker.end().await;
    }

    async fn a_worker_sleeps_until_the_rate_has_room(db) {
        let queue = Queue::new(ticking(db).await);
        enqueue(&queue, [("", 0); 4]).await;
        let options = within_limits(without_polling(), limits(None, Some((1, 250))));
        let gauge = Gauge::default();
        let worker = start(Worker::new(ticking(db).await).options(options).register(gauge.handler()));
        eventually("all are done", async || count(&queue, JobStatus::Done).await == 4).await;
        worker.end().await;
    }

    async fn once_waits_for_what_limits_hold_back(db) {
        let queue = Queue::new(ticking(db).await);
        let options = within_limits(once(), limits(Some(1), Some((3, 500))));
        enqueue(&queue, [("", 0), ("key", 1), ("key", 1), ("", 0), ("key", 1), ("other", 1), ("", 0)]).await;
        within(run(Worker::new(ticking(db).await).options(options).register(Gauge::default().handler()))).await;
        assert_eq!(count(&queue, JobStatus::Done).await, 7);
    }

    async fn a_rescue_makes_room(db) {
        let queue = Queue::new(db.open().await);
        let haunted = enqueue(&queue, [("key", 1), ("", 0)]).await;
        ghost(db).await;
        let waiting = enqueue(&queue, [("key", 1), ("", 0)]).await;
        let mut options = within_limits(lively(), limits(Some(2), None));
        options.rescue_after = Duration::from_secs(30);
        let gauge = Gauge::default();
        let worker = start(Worker::new(db.open().await).options(options).register(gauge.handler()));
        let other = queue.enqueue(&probe("")).queue("other").await.unwrap().id;
        becomes(&queue, other, JobStatus::Done).await;
        for id in &waiting {
            assert_eq!(job(&queue, *id).await.status, JobStatus::Queued);
        }
        // In steps: whoever notices a gap in its own heartbeats rescues nobody, and it may see two at once.
        for _ in 0..8 {
            let beats = "SELECT MAX(heartbeat_at) FROM {}job_worker";
            let beats = if db.is_sqlite() { beats.to_owned() } else { beats.replace("MAX(heartbeat_at)", "CAST(EXTRACT(EPOCH FROM MAX(heartbeat_at)) * 1000 AS bigint)") };
            db.advance(5);
            let now = db.clock.now().as_millis();
            eventually("the worker's heart has beaten", async || db.number(&beats).await == now).await;
        }
        for id in haunted.iter().chain(&waiting) {
            becomes(&queue, *id, JobStatus::Done).await;
        }
        worker.end().await;
    }

    async fn a_key_that_is_full_and_a_rate_that_is_used_up_make_no_worker_spin(db) {
        let rounds = rounds();
        let queue = Queue::new(db.open().await);
        let gate = Gate::new();
        enqueue(&queue, [("key", 1); 50]).await;
        queue.enqueue_many((0..50).map(|_| NewJob::new(&probe("")).queue("rated"))).await.unwrap();
        let mut options = without_polling();
        options.queue_limits = BTreeMap::from([("rated".to_owned(), limits(None, Some((1, 3_600_000))))]);
        let worker = start(Worker::new(db.open().await).options(options).register(gate.handler()));
        eventually("one of each has begun", async || gate.begun() == 2).await;
        let before = rounds.load(Ordering::SeqCst);
        for _ in 0..300 {
            assert_eq!(db.number(RUNNING).await, 2);
        }
        let looked = rounds.load(Ordering::SeqCst) - before;
        assert!(looked < 10, "{looked} looks");
        gate.pass.close();
        worker.end().await;
    }

    async fn a_limit_that_is_no_limit_is_refused(db) {
        let queue = Queue::new(db.open().await);
        for (key, most, says) in [
            ("", 1, "a limit's key must be 1 to 512 bytes"),
            ("key", 0, "max_running must be 1 to 2,147,483,647; that of the limit's key \"key\" is 0"),
            ("key", u32::MAX, "max_running must be 1"),
        ] {
            let error = queue.enqueue(&probe(1)).limit_running(key, most).await.unwrap_err();
            assert!(error.is_invalid() && error.to_string().starts_with(says), "{error}");
        }
        assert_eq!(count(&queue, JobStatus::Queued).await, 0);
    }
}

/// Keeps outcomes of running jobs from being written.
enum Lock {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Lock {
    async fn of_what_runs(db: &TestDatabase) -> Self {
        if db.is_sqlite() {
            let mut connection = SqliteConnection::connect(&db.url).await.unwrap();
            connection.execute("BEGIN IMMEDIATE").await.unwrap();
            return Self::Sqlite(connection);
        }
        let mut connection = PgConnection::connect(&db.url).await.unwrap();
        let schema = db.schema.replace('"', "\"\"");
        let lock =
            format!("BEGIN; SELECT 1 FROM \"{schema}\".job WHERE status = 'running' FOR UPDATE");
        let lock = sqlx::raw_sql(AssertSqlSafe(lock));
        connection.execute(lock).await.unwrap();
        Self::Postgres(connection)
    }

    async fn release(self) {
        match self {
            Self::Sqlite(mut connection) => connection.execute("COMMIT").await.map(drop).unwrap(),
            Self::Postgres(mut connection) => connection.execute("COMMIT").await.map(drop).unwrap(),
        }
    }
}

/// Every job is run by a worker that was last seen now.
async fn ghost(db: &TestDatabase) {
    let id = "019aabcd-0000-7000-8000-00000000dead";
    let now: chrono::DateTime<chrono::Utc> = db.clock.now().into();
    let (id, at) = if db.is_sqlite() {
        (format!("'{id}'"), now.timestamp_millis().to_string())
    } else {
        (
            format!("CAST('{id}' AS uuid)"),
            format!("TIMESTAMPTZ '{}'", now.to_rfc3339()),
        )
    };
    db.execute(&format!(
        "INSERT INTO {{}}job_worker (id, host, process, version, names, started_at, heartbeat_at) VALUES ({id}, 'gone', 1, '0', '[]', {at}, {at})"
    ))
    .await;
    db.execute(&format!(
        "UPDATE {{}}job SET status = 'running', due = FALSE, attempt = 1, worker = {id}, started_at = created_at"
    ))
    .await;
}

/// Counts how often a worker of this process looks for jobs. Each test has a process of its own.
pub(crate) fn rounds() -> Arc<AtomicUsize> {
    struct Looks(Arc<AtomicUsize>);
    impl tracing::Subscriber for Looks {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.target() == "larder::queue::fetch"
                && *metadata.level() == tracing::Level::TRACE
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }
    let looks: Arc<AtomicUsize> = Arc::default();
    // Run by one process all together, the tests of this file share the first.
    let _ = tracing::subscriber::set_global_default(Looks(looks.clone()));
    looks
}
