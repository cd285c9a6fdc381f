//! Chaos: real workers are killed, stopped, drained and replaced, PostgreSQL is restarted as by a crash, and afterwards
//! everything that happened must be explained.
//!
//! A run is drawn from a seed. In the suite it is short; for a long one:
//!
//! ```sh
//! LARDER_CHAOS_SECONDS=600 LARDER_CHAOS_SEED=7 tests/run.sh --test chaos --no-capture
//! ```
#![cfg(all(unix, feature = "worker"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod fleet;
mod history;
mod read_only;
mod server;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use larder::Queue;
use larder::database::DatabaseOptions;
use larder::queue::{JobFilter, JobRecord, JobStatus, NewJob};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Runtime;

use fleet::Fleet;
use history::{Event, History, now};
use server::Server;
use worker::{Deed, Deeds, RESCUE_AFTER, SCHEDULE};

const WORKERS: usize = 4;
/// Jobs are enqueued and workers troubled in steps of so long.
const STEP: Duration = Duration::from_millis(100);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Started by the fleet, with its orders.
#[test]
#[ignore = "a process of the fleet"]
fn a_worker_of_the_fleet() {
    if let Ok(orders) = std::env::var("LARDER_CHAOS_ORDERS") {
        worker::main(&serde_json::from_str(&orders).unwrap());
    }
}

#[test]
fn nothing_is_lost_or_unexplained_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    chaos(
        &format!("sqlite://{}", directory.path().join("chaos.db").display()),
        None,
    );
}

#[test]
fn nothing_is_lost_or_unexplained_on_postgres() {
    let server = Server::start();
    chaos(&server.url(), Some(server));
}

fn chaos(url: &str, mut server: Option<Server>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let seed = setting("LARDER_CHAOS_SEED", 1);
    let steps = setting("LARDER_CHAOS_SECONDS", 20) * 10;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let database = DatabaseOptions::new(url).acquire_timeout(Duration::from_secs(30));
    let queue = Queue::new(runtime.block_on(database.connect()).unwrap());
    let mut fleet = Fleet::start(WORKERS, url, log.clone());
    let mut processes = HashMap::new();
    let mut restarts = Vec::new();

    for step in 0..steps {
        let began = Instant::now();
        let jobs: Vec<NewJob> = (0..random.random_range(5..15))
            .map(|_| new_job(&mut random))
            .collect();
        enqueue(&runtime, &queue, &jobs, &mut fleet);
        trouble(&mut random, &mut fleet);
        fleet.look_after();
        if let Some(server) = &mut server
            && step > 0
            && step % 50 == 0
        {
            let from = now();
            server.restart();
            restarts.push(Event::Restarted { from, until: now() });
        }
        processes.extend(runtime.block_on(workers(&queue)));
        std::thread::sleep(STEP.saturating_sub(began.elapsed()));
    }

    // Calm: what is left must come to its end.
    fleet.calm_down();
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        fleet.look_after();
        processes.extend(runtime.block_on(workers(&queue)));
        let left = runtime.block_on(unfinished(&queue));
        if left == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{left} jobs are stuck");
        std::thread::sleep(STEP);
    }
    let mut events = fleet.end();
    events.append(&mut restarts);
    let jobs = runtime.block_on(all_jobs(&queue));
    let history = History::read(&log, &events);
    println!("{}", history.summary());
    check(&jobs, &history);
    check_ticks(&jobs);
    let told = runtime.block_on(check_rescues(&queue, &jobs, &history, &processes));
    println!("{told} rescues, all explained");
}

fn new_job(random: &mut StdRng) -> NewJob {
    let beyond_rescue = u64::try_from(RESCUE_AFTER.as_millis()).unwrap() * 3 / 2;
    let (deed, attempts) = match random.random_range(0..1000) {
        0..820 => (Deed::Wait(random.random_range(0..30)), 20),
        820..900 => (Deed::Wait(random.random_range(200..1_500)), 20),
        900..904 => (Deed::Wait(beyond_rescue), 20),
        904..920 => (Deed::Block(random.random_range(10..400)), 20),
        920..950 => (Deed::FailFirst(2), 20),
        950..965 => (Deed::PanicFirst, 20),
        965..980 => (Deed::Abort, 20),
        980..997 => (Deed::Fail, 3),
        _ => (Deed::Poison, 2),
    };
    let job = NewJob::new(&Deeds { deed })
        .max_attempts(attempts)
        .priority(random.random_range(-1..2));
    match random.random_range(0..10) {
        0 => job.delay(Duration::from_millis(random.random_range(100..3_000))),
        1..4 => job.queue("other"),
        _ => job,
    }
}

