//! What a worker does with jobs that go well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apalis_core::task::attempt::Attempt;
use apalis_core::task::task_id::TaskId;
use larder::queue::{JobStatus, NewJob};
use larder::{Cache, Data, Expiration, JobContext, JobError, Queue, Worker};
use serde_json::{Value, json};
use tokio::sync::{Barrier, Semaphore};

use crate::support::both_engines;
use crate::work::{
    Other, Probe, becomes, count, eventually, give_back, job, lively, once, probe, run, start,
    within,
};

/// Counts how many of its handlers run at once, and the most that ever did.
#[derive(Clone, Default)]
struct Gauge {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gauge {
    async fn measured(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

both_engines! {
    async fn every_job_is_done_once(db) {
        let queue = Queue::new(db.open().await);
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let handler = move |job: Probe| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, JobError>(job.value) }
        };
        let ids = queue.enqueue_many((0..3_000).map(|n| NewJob::new(&probe(n)).queue(format!("q{}", n % 3)))).await.unwrap();
        // Three workers at once, as on three machines.
        let workers = (0..3).map(|_| async {
            run(Worker::new(db.open().await).options(once()).register(handler.clone())).await;
        });
        futures::future::join_all(workers).await;
        assert_eq!(count(&queue, JobStatus::Done).await, 3_000);
        assert_eq!(runs.load(Ordering::SeqCst), 3_000);
        let last = job(&queue, ids[2_999].id).await;
        assert_eq!((last.attempt, last.result.unwrap().get()), (1, "2999"));
        assert!(last.started_at.is_some() && last.finished_at.is_some() && last.error.is_none());
    }

    async fn jobs_run_at_once_and_on_several_threads(db) {
        let queue = Queue::new(db.open().await);
        queue.enqueue_many((0..4).map(|n| NewJob::new(&probe(n)))).await.unwrap();
        let all_here = Arc::new(Barrier::new(4));
        run(Worker::new(db.open().await).options(once()).register(move |_: Probe| {
            let all_here = all_here.clone();
            async move {
                within(all_here.wait()).await;
                Ok::<_, JobError>(Value::Null)
            }
        })).await;
        assert_eq!(count(&queue, JobStatus::Done).await, 4);

        // Two handlers that block their threads until both are there: they are not on the same one.
        queue.enqueue_many((0..2).map(|n| NewJob::new(&probe(n)))).await.unwrap();
        let both_here = Arc::new(AtomicUsize::new(0));
        // Neither of the two runtime threads is left for the worker itself meanwhile: it has one of its own.
        let worker = Worker::new(db.open().await).options(once()).register(move |_: Probe| {
            let both_here = both_here.clone();
            async move {
                both_here.fetch_add(1, Ordering::SeqCst);
                let deadline = std::time::Instant::now() + Duration::from_secs(20);
                while both_here.load(Ordering::SeqCst) < 2 {
                    if std::time::Instant::now() > deadline {
                        return Err(JobError::abort("alone"));
                    }
                    std::hint::spin_loop();
                }
                Ok(Value::Null)
            }
        });
        run(worker).await;
        assert_eq!(count(&queue, JobStatus::Done).await, 6);
    }

    async fn each_queue_keeps_to_its_concurrency(db) {
        let queue = Queue::new(db.open().await);
        queue.enqueue_many((0..60).map(|n| NewJob::new(&probe(n)))).await.unwrap();
        queue.enqueue_many((0..60).map(|n| NewJob::new(&probe(n)).queue("narrow"))).await.unwrap();
        let (wide, narrow) = (Gauge::default(), Gauge::default());
        let gauges = (wide.clone(), narrow.clone());
        let mut options = once();
        options.concurrency = 5;
        options.queue_concurrency.insert("narrow".to_owned(), 1);
        run(Worker::new(db.open().await).options(options).register(move |_: Probe, cx: JobContext| {
            let gauge = if cx.queue == "narrow" { gauges.1.clone() } else { gauges.0.clone() };
            async move {
                gauge.measured().await;
                Ok::<_, JobError>(Value::Null)
            }
        })).await;
        assert_eq!(count(&queue, JobStatus::Done).await, 120);
        assert_eq!(narrow.most.load(Ordering::SeqCst), 1);
        let most = wide.most.load(Ordering::SeqCst);
        assert!((2..=5).contains(&most), "{most} at once");
    }

    async fn a_long_job_holds_up_no_other_queue_and_no_other_slot(db) {
        let queue = Queue::new(db.open().await);
        let gate = Arc::new(Semaphore::new(0));
        let handler = {
            let gate = gate.clone();
            move |job: Probe| {
                let gate = gate.clone();
                async move {
                    if job.value == "long" {
                        gate.acquire().await?.forget();
                    }
                    Ok::<_, JobError>(job.value)
                }
            }
        };
        let mut options = lively();
        options.concurrency = 2;
        let long = queue.enqueue(&probe("long")).await.unwrap().id;
        let worker = start(Worker::new(db.open().await).options(options).register(handler));
        becomes(&queue, long, JobStatus::Running).await;
        for name in ["default", "default", "default", "another"] {
            let id = queue.enqueue(&probe("short")).queue(name).await.unwrap().id;
            becomes(&queue, id, JobStatus::Done).await;
        }
        assert_eq!(job(&queue, long).await.status, JobStatus::Running);
        gate.add_permits(1);
        becomes(&queue, long, JobStatus::Done).await;
        worker.end().await;
    }

