//! Memoized jobs: called, enqueued all the same, refreshed, and invalidated while they run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder::cache::Memo;
use larder::database::Database;
use larder::queue::{Backoff, JobStatus, Queue};
use larder::{Cache, Data, Expiration, Job, JobError, Larder, Worker};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::support::{TestDatabase, both_engines};
use crate::work::{becomes, count, eventually, job, lively, once, run, start, within};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const KEY: &str = "report:2026-11";

#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) month: String,
}

impl Job for Report {
    const NAME: &'static str = "report";
    type Output = String;
    const MAX_ATTEMPTS: Option<u16> = Some(2);
    const BACKOFF: Option<Backoff> = Some(Backoff {
        base: Duration::from_secs(10),
        factor: 1.0,
        cap: Duration::from_secs(10),
        jitter: 0.0,
    });

    fn memo(&self) -> Option<Memo> {
        let memo = Memo::new(format!("report:{}", self.month));
        Some(memo.fresh_for(MINUTE).stale_for(MINUTE).tags(["reports"]))
    }
}

pub(crate) fn november() -> Report {
    Report {
        month: "2026-11".to_owned(),
    }
}

/// What the handler does: counts its runs, waits for a permit, fails if it is told to.
#[derive(Clone)]
pub(crate) struct Lab {
    runs: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    failures: Arc<AtomicUsize>,
}

impl Lab {
    pub(crate) fn open() -> Self {
        Self::with(Semaphore::MAX_PERMITS)
    }

    pub(crate) fn closed() -> Self {
        Self::with(0)
    }

    fn with(permits: usize) -> Self {
        Self {
            runs: Arc::default(),
            gate: Arc::new(Semaphore::new(permits)),
            failures: Arc::default(),
        }
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    pub(crate) fn fail(&self, times: usize) {
        self.failures.store(times, Ordering::SeqCst);
    }

    async fn began(&self, runs: usize) {
        eventually("the handler runs", async || self.runs() >= runs).await;
    }

    pub(crate) fn worker(&self, database: Database) -> Worker {
        Worker::new(database).register(report).data(self.clone())
    }
}

async fn report(_: Report, lab: Data<Lab>) -> Result<String, JobError> {
    let run = lab.runs.fetch_add(1, Ordering::SeqCst) + 1;
    lab.gate.acquire().await?.forget();
    let failing = |left: usize| left.checked_sub(1);
    if lab
        .failures
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, failing)
        .is_ok()
    {
        return Err(JobError::retry(format!("run {run} failed")));
    }
    Ok(format!("run {run}"))
}

pub(crate) async fn larder(db: &TestDatabase) -> Larder {
    Larder::new(&db.open().await)
}

/// What is to be done now is done.
pub(crate) async fn work(db: &TestDatabase, lab: &Lab) {
    run(lab.worker(db.open().await).options(once())).await;
}

