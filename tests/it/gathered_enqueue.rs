//! Jobs that are enqueued together go in together, and nobody can tell but by the time it takes.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use larder::database::Transaction;
use larder::queue::{Enqueued, JobFilter, JobRecord, JobStatus, NewJob};
use larder::{JobError, Queue, Worker};
use serde_json::Value;

use crate::support::{TestDatabase, both_engines};
use crate::work::{
    Probe, becomes, count, give_back, once, probe, run, start, within, without_polling,
};

const CALLERS: usize = 64;

/// What so many callers at once are told, each in a task of its own.
async fn together(queue: &Queue, job: impl Fn(usize) -> NewJob) -> Vec<larder::Result<Enqueued>> {
    let tasks: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (queue, job) = (queue.clone(), job(caller));
            tokio::spawn(async move { queue.enqueue_new(job).await })
        })
        .collect();
    let told = join_all(tasks).await;
    told.into_iter().map(Result::unwrap).collect()
}

/// Oldest first.
async fn all(queue: &Queue) -> Vec<JobRecord> {
    let everything = JobFilter {
        limit: 10_000,
        ..JobFilter::default()
    };
    let mut jobs = queue.list(&everything).await.unwrap();
    jobs.reverse();
    jobs
}

fn value(job: &JobRecord) -> Value {
    serde_json::from_str::<Probe>(job.payload.get())
        .unwrap()
        .value
}

async fn each_is_there_once_with_its_id(queue: &Queue) {
    let told = together(queue, |caller| NewJob::new(&probe(caller))).await;
    let jobs = all(queue).await;
    assert_eq!(jobs.len(), CALLERS);
    for (caller, told) in told.into_iter().enumerate() {
        let told = told.unwrap();
        assert!(told.inserted);
        let job = jobs.iter().find(|job| job.id == told.id).unwrap();
        assert_eq!(value(job), caller);
    }
}

/// The one connection that writes, and calls that wait for it, each an instant later than the one before.
async fn waiting_calls(
    db: &TestDatabase,
    callers: usize,
) -> (
    Queue,
    Transaction,
    Vec<BoxFuture<'static, larder::Result<Enqueued>>>,
) {
    let queue = Queue::new(db.options().max_connections(1).connect().await.unwrap());
    let transaction = queue.database().begin().await.unwrap();
    let mut calls: Vec<_> = (0..callers)
        .map(|caller| {
            let queue = queue.clone();
            async move { queue.enqueue(&probe(caller)).await }.boxed()
        })
        .collect();
    for call in &mut calls {
        db.advance_millis(1);
        assert!(futures::poll!(call).is_pending());
    }
    (queue, transaction, calls)
}

