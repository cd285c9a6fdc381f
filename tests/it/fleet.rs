//! Several real worker processes on one database.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use larder::Queue;
use larder::clock::Clock;
use larder::jobs::file_digest::{Digest, FileDigest};
use larder::jobs::run_command::RunCommand;
use larder::queue::{JobFilter, JobId, JobRecord, JobStatus, NewJob};
use sha2::{Digest as _, Sha256};

use crate::support::{TestDatabase, WorkerProcess, both_engines, eventually, raw};
use crate::work::{becomes, hold_outcomes, let_outcomes};

const FILES: usize = 1_000;

/// The queue by the real clock, which worker processes go by.
async fn queue(db: &TestDatabase) -> Queue {
    Queue::new(db.options().clock(Clock::system()).connect().await.unwrap())
}

fn digest_of(content: &str) -> Digest {
    let hash = Sha256::digest(content.as_bytes());
    Digest {
        bytes: content.len() as u64,
        lines: content.matches('\n').count() as u64,
        sha256: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Enqueues a digest of each file, and waits for the results.
async fn digests(queue: &Queue, files: &[PathBuf]) -> Vec<Digest> {
    let jobs: Vec<_> = files
        .iter()
        .map(|path| NewJob::new(&FileDigest { path: path.clone() }))
        .collect();
    let ids: Vec<JobId> = queue
        .enqueue_many(jobs)
        .await
        .unwrap()
        .iter()
        .map(|enqueued| enqueued.id)
        .collect();
    let last = *ids.last().unwrap();
    eventually("all jobs finish", Duration::from_secs(120), async || {
        let counts = queue.counts().await.unwrap();
        counts.iter().all(|count| count.status.is_finished())
            && queue.get(last).await.unwrap().is_some()
    })
    .await;
    let mut results = Vec::new();
    for id in ids {
        let job = queue.get(id).await.unwrap().unwrap();
        assert_eq!(
            (job.status, job.attempt, &job.error),
            (JobStatus::Done, 1, &None)
        );
        results.push(serde_json::from_str(job.result.unwrap().get()).unwrap());
    }
    results
}

both_engines! {
    async fn three_workers_digest_a_thousand_files_and_the_second_time_from_the_cache(db) {
        let contents: Vec<String> =
            (0..FILES).map(|number| format!("file {number}\n").repeat(number % 97 + 1)).collect();
        let files: Vec<PathBuf> =
            (0..FILES).map(|number| db.path().join(format!("file-{number}.txt"))).collect();
        for (path, content) in files.iter().zip(&contents) {
            fs::write(path, content).unwrap();
        }
        let expected: Vec<Digest> = contents.iter().map(|content| digest_of(content)).collect();

        let queue = queue(db).await;
        let mut workers: Vec<WorkerProcess> =
            (0..3).map(|_| WorkerProcess::start(db, &[])).collect();
        workers.iter_mut().for_each(WorkerProcess::wait_until_ready);
        assert_eq!(digests(&queue, &files).await, expected);

        // Other bytes of the same size under the same time of change: only the cache can know the digests of before.
        for (path, content) in files.iter().zip(&contents) {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            fs::write(path, content.replace("file", "FILE")).unwrap();
            fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
        }
        assert_eq!(digests(&queue, &files).await, expected);

        // A file that did change is read again.
        let later = SystemTime::now() + Duration::from_secs(60);
        fs::File::options().write(true).open(&files[0]).unwrap().set_modified(later).unwrap();
        let changed = digests(&queue, &files[..1]).await;
        assert_eq!(changed[0], digest_of(&contents[0].replace("file", "FILE")));

        for worker in workers {
            assert_eq!(worker.terminate(), Some(0));
        }
    }

    async fn worker_processes_keep_together_to_the_limits_of_a_queue_and_of_a_key(db) {
        let files: Vec<PathBuf> = (0..60).map(|number| db.path().join(format!("file-{number}.txt"))).collect();
        for path in &files {
            fs::write(path, "line\n".repeat(20_000)).unwrap();
        }
        let queue = queue(db).await;
        let jobs = files.iter().enumerate().map(|(number, path)| {
            let job = NewJob::new(&FileDigest { path: path.clone() });
            match number % 3 {
                0 => job,
                key => job.limit_running(format!("key {key}"), 1),
            }
        });
        queue.enqueue_many(jobs).await.unwrap();
        let config = db.path().join("larder.toml");
        fs::write(&config, "[queues.default]\nmax_running = 2\nrate = { limit = 20, per = \"500ms\" }\n").unwrap();
        let config = config.to_str().unwrap();
        let mut workers: Vec<WorkerProcess> =
            (0..3).map(|_| WorkerProcess::start(db, &["--config", config])).collect();
        workers.iter_mut().for_each(WorkerProcess::wait_until_ready);

        let (most, of_a_key) = (AtomicI64::new(0), AtomicI64::new(0));
        eventually("all jobs are done", Duration::from_secs(120), async || {
            for _ in 0..10 {
                let running = "SELECT COUNT(*) FROM {}job WHERE status = 'running'";
                most.fetch_max(db.number(running).await, Ordering::SeqCst);
                let of_key = format!("{running} AND limit_key = 'key 1'");
                of_a_key.fetch_max(db.number(&of_key).await, Ordering::SeqCst);
            }
            let counts = queue.counts().await.unwrap();
            counts.iter().all(|count| count.name != "file_digest" || count.status == JobStatus::Done)
        })
        .await;
        assert_eq!((most.into_inner(), of_a_key.into_inner()), (2, 1));
        let filter = JobFilter { name: Some("file_digest".to_owned()), limit: 100, ..JobFilter::default() };
        let mut starts: Vec<_> =
            queue.list(&filter).await.unwrap().iter().map(|job| job.started_at.unwrap()).collect();
        starts.sort();
        for window in starts.windows(21) {
            assert!(window[20] - window[0] >= TimeDelta::milliseconds(500), "{window:?}");
        }
        for worker in workers {
            assert_eq!(worker.terminate(), Some(0));
        }
    }

    async fn each_of_fifteen_ticks_has_one_job_over_five_workers_though_two_are_killed(db) {
        let config = db.path().join("larder.toml");
        fs::write(&config, "[schedule.every-second]\njob = \"clear_expired\"\ncron = \"* * * * * *\"\n").unwrap();
        let config = config.to_str().unwrap();
        let mut workers: Vec<WorkerProcess> =
            (0..5).map(|_| WorkerProcess::start(db, &["--config", config])).collect();
        workers.iter_mut().for_each(WorkerProcess::wait_until_ready);
        let queue = queue(db).await;

        for enough in [4, 9] {
            reach(&queue, enough).await;
            workers.pop().unwrap().kill();
        }
        reach(&queue, 17).await;

        let ticks = ticks(&queue).await;
        let first = *ticks.keys().next().unwrap();
        for second in 0..15 {
            let tick = first + TimeDelta::seconds(second);
            assert_eq!(ticks.get(&tick).map(Vec::len), Some(1), "tick {tick} of {:?}", ticks.keys());
        }
        for worker in workers {
            assert_eq!(worker.terminate(), Some(0));
        }
    }

    async fn what_a_killed_worker_had_computed_and_kept_is_found_by_the_next_attempt(db) {
        let settings = "[worker]\nheartbeat = \"100ms\"\nrescue_after = \"1s\"\n[commands.count]\n\
            argv = [\"sh\", \"-c\", \"echo run >> runs; cat\"]\nfresh_for = \"1h\"\n";
        fs::write(db.path().join("larder.toml"), settings).unwrap();
        let queue = queue(db).await;
        hold_outcomes(db).await;
        let job = RunCommand { command: "count".to_owned(), input: Some(raw("[1.0]")) };
        let id = queue.enqueue(&job).await.unwrap().id;
        let mut killed = WorkerProcess::start(db, &[]);
        killed.wait_until_ready();
        eventually("the result is kept", Duration::from_secs(30), async || {
            db.number("SELECT COUNT(*) FROM {}cached_item WHERE NOT vacant").await == 1
        }).await;
        killed.kill();
        let before = queue.get(id).await.unwrap().unwrap();
        assert_eq!((before.status, before.attempt), (JobStatus::Running, 1), "its outcome is not written");
        let_outcomes(db).await;
        let mut next = WorkerProcess::start(db, &[]);
        next.wait_until_ready();
        let done = becomes(&queue, id, JobStatus::Done).await;
        assert_eq!((done.attempt, done.result.unwrap().get()), (2, "[1.0]"));
        assert_eq!(fs::read_to_string(db.path().join("runs")).unwrap(), "run\n");
        assert_eq!(next.terminate(), Some(0));
    }
}

async fn reach(queue: &Queue, ticks_seen: usize) {
    let what = format!("{ticks_seen} ticks have come");
    eventually(&what, Duration::from_secs(60), async || {
        ticks(queue).await.len() >= ticks_seen
    })
    .await;
}

/// The jobs of the schedule, by their tick.
async fn ticks(queue: &Queue) -> BTreeMap<DateTime<Utc>, Vec<JobRecord>> {
    let filter = JobFilter {
        limit: 1_000,
        ..JobFilter::default()
    };
    let mut ticks: BTreeMap<_, Vec<JobRecord>> = BTreeMap::new();
    for job in queue.list(&filter).await.unwrap() {
        if job.schedule.as_deref() == Some("every-second") {
            ticks.entry(job.tick.unwrap()).or_default().push(job);
        }
    }
    ticks
}
