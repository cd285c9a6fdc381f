//! Invalidated results of memoized jobs are made anew, those that cost most last.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::cache::Memo;
use larder::queue::{JobFilter, JobStatus};
use larder::{Expiration, Job, JobError, Larder, Worker};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::support::{TestDatabase, both_engines};
use crate::work::{
    becomes, count, eventually, hold_outcomes, job, let_outcomes, lively, once, run, start,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A page, built from the pages that it names.
#[derive(Clone, Serialize, Deserialize)]
struct Page {
    name: String,
    from: Vec<String>,
}

impl Job for Page {
    const NAME: &'static str = "page";
    type Output = usize;
    const QUEUE: &'static str = "pages";
    const MAX_ATTEMPTS: Option<u16> = Some(2);

    fn memo(&self) -> Option<Memo> {
        let memo = Memo::new(format!("page:{}", self.name)).tags(["pages"]);
        let memo = memo.fresh_for(MINUTE).stale_for(MINUTE);
        Some(memo.depends_on(self.from.iter().map(|name| format!("page:{name}"))))
    }
}

fn page(name: &str) -> Page {
    built(name, &[])
}

fn built(name: &str, from: &[&str]) -> Page {
    Page {
        name: name.to_owned(),
        from: from.iter().map(ToString::to_string).collect(),
    }
}

/// What was run, in order.
type Runs = Arc<Mutex<Vec<String>>>;

/// One after the other, each when the gate lets it.
async fn worker(db: &TestDatabase, runs: &Runs, gate: &Arc<Semaphore>) -> Worker {
    let (runs, gate) = (runs.clone(), gate.clone());
    let handler = move |page: Page| {
        let (runs, gate) = (runs.clone(), gate.clone());
        async move {
            let run = {
                let mut runs = runs.lock().unwrap();
                runs.push(page.name);
                runs.len()
            };
            gate.acquire().await?.forget();
            Ok::<_, JobError>(run)
        }
    };
    Worker::new(db.open().await).register(handler)
}

async fn work(db: &TestDatabase) -> Vec<String> {
    let (runs, gate) = (Runs::default(), Arc::new(Semaphore::new(100)));
    let mut options = once();
    options.concurrency = 1;
    run(worker(db, &runs, &gate).await.options(options)).await;
    runs.lock().unwrap().clone()
}

/// These pages are made, and cost what they are said to, in milliseconds.
async fn made(db: &TestDatabase, pages: &[(Page, i64)]) -> Larder {
    let larder = Larder::new(&db.open().await);
    for (page, cost) in pages {
        larder
            .queue()
            .enqueue(page)
            .queue("elsewhere")
            .await
            .unwrap();
        work(db).await;
        db.execute(&format!(
            "UPDATE {{}}cached_item SET cost = {cost}000 WHERE key = 'page:{}'",
            page.name
        ))
        .await;
    }
    db.execute("DELETE FROM {}job").await;
    larder
}

async fn exists(larder: &Larder, name: &str) -> bool {
    larder
        .cache()
        .exists(&format!("page:{name}"))
        .await
        .unwrap()
}

async fn queued(larder: &Larder) -> i64 {
    count(larder.queue(), JobStatus::Queued).await
}

both_engines! {
    async fn the_jobs_behind_a_tag_are_enqueued_again_most_expensive_last(db) {
        let larder = made(db, &[(page("b"), 20), (page("c"), 10), (page("a"), 30)]).await;
        let cache = larder.cache();
        // Carries the tag too, and was made by no job, or by one no more.
        cache.tagged(["pages"]).set("set", &1, Expiration::Never).await.unwrap();
        cache.memoize("closure").tags(["pages"]).get_or_compute(|| async { 1 }).await.unwrap();
        let rewarmed = larder.rewarming().clear_tag("pages").await.unwrap();
        assert_eq!((rewarmed.items, rewarmed.jobs.len()), (5, 3));
        assert!(rewarmed.jobs.iter().all(|enqueued| enqueued.inserted));
        assert_eq!(cache.stats().await.unwrap().total, 0);
        for (enqueued, name) in rewarmed.jobs.iter().zip(["c", "b", "a"]) {
            let record = job(larder.queue(), enqueued.id).await;
            assert_eq!(record.payload.get(), format!("{{\"name\":\"{name}\",\"from\":[]}}"));
            assert_eq!((record.name.as_str(), record.queue.as_str(), record.max_attempts), ("page", "pages", 2));
            assert_eq!(record.unique_key, Some(format!("memo:page:{name}")));
        }
        assert_eq!(work(db).await, ["c", "b", "a"]);
        assert!(exists(&larder, "a").await && exists(&larder, "b").await && exists(&larder, "c").await);
        assert_eq!(cache.clear_tag("pages").await.unwrap(), 3);
        assert_eq!(queued(&larder).await, 0, "without rewarming nothing is enqueued");
    }

    async fn what_was_not_live_or_not_made_by_a_job_any_more_is_not_made_anew(db) {
        let larder = made(db, &[(page("set"), 1), (page("computed"), 1), (page("deleted"), 1), (page("expired"), 1)]).await;
        let cache = larder.cache();
        cache.set_with("page:set", &7, Expiration::Never).await.unwrap();
        cache.delete("page:deleted").await.unwrap();
        cache.touch("page:expired", -1).await.unwrap();
        db.advance(120);
        cache.memoize("page:computed").tags(["pages"]).get_or_compute(|| async { 7 }).await.unwrap();
        let rewarmed = larder.rewarming().clear_tag("pages").await.unwrap();
        assert_eq!((rewarmed.items, rewarmed.jobs.len()), (3, 0), "one that has expired counts as of clear_tag");
        let tenant = Larder::of(cache.namespace("tenant").unwrap(), larder.queue().clone());
        assert_eq!(tenant.rewarming().clear_tag("pages").await.unwrap().items, 0);
    }

    async fn what_was_built_from_a_key_is_made_anew_with_it(db) {
        let larder = made(db, &[
            (page("source"), 30),
            (built("near", &["source", "far"]), 20),
            (built("far", &["near"]), 10),
            (page("other"), 1),
        ]).await;
        let rewarmed = larder.rewarming().delete_many(["page:source", "absent"]).await.unwrap();
        assert_eq!((rewarmed.items, rewarmed.jobs.len()), (1, 3));
        assert!(exists(&larder, "other").await && !exists(&larder, "near").await && !exists(&larder, "far").await);
        assert_eq!(work(db).await, ["far", "near", "source"]);
        // All of them carry the tag, and each is made anew once.
        let stale = larder.rewarming().mark_tag_stale("pages").await.unwrap();
        assert_eq!((stale.items, stale.jobs.len(), queued(&larder).await), (4, 4, 4));
    }

    async fn of_a_key_there_is_one_job(db) {
        let larder = made(db, &[(page("a"), 1)]).await;
        let first = larder.rewarming().mark_tag_stale("pages").await.unwrap();
        let again = larder.rewarming().clear_tag("pages").await.unwrap();
        assert_eq!((again.items, again.jobs.len()), (1, 1));
        assert_eq!((again.jobs[0].id, again.jobs[0].inserted), (first.jobs[0].id, false));
        let called = larder.call(&page("a")).timeout(Duration::ZERO).await.unwrap_err();
        assert!(called.to_string().contains(&first.jobs[0].id.to_string()), "{called}");
        assert_eq!(larder.rewarming().clear_tag("pages").await.unwrap().items, 0);
        assert_eq!(queued(&larder).await, 1);
    }

    async fn stale_results_are_served_until_they_are_made_anew(db) {
        let larder = made(db, &[(page("a"), 1)]).await;
        let rewarmed = larder.rewarming().mark_tag_stale("pages").await.unwrap();
        let info = larder.cache().info("page:a").await.unwrap().unwrap();
        assert_eq!(larder.call(&page("a")).await.unwrap(), 1);
        assert_eq!(queued(&larder).await, 1);
        assert_eq!((info.stale_at, info.job), (Some(crate::support::noon()), Some(rewarmed.jobs[0].id)));
        assert_eq!(work(db).await, ["a"]);
        assert!(larder.cache().info("page:a").await.unwrap().unwrap().stale_at > Some(crate::support::noon()));
    }

    async fn it_commits_and_rolls_back_with_the_callers_transaction(db) {
        let larder = made(db, &[(page("a"), 1), (page("b"), 1)]).await;
        for commit in [false, true] {
            let mut transaction = larder.cache().database().begin().await.unwrap();
            let deleted = larder.rewarming().delete_many_in(&mut transaction, ["page:a"]).await.unwrap();
            let cleared = larder.rewarming().clear_tag_in(&mut transaction, "pages").await.unwrap();
            let marked = larder.rewarming().mark_tag_stale_in(&mut transaction, "pages").await.unwrap();
            assert_eq!((deleted.jobs.len(), cleared.jobs.len(), marked.jobs.len()), (1, 1, 0));
            if commit {
                transaction.commit().await.unwrap();
            } else {
                transaction.rollback().await.unwrap();
            }
            assert_eq!((exists(&larder, "a").await, exists(&larder, "b").await), (!commit, !commit));
            assert_eq!(queued(&larder).await, if commit { 2 } else { 0 });
        }
    }

    async fn a_job_that_computes_it_runs_again_and_is_not_joined_by_another(db) {
        let larder = made(db, &[(page("a"), 1)]).await;
        db.advance(60);
        larder.call(&page("a")).await.unwrap();
        let (runs, gate) = (Runs::default(), Arc::new(Semaphore::new(0)));
        let worker = start(worker(db, &runs, &gate).await.options(lively()));
        let began = async |times: usize| eventually("it runs", async || runs.lock().unwrap().len() >= times).await;
        began(1).await;
        let rewarmed = larder.rewarming().clear_tag("pages").await.unwrap();
        assert_eq!((rewarmed.jobs.len(), rewarmed.jobs[0].inserted), (1, false));
        gate.add_permits(1);
        began(2).await;
        gate.add_permits(1);
        becomes(larder.queue(), rewarmed.jobs[0].id, JobStatus::Done).await;
        worker.end().await;
        assert_eq!(larder.cache().get::<usize>("page:a").await.unwrap(), Some(2));
        assert_eq!(larder.queue().list(&JobFilter::default()).await.unwrap().len(), 1);
    }

    /// It has kept its result, and its outcome is not written yet: it holds the unique key, and would not run again.
    async fn a_job_that_runs_and_has_kept_its_result_is_followed_by_another(db) {
        let larder = made(db, &[(page("a"), 1)]).await;
        db.advance(60);
        larder.call(&page("a")).await.unwrap();
        hold_outcomes(db).await;
        let (runs, gate) = (Runs::default(), Arc::new(Semaphore::new(9)));
        let worker = start(worker(db, &runs, &gate).await.options(lively()));
        let stale_at = async || larder.cache().info("page:a").await.unwrap().unwrap().stale_at.unwrap();
        let now = crate::support::noon() + chrono::TimeDelta::seconds(60);
        eventually("the result is kept", async || stale_at().await > now).await;
        let rewarmed = larder.rewarming().clear_tag("pages").await.unwrap();
        assert_eq!((rewarmed.items, rewarmed.jobs.len(), rewarmed.jobs[0].inserted), (1, 1, true));
        eventually("another keeps its result", async || exists(&larder, "a").await).await;
        let_outcomes(db).await;
        eventually("all are done", async || count(larder.queue(), JobStatus::Done).await == 2).await;
        worker.end().await;
    }

    async fn what_somebody_else_wrote_there_keeps_nobody_from_invalidating(db) {
        let larder = made(db, &[(page("a"), 1), (page("b"), 1)]).await;
        db.execute("UPDATE {}cached_item SET made_by = '{ }' WHERE key = 'page:a'").await;
        let rewarmed = larder.rewarming().clear_tag("pages").await.unwrap();
        assert_eq!((rewarmed.items, rewarmed.jobs.len()), (2, 1));
    }

    async fn what_is_no_tag_or_key_is_refused(db) {
        let larder = Larder::new(&db.open().await);
        assert!(larder.rewarming().clear_tag("").await.unwrap_err().is_invalid());
        assert!(larder.rewarming().mark_tag_stale("").await.unwrap_err().is_invalid());
        assert!(larder.rewarming().delete_many(["a\0b"]).await.unwrap_err().is_invalid());
    }
}
