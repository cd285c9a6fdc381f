//! Handlers that say themselves how long their result is remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder::cache::Memo;
use larder::queue::{JobStatus, Queue};
use larder::{Cache, Data, Expiration, Job, JobContext, JobError, Larder, Worker};
use serde::{Deserialize, Serialize};

use crate::support::{TestDatabase, both_engines};
use crate::work::{count, eventually, job, lively, once, run, start};

const KEY: &str = "token";

#[derive(Serialize, Deserialize)]
struct Token {}

impl Job for Token {
    const NAME: &'static str = "token";
    type Output = String;

    fn memo(&self) -> Option<Memo> {
        let minute = Duration::from_secs(60);
        Some(Memo::new(KEY).fresh_for(minute).stale_for(minute))
    }
}

/// What each run says of its result, in turn; the last from then on.
#[derive(Clone)]
struct Says {
    each: Arc<[fn(&JobContext)]>,
    runs: Arc<AtomicUsize>,
}

impl Says {
    fn new(each: impl Into<Arc<[fn(&JobContext)]>>) -> Self {
        let (each, runs) = (each.into(), Arc::default());
        Self { each, runs }
    }

    fn next(&self, cx: &JobContext) -> String {
        let nth = self.runs.fetch_add(1, Ordering::SeqCst);
        self.each[nth.min(self.each.len() - 1)](cx);
        format!("run {}", nth + 1)
    }
}

async fn token(_: Token, says: Data<Says>, cx: JobContext) -> Result<String, JobError> {
    Ok(says.next(&cx))
}

const NOTHING: fn(&JobContext) = |_| ();
const NOT: fn(&JobContext) = JobContext::do_not_remember;
const SHORTLY: fn(&JobContext) =
    |cx| cx.remember_for(Duration::from_secs(10), Duration::from_secs(5));

/// A job that is enqueued, and the worker that runs it; what it gave.
async fn ran(db: &TestDatabase, says: &Says) -> String {
    let queue = Queue::new(db.open().await);
    let id = queue.enqueue(&Token {}).await.unwrap().id;
    let worker = Worker::new(db.open().await).register(token);
    run(worker.data(says.clone()).options(once())).await;
    let record = job(&queue, id).await;
    assert_eq!(record.status, JobStatus::Done, "{:?}", record.error);
    serde_json::from_str(record.result.unwrap().get()).unwrap()
}

/// How many seconds it is fresh, and may be given at all.
async fn times(db: &TestDatabase) -> (i64, i64) {
    let info = db.cache().await.info(KEY).await.unwrap().unwrap();
    let now: chrono::DateTime<chrono::Utc> = db.clock.now().into();
    let seconds = |at: Option<chrono::DateTime<chrono::Utc>>| (at.unwrap() - now).num_seconds();
    (seconds(info.stale_at), seconds(info.expires_at))
}

both_engines! {
    async fn what_a_handler_says_goes_before_its_memo_for_that_result(db) {
        let says = Says::new([SHORTLY, NOTHING]);
        assert_eq!(ran(db, &says).await, "run 1");
        assert_eq!(times(db).await, (10, 15));
        db.advance(9);
        assert_eq!(ran(db, &says).await, "run 1");
        db.advance(1);
        assert_eq!(ran(db, &says).await, "run 2");
        assert_eq!(times(db).await, (60, 120));
    }

    async fn a_result_that_is_not_to_be_remembered_is_its_jobs_alone(db) {
        let says = Says::new([NOTHING, NOT]);
        let larder = Larder::new(&db.open().await);
        assert_eq!(ran(db, &says).await, "run 1");
        db.advance(60);
        assert_eq!(larder.call(&Token {}).await.unwrap(), "run 1", "it is stale");
        for expected in ["run 2", "run 3"] {
            db.execute("DELETE FROM {}job").await;
            assert_eq!(ran(db, &says).await, expected);
            assert_eq!(larder.cache().get::<String>(KEY).await.unwrap(), None, "what was stale is superseded");
        }
        let values = db.texts("SELECT CAST(value AS text) FROM {}cached_item").await;
        assert!(values.iter().all(|value| value == "null"), "{values:?}");
        let worker = start(Worker::new(db.open().await).register(token).data(says).options(lively()));
        assert_eq!(larder.call(&Token {}).await.unwrap(), "run 4", "who waits for the job has its result");
        worker.end().await;
    }

    async fn jobs_at_work_together_do_not_share_what_is_not_to_be_remembered(db) {
        let says = Says::new([NOT]);
        let queue = Queue::new(db.open().await);
        for _ in 0..3 {
            queue.enqueue(&Token {}).await.unwrap();
        }
        let worker = start(Worker::new(db.open().await).register(token).data(says.clone()).options(lively()));
        eventually("all are done", async || count(&queue, JobStatus::Done).await == 3).await;
        worker.end().await;
        assert_eq!(says.runs.load(Ordering::SeqCst), 3);
    }

    async fn what_a_run_said_that_was_invalidated_is_not_of_the_next(db) {
        let says = Says::new([NOT, SHORTLY, NOTHING]);
        let handler = {
            let says = says.clone();
            move |_: Token, cache: Data<Cache>, cx: JobContext| {
                let says = says.clone();
                async move {
                    let said = says.next(&cx);
                    if said != "run 3" {
                        cache.delete(KEY).await?;
                    }
                    Ok::<_, JobError>(said)
                }
            }
        };
        Queue::new(db.open().await).enqueue(&Token {}).await.unwrap();
        run(Worker::new(db.open().await).options(once()).register(handler)).await;
        assert_eq!(db.cache().await.get::<String>(KEY).await.unwrap().as_deref(), Some("run 3"));
        assert_eq!(times(db).await, (60, 120));
    }

    async fn what_somebody_sets_meanwhile_is_not_taken_away(db) {
        let handler = |_: Token, cache: Data<Cache>, cx: JobContext| async move {
            cx.do_not_remember();
            cache.set_with(KEY, "by hand", Expiration::after(Duration::from_secs(60))).await?;
            Ok::<_, JobError>("computed".to_owned())
        };
        Queue::new(db.open().await).enqueue(&Token {}).await.unwrap();
        run(Worker::new(db.open().await).options(once()).register(handler)).await;
        assert_eq!(db.cache().await.get::<String>(KEY).await.unwrap().as_deref(), Some("by hand"));
    }
}
