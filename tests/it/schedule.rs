//! Schedules over a fleet: each tick is one job, whoever looks, and however late.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use larder::queue::{JobFilter, JobRecord, JobStatus, NewJob};
use larder::schedule::{CatchUp, Cron, Overlap, ScheduleEntry, ScheduleState};
use larder::worker::WorkerOptions;
use larder::{JobContext, JobError, Queue, Worker};
use serde_json::Value;
use tokio::sync::watch;

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

    async fn a_paused_schedule_enqueues_nothing_and_starts_from_now_when_it_is_resumed(db) {
        let database = db.open().await;
        let every = entry("* * * * *").catch_up(CatchUp::All);
        look(db, &every).await;
        db.advance(60);
        assert!(ScheduleState::pause(&database, "every").await.unwrap());
        assert!(!ScheduleState::pause(&database, "every").await.unwrap());
        assert_eq!(state(db).await.paused_at, Some(noon() + TimeDelta::minutes(1)));
        for _ in 0..3 {
            look(db, &every).await;
            db.advance(60);
        }
        assert!(jobs(db).await.is_empty());
        assert!(ScheduleState::resume(&database, "every").await.unwrap());
        assert!(!ScheduleState::resume(&database, "every").await.unwrap());
        assert!(!ScheduleState::resume(&database, "nobody").await.unwrap());
        look(db, &every).await;
        assert!(jobs(db).await.is_empty());
        db.advance(60);
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:05"]);
    }

    async fn a_pause_holds_at_once_and_over_the_fleet(db) {
        let database = db.open().await;
        let queue = Queue::new(database.clone());
        // Its ticks show that the fleet has looked at the one before it.
        let later = ScheduleEntry::new("later", Cron::parse_in("* * * * *", "UTC").unwrap(), NewJob::new(&probe(2)));
        let every = entry("* * * * *").catch_up(CatchUp::All);
        let both = async || worker(db, lively(), &every).await.schedule(later.clone());
        let fleet = [start(both().await), start(both().await)];
        eventually("they are loaded", async || ScheduleState::all(&database).await.unwrap().len() == 2).await;
        let next = async |minute| {
            db.advance(60);
            eventually("the fleet looks", async || {
                let jobs = queue.list(&JobFilter::default()).await.unwrap();
                jobs.iter().any(|job| job.schedule.as_deref() == Some("later") && job.tick == Some(noon() + TimeDelta::minutes(minute)))
            }).await;
        };
        // What was looked at before the clock moved is looked at again.
        let ticked = async |minute: &str| {
            eventually("it ticks", async || ticks(db).await.iter().filter(|tick| *tick == minute).count() == 2).await;
        };
        next(1).await;
        ticked("12:01").await;
        ScheduleState::pause(&database, "every").await.unwrap();
        next(2).await;
        next(3).await;
        ScheduleState::resume(&database, "every").await.unwrap();
        next(4).await;
        ticked("12:04").await;
        for worker in fleet {
            worker.end().await;
        }
        let every: Vec<_> = jobs(db).await.into_iter().filter(|job| job.schedule.as_deref() == Some("every")).collect();
        let minutes: Vec<_> = every.iter().map(|job| (job.tick.unwrap() - noon()).num_minutes()).collect();
        assert_eq!(minutes, [1, 4]);
    }

    async fn a_pause_that_comes_before_the_entry_is_kept(db) {
        let database = db.open().await;
        assert!(ScheduleState::pause(&database, "every").await.unwrap());
        assert!(!state(db).await.is_loaded());
        let every = entry("* * * * *").catch_up(CatchUp::All);
        db.advance(90);
        look(db, &every).await;
        db.advance(60);
        look(db, &every).await;
        assert!(jobs(db).await.is_empty());
        assert!(state(db).await.is_loaded() && state(db).await.paused_at.is_some());
        ScheduleState::resume(&database, "every").await.unwrap();
        db.advance(60);
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:03"]);
        assert!(ScheduleState::pause(&database, "").await.unwrap_err().is_invalid());
    }

    async fn starting_from_now_by_a_clock_that_is_behind_repeats_no_tick(db) {
        let database = db.open().await;
        let every = entry("* * * * *").catch_up(CatchUp::All);
        look(db, &every).await;
        db.advance(120);
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:01", "12:02"]);
        ScheduleState::pause(&database, "every").await.unwrap();
        db.advance(-90);
        ScheduleState::resume(&database, "every").await.unwrap();
        db.advance(100);
        look(db, &every).await;
        assert_eq!(ticks(db).await, ["12:01", "12:02"]);
        db.advance(-100);
        let edited = entry("*/1 * * * *").catch_up(CatchUp::All);
        look(db, &edited).await;
        db.advance(100);
        look(db, &edited).await;
        assert_eq!(ticks(db).await, ["12:01", "12:02"]);
    }

    async fn a_record_far_ahead_of_the_clock_is_started_from_now_by_a_pause_and_resume(db) {
        let database = db.open().await;
        let every = entry("* * * * *");
        look(db, &every).await;
        let year = 365 * 86_400;
        db.advance(year);
        look(db, &every).await;
        db.advance(-year);
        let before = jobs(db).await.len();
        ScheduleState::pause(&database, "every").await.unwrap();
        ScheduleState::resume(&database, "every").await.unwrap();
        db.advance(60);
        look(db, &every).await;
        assert_eq!(jobs(db).await.len(), before + 1);
        assert_eq!(state(db).await.until, noon() + TimeDelta::minutes(1));
    }

    async fn entries_come_and_change_and_go_while_a_worker_works(db) {
        let database = db.open().await;
        let of = |name: &str, cron: &str| {
            let cron = Cron::parse_in(cron, "UTC").unwrap();
            ScheduleEntry::new(name, cron, NewJob::new(&probe(name))).catch_up(CatchUp::All)
        };
        let (schedule, changing) = watch::channel(vec![of("stays", "* * * * *"), of("goes", "* * * * *")]);
        let working = Worker::new(database.clone())
            .options(lively())
            .register(|_: Other| async { Ok::<_, JobError>(()) })
            .schedule(of("fixed", "0 0 1 1 *"))
            .schedules(changing);
        let working = start(working);
        let names = async || -> Vec<String> { ScheduleState::all(&database).await.unwrap().into_iter().map(|state| state.name).collect() };
        let has = async |name: &str, minute: i64| {
            let tick = noon() + TimeDelta::minutes(minute);
            eventually(&format!("{name} has its job of minute {minute}"), async || {
                jobs(db).await.iter().any(|job| job.schedule.as_deref() == Some(name) && job.tick == Some(tick))
            }).await;
        };
        eventually("they are loaded", async || names().await == ["fixed", "goes", "stays"]).await;
        db.advance(60);
        has("goes", 1).await;
        has("stays", 1).await;
        // One is gone, one is new, one is disabled: the new one starts from now.
        schedule.send_replace(vec![of("stays", "* * * * *"), of("new", "*/2 * * * *"), of("off", "* * * * *").enabled(false)]);
        eventually("they are loaded", async || names().await == ["fixed", "goes", "new", "off", "stays"]).await;
        db.advance(60);
        has("new", 2).await;
        has("stays", 2).await;
        // It comes back, and starts from now; another has a new expression.
        schedule.send_replace(vec![of("goes", "* * * * *"), of("new", "*/3 * * * *")]);
        let loaded = async |name: &str| ScheduleState::all(&database).await.unwrap().into_iter().find(|state| state.name == name).unwrap();
        eventually("it is loaded", async || loaded("new").await.expression().unwrap().0 == "*/3 * * * *").await;
        db.advance(60);
        has("goes", 3).await;
        has("new", 3).await;
        // What is not valid changes nothing.
        let bad = NewJob::named("probe", &crate::support::raw(r#"{"value": "{tick:%Q}"}"#));
        schedule.send_replace(vec![ScheduleEntry::new("bad", Cron::parse_in("* * * * *", "UTC").unwrap(), bad)]);
        db.advance(60);
        has("goes", 4).await;
        schedule.send_replace(vec![of("new", "* * * * *")]);
        eventually("it is loaded", async || loaded("new").await.expression().unwrap().0 == "* * * * *").await;
        db.advance(60);
        has("new", 5).await;
        working.end().await;
        let mut minutes: Vec<_> = jobs(db).await.iter().map(|job| {
            (job.schedule.clone().unwrap(), (job.tick.unwrap() - noon()).num_minutes())
        }).collect();
        minutes.sort();
        let expected = [("goes", 1), ("goes", 3), ("goes", 4), ("new", 2), ("new", 3), ("new", 5), ("stays", 1), ("stays", 2)];
        assert_eq!(minutes, expected.map(|(name, minute)| (name.to_owned(), minute)));
    }

    async fn the_payload_names_its_tick(db) {
        let payload = crate::support::raw(r#"{"value": {"{tick}": ["{tick}", "{tick:%F %H:%M %Z}", 1.50]}}"#);
        let cron = Cron::parse_in("30 13 * * *", "Europe/Berlin").unwrap();
        let daily = ScheduleEntry::new("every", cron, NewJob::named("probe", &payload))
            .catch_up(CatchUp::All)
            .catch_up_window(Duration::from_secs(10 * 86_400));
        look(db, &daily).await;
        db.advance(2 * 86_400);
        look(db, &daily).await;
        let queue = Queue::new(db.open().await);
        db.advance_millis(250);
        daily.run_now(&queue).await.unwrap();
        let payloads: Vec<_> = jobs(db).await.iter().map(|job| job.payload.get().to_owned()).collect();
        assert_eq!(payloads, [
            r#"{"value": {"{tick}": ["2026-11-22T12:30:00Z", "2026-11-22 13:30 CET", 1.50]}}"#,
            r#"{"value": {"{tick}": ["2026-11-23T12:30:00Z", "2026-11-23 13:30 CET", 1.50]}}"#,
            r#"{"value": {"{tick}": ["2026-11-24T12:00:00Z", "2026-11-24 13:00 CET", 1.50]}}"#,
        ]);
    }

    async fn a_payload_with_a_bad_format_is_refused_at_the_start(db) {
        let payload = crate::support::raw(r#"{"value": "{tick:%Q}"}"#);
        let bad = ScheduleEntry::new("bad", Cron::parse_in("@daily", "UTC").unwrap(), NewJob::named("probe", &payload));
        let error = worker(db, once(), &bad).await.run_until(std::future::pending()).await.unwrap_err();
        assert!(error.is_invalid() && error.to_string().starts_with("schedule \"bad\": {tick:%Q}"), "{error}");
        assert!(ScheduleState::all(&db.open().await).await.unwrap().is_empty());
    }

    async fn a_long_backlog_is_caught_up_in_many_transactions(db) {
        let every = entry("* * * * * *").catch_up(CatchUp::All);
        look(db, &every).await;
        db.advance(2_500);
        let fleet = (0..3).map(|_| look(db, &every));
        futures::future::join_all(fleet).await;
        let ticks: std::collections::BTreeSet<_> = jobs(db).await.into_iter().map(|job| job.tick).collect();
        assert_eq!((ticks.len(), jobs(db).await.len()), (2_500, 2_500));
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