    async fn a_queues_concurrency_changes_while_its_worker_is_at_work(db) {
        let queue = Queue::new(db.open().await);
        let table = tokio::sync::watch::Sender::new(larder::queue::QueueTable::default());
        let concurrency = |slots: usize| {
            table.send_modify(|table| {
                table.concurrency.insert("default".to_owned(), slots);
            });
        };
        concurrency(1);
        let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
        let handler = {
            let gate = gate.clone();
            move |_: Probe| {
                let gate = gate.clone();
                async move {
                    gate.acquire().await?.forget();
                    Ok::<_, JobError>(Value::Null)
                }
            }
        };
        let worker = Worker::new(db.open().await).options(lively()).queues(table.subscribe());
        let worker = start(worker.register(handler));
        queue.enqueue_many((0..9).map(|n| NewJob::new(&probe(n)))).await.unwrap();
        let running = async |slots: i64| {
            eventually(&format!("{slots} run"), async || count(&queue, JobStatus::Running).await == slots).await;
        };
        running(1).await;
        concurrency(3);
        running(3).await;
        concurrency(2);
        gate.add_permits(1);
        eventually("one is done", async || count(&queue, JobStatus::Done).await == 1).await;
        running(2).await;
        gate.add_permits(1);
        eventually("two are done", async || count(&queue, JobStatus::Done).await == 2).await;
        running(2).await;
        gate.add_permits(7);
        eventually("all are done", async || count(&queue, JobStatus::Done).await == 9).await;
        worker.end().await;
    }

    async fn a_worker_of_some_queues_leaves_the_others_alone(db) {
        let queue = Queue::new(db.open().await);
        let ours = queue.enqueue(&probe(1)).queue("ours").await.unwrap().id;
        let theirs = queue.enqueue(&probe(1)).queue("theirs").await.unwrap().id;
        let mut options = once();
        options.queues = Some(vec!["ours".to_owned(), "unheard of".to_owned()]);
        run(Worker::new(db.open().await).options(options).register(give_back)).await;
        assert_eq!(job(&queue, ours).await.status, JobStatus::Done);
        assert_eq!(job(&queue, theirs).await.status, JobStatus::Queued);
    }

    async fn a_job_that_no_worker_knows_waits_untouched_and_is_told_of(db) {
        let queue = Queue::new(db.open().await);
        // First in line, so that fetching has to pass them.
        let unknown = queue.enqueue_many((0..50).map(|_| NewJob::new(&Other {}).priority(9))).await.unwrap();
        let known = queue.enqueue(&probe(1)).await.unwrap().id;
        let mut options = lively();
        options.concurrency = 2;
        let worker = start(Worker::new(db.open().await).options(options).register(give_back));
        becomes(&queue, known, JobStatus::Done).await;
        assert_eq!(queue.live_names(Duration::from_secs(30)).await.unwrap(), ["probe"]);
        let workers = queue.workers().await.unwrap();
        let [alone] = &workers[..] else { panic!("{workers:?}") };
        assert_eq!((alone.process.unsigned_abs(), &alone.names[..]), (std::process::id(), &["probe".to_owned()][..]));
        assert_eq!((alone.started_at, alone.heartbeat_at), (db.clock.now().into(), db.clock.now().into()));
        worker.end().await;
        assert!(queue.workers().await.unwrap().is_empty());
        let job = job(&queue, unknown[0].id).await;
        assert_eq!((job.status, job.attempt, job.worker), (JobStatus::Queued, 0, None));
        assert_eq!(count(&queue, JobStatus::Queued).await, 50);
        assert!(queue.live_names(Duration::from_secs(30)).await.unwrap().is_empty());
    }

    async fn a_queue_that_comes_up_later_is_served(db) {
        let queue = Queue::new(db.open().await);
        let worker = start(Worker::new(db.open().await).options(lively()).register(give_back));
        for name in ["first", "second", "third"] {
            let id = queue.enqueue(&probe(1)).queue(name).await.unwrap().id;
            becomes(&queue, id, JobStatus::Done).await;
        }
        worker.end().await;
    }

