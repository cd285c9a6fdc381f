//! Memoized jobs that refresh what is there, and calls that join a job which may know less than they do.

use std::time::Duration;

use larder::cache::Memo;
use larder::queue::JobStatus;
use larder::{Job, JobError, Larder, Worker};
use serde::{Deserialize, Serialize};

use crate::calls::{KEY, Lab, MINUTE, larder, november, work};
use crate::support::{TestDatabase, both_engines};
use crate::work::{
    becomes, count, eventually, hold_outcomes, job, let_outcomes, lively, once, run, start, within,
};

/// Refreshed early, as `beta` says; each takes some milliseconds and gives another number.
#[derive(Clone, Serialize, Deserialize)]
struct Forecast {
    beta: f64,
}

impl Job for Forecast {
    const NAME: &'static str = "forecast";
    type Output = usize;

    fn memo(&self) -> Option<Memo> {
        let memo = Memo::new("forecast").fresh_for(MINUTE).stale_for(MINUTE);
        Some(memo.early_refresh(self.beta))
    }
}

/// Within a minute all but certain, for what takes milliseconds.
const CERTAIN: Forecast = Forecast { beta: 1e12 };
const NEVER: Forecast = Forecast { beta: 0.0 };

async fn forecast(db: &TestDatabase, runs: &std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let runs = runs.clone();
    let handler = move |_: Forecast| {
        let runs = runs.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok::<_, JobError>(runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1)
        }
    };
    run(Worker::new(db.open().await)
        .options(once())
        .register(handler))
    .await;
}

async fn queued(larder: &Larder) -> i64 {
    count(larder.queue(), JobStatus::Queued).await
}

