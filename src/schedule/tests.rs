//! Random histories of a fleet, against a model of what it is to do: workers that come and go, each with a clock of its
//! own that may be wrong and jump, pauses, a change of clocks in between.
//!
//! `LARDER_HISTORIES` asks for more of them than the suite runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::{CatchUp, Cron, Overlap, ScheduleEntry, ScheduleState, Scheduler, Schedules};
use crate::clock::Clock;
use crate::database::{Database, DatabaseOptions, Tx};
use crate::queue::{JobFilter, NewJob, Queue};

type Instant = DateTime<Utc>;

/// When a schedule ticks, as people say it.
#[derive(Clone, Debug)]
enum When {
    /// Every so many minutes of the hour, counted from a minute.
    EveryMinutes { from: u32, step: u32 },
    /// At this minute of every hour.
    Hourly { minute: u32 },
    /// At this time of every day.
    Daily { hour: u32, minute: u32 },
}

impl When {
    fn cron(&self) -> String {
        match self {
            Self::EveryMinutes { from: 0, step: 1 } => "* * * * *".to_owned(),
            Self::EveryMinutes { from, step } => format!("{from}-59/{step} * * * *"),
            Self::Hourly { minute } => format!("{minute} * * * *"),
            Self::Daily { hour, minute } => format!("{minute} {hour} * * *"),
        }
    }

