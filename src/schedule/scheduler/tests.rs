//! Workers whose entries differ: what is gone, and what is kept for others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use chrono::TimeDelta;
use serde_json::value::RawValue;

use super::*;
use crate::clock::Clock;
use crate::database::{Database, DatabaseOptions};
use crate::queue::{JobFilter, NewJob};
use crate::schedule::{CatchUp, Cron};

const MINUTE: Duration = Duration::from_secs(60);

fn entry(name: &str, payload: &str) -> ScheduleEntry {
    let payload = RawValue::from_string(payload.to_owned()).unwrap();
    let cron = Cron::parse("* * * * *", chrono_tz::UTC).unwrap();
    ScheduleEntry::new(name, cron, NewJob::named("job", &payload)).catch_up(CatchUp::All)
}

/// A worker at work, whose time goes on by hand.
struct Worker {
    scheduler: Scheduler,
    elapsed: Duration,
}

impl Worker {
    async fn start(database: &Database, entries: &[ScheduleEntry]) -> Self {
        let schedules = Schedules {
            fixed: entries.to_vec(),
            changing: None,
        };
        let queue = Queue::new(database.clone());
        let scheduler = Scheduler::load(queue, schedules).await.unwrap();
        let mut worker = Self {
            scheduler,
            elapsed: Duration::ZERO,
        };
        worker.after(Duration::ZERO).await;
        worker
    }

    /// What it does when so much time has passed.
    async fn after(&mut self, time: Duration) {
        self.elapsed += time;
        self.scheduler.tend(self.elapsed).await.unwrap();
        self.scheduler.catch_up().await.unwrap();
    }
}

fn advance(database: &Database, time: Duration) {
    database.clock().advance(TimeDelta::from_std(time).unwrap());
}

async fn names(database: &Database) -> Vec<String> {
    let states = ScheduleState::all(database).await.unwrap();
    states.into_iter().map(|state| state.name).collect()
}

async fn jobs(database: &Database) -> usize {
    let all = JobFilter {
        limit: 10_000,
        ..JobFilter::default()
    };
    Queue::new(database.clone()).list(&all).await.unwrap().len()
}