both_engines! {
    async fn each_is_enqueued_once_and_told_its_own_id(db) {
        each_is_there_once_with_its_id(&Queue::new(db.open().await)).await;
    }

    async fn each_is_enqueued_once_where_statements_have_no_names(db) {
        let database = db.options().prepared(false).connect().await.unwrap();
        each_is_there_once_with_its_id(&Queue::new(database)).await;
    }

    async fn jobs_that_come_together_share_statements(db) {
        let (queue, transaction, calls) = waiting_calls(db, 64).await;
        transaction.rollback().await.unwrap();
        for told in join_all(calls).await {
            told.unwrap();
        }
        let jobs = all(&queue).await;
        assert_eq!(jobs.len(), 64);
        // What one statement writes is of one instant, and what it starts is due.
        let statements: BTreeSet<_> = jobs.iter().map(|job| job.created_at).collect();
        assert!(statements.len() < 8, "64 jobs took {} statements", statements.len());
        assert!(jobs.iter().all(|job| job.run_at <= job.created_at));
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE due").await, 64);
        // They came one after the other, and so they start.
        let begins: Vec<_> = jobs.iter().map(|job| job.run_at).collect();
        assert!(begins.is_sorted_by(|a, b| a < b));
        let values: Vec<_> = jobs.iter().map(value).collect();
        assert_eq!(values, (0..64).collect::<Vec<_>>());
    }

    async fn each_keeps_what_was_said_of_it(db) {
        let queue = Queue::new(db.open().await);
        let told = together(&queue, |caller| {
            let job = NewJob::new(&probe(caller)).priority(i16::try_from(caller).unwrap());
            let job = job.queue(format!("queue {}", caller % 3)).max_attempts(1 + u16::try_from(caller).unwrap());
            let job = job.delay(Duration::from_secs(caller as u64 % 5));
            if caller % 2 == 0 { job } else { job.limit_running("key", 1 + u32::try_from(caller).unwrap()) }
        });
        for (caller, told) in told.await.into_iter().enumerate() {
            let job = queue.get(told.unwrap().id).await.unwrap().unwrap();
            assert_eq!(value(&job), caller);
            assert_eq!(usize::try_from(job.priority).unwrap(), caller);
            assert_eq!(job.queue, format!("queue {}", caller % 3));
            assert_eq!(usize::try_from(job.max_attempts).unwrap(), 1 + caller);
            assert_eq!(job.run_at - job.created_at, chrono::TimeDelta::seconds(caller as i64 % 5));
        }
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE limit_key = 'key'").await, 32);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}job WHERE due").await, 13);
    }

    async fn one_that_the_database_refuses_fails_alone(db) {
        let queue = Queue::new(db.open().await);
        db.execute(if db.is_sqlite() {
            "CREATE TRIGGER refused BEFORE INSERT ON job WHEN NEW.name = 'bad' \
             BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        } else {
            "ALTER TABLE {}job ADD CONSTRAINT \"not this one\" CHECK (name <> 'bad')"
        })
        .await;
        let told = together(&queue, |caller| {
            let name = if caller == 13 { "bad" } else { "good" };
            NewJob::named(name, &crate::support::raw("{}"))
        });
        for (caller, told) in told.await.into_iter().enumerate() {
            match told {
                Ok(told) => assert!(told.inserted && caller != 13),
                Err(error) => {
                    assert_eq!(caller, 13);
                    assert!(error.to_string().contains("not this one") && !error.is_transient(), "{error}");
                }
            }
        }
        assert_eq!(count(&queue, JobStatus::Queued).await, 63);
    }

    async fn a_caller_that_goes_away_while_it_waits_enqueues_nothing_and_harms_nobody(db) {
        let (queue, transaction, calls) = waiting_calls(db, 30).await;
        // The first of them would have asked for all.
        let stays = |caller: usize| !caller.is_multiple_of(3);
        let mut left = Vec::new();
        for (caller, call) in calls.into_iter().enumerate() {
            if stays(caller) {
                left.push(call);
            }
        }
        transaction.rollback().await.unwrap();
        for told in within(join_all(left)).await {
            told.unwrap();
        }
        let expected: Vec<_> = (0..30).filter(|caller| stays(*caller)).collect();
        assert_eq!(all(&queue).await.iter().map(value).collect::<Vec<_>>(), expected);
    }

    async fn those_who_go_away_at_any_time_leave_the_others_their_jobs(db) {
        let queue = Queue::new(db.open().await);
        let mut there = BTreeSet::new();
        for round in 0..30_usize {
            let tasks: Vec<_> = (0..CALLERS)
                .map(|caller| {
                    let queue = queue.clone();
                    tokio::spawn(async move { queue.enqueue(&probe(caller)).await })
                })
                .collect();
            for _ in 0..round % 5 {
                tokio::task::yield_now().await;
            }
            for task in tasks.iter().skip(round % 3).step_by(3) {
                task.abort();
            }
            for (caller, task) in tasks.into_iter().enumerate() {
                match task.await {
                    Ok(told) => assert!(there.insert(told.unwrap().id)),
                    Err(gone) => assert!(gone.is_cancelled() && caller % 3 == round % 3),
                }
            }
        }
        let jobs: BTreeSet<_> = all(&queue).await.iter().map(|job| job.id).collect();
        assert!(jobs.is_superset(&there) && jobs.len() <= 30 * CALLERS);
    }

    async fn the_jobs_of_one_caller_start_in_their_order(db) {
        let queue = &Queue::new(db.open().await);
        let others = together(queue, |_| NewJob::new(&probe(-1)));
        let in_order = async {
            for round in 0..5 {
                // At once, and those one after the other.
                let calls = (0..5).map(|at| async move { queue.enqueue(&probe(5 * round + at)).await });
                let calls = calls.collect::<Vec<_>>();
                for told in join_all(calls).await {
                    told.unwrap();
                }
            }
        };
        tokio::join!(others, in_order);
        let (seen, mut order) = tokio::sync::mpsc::unbounded_channel();
        let handler = move |job: Probe| {
            seen.send(job.value.as_i64().unwrap()).unwrap();
            async { Ok::<_, JobError>(Value::Null) }
        };
        let mut options = once();
        options.concurrency = 1;
        run(Worker::new(db.open().await).options(options).register(handler)).await;
        let mut got = Vec::new();
        while let Ok(value) = order.try_recv() {
            got.push(value);
        }
        assert_eq!(got.len(), CALLERS + 25);
        got.retain(|value| *value >= 0);
        assert_eq!(got, (0..25).collect::<Vec<_>>());
    }

    async fn they_wake_an_idle_worker_of_the_same_process(db) {
        let mut options = without_polling();
        options.listen = false;
        let database = db.open().await;
        let queue = Queue::new(database.clone());
        let worker = start(Worker::new(database).options(options).register(give_back));
        let first = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, first, JobStatus::Done).await;
        for told in together(&queue, |caller| NewJob::new(&probe(caller))).await {
            becomes(&queue, told.unwrap().id, JobStatus::Done).await;
        }
        worker.end().await;
    }

    async fn they_wake_an_idle_worker_of_another_process(db) {
        let queue = Queue::new(db.open().await);
        // One who opens the database for itself counts as another process.
        let worker = start(Worker::new(db.open().await).options(without_polling()).register(give_back));
        let first = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, first, JobStatus::Done).await;
        // It may look once more after its first job, and then no more by itself.
        for _ in 0..5 {
            let told = together(&queue, |caller| {
                NewJob::new(&probe(caller)).queue(format!("queue {}", caller % 4))
            });
            for told in told.await {
                becomes(&queue, told.unwrap().id, JobStatus::Done).await;
            }
        }
        worker.end().await;
    }

    async fn calls_end_in_time_while_there_is_no_connection_and_go_on_afterwards(db) {
        let timeout = Duration::from_millis(300);
        let options = db.options().max_connections(1).acquire_timeout(timeout).busy_timeout(timeout);
        let queue = Queue::new(options.connect().await.unwrap());
        let transaction = queue.database().begin().await.unwrap();
        for told in within(together(&queue, |caller| NewJob::new(&probe(caller)))).await {
            let error = told.unwrap_err();
            assert!(error.is_transient() && error.to_string().contains("acquire_timeout"), "{error}");
        }
        transaction.rollback().await.unwrap();
        each_is_there_once_with_its_id(&queue).await;
    }
}