    /// Its ticks, found by looking at the clocks of the zone minute by minute.
    fn ticks(&self, zone: Tz, from: Instant, to: Instant) -> Vec<Instant> {
        let wall = |instant: Instant| instant.with_timezone(&zone).naive_local();
        let minutes = || {
            let start = from.with_second(0).unwrap().with_nanosecond(0).unwrap();
            std::iter::successors(Some(start), |at| Some(*at + TimeDelta::minutes(1)))
                .take_while(move |at| *at <= to)
        };
        match self {
            // What names no fixed time follows real time.
            Self::EveryMinutes { from, step } => minutes()
                .filter(|at| {
                    let minute = wall(*at).minute();
                    minute >= *from && (minute - from).is_multiple_of(*step)
                })
                .collect(),
            Self::Hourly { minute } => minutes()
                .filter(|at| wall(*at).minute() == *minute)
                .collect(),
            // A fixed time comes once a day: the first time that clocks show it, or the first instant after it.
            Self::Daily { hour, minute } => {
                let time = NaiveTime::from_hms_opt(*hour, *minute, 0).unwrap();
                let mut days: BTreeMap<NaiveDate, Instant> = BTreeMap::new();
                for at in minutes() {
                    let shown = wall(at);
                    let before = wall(at - TimeDelta::minutes(1));
                    let skipped = before.date() == shown.date()
                        && before.time() < time
                        && shown.time() > time;
                    if shown.time() == time || skipped {
                        days.entry(shown.date()).or_insert(at);
                    }
                }
                days.into_values().collect()
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// True time goes on by so many seconds.
    Pass(i64),
    /// A worker looks, as one that is up does each second.
    Look(usize),
    /// A worker starts anew, and looks.
    Restart(usize),
    /// The clock of a worker is wrong by so many seconds from now on.
    Skew(usize, i64),
    Pause(usize),
    Resume(usize),
    /// The last job ends.
    Finish,
}

#[derive(Clone, Debug)]
struct History {
    when: When,
    zone: Tz,
    start: Instant,
    catch_up: CatchUp,
    window: i64,
    overlap: Overlap,
    events: Vec<Event>,
}

const WORKERS: usize = 3;

impl History {
    fn entry(&self) -> ScheduleEntry {
        let payload = RawValue::from_string(r#""{tick}""#.to_owned()).unwrap();
        let cron = Cron::parse(&self.when.cron(), self.zone).unwrap();
        ScheduleEntry::new("entry", cron, NewJob::named("job", &payload))
            .catch_up(self.catch_up)
            .catch_up_window(Duration::from_secs(self.window.unsigned_abs()))
            .overlap(self.overlap)
    }

    fn all_ticks(&self) -> Vec<Instant> {
        let passed: i64 = self
            .events
            .iter()
            .map(|event| match event {
                Event::Pass(seconds) => *seconds,
                _ => 0,
            })
            .sum();
        let day = TimeDelta::days(2);
        let end = self.start + TimeDelta::seconds(passed);
        self.when.ticks(self.zone, self.start - day, end + day)
    }
}

/// What the sentences about catching up come to.
struct Model<'a> {
    history: &'a History,
    ticks: Vec<Instant>,
    /// Everything up to here has been noticed.
    noticed: Instant,
    paused: bool,
    last_is_unfinished: bool,
    jobs: Vec<Instant>,
}

impl Model<'_> {
    fn look(&mut self, now: Instant) {
        if self.paused {
            return;
        }
        let came = |tick: &&Instant| **tick > self.noticed && **tick <= now;
        let came: Vec<Instant> = self.ticks.iter().filter(came).copied().collect();
        let Some(last) = came.last() else { return };
        self.noticed = *last;
        let is_late = |tick: &Instant| now - *tick > TimeDelta::seconds(30);
        let in_window = |tick: &Instant| now - *tick <= TimeDelta::seconds(self.history.window);
        let (missed, on_time): (Vec<Instant>, Vec<Instant>) =
            came.iter().partition(|tick| is_late(tick));
        let missed = missed.into_iter().filter(in_window);
        let mut due: Vec<Instant> = match self.history.catch_up {
            CatchUp::Skip => Vec::new(),
            CatchUp::Once => missed.max().into_iter().collect(),
            CatchUp::All => missed.collect(),
        };
        due.extend(on_time);
        if self.history.overlap == Overlap::Skip {
            if self.last_is_unfinished {
                return;
            }
            due = due.last().copied().into_iter().collect();
        }
        self.last_is_unfinished |= !due.is_empty();
        self.jobs.extend(due);
    }

    /// The first sight, a resumed pause: from now on, but never once more.
    fn start_from(&mut self, now: Instant) {
        self.noticed = self.noticed.max(now);
    }
}

struct Worker {
    now: Instant,
    skew: i64,
    scheduler: Option<Scheduler>,
}

struct Fleet {
    database: Database,
    /// The job table's qualified name.
    jobs: String,
    workers: Vec<Worker>,
    entry: ScheduleEntry,
}

impl Fleet {
    /// The database by this worker's clock.
    fn of(&self, worker: usize) -> &Database {
        let clock = self.database.clock();
        let now: Instant = clock.now().into();
        clock.advance(self.workers[worker].now - now);
        &self.database
    }

    async fn look(&mut self, worker: usize) -> Instant {
        let queue = Queue::new(self.of(worker).clone());
        let worker = &mut self.workers[worker];
        if worker.scheduler.is_none() {
            let schedules = Schedules {
                fixed: vec![self.entry.clone()],
                changing: None,
            };
            worker.scheduler = Some(Scheduler::load(queue, schedules).await.unwrap());
        }
        worker.scheduler.as_ref().unwrap().catch_up().await.unwrap();
        worker.now
    }

    async fn finish_jobs(&self) {
        let mut transaction = self.database.begin().await.unwrap();
        let sql = format!(
            "UPDATE {} SET status = 'done' WHERE status = 'queued'",
            self.jobs
        );
        let sql = sqlx::AssertSqlSafe(sql);
        match Tx::from(&mut transaction) {
            Tx::Sqlite(connection) => drop(sqlx::query(sql).execute(connection).await.unwrap()),
            Tx::Postgres(connection) => drop(sqlx::query(sql).execute(connection).await.unwrap()),
        }
        transaction.commit().await.unwrap();
    }
}

/// Plays a history, and compares.
async fn play(history: &History, database: Database, jobs: &str) -> Result<(), TestCaseError> {
    let worker = || Worker {
        now: history.start,
        skew: 0,
        scheduler: None,
    };
    let mut fleet = Fleet {
        database,
        jobs: jobs.to_owned(),
        workers: std::iter::repeat_with(worker).take(WORKERS).collect(),
        entry: history.entry(),
    };
    fleet.look(0).await;
    let mut model = Model {
        history,
        ticks: history.all_ticks(),
        noticed: history.start,
        paused: false,
        last_is_unfinished: false,
        jobs: Vec::new(),
    };
    let mut paused = false;
    for event in &history.events {
        match *event {
            Event::Pass(seconds) => {
                for worker in &mut fleet.workers {
                    worker.now += TimeDelta::seconds(seconds);
                }
            }
            Event::Look(worker) => model.look(fleet.look(worker).await),
            Event::Restart(worker) => {
                fleet.workers[worker].scheduler = None;
                model.look(fleet.look(worker).await);
            }
            Event::Skew(worker, seconds) => {
                let worker = &mut fleet.workers[worker];
                let by = seconds - std::mem::replace(&mut worker.skew, seconds);
                worker.now += TimeDelta::seconds(by);
            }
            Event::Pause(worker) => {
                let changed = ScheduleState::pause(fleet.of(worker), "entry")
                    .await
                    .unwrap();
                prop_assert_eq!(changed, !std::mem::replace(&mut model.paused, true));
                paused = true;
            }
            Event::Resume(worker) => {
                let changed = ScheduleState::resume(fleet.of(worker), "entry")
                    .await
                    .unwrap();
                prop_assert_eq!(changed, std::mem::replace(&mut model.paused, false));
                if changed {
                    model.start_from(fleet.workers[worker].now);
                }
            }
            Event::Finish => {
                fleet.finish_jobs().await;
                model.last_is_unfinished = false;
            }
        }
    }
    let all = JobFilter {
        limit: 1_000_000,
        ..JobFilter::default()
    };
    let queue = Queue::new(fleet.database.clone());
    let jobs = queue.list(&all).await.unwrap();
    let mut ticks: Vec<Instant> = jobs.iter().map(|job| job.tick.unwrap()).collect();
    ticks.sort_unstable();
    for job in &jobs {
        let named: Instant = job.payload.get().trim_matches('"').parse().unwrap();
        prop_assert_eq!(Some(named), job.tick);
    }
    // Whatever the model says: no tick twice, none of before the first sight.
    prop_assert!(
        ticks.windows(2).all(|pair| pair[0] < pair[1]),
        "{:?}",
        ticks
    );
    prop_assert!(ticks.iter().all(|tick| *tick > history.start));
    prop_assert_eq!(&ticks, &model.jobs);
    whole(history, &model, &ticks, !paused)
}

/// Where nothing was paused and nothing may be passed over, no tick is missing at all.
fn whole(
    history: &History,
    model: &Model<'_>,
    ticks: &[Instant],
    never_paused: bool,
) -> Result<(), TestCaseError> {
    let all_count = history.catch_up == CatchUp::All && history.overlap == Overlap::Allow;
    if all_count && never_paused && history.window >= 1_000_000_000 {
        let came = |tick: &&Instant| **tick > history.start && **tick <= model.noticed;
        let came: Vec<Instant> = model.ticks.iter().filter(came).copied().collect();
        prop_assert_eq!(ticks, came);
    }
    Ok(())
}

fn event() -> impl Strategy<Value = Event> {
    let seconds = prop_oneof![
        4 => 1_i64..40,
        3 => 40_i64..400,
        2 => 400_i64..8_000,
        1 => 8_000_i64..100_000,
        2 => Just(60_i64),
        1 => Just(3_600_i64),
    ];
    let skew = prop_oneof![Just(0_i64), -5_i64..=5, -100_i64..=100, -1_700_i64..=1_700];
    prop_oneof![
        6 => seconds.prop_map(Event::Pass),
        8 => (0..WORKERS).prop_map(Event::Look),
        2 => (0..WORKERS).prop_map(Event::Restart),
        2 => (0..WORKERS, skew).prop_map(|(worker, skew)| Event::Skew(worker, skew)),
        1 => (0..WORKERS).prop_map(Event::Pause),
        2 => (0..WORKERS).prop_map(Event::Resume),
        2 => Just(Event::Finish),
    ]
}

fn history() -> impl Strategy<Value = History> {
    let when = prop_oneof![
        3 => Just(When::EveryMinutes { from: 0, step: 1 }),
        2 => (0_u32..20, 2_u32..40).prop_map(|(from, step)| When::EveryMinutes { from, step }),
        2 => (0_u32..60).prop_map(|minute| When::Hourly { minute }),
        3 => (0_u32..5, 0_u32..60).prop_map(|(hour, minute)| When::Daily { hour, minute }),
        1 => (0_u32..24, 0_u32..60).prop_map(|(hour, minute)| When::Daily { hour, minute }),
    ];
    // The evening before a change of clocks, or any time.
    let place = prop::sample::select(vec![
        (Tz::Europe__Berlin, "2024-03-30T20:00:00Z"),
        (Tz::Europe__Berlin, "2024-10-26T20:00:00Z"),
        (Tz::Australia__Lord_Howe, "2024-10-05T10:00:00Z"),
        (Tz::Australia__Lord_Howe, "2024-04-06T10:00:00Z"),
        (Tz::America__New_York, "2024-11-03T01:00:00Z"),
        (Tz::UTC, "2026-11-22T12:00:00Z"),
    ]);
    let catch_up = prop::sample::select(vec![CatchUp::Skip, CatchUp::Once, CatchUp::All]);
    let window = prop_oneof![
        Just(1_000_000_000_i64),
        Just(86_400),
        Just(3_600),
        1_i64..4_000
    ];
    let overlap = prop::sample::select(vec![Overlap::Allow, Overlap::Allow, Overlap::Skip]);
    let offset = 0_i64..30_000;
    let events = prop::collection::vec(event(), 1..60);
    (when, place, offset, catch_up, window, overlap, events).prop_map(
        |(when, (zone, start), offset, catch_up, window, overlap, events)| History {
            when,
            zone,
            start: start.parse::<Instant>().unwrap() + TimeDelta::seconds(offset),
            catch_up,
            window,
            overlap,
            events,
        },
    )
}

fn histories(suite: u32) -> ProptestConfig {
    let asked = std::env::var("LARDER_HISTORIES").ok();
    let cases = asked.and_then(|asked| asked.parse().ok()).unwrap_or(suite);
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn run(suite: u32, play: impl AsyncFn(&History) -> Result<(), TestCaseError>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(histories(suite));
    let outcome = runner.run(&history(), |history| runtime.block_on(play(&history)));
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn sqlite_keeps_to_the_model_over_any_history() {
    run(400, async |history| {
        let options = DatabaseOptions::new("sqlite::memory:").clock(Clock::manual(history.start));
        play(history, options.connect().await.unwrap(), "job").await
    });
}

#[test]
fn postgres_keeps_to_the_model_over_any_history() {
    let url = std::env::var("LARDER_TEST_POSTGRES_URL")
        .expect("LARDER_TEST_POSTGRES_URL names no PostgreSQL");
    run(20, async |history| {
        let schema = format!("test {}", uuid::Uuid::now_v7().simple());
        let options = DatabaseOptions::new(&url)
            .schema(&schema)
            .max_connections(2);
        let clock = Clock::manual(history.start);
        let database = options.clock(clock).connect().await.unwrap();
        let outcome = play(history, database.clone(), &format!("\"{schema}\".job")).await;
        let mut transaction = database.begin().await.unwrap();
        if let Tx::Postgres(connection) = Tx::from(&mut transaction) {
            let drop_schema = sqlx::AssertSqlSafe(format!("DROP SCHEMA \"{schema}\" CASCADE"));
            sqlx::query(drop_schema).execute(connection).await.unwrap();
        }
        transaction.commit().await.unwrap();
        database.close().await;
        outcome
    });
}