/// Both engines, each in a database of its own.
async fn on_both(behaviour: impl AsyncFn(Database)) {
    let clock = || Clock::manual("2026-11-22T12:00:00Z".parse().unwrap());
    let sqlite = DatabaseOptions::new("sqlite::memory:").clock(clock());
    behaviour(sqlite.connect().await.unwrap()).await;

    let url = std::env::var("LARDER_TEST_POSTGRES_URL")
        .expect("LARDER_TEST_POSTGRES_URL names no PostgreSQL");
    let schema = format!("test {}", uuid::Uuid::now_v7().simple());
    let postgres = DatabaseOptions::new(&url).schema(&schema).clock(clock());
    let database = postgres.connect().await.unwrap();
    let outcome = std::panic::AssertUnwindSafe(behaviour(database.clone()));
    let outcome = futures::FutureExt::catch_unwind(outcome).await;
    let mut transaction = database.begin().await.unwrap();
    if let Tx::Postgres(connection) = Tx::from(&mut transaction) {
        let drop_schema = sqlx::AssertSqlSafe(format!("DROP SCHEMA \"{schema}\" CASCADE"));
        sqlx::query(drop_schema).execute(connection).await.unwrap();
    }
    transaction.commit().await.unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[tokio::test]
async fn an_entry_that_another_worker_has_outlives_its_removal() {
    on_both(async |database| {
        let (kept, other) = (entry("kept", "1"), entry("other", "1"));
        let mut holder = Worker::start(&database, std::slice::from_ref(&kept)).await;
        let mut remover = Worker::start(&database, &[kept.clone(), other.clone()]).await;
        let changes = remover.scheduler.change(vec![other.clone()]).await.unwrap();
        assert_eq!(changes, ["removed kept"]);
        for minute in 1..=30 {
            advance(&database, MINUTE);
            holder.after(MINUTE).await;
            remover.after(MINUTE).await;
            assert_eq!(names(&database).await, ["kept", "other"]);
            assert_eq!(jobs(&database).await, 2 * minute);
        }
        // It comes back to the one who gave it up, and nothing is lost by that.
        advance(&database, MINUTE * 5);
        remover.scheduler.change(vec![kept, other]).await.unwrap();
        remover.after(MINUTE).await;
        assert_eq!(jobs(&database).await, 60 + 10);
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_was_removed_starts_from_now_when_it_comes_back() {
    on_both(async |database| {
        let entries = vec![entry("back", "1")];
        let mut worker = Worker::start(&database, &entries).await;
        for gone in [MINUTE, MINUTE * 2, MINUTE * 60] {
            worker.scheduler.change(Vec::new()).await.unwrap();
            advance(&database, gone);
            worker.after(gone).await;
            worker.scheduler.change(entries.clone()).await.unwrap();
            worker.after(Duration::ZERO).await;
            assert_eq!(jobs(&database).await, 0, "{gone:?}");
        }
        advance(&database, MINUTE);
        worker.after(MINUTE).await;
        assert_eq!(jobs(&database).await, 1);
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_nobody_has_is_forgotten() {
    on_both(async |database| {
        drop(Worker::start(&database, &[entry("gone", "1")]).await);
        ScheduleState::pause(&database, "to come").await.unwrap();
        // The fleet was down for long, and this one is the first that is back.
        advance(&database, MINUTE * 1_200);
        let mut other = Worker::start(&database, &[entry("other", "1")]).await;
        let before = jobs(&database).await;
        for _ in 0..9 {
            advance(&database, MINUTE);
            other.after(MINUTE).await;
        }
        assert_eq!(names(&database).await, ["gone", "other", "to come"]);
        // Whoever has it comes back in time, and has missed nothing.
        drop(Worker::start(&database, &[entry("gone", "1")]).await);
        assert_eq!(jobs(&database).await, before + 9 + 1_209);
        for _ in 0..9 {
            advance(&database, MINUTE);
            other.after(MINUTE).await;
        }
        assert_eq!(names(&database).await, ["gone", "other", "to come"]);
        for _ in 0..2 {
            advance(&database, MINUTE);
            other.after(MINUTE).await;
        }
        assert_eq!(names(&database).await, ["other", "to come"]);
        // One that was let go of is forgotten sooner.
        let mut remover = Worker::start(&database, &[entry("removed", "1")]).await;
        remover.scheduler.change(Vec::new()).await.unwrap();
        for _ in 0..3 {
            advance(&database, MINUTE);
            other.after(MINUTE).await;
            assert!(names(&database).await.contains(&"removed".to_owned()));
        }
        advance(&database, MINUTE);
        other.after(MINUTE).await;
        assert_eq!(names(&database).await, ["other", "to come"]);
    })
    .await;
}

#[tokio::test]
async fn a_definition_that_nobody_has_any_more_gives_way_to_the_one_that_somebody_has() {
    on_both(async |database| {
        let mut old = Worker::start(&database, &[entry("every", "1")]).await;
        let mut new = Worker::start(&database, &[entry("every", "2")]).await;
        for minute in 1..=20 {
            advance(&database, MINUTE);
            old.after(MINUTE).await;
            new.after(MINUTE).await;
            assert_eq!(jobs(&database).await, minute);
        }
        // The new one was tried, and is no more.
        drop(new);
        for _ in 0..9 {
            advance(&database, MINUTE);
            old.after(MINUTE).await;
        }
        assert_eq!(jobs(&database).await, 20);
        for _ in 0..2 {
            advance(&database, MINUTE);
            old.after(MINUTE).await;
        }
        assert_eq!(
            jobs(&database).await,
            31,
            "it goes on from where the other ended"
        );
        let last = Queue::new(database.clone())
            .list(&JobFilter::default())
            .await
            .unwrap()
            .remove(0);
        assert_eq!(last.payload.get(), "1");
    })
    .await;
}

#[tokio::test]
async fn a_record_that_was_deleted_is_made_anew_by_who_has_the_entry() {
    on_both(async |database| {
        let mut worker = Worker::start(&database, &[entry("every", "1")]).await;
        advance(&database, MINUTE);
        worker.after(MINUTE).await;
        let states = ScheduleState::all(&database).await.unwrap();
        assert!(record::forget(&database, &states[0]).await.unwrap());
        for _ in 0..2 {
            advance(&database, MINUTE);
            worker.after(MINUTE).await;
        }
        assert_eq!(jobs(&database).await, 2);
    })
    .await;
}

#[tokio::test]
async fn a_change_that_the_database_does_not_take_is_tried_again() {
    let clock = Clock::manual("2026-11-22T12:00:00Z".parse().unwrap());
    let options = DatabaseOptions::new("sqlite::memory:").clock(clock);
    let database = options.connect().await.unwrap();
    let mut worker = Worker::start(&database, &[entry("old", "1")]).await;
    let transaction = database.begin().await.unwrap();
    let changed = worker.scheduler.change(vec![entry("new", "1")]);
    // The one connection is taken: the change waits, and is given up.
    assert!(
        tokio::time::timeout(Duration::from_millis(50), changed)
            .await
            .is_err()
    );
    assert_eq!(worker.scheduler.entries[0].entry.name(), "old");
    drop(transaction);
    let left = worker.scheduler.try_change(vec![entry("new", "1")]).await;
    assert!(left.is_ok() && worker.scheduler.entries[0].entry.name() == "new");
}