    async fn handlers_are_given_all_that_they_ask_for(db) {
        #[derive(Clone)]
        struct Greeting(&'static str);
        #[allow(clippy::too_many_arguments, reason = "all that there is")]
        async fn handler(
            _: Probe, cache: Data<Cache>, queue: Data<Queue>, greeting: Data<Greeting>, absent: Option<Data<Vec<u8>>>,
            cx: JobContext, id: TaskId, attempt: Attempt,
        ) -> Result<Value, JobError> {
            cache.set_with("seen", &1, Expiration::Never).await?;
            let id_of_other = queue.enqueue(&Other {}).run_at(chrono::Utc::now() + chrono::TimeDelta::days(3_000)).await?.id;
            assert!(absent.is_none());
            Ok(json!([greeting.0.0, cx.id.to_string(), cx.queue, cx.attempt, cx.max_attempts, cx.tick, id.to_string(), attempt.current(), id_of_other]))
        }
        let database = db.open().await;
        let queue = Queue::new(database.clone());
        let id = queue.enqueue(&probe(1)).queue("given").max_attempts(4).await.unwrap().id;
        run(Worker::new(db.open().await).options(once()).data(Greeting("hello")).register(handler)).await;
        let job = job(&queue, id).await;
        assert_eq!(job.status, JobStatus::Done, "{:?}", job.error);
        let result: Vec<Value> = serde_json::from_str(job.result.unwrap().get()).unwrap();
        let id = id.to_string();
        assert_eq!(result[..8], [json!("hello"), json!(id), json!("given"), json!(1), json!(4), Value::Null, json!(id), json!(1)]);
        assert_eq!(Cache::new(database).get::<i32>("seen").await.unwrap(), Some(1));
        assert_eq!(count(&queue, JobStatus::Queued).await, 1);
    }

    async fn what_a_handler_asks_for_and_nobody_gave_is_a_failed_attempt(db) {
        async fn handler(_: Probe, _: Data<Vec<u8>>) -> Result<Value, JobError> {
            Ok(Value::Null)
        }
        let queue = Queue::new(db.open().await);
        let id = queue.enqueue(&probe(1)).await.unwrap().id;
        run(Worker::new(db.open().await).options(once()).register(handler)).await;
        let job = job(&queue, id).await;
        assert_eq!((job.status, job.attempt), (JobStatus::Queued, 1));
        assert!(job.error.unwrap().contains("Vec<u8>"));
    }

    async fn what_a_job_enqueues_is_done_by_the_same_run(db) {
        let queue = Queue::new(db.open().await);
        queue.enqueue(&probe(20)).await.unwrap();
        let mut options = once();
        options.concurrency = 1;
        run(Worker::new(db.open().await).options(options).register(|job: Probe, queue: Data<Queue>| async move {
            if let Some(left) = job.value.as_i64().filter(|left| *left > 0) {
                queue.enqueue(&probe(left - 1)).queue(format!("q{left}")).await?;
            }
            Ok::<_, JobError>(job.value)
        })).await;
        assert_eq!(count(&queue, JobStatus::Done).await, 21);
    }

    async fn handlers_that_use_up_every_connection_do_not_silence_the_worker(db) {
        // SQLite has one writer: a handler that holds its lock holds up everybody, and must not.
        if db.is_sqlite() {
            return;
        }
        let queue = Queue::new(db.open().await);
        let gate = Arc::new(Semaphore::new(0));
        let ids = queue.enqueue_many((0..8).map(|n| NewJob::new(&probe(n)))).await.unwrap();
        let handler = {
            let gate = gate.clone();
            move |_: Probe, queue: Data<Queue>| {
                let gate = gate.clone();
                async move {
                    let tx = queue.database().begin().await?;
                    gate.acquire().await?.forget();
                    tx.rollback().await?;
                    Ok::<_, JobError>(Value::Null)
                }
            }
        };
        let worker = start(Worker::new(db.open().await).options(lively()).register(handler));
        for id in &ids {
            becomes(&queue, id.id, JobStatus::Running).await;
        }
        db.advance(7);
        eventually("the heartbeat goes on", async || {
            db.number("SELECT COUNT(*) FROM {}job_worker WHERE heartbeat_at = '2026-11-22T12:00:07Z'").await == 1
        }).await;
        gate.add_permits(8);
        for id in &ids {
            becomes(&queue, id.id, JobStatus::Done).await;
        }
        worker.end().await;
    }

    async fn a_worker_leaves_its_callers_database_open(db) {
        let database = db.open().await;
        run(Worker::new(database.clone()).options(once()).register(give_back)).await;
        assert_eq!(count(&Queue::new(database), JobStatus::Done).await, 0);
    }

    async fn every_job_is_run_by_a_name_that_it_was_registered_under(db) {
        let queue = Queue::new(db.open().await);
        let ids = [queue.enqueue(&probe(1)).await.unwrap().id, queue.enqueue(&Other {}).await.unwrap().id];
        let worker = Worker::new(db.open().await).options(once()).register(give_back)
            .register(|_: Other| async { Ok::<_, JobError>(()) });
        run(worker).await;
        let results: BTreeSet<_> = futures::future::join_all(ids.map(|id| job(&queue, id))).await
            .into_iter().map(|job| job.result.unwrap().get().to_owned()).collect();
        assert_eq!(results, BTreeSet::from(["1".to_owned(), "null".to_owned()]));
    }
}