/// A database in memory is SQLite's alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_each_is_enqueued_once_too() {
    each_is_there_once_with_its_id(&Queue::connect("sqlite::memory:").await.unwrap()).await;
}

/// PostgreSQL's own: SQLite locks no tables, and has no network.
mod postgres_table {
    use sqlx::{Connection, PgConnection};

    use super::*;
    use crate::half_open::{lock_table, through, waiting};
    use crate::proxy::Proxy;
    use crate::work::eventually;

    async fn eventually_wait(db: &TestDatabase, statements: i64) {
        eventually("the statements wait for the table", async || {
            waiting(db).await >= statements
        })
        .await;
    }

    fn begun(queue: &Queue, value: usize) -> tokio::task::JoinHandle<larder::Result<Enqueued>> {
        let queue = queue.clone();
        tokio::spawn(async move { queue.enqueue(&probe(value)).await })
    }

    /// Both connections have the statement prepared: they send it whole, lock or no lock.
    async fn know_the_statement(queue: &Queue) {
        let database = queue.database();
        let (one, other) = (
            database.begin().await.unwrap(),
            database.begin().await.unwrap(),
        );
        one.rollback().await.unwrap();
        queue.enqueue(&probe("by the one")).await.unwrap();
        let one = database.begin().await.unwrap();
        other.rollback().await.unwrap();
        queue.enqueue(&probe("by the other")).await.unwrap();
        one.rollback().await.unwrap();
    }