both_engines! {
    async fn all_callers_join_the_one_job_that_computes_what_is_absent(db) {
        let (larder, lab) = (larder(db).await, Lab::closed());
        let callers: Vec<_> = (0..5)
            .map(|_| {
                let larder = larder.clone();
                tokio::spawn(async move { larder.call(&november()).await })
            })
            .collect();
        let worker = start(lab.worker(db.open().await).options(lively()));
        lab.began(1).await;
        assert_eq!(larder.cache().info(KEY).await.unwrap(), None, "there is no item before there is a value");
        lab.gate.add_permits(5);
        for caller in callers {
            assert_eq!(within(caller).await.unwrap().unwrap(), "run 1");
        }
        eventually("the job is done", async || count(larder.queue(), JobStatus::Done).await == 1).await;
        assert_eq!(larder.call(&november()).await.unwrap(), "run 1");
        worker.end().await;
        assert_eq!((lab.runs(), larder.queue().counts().await.unwrap().len()), (1, 1));
        let info = larder.cache().info(KEY).await.unwrap().unwrap();
        assert_eq!((info.tags, info.last_error), (vec!["reports".to_owned()], None));
        assert_eq!(info.stale_at.unwrap() + MINUTE, info.expires_at.unwrap());
        assert!(larder.queue().get(info.job.unwrap()).await.unwrap().is_some());
    }

    async fn a_job_whose_result_is_fresh_is_done_without_its_handler(db) {
        let (queue, lab) = (Queue::new(db.open().await), Lab::open());
        let first = queue.enqueue(&november()).await.unwrap().id;
        work(db, &lab).await;
        let second = queue.enqueue(&november()).await.unwrap().id;
        work(db, &lab).await;
        for id in [first, second] {
            let record = job(&queue, id).await;
            assert_eq!((record.status, record.result.unwrap().get()), (JobStatus::Done, "\"run 1\""));
        }
        // An attempt whose outcome was lost is made again, and finds what it has done.
        db.execute("UPDATE {}job SET status = 'queued', due = TRUE, result = NULL, finished_at = NULL, worker = NULL").await;
        work(db, &lab).await;
        let record = job(&queue, first).await;
        assert_eq!((record.attempt, record.result.unwrap().get()), (2, "\"run 1\""));
        assert_eq!(lab.runs(), 1);
    }

    async fn of_jobs_at_work_together_one_runs_and_the_others_have_its_result(db) {
        let (queue, lab) = (Queue::new(db.open().await), Lab::closed());
        queue.enqueue(&november()).await.unwrap();
        queue.enqueue(&november()).await.unwrap();
        let worker = start(lab.worker(db.open().await).options(lively()));
        lab.began(1).await;
        eventually("both are at work", async || count(&queue, JobStatus::Running).await == 2).await;
        lab.gate.add_permits(5);
        eventually("both are done", async || count(&queue, JobStatus::Done).await == 2).await;
        worker.end().await;
        assert_eq!(lab.runs(), 1);
    }

    async fn a_stale_result_is_returned_at_once_and_refreshed_by_one_job(db) {
        let (larder, lab) = (larder(db).await, Lab::open());
        larder.queue().enqueue(&november()).await.unwrap();
        work(db, &lab).await;
        db.advance(60);
        for _ in 0..3 {
            assert_eq!(larder.call(&november()).await.unwrap(), "run 1");
        }
        assert_eq!(count(larder.queue(), JobStatus::Queued).await, 1);
        work(db, &lab).await;
        assert_eq!(larder.call(&november()).await.unwrap(), "run 2");
        assert_eq!(count(larder.queue(), JobStatus::Queued).await, 0);
    }

    async fn while_refreshes_fail_the_stale_result_is_served_and_says_why(db) {
        let (larder, lab) = (larder(db).await, Lab::open());
        larder.queue().enqueue(&november()).await.unwrap();
        work(db, &lab).await;
        db.advance(60);
        lab.fail(usize::MAX);
        assert_eq!(larder.call(&november()).await.unwrap(), "run 1");
        for (attempt, status) in [(1, JobStatus::Queued), (2, JobStatus::Dead)] {
            work(db, &lab).await;
            assert_eq!(larder.cache().get::<String>(KEY).await.unwrap().as_deref(), Some("run 1"));
            let info = larder.cache().info(KEY).await.unwrap().unwrap();
            assert_eq!(info.last_error, Some(format!("run {} failed", attempt + 1)));
            assert_eq!(info.lease_until, None);
            let refresh = job(larder.queue(), info.job.unwrap()).await;
            assert_eq!((refresh.status, refresh.attempt), (status, attempt));
            if status == JobStatus::Queued {
                assert_eq!(larder.call(&november()).await.unwrap(), "run 1");
                assert_eq!(count(larder.queue(), JobStatus::Queued).await, 1, "it is refreshed by the one that waits");
            }
            db.advance(10);
        }
        db.advance(60);
        let late = larder.call(&november()).timeout(Duration::from_millis(10)).await.unwrap_err();
        assert!(late.is_timeout(), "past the hard deadline there is nothing to serve: {late}");
    }

    async fn what_is_invalidated_while_it_runs_runs_again_within_its_attempt(db) {
        let (larder, lab) = (larder(db).await, Lab::closed());
        let id = larder.queue().enqueue(&november()).unique_key("memo:report:2026-11").await.unwrap().id;
        let worker = start(lab.worker(db.open().await).options(lively()));
        lab.began(1).await;
        assert_eq!(larder.cache().clear_tag("reports").await.unwrap(), 0);
        let caller = tokio::spawn({
            let larder = larder.clone();
            async move { larder.call(&november()).await }
        });
        lab.gate.add_permits(1);
        lab.began(2).await;
        lab.gate.add_permits(1);
        assert_eq!(within(caller).await.unwrap().unwrap(), "run 2", "who came after the invalidation has what is newer");
        let record = becomes(larder.queue(), id, JobStatus::Done).await;
        assert_eq!((record.attempt, record.result.unwrap().get()), (1, "\"run 2\""));
        worker.end().await;
    }

    async fn what_is_invalidated_again_and_again_is_done_and_not_remembered(db) {
        let (larder, runs) = (larder(db).await, Arc::new(AtomicUsize::new(0)));
        let counted = runs.clone();
        let handler = move |_: Report, cache: Data<Cache>| {
            let counted = counted.clone();
            async move {
                cache.delete(KEY).await?;
                Ok::<_, JobError>(format!("run {}", counted.fetch_add(1, Ordering::SeqCst) + 1))
            }
        };
        let id = larder.queue().enqueue(&november()).await.unwrap().id;
        run(Worker::new(db.open().await).options(once()).register(handler)).await;
        let record = job(larder.queue(), id).await;
        assert_eq!((record.status, record.attempt, record.result.unwrap().get()), (JobStatus::Done, 1, "\"run 4\""));
        assert_eq!(larder.cache().get::<String>(KEY).await.unwrap(), None);
    }

    async fn an_attempt_takes_over_from_an_earlier_one_of_its_job(db) {
        let (queue, lab) = (Queue::new(db.open().await), Lab::closed());
        let id = queue.enqueue(&november()).await.unwrap().id;
        let worker = start(lab.worker(db.open().await).options(lively()));
        lab.began(1).await;
        // It is rescued, as from a worker that fell silent, and its lease stands.
        db.execute("UPDATE {}job SET status = 'queued', due = TRUE, worker = NULL").await;
        lab.began(2).await;
        lab.gate.add_permits(5);
        assert_eq!(becomes(&queue, id, JobStatus::Done).await.attempt, 2);
        worker.end().await;
        assert_eq!(lab.runs(), 2, "the first one finds what the second has kept");
    }

    async fn a_call_tells_of_a_job_that_ends_dead_and_of_one_that_takes_too_long(db) {
        let (larder, lab) = (larder(db).await, Lab::open());
        let error = larder.call(&november()).timeout(Duration::from_millis(10)).await.unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains("is queued"), "{error}");
        let caller = tokio::spawn({
            let larder = larder.clone();
            async move { larder.call(&november()).await }
        });
        let aborts = |_: Report| async { Err::<String, _>(JobError::abort("there is no November")) };
        let worker = start(Worker::new(db.open().await).options(lively()).register(aborts));
        let error = within(caller).await.unwrap().unwrap_err();
        assert!(error.is_failed_computation() && error.to_string().ends_with("dead: there is no November"), "{error}");
        worker.end().await;
        assert_eq!(larder.queue().counts().await.unwrap().len(), 1);
        larder.queue().enqueue(&november()).await.unwrap();
        work(db, &lab).await;
        assert_eq!(larder.call(&november()).await.unwrap(), "run 1", "an error is not remembered");
    }

    async fn a_panic_is_told_on_the_item_and_its_lease_is_over(db) {
        let (larder, lab) = (larder(db).await, Lab::open());
        let id = larder.queue().enqueue(&november()).await.unwrap().id;
        work(db, &lab).await;
        db.advance(60);
        let refresh = larder.queue().enqueue(&november()).await.unwrap().id;
        let panics = |job: Report| async move {
            assert!(job.month.is_empty(), "no such month");
            Ok::<String, JobError>(job.month)
        };
        run(Worker::new(db.open().await).options(once()).register(panics)).await;
        let info = larder.cache().info(KEY).await.unwrap().unwrap();
        assert_eq!(info.last_error.as_deref(), Some("its handler panicked: no such month"));
        assert_eq!((info.lease_until, info.job), (None, Some(refresh)));
        assert_eq!(job(larder.queue(), refresh).await.error, info.last_error);
        assert_ne!(id, refresh);
    }

    async fn a_result_that_the_cache_does_not_take_is_the_jobs_all_the_same(db) {
        let (larder, lab) = (larder(db).await, Lab::open());
        let small = Cache::new(db.open().await).with_max_value_bytes(3);
        let id = larder.queue().enqueue(&november()).await.unwrap().id;
        run(lab.worker(db.open().await).with_cache(small).options(once())).await;
        assert_eq!(job(larder.queue(), id).await.result.unwrap().get(), "\"run 1\"");
        assert_eq!(larder.cache().get::<String>(KEY).await.unwrap(), None);
        // Its lease is given back.
        let again = larder.queue().enqueue(&november()).await.unwrap().id;
        work(db, &lab).await;
        assert_eq!(job(larder.queue(), again).await.result.unwrap().get(), "\"run 2\"");
    }

    async fn a_job_that_calls_itself_is_told_so(db) {
        let larder = larder(db).await;
        let id = larder.queue().enqueue(&november()).await.unwrap().id;
        let calls = {
            move |job: Report, cache: Data<Cache>, queue: Data<Queue>| async move {
                Larder::of((*cache).clone(), (*queue).clone()).call(&job).await.map_err(JobError::abort)
            }
        };
        within(run(Worker::new(db.open().await).options(once()).register(calls))).await;
        let error = job(larder.queue(), id).await.error.unwrap();
        assert!(error.contains("asks for the key itself"), "{error}");
    }

    async fn what_somebody_sets_is_what_callers_get(db) {
        let (larder, lab) = (larder(db).await, Lab::open());
        larder.cache().set_with(KEY, "by hand", Expiration::after(MINUTE)).await.unwrap();
        assert_eq!(larder.call(&november()).await.unwrap(), "by hand");
        larder.cache().delete(KEY).await.unwrap();
        larder.queue().enqueue(&november()).await.unwrap();
        work(db, &lab).await;
        larder.cache().set(KEY, &7).await.unwrap();
        assert!(larder.call(&november()).await.unwrap_err().is_corrupt());
    }
}
