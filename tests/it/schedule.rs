//! Schedules over a fleet: each tick is one job, whoever looks, and however late.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use larder::queue::{JobFilter, JobRecord, JobStatus, NewJob};
use larder::schedule::{CatchUp, Cron, Overlap, ScheduleEntry, ScheduleState};
use larder::worker::WorkerOptions;
use larder::{JobContext, JobError, Queue, Worker};
use serde_json::Value;

use crate::support::{TestDatabase, both_engines, noon};
use crate::work::{Other, Probe, count, eventually, job, lively, once, probe, run, start};

fn entry(cron: &str) -> ScheduleEntry {
    ScheduleEntry::new(
        "every",
        Cron::parse_in(cron, "UTC").unwrap(),
        NewJob::new(&probe(1)),
    )
}

/// A worker of this entry that does not know its jobs, so that they stay as they were enqueued.
async fn worker(db: &TestDatabase, options: WorkerOptions, entry: &ScheduleEntry) -> Worker {
    Worker::new(db.open().await)
        .options(options)
        .register(|_: Other| async { Ok::<_, JobError>(()) })
        .schedule(entry.clone())
}

/// One look by a worker that comes and goes, as at a restart.
async fn look(db: &TestDatabase, entry: &ScheduleEntry) {
    run(worker(db, once(), entry).await).await;
}

async fn jobs(db: &TestDatabase) -> Vec<JobRecord> {
    let all = JobFilter {
        limit: 10_000,
        ..JobFilter::default()
    };
    let mut jobs = Queue::new(db.open().await).list(&all).await.unwrap();
    jobs.reverse();
    jobs
}

/// The ticks that enqueued a job, as minutes and seconds after noon.
async fn ticks(db: &TestDatabase) -> Vec<String> {
    let mut ticks: Vec<DateTime<Utc>> = jobs(db).await.iter().filter_map(|job| job.tick).collect();
    ticks.sort();
    ticks
        .iter()
        .map(|tick| tick.format("%H:%M").to_string())
        .collect()
}

async fn state(db: &TestDatabase) -> ScheduleState {
    ScheduleState::all(&db.open().await)
        .await
        .unwrap()
        .remove(0)
}