    #[test]
    fn a_table_that_is_never_free_is_not_waited_for_without_end() {
        crate::support::run(TestDatabase::postgres, async |db| {
            let options = db.options().acquire_timeout(Duration::from_millis(300));
            let queue = Queue::new(options.connect().await.unwrap());
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let lock = lock_table(db, &mut other, "job").await;
            for told in within(together(&queue, |caller| NewJob::new(&probe(caller)))).await {
                assert!(told.unwrap_err().is_transient());
            }
            lock.rollback().await.unwrap();
            let told = within(queue.enqueue(&probe("free")).into_future()).await;
            assert!(told.unwrap().inserted);
            // What was asked for is done once, or never.
            assert!(all(&queue).await.len() <= CALLERS + 1);
        });
    }

    #[test]
    fn jobs_whose_answer_never_comes_are_sent_again_or_given_up_and_others_go_on() {
        crate::support::run(TestDatabase::postgres, async |db| {
            let proxy = Proxy::before(&db.url).await;
            let queue = Queue::new(through(db, &proxy).await);
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let lock = lock_table(db, &mut other, "job").await;
            let calls: Vec<_> = (0..16).map(|value| begun(&queue, value)).collect();
            // One is alone, and the others follow it.
            eventually_wait(db, 2).await;
            proxy.silence();
            lock.rollback().await.unwrap();
            let mut enqueued = BTreeSet::new();
            for told in within(join_all(calls)).await {
                match told.unwrap() {
                    Ok(job) => assert!(enqueued.insert(job.id)),
                    Err(error) => assert!(error.is_transient(), "{error}"),
                }
            }
            // Connections that nobody used are found out one by one.
            eventually("jobs are enqueued again", async || {
                queue.enqueue(&probe("later")).await.is_ok()
            })
            .await;
            let mut jobs = all(&queue).await;
            jobs.retain(|job| value(job) != "later");
            let ids: BTreeSet<_> = jobs.iter().map(|job| job.id).collect();
            assert!(enqueued.is_subset(&ids));
            let values: BTreeSet<_> = jobs.iter().map(|job| value(job).to_string()).collect();
            assert_eq!(jobs.len(), values.len(), "none is there twice");
        });
    }

    #[test]
    fn what_is_sent_again_because_its_runtime_has_ended_is_enqueued_once() {
        crate::support::run(TestDatabase::postgres, async |db| {
            let queue = Queue::new(db.options().max_connections(2).connect().await.unwrap());
            know_the_statement(&queue).await;
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let lock = lock_table(db, &mut other, "job").await;
            let doomed = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let enter = |value: usize| {
                let _entered = doomed.enter();
                begun(&queue, value)
            };
            let _alone = enter(0);
            eventually_wait(db, 1).await;
            // These wait, and nobody drives them; the last one has all of them sent, by its own runtime.
            let mut survivors: Vec<_> = (1..5)
                .map(|value| {
                    let queue = queue.clone();
                    Box::pin(async move { queue.enqueue(&probe(value)).await })
                })
                .collect();
            for call in &mut survivors {
                assert!(futures::poll!(call).is_pending());
            }
            let _sends = enter(5);
            eventually_wait(db, 2).await;
            tokio::task::spawn_blocking(move || drop(doomed))
                .await
                .unwrap();
            // The server knows nothing of that, and writes them as soon as it can.
            let survivors: Vec<_> = survivors.into_iter().map(tokio::spawn).collect();
            eventually_wait(db, 3).await;
            lock.rollback().await.unwrap();
            let mut told = BTreeSet::new();
            for one in within(join_all(survivors)).await {
                told.insert(one.unwrap().unwrap().id);
            }
            eventually("the server has written what it was sent", async || {
                all(&queue).await.len() >= 8
            })
            .await;
            let mut jobs = all(&queue).await;
            jobs.drain(..2);
            let mut values: Vec<_> = jobs
                .iter()
                .map(|job| value(job).as_u64().unwrap())
                .collect();
            values.sort_unstable();
            assert_eq!(values, (0..6).collect::<Vec<_>>());
            let theirs = jobs.iter().filter(|job| told.contains(&job.id));
            assert!(theirs.map(|job| value(job).as_u64().unwrap()).eq(1..5));
        });
    }
}