fn trouble(random: &mut StdRng, fleet: &mut Fleet) {
    let number = random.random_range(0..WORKERS);
    match random.random_range(0..100) {
        0..5 => fleet.kill(number),
        5..9 => fleet.drain(number),
        9..12 => fleet.stop(
            number,
            Duration::from_millis(random.random_range(100..7_000)),
        ),
        _ => {}
    }
}

/// Again and again, while the database is away: some jobs may then be there twice, each with an id of its own.
fn enqueue(runtime: &Runtime, queue: &Queue, jobs: &[NewJob], fleet: &mut Fleet) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = runtime.block_on(queue.enqueue_many(jobs.to_vec())) {
        assert!(error.is_transient() && Instant::now() < deadline, "{error}");
        // One that was stopped in the middle of a write keeps SQLite's lock until it goes on.
        fleet.look_after();
        std::thread::sleep(STEP);
    }
}

async fn unfinished(queue: &Queue) -> i64 {
    let counts = queue.counts().await.unwrap();
    let left = counts.iter().filter(|count| !count.status.is_finished());
    // The schedule goes on.
    left.filter(|count| count.name != "tick")
        .map(|count| count.count)
        .sum()
}

/// Which process each worker is, of those that are there now.
async fn workers(queue: &Queue) -> HashMap<String, u32> {
    let workers = queue.workers().await.unwrap();
    workers
        .into_iter()
        .map(|worker| {
            (
                worker.id.to_string(),
                u32::try_from(worker.process).unwrap(),
            )
        })
        .collect()
}

async fn all_jobs(queue: &Queue) -> Vec<JobRecord> {
    let filter = JobFilter {
        limit: u32::MAX,
        ..JobFilter::default()
    };
    queue.list(&filter).await.unwrap()
}

fn check(jobs: &[JobRecord], history: &History) {
    let mut finished = BTreeMap::new();
    for job in jobs {
        if job.name == "tick" && !job.status.is_finished() {
            continue;
        }
        assert!(job.status.is_finished(), "{job:?}");
        let finished_at = job.finished_at.unwrap().timestamp_millis();
        finished.insert(job.id.to_string(), finished_at);
        if job.name == "tick" {
            continue;
        }
        let deeds: Deeds = serde_json::from_str(job.payload.get()).unwrap();
        let error = job.error.as_deref().unwrap_or_default();
        let as_told = match deeds.deed {
            Deed::Abort => job.status == JobStatus::Dead && error == "no use",
            Deed::Fail => job.status == JobStatus::Dead && job.attempt == 3 && !error.is_empty(),
            Deed::Poison => {
                job.status == JobStatus::Dead && job.attempt == 2 && error.contains("fell silent")
            }
            _ => job.status == JobStatus::Done,
        };
        assert!(as_told, "{job:?}");
    }
    let (explained, unexplained) = history.begun_late(&finished);
    assert_eq!(
        unexplained,
        Vec::<String>::new(),
        "begun after they were finished"
    );
    println!("begun late, by workers that were stopped: {explained:#?}");
    assert_eq!(
        history.unexplained(),
        Vec::<String>::new(),
        "run again for no reason"
    );
}

/// Each tick from the first to the last has one job.
fn check_ticks(jobs: &[JobRecord]) {
    let of_schedule = jobs
        .iter()
        .filter(|job| job.schedule.as_deref() == Some(SCHEDULE));
    let mut ticks: Vec<DateTime<Utc>> = of_schedule.map(|job| job.tick.unwrap()).collect();
    ticks.sort();
    assert!(ticks.len() > 5, "{ticks:?}");
    for pair in ticks.windows(2) {
        assert_eq!((pair[1] - pair[0]).num_seconds(), 1, "{pair:?}");
    }
}

/// Each rescue is of a job whose worker was killed, or stopped until it was taken for dead. How many there were.
async fn check_rescues(
    queue: &Queue,
    jobs: &[JobRecord],
    history: &History,
    processes: &HashMap<String, u32>,
) -> usize {
    let mut rescues = 0;
    for job in jobs {
        for attempt in queue.attempts(job.id).await.unwrap() {
            if !attempt
                .error
                .as_deref()
                .unwrap_or_default()
                .contains("fell silent")
            {
                continue;
            }
            rescues += 1;
            let id = job.id.to_string();
            let worker = attempt
                .worker
                .map(|worker| worker.to_string())
                .unwrap_or_default();
            let process = processes.get(&worker).copied();
            let process = process.or_else(|| history.process_of(&id, attempt.attempt));
            let process =
                process.unwrap_or_else(|| panic!("nobody knows worker {worker} of {attempt:?}"));
            let (from, until) = (
                attempt.started_at.timestamp_millis(),
                attempt.ended_at.timestamp_millis(),
            );
            assert!(
                history.fell_silent(process, from, until),
                "{id}: {attempt:?} of process {process}"
            );
        }
    }
    rescues
}
