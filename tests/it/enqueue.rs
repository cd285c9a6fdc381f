//! What goes into the queue, and what comes of it.

use std::collections::HashMap;
use std::time::Duration;

use chrono::TimeDelta;
use larder::database::Tx;
use larder::queue::{Enqueued, Job, JobFilter, JobStatus, NewJob};
use larder::{JobError, Queue, Worker};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::support::{TestDatabase, both_engines, noon, run_on};
use crate::work::{
    Other, Probe, becomes, count, give_back, job, once, probe, run, start, without_polling,
};

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

async fn queue(db: &TestDatabase) -> Queue {
    Queue::new(db.open().await)
}

fn named(name: &str) -> NewJob {
    NewJob::named(name, &raw("{}"))
}

/// A job that `serde_json` refuses: keys that are no strings.
#[derive(Serialize, Deserialize)]
struct Unwritable {
    map: HashMap<Vec<u8>, u8>,
}

impl Job for Unwritable {
    const NAME: &'static str = "unwritable";
    type Output = ();
}

both_engines! {
    async fn a_job_in_a_callers_own_transaction_comes_and_goes_with_it(db) {
        let queue = queue(db).await;
        for commit in [false, true] {
            if db.is_sqlite() {
                let pool = sqlx::SqlitePool::connect(&db.url).await.unwrap();
                let mut tx = pool.begin().await.unwrap();
                queue.enqueue(&Other {}).in_tx(&mut tx).await.unwrap();
                if commit { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
            } else {
                let pool = sqlx::PgPool::connect(&db.url).await.unwrap();
                let mut tx = pool.begin().await.unwrap();
                queue.enqueue(&Other {}).in_tx(&mut tx).await.unwrap();
                if commit { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
            }
            assert_eq!(count(&queue, JobStatus::Queued).await, i64::from(commit));
        }
    }

    async fn a_job_in_a_transaction_wakes_an_idle_worker_when_that_commits(db) {
        let database = db.open().await;
        let queue = Queue::new(database.clone());
        let worker = start(Worker::new(database.clone()).options(without_polling()).register(give_back));
        // Once this is done the worker is idle.
        let first = queue.enqueue(&probe(1)).await.unwrap().id;
        becomes(&queue, first, JobStatus::Done).await;

        let mut rolled_back = database.begin().await.unwrap();
        let never = queue.enqueue(&probe(2)).in_tx(&mut rolled_back).await.unwrap().id;
        rolled_back.rollback().await.unwrap();
        let mut tx = database.begin().await.unwrap();
        let id = queue.enqueue(&probe(3)).in_tx(&mut tx).await.unwrap().id;
        assert_eq!(queue.get_in(&mut tx, id).await.unwrap().unwrap().status, JobStatus::Queued);
        tx.commit().await.unwrap();
        becomes(&queue, id, JobStatus::Done).await;
        assert!(queue.get(never).await.unwrap().is_none());
        worker.end().await;
    }

    async fn a_transaction_of_the_other_engine_is_refused(db) {
        let queue = queue(db).await;
        let other = if db.is_sqlite() { TestDatabase::postgres().await } else { TestDatabase::sqlite().await };
        let error = if db.is_sqlite() {
            let pool = sqlx::PgPool::connect(&other.url).await.unwrap();
            let mut tx = pool.begin().await.unwrap();
            queue.enqueue(&Other {}).in_tx(Tx::from(&mut tx)).await.unwrap_err()
        } else {
            let database = other.open().await;
            let mut tx = database.begin().await.unwrap();
            queue.enqueue(&Other {}).in_tx(&mut tx).await.unwrap_err()
        };
        assert!(error.is_invalid(), "{error}");
    }

    async fn ten_thousand_jobs_at_once_keep_their_order_and_their_ids(db) {
        let queue = queue(db).await;
        let jobs = (0..10_000).map(|n| NewJob::new(&probe(n)));
        let enqueued = queue.enqueue_many(jobs).await.unwrap();
        assert_eq!(enqueued.len(), 10_000);
        assert!(enqueued.iter().all(|enqueued| enqueued.inserted));
        assert!(enqueued.is_sorted_by(|a, b| a.id < b.id), "ids sort as they were made");
        let all = JobFilter { limit: 20_000, ..JobFilter::default() };
        let newest_first = queue.list(&all).await.unwrap();
        assert_eq!(newest_first.len(), 10_000);
        for (n, (record, enqueued)) in newest_first.iter().rev().zip(&enqueued).enumerate() {
            assert_eq!(record.id, enqueued.id);
            assert_eq!(record.payload.get(), format!(r#"{{"value":{n}}}"#));
        }
    }

    async fn many_jobs_at_once_are_all_there_or_none(db) {
        let queue = queue(db).await;
        let jobs = (0..5_000).map(|n| named(if n == 4_999 { "" } else { "fine" }));
        assert!(queue.enqueue_many(jobs).await.unwrap_err().is_invalid());
        assert_eq!(count(&queue, JobStatus::Queued).await, 0);
        assert_eq!(queue.enqueue_many([]).await.unwrap(), []);
    }

    async fn a_key_that_comes_twice_in_a_batch_is_one_job(db) {
        let queue = queue(db).await;
        let jobs = ["a", "b", "a", "a"].map(|key| named("keyed").unique_key(key));
        let got = queue.enqueue_many(jobs.into_iter().chain([named("other").unique_key("a"), named("keyed")])).await.unwrap();
        let inserted: Vec<_> = got.iter().map(|one| one.inserted).collect();
        assert_eq!(inserted, [true, true, false, false, true, true]);
        assert_eq!((got[2].id, got[3].id), (got[0].id, got[0].id));
        assert_ne!(got[4].id, got[0].id);
        assert_eq!(count(&queue, JobStatus::Queued).await, 4);
    }

    async fn a_unique_key_is_held_while_its_job_is_queued_or_running_and_free_afterwards(db) {
        let queue = queue(db).await;
        let first = queue.enqueue_new(named("keyed").unique_key("k")).await.unwrap();
        for (status, held) in [("queued", true), ("running", true), ("done", false), ("dead", false), ("cancelled", false)] {
            db.execute(&format!("UPDATE {{}}job SET status = '{status}' WHERE CAST(id AS text) = '{}'", first.id)).await;
            let again = queue.enqueue_new(named("keyed").unique_key("k")).await.unwrap();
            assert_eq!(again.inserted, !held, "{status}");
            assert_eq!(again.id == first.id, held, "{status}: the holder's id is returned");
            assert!(queue.enqueue_new(named("another").unique_key("k")).await.unwrap().inserted || status != "queued");
            db.execute(&format!("DELETE FROM {{}}job WHERE CAST(id AS text) <> '{}' AND name = 'keyed'", first.id)).await;
        }
    }

    async fn a_failed_job_keeps_its_unique_key_until_it_is_dead(db) {
        let queue = queue(db).await;
        let fails = |_: Probe| async { Err::<Value, _>(JobError::retry_after("not yet", Duration::from_secs(60))) };
        let first = queue.enqueue(&probe(1)).unique_key("k").max_attempts(2).await.unwrap();
        run(Worker::new(db.open().await).options(once()).register(fails)).await;
        assert_eq!(queue.enqueue(&probe(1)).unique_key("k").await.unwrap(), Enqueued { id: first.id, inserted: false });
        db.advance(60);
        run(Worker::new(db.open().await).options(once()).register(fails)).await;
        assert!(queue.enqueue(&probe(1)).unique_key("k").await.unwrap().inserted);
    }

    async fn many_who_enqueue_the_same_keys_at_once_make_each_job_once(db) {
        let queue = queue(db).await;
        let batch = |reversed: bool| {
            let mut keys: Vec<u32> = (0..500).collect();
            if reversed { keys.reverse(); }
            keys.into_iter().map(|key| named("keyed").unique_key(key.to_string()))
        };
        let together = (0..8).map(|n| queue.enqueue_many(batch(n % 2 == 0)));
        let all = futures::future::try_join_all(together).await.unwrap();
        let inserted = all.iter().flatten().filter(|one| one.inserted).count();
        assert_eq!(inserted, 500);
        assert_eq!(count(&queue, JobStatus::Queued).await, 500);
    }

    async fn jobs_start_by_priority_then_by_time_then_as_they_came(db) {
        let queue = queue(db).await;
        let earlier = noon() - TimeDelta::seconds(5);
        let jobs = [
            NewJob::new(&probe("c")),
            NewJob::new(&probe("d")),
            NewJob::new(&probe("e")).priority(-1).run_at(earlier),
            NewJob::new(&probe("b")).run_at(earlier),
            NewJob::new(&probe("a")).priority(i16::MAX),
            NewJob::new(&probe("f")).priority(i16::MIN),
        ];
        queue.enqueue_many(jobs).await.unwrap();
        let (seen, mut order) = tokio::sync::mpsc::unbounded_channel();
        let handler = move |job: Probe| {
            seen.send(job.value).unwrap();
            async { Ok::<_, JobError>(Value::Null) }
        };
        let mut options = once();
        options.concurrency = 1;
        run(Worker::new(db.open().await).options(options).register(handler)).await;
        let mut got = Vec::new();
        while let Ok(value) = order.try_recv() {
            got.push(value);
        }
        assert_eq!(got, ["a", "b", "c", "d", "e", "f"]);
    }

    async fn a_payload_as_deep_as_it_may_be_reaches_its_handler(db) {
        let queue = queue(db).await;
        let deep = format!(r#"{{"value":{}1{}}}"#, "[".repeat(127), "]".repeat(127));
        let id = queue.enqueue_new(NewJob::named("probe", &raw(&deep))).await.unwrap().id;
        run(Worker::new(db.open().await).options(once()).register(give_back)).await;
        let record = job(&queue, id).await;
        assert_eq!(record.status, JobStatus::Done, "{:?}", record.error);
    }

    async fn a_delay_counts_from_now_and_an_instant_that_has_passed_is_due(db) {
        let queue = queue(db).await;
        let delayed = queue.enqueue(&probe(1)).delay(Duration::from_millis(1_500)).await.unwrap().id;
        let past = queue.enqueue(&probe(2)).run_at(noon() - TimeDelta::days(400)).await.unwrap().id;
        assert_eq!(job(&queue, delayed).await.run_at, noon() + TimeDelta::milliseconds(1_500));
        let drain = async || run(Worker::new(db.open().await).options(once()).register(give_back)).await;
        drain().await;
        assert_eq!(job(&queue, past).await.status, JobStatus::Done);
        db.advance(1);
        drain().await;
        assert_eq!(job(&queue, delayed).await.status, JobStatus::Queued);
        db.advance(1);
        drain().await;
        assert_eq!(job(&queue, delayed).await.status, JobStatus::Done);
    }

    async fn what_the_table_would_refuse_is_refused_before_with_a_reason(db) {
        let queue = queue(db).await;
        let long = |length: usize| "x".repeat(length);
        let bad = [
            (named(""), "name"),
            (named(&long(256)), "name"),
            (named("a\0b"), "name"),
            (named("n").queue(""), "queue"),
            (named("n").queue(long(256)), "queue"),
            (named("n").queue("a\0b"), "queue"),
            (named("n").unique_key(""), "unique key"),
            (named("n").unique_key(long(513)), "unique key"),
            (named("n").unique_key("a\0b"), "unique key"),
            (named("n").max_attempts(0), "max_attempts"),
            (named("n").max_attempts(32_768), "max_attempts"),
            (named("n").delay(Duration::MAX), "9999"),
            (NewJob::named("n", &raw(&format!("{}{}", "[".repeat(129), "]".repeat(129)))), "128 levels"),
            (NewJob::new(&Unwritable { map: HashMap::from([(vec![1], 1)]) }), "does not serialise"),
        ];
        for (job, reason) in bad {
            let told = format!("{job:.60?}");
            let error = queue.enqueue_new(job).await.unwrap_err();
            assert!(error.is_invalid() && error.to_string().contains(reason), "{told}: {error}");
        }
        assert_eq!(count(&queue, JobStatus::Queued).await, 0);
        let good = named(&long(255)).queue(long(255)).unique_key(long(512)).max_attempts(32_767);
        queue.enqueue_new(good).await.unwrap();
        queue.enqueue_new(named("ä ❄ \u{1}").queue("\n").max_attempts(1)).await.unwrap();
    }

    async fn a_payload_and_a_result_come_back_byte_for_byte(db) {
        let queue = queue(db).await;
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        struct Anything(Box<RawValue>);
        impl Job for Anything {
            const NAME: &'static str = "anything";
            type Output = Box<RawValue>;
        }
        let deepest = format!("{}1{}", "[".repeat(128), "]".repeat(128));
        let texts = ["1.0", "1234567890123456789012345678901234567890", r#""\u0000 \ud83d\ude00 ü""#, r#"{"b":1,"a":2,"b":3}"#,
            "1e400", "null", r#"{"a": [1,  2]}"#, "-0", r#"""#.repeat(2).leak(), &deepest];
        let ids = queue.enqueue_many(texts.iter().map(|text| NewJob::named("anything", &raw(text)))).await.unwrap();
        run(Worker::new(db.open().await).options(once()).register(|job: Anything| async { Ok::<_, JobError>(job.0) })).await;
        for (text, enqueued) in texts.iter().zip(ids) {
            let record = job(&queue, enqueued.id).await;
            assert_eq!(record.payload.get(), *text);
            assert_eq!(record.result.as_deref().map(RawValue::get), Some(*text), "{:?}", record.error);
        }
    }

    async fn the_default_of_attempts_is_the_queues_unless_the_job_says(db) {
        let queue = queue(db).await.with_max_attempts(7);
        let id = queue.enqueue(&Other {}).await.unwrap().id;
        assert_eq!(job(&queue, id).await.max_attempts, 7);
        let id = queue.enqueue(&Other {}).max_attempts(3).await.unwrap().id;
        assert_eq!(job(&queue, id).await.max_attempts, 3);
    }

    async fn the_database_refuses_a_status_that_there_is_not(db) {
        let queue = queue(db).await;
        queue.enqueue(&Other {}).await.unwrap();
        let sql = "UPDATE {}job SET status = 'finished'";
        let refused = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(db.execute(sql))).await;
        assert!(refused.is_err());
        assert_eq!(count(&queue, JobStatus::Queued).await, 1);
    }
}

// On one thread, where tasks begin in the order in which they were made.
#[test]
fn jobs_that_are_claimed_together_start_in_their_order() {
    for of_engine in [false, true] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let database = async || {
            if of_engine {
                TestDatabase::postgres().await
            } else {
                TestDatabase::sqlite().await
            }
        };
        run_on(&runtime, database, async |db| {
            let queue = queue(db).await;
            let jobs = (0..12).map(|n| NewJob::new(&probe(n)).priority(n % 3));
            queue.enqueue_many(jobs).await.unwrap();
            let (seen, mut order) = tokio::sync::mpsc::unbounded_channel();
            let handler = move |job: Probe| {
                seen.send(job.value.as_i64().unwrap()).unwrap();
                async { Ok::<_, JobError>(Value::Null) }
            };
            run(Worker::new(db.open().await)
                .options(once())
                .register(handler))
            .await;
            let mut got = Vec::new();
            order.recv_many(&mut got, 12).await;
            assert_eq!(got, [2, 5, 8, 11, 1, 4, 7, 10, 0, 3, 6, 9]);
        });
    }
}