both_engines! {
    async fn a_fresh_result_is_refreshed_early_by_one_job_where_chance_and_its_cost_say_so(db) {
        let (larder, runs) = (larder(db).await, Default::default());
        larder.queue().enqueue(&NEVER).await.unwrap();
        forecast(db, &runs).await;
        for _ in 0..20 {
            assert_eq!(larder.call(&NEVER).await.unwrap(), 1);
        }
        assert_eq!(queued(&larder).await, 0);
        for _ in 0..3 {
            assert_eq!(larder.call(&CERTAIN).await.unwrap(), 1);
        }
        assert_eq!(queued(&larder).await, 1);
        let refresh = larder.cache().info("forecast").await.unwrap().unwrap().job.unwrap();
        assert_eq!(job(larder.queue(), refresh).await.status, JobStatus::Queued, "the item names it");
        // Another job of the key finds the fresh result; the one that is to refresh it does not.
        let plain = larder.queue().enqueue(&NEVER).priority(1).await.unwrap().id;
        forecast(db, &runs).await;
        assert_eq!(job(larder.queue(), plain).await.result.unwrap().get(), "1");
        assert_eq!(job(larder.queue(), refresh).await.result.unwrap().get(), "2");
        assert_eq!(larder.call(&NEVER).await.unwrap(), 2);
        // Its attempt made again finds what it has done.
        db.execute("UPDATE {}job SET status = 'queued', due = TRUE, result = NULL, finished_at = NULL, worker = NULL").await;
        forecast(db, &runs).await;
        assert_eq!(larder.call(&NEVER).await.unwrap(), 2);
        assert_eq!((queued(&larder).await, count(larder.queue(), JobStatus::Done).await), (0, 3));
    }

    async fn an_early_refresh_that_fails_leaves_the_fresh_result(db) {
        let (larder, runs) = (larder(db).await, Default::default());
        larder.queue().enqueue(&NEVER).await.unwrap();
        forecast(db, &runs).await;
        assert_eq!(larder.call(&CERTAIN).await.unwrap(), 1);
        let fails = |_: Forecast| async { Err::<usize, _>(JobError::abort("no weather")) };
        run(Worker::new(db.open().await).options(once()).register(fails)).await;
        assert_eq!(larder.call(&NEVER).await.unwrap(), 1);
        let info = larder.cache().info("forecast").await.unwrap().unwrap();
        assert_eq!((info.last_error.as_deref(), info.failures), (Some("no weather"), 1));
        assert_eq!(job(larder.queue(), info.job.unwrap()).await.status, JobStatus::Dead);
        // The next is a job of its own.
        assert_eq!(larder.call(&CERTAIN).await.unwrap(), 1);
        forecast(db, &runs).await;
        assert_eq!(larder.call(&NEVER).await.unwrap(), 2);
    }

    async fn a_beta_that_means_nothing_is_refused(db) {
        let larder = larder(db).await;
        let error = larder.call(&Forecast { beta: -1.0 }).await.unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains("early_refresh"), "{error}");
        assert_eq!(queued(&larder).await, 0);
    }

    async fn the_item_names_the_job_that_is_to_refresh_it_as_soon_as_it_is_enqueued(db) {
        let (larder, lab) = (larder(db).await, Lab::open());
        let made = larder.queue().enqueue(&november()).await.unwrap().id;
        work(db, &lab).await;
        let named = async || larder.cache().info(KEY).await.unwrap().unwrap().job.unwrap();
        assert_eq!(named().await, made);
        db.advance(60);
        larder.call(&november()).await.unwrap();
        let refresh = named().await;
        assert_ne!(refresh, made);
        let record = job(larder.queue(), refresh).await;
        assert_eq!((record.status, record.attempt, record.error), (JobStatus::Queued, 0, None));
        // Also one that somebody else had enqueued before.
        larder.queue().cancel(refresh).await.unwrap();
        let by_hand = larder.queue().enqueue(&november()).unique_key(format!("memo:{KEY}")).await.unwrap().id;
        larder.call(&november()).await.unwrap();
        assert_eq!(named().await, by_hand);
        // While it fails, the error and the attempts are on both.
        lab.fail(1);
        work(db, &lab).await;
        let info = larder.cache().info(KEY).await.unwrap().unwrap();
        assert_eq!((info.last_error.as_deref(), info.failures, info.job), (Some("run 2 failed"), 1, Some(by_hand)));
        let record = job(larder.queue(), by_hand).await;
        assert_eq!((record.status, record.attempt, record.error), (JobStatus::Queued, 1, info.last_error));
        db.advance(10);
        work(db, &lab).await;
        let info = larder.cache().info(KEY).await.unwrap().unwrap();
        assert_eq!((info.last_error, info.failures, info.job), (None, 0, Some(by_hand)));
    }

    async fn what_somebody_has_written_is_not_refreshed(db) {
        let (larder, lab) = (larder(db).await, Lab::open());
        larder.queue().enqueue(&november()).await.unwrap();
        work(db, &lab).await;
        db.advance(60);
        larder.cache().set(KEY, "by hand").await.unwrap();
        assert_eq!(larder.call(&november()).await.unwrap(), "by hand");
        assert_eq!(queued(&larder).await, 0);
    }

    /// The job has kept its result before the invalidation, and its outcome is written after it.
    async fn a_call_is_not_given_what_a_job_knew_before_the_last_invalidation(db) {
        let (larder, lab) = (larder(db).await, Lab::open());
        let id = larder.queue().enqueue(&november()).unique_key(format!("memo:{KEY}")).await.unwrap().id;
        hold_outcomes(db).await;
        let worker = start(lab.worker(db.open().await).options(lively()));
        eventually("its result is kept", async || larder.cache().exists(KEY).await.unwrap()).await;
        assert!(larder.cache().delete(KEY).await.unwrap());
        let caller = tokio::spawn({
            let larder = larder.clone();
            async move { larder.call(&november()).await }
        });
        // It waits for that job, whose key is taken.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!((caller.is_finished(), job(larder.queue(), id).await.status), (false, JobStatus::Running));
        let_outcomes(db).await;
        assert_eq!(within(caller).await.unwrap().unwrap(), "run 2");
        assert_eq!(becomes(larder.queue(), id, JobStatus::Done).await.result.unwrap().get(), "\"run 1\"");
        worker.end().await;
    }
}