both_engines! {
    async fn each_tick_is_one_job_however_many_look_at_once(db) {
        let every = entry("* * * * *");
        look(db, &every).await;
        for minute in 1..=6 {
            db.advance(60);
            let fleet = (0..if minute % 2 == 0 { 5 } else { 2 }).map(|_| look(db, &every));
            futures::future::join_all(fleet).await;
            assert_eq!(jobs(db).await.len(), minute);
        }
        assert_eq!(ticks(db).await, ["12:01", "12:02", "12:03", "12:04", "12:05", "12:06"]);
        let last = jobs(db).await.pop().unwrap();
        assert_eq!((last.schedule.as_deref(), last.tick), (Some("every"), Some(noon() + TimeDelta::minutes(6))));
        let state = state(db).await;
        assert_eq!((state.last_tick, state.last_job, state.until), (last.tick, Some(last.id), noon() + TimeDelta::minutes(6)));
    }

    async fn five_workers_at_work_and_one_that_restarts_make_one_job_a_tick(db) {
        let every = entry("* * * * *");
        let queue = Queue::new(db.open().await);
        let mut fleet = Vec::new();
        for _ in 0..5 {
            fleet.push(start(worker(db, lively(), &every).await));
        }
        // The first sight of a schedule starts from its instant, which must be before the first tick.
        eventually("it is loaded", async || !ScheduleState::all(queue.database()).await.unwrap().is_empty()).await;
        for minute in 1..=3 {
            db.advance(60);
            fleet.pop().unwrap().end().await;
            eventually("the tick has its job", async || count(&queue, JobStatus::Queued).await == minute).await;
            fleet.push(start(worker(db, lively(), &every).await));
        }
        for worker in fleet {
            worker.end().await;
        }
        assert_eq!(ticks(db).await, ["12:01", "12:02", "12:03"]);
    }

    async fn the_first_sight_of_a_schedule_starts_from_now(db) {
        let every = entry("* * * * *").catch_up(CatchUp::All);
        db.advance(30);
        look(db, &every).await;
        look(db, &every).await;
        assert!(jobs(db).await.is_empty());
        db.advance(29);
        look(db, &every).await;
        assert!(jobs(db).await.is_empty());
        db.advance(1);
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:01"]);
    }

    async fn missed_ticks_are_skipped(db) {
        let every = entry("* * * * *").catch_up(CatchUp::Skip);
        look(db, &every).await;
        db.advance(5 * 60 + 45);
        look(db, &every).await;
        assert!(jobs(db).await.is_empty());
        db.advance(15 + 30);
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:06"], "half a minute late is not missed");
    }

    async fn missed_ticks_are_caught_up_once(db) {
        let every = entry("* * * * *").catch_up(CatchUp::Once);
        look(db, &every).await;
        db.advance(5 * 60 + 45);
        look(db, &every).await;
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:05"]);
    }

    async fn missed_ticks_are_all_caught_up_within_the_window(db) {
        let every = entry("* * * * *").catch_up(CatchUp::All).catch_up_window(Duration::from_secs(3 * 60));
        look(db, &every).await;
        db.advance(5 * 60 + 45);
        let fleet = (0..3).map(|_| look(db, &every));
        futures::future::join_all(fleet).await;
        assert_eq!(ticks(db).await, ["12:03", "12:04", "12:05"]);
    }

    async fn a_tick_is_passed_over_while_the_last_ones_job_is_unfinished(db) {
        let every = entry("* * * * *").overlap(Overlap::Skip);
        look(db, &every).await;
        for status in ["queued", "running"] {
            db.advance(60);
            look(db, &every).await;
            db.execute(&format!("UPDATE {{}}job SET status = '{status}', worker = NULL")).await;
        }
        assert_eq!(ticks(db).await, ["12:01"]);
        db.advance(60);
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:01"]);
        db.execute("UPDATE {}job SET status = 'dead'").await;
        db.advance(60);
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:01", "12:04"]);
    }

    async fn jobs_overlap_where_that_is_allowed(db) {
        let every = entry("* * * * *").overlap(Overlap::Allow);
        look(db, &every).await;
        for _ in 0..2 {
            db.advance(60);
            look(db, &every).await;
        }
        assert_eq!(ticks(db).await, ["12:01", "12:02"]);
    }

    async fn an_edited_expression_starts_from_now_and_an_edited_policy_goes_on(db) {
        let all = |cron: &str| entry(cron).catch_up(CatchUp::All);
        look(db, &all("* * * * *")).await;
        db.advance(150);
        // Another window: the same ticks.
        look(db, &all("* * * * *").catch_up_window(Duration::from_secs(7_200))).await;
        assert_eq!(ticks(db).await, ["12:01", "12:02"]);
        db.advance(150);
        look(db, &all("*/2 * * * *")).await;
        assert_eq!(jobs(db).await.len(), 2);
        db.advance(60);
        look(db, &all("*/2 * * * *")).await;
        assert_eq!(ticks(db).await, ["12:01", "12:02", "12:06"]);
    }

    async fn a_disabled_entry_enqueues_nothing_and_starts_from_now_when_it_is_enabled(db) {
        let every = entry("* * * * *").catch_up(CatchUp::All);
        look(db, &every).await;
        look(db, &every.clone().enabled(false)).await;
        db.advance(150);
        look(db, &every.clone().enabled(false)).await;
        look(db, &every).await;
        assert!(jobs(db).await.is_empty());
        db.advance(30);
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:03"]);
    }

    async fn the_definition_last_loaded_counts_and_the_other_worker_enqueues_nothing(db) {
        let queue = Queue::new(db.open().await);
        let named = |payload: i32| {
            ScheduleEntry::new("every", Cron::parse_in("* * * * *", "UTC").unwrap(), NewJob::new(&probe(payload)))
        };
        let old = start(worker(db, lively(), &named(1)).await);
        eventually("it is loaded", async || !ScheduleState::all(queue.database()).await.unwrap().is_empty()).await;
        db.advance(60);
        eventually("the old worker enqueues", async || count(&queue, JobStatus::Queued).await == 1).await;
        let new = start(worker(db, lively(), &named(2)).await);
        eventually("both are there", async || db.number("SELECT COUNT(*) FROM {}job_worker").await == 2).await;
        for jobs in 2..=3 {
            db.advance(60);
            eventually("the new worker enqueues", async || count(&queue, JobStatus::Queued).await == jobs).await;
        }
        new.end().await;
        old.end().await;
        let payloads: Vec<_> = jobs(db).await.iter().map(|job| job.payload.get().to_owned()).collect();
        assert_eq!(payloads, [r#"{"value":1}"#, r#"{"value":2}"#, r#"{"value":2}"#]);
    }

    async fn a_paused_schedule_enqueues_nothing(db) {
        let every = entry("* * * * *").catch_up(CatchUp::All);
        look(db, &every).await;
        db.execute("UPDATE {}job_schedule SET paused_at = until").await;
        db.advance(60);
        look(db, &every).await;
        assert!(jobs(db).await.is_empty());
        assert!(state(db).await.paused_at.is_some());
    }

    async fn a_clock_that_goes_back_makes_no_tick_twice(db) {
        let every = entry("* * * * *").catch_up(CatchUp::All);
        look(db, &every).await;
        db.advance(60);
        look(db, &every).await;
        for seconds in [-50, 30, 25] {
            db.advance(seconds);
            look(db, &every).await;
        }
        assert_eq!(ticks(db).await, ["12:01"]);
    }

    async fn a_handler_is_told_the_instant_of_its_tick(db) {
        let every = entry("* * * * *");
        look(db, &every).await;
        // The look is late, and the job later still.
        db.advance(65);
        look(db, &every).await;
        db.advance(100);
        run(Worker::new(db.open().await).options(once()).register(|_: Probe, cx: JobContext| async move {
            Ok::<Value, JobError>(serde_json::json!([cx.schedule, cx.tick]))
        })).await;
        let done = jobs(db).await.remove(0);
        assert_eq!(done.result.unwrap().get(), r#"["every","2026-11-22T12:01:00Z"]"#);
    }

    async fn a_schedule_that_is_run_by_hand_enqueues_beside_its_ticks(db) {
        let queue = Queue::new(db.open().await);
        let every = entry("* * * * *").overlap(Overlap::Skip);
        look(db, &every).await;
        let by_hand = every.run_now(&queue).await.unwrap();
        assert!(by_hand.inserted);
        let record = job(&queue, by_hand.id).await;
        assert_eq!((record.schedule.as_deref(), record.tick), (Some("every"), None));
        db.advance(60);
        look(db, &every).await;
        assert!(ticks(db).await.is_empty(), "it overlaps with what was run by hand");
        db.execute("UPDATE {}job SET status = 'done'").await;
        db.advance(60);
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:02"]);
    }

    async fn a_tick_that_fails_to_enqueue_is_not_recorded_and_comes_again(db) {
        let every = entry("* * * * *");
        look(db, &every).await;
        // Between the record of the tick and its job, the database fails.
        if db.is_sqlite() {
            db.execute("CREATE TRIGGER refuse BEFORE INSERT ON job BEGIN SELECT RAISE(ABORT, 'not now'); END").await;
        } else {
            db.execute("ALTER TABLE {}job ADD CONSTRAINT refuse CHECK (name = 'not now')").await;
        }
        db.advance(60);
        worker(db, once(), &every).await.run_until(std::future::pending()).await.unwrap_err();
        assert_eq!((state(db).await.until, state(db).await.last_tick), (noon(), None));
        db.execute(if db.is_sqlite() { "DROP TRIGGER refuse" } else { "ALTER TABLE {}job DROP CONSTRAINT refuse" }).await;
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:01"]);
    }

    async fn workers_that_load_a_schedule_at_once_start_it_once(db) {
        drop(db.open().await);
        let fleet = (0..8).map(|n| {
            let every = entry("* * * * *").catch_up_window(Duration::from_secs(60 + n % 3));
            async move { look(db, &every).await }
        });
        futures::future::join_all(fleet).await;
        assert_eq!(state(db).await.until, noon());
        assert!(jobs(db).await.is_empty());
    }
}
