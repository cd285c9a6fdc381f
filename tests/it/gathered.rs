//! Calls that come together go out together, and nobody can tell but by the time it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use larder::cache::Ttl;
use larder::{Cache, Expiration};
use tokio::task::JoinSet;

use crate::support::{TestDatabase, both_engines};

/// Sixty-four callers at once, each with a task of its own.
async fn together<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    cache: &Cache,
    call: impl Fn(Cache, usize) -> F,
) -> Vec<T> {
    let tasks: Vec<_> = (0..64)
        .map(|caller| tokio::spawn(call(cache.clone(), caller)))
        .collect();
    join_all(tasks)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

async fn everybody_is_answered(cache: &Cache) {
    let set = together(cache, async |cache, caller| {
        cache.set(&format!("key {caller}"), &caller).await
    });
    for outcome in set.await {
        outcome.unwrap();
    }
    // Two ask for each key, and as many for keys that are not there.
    let got = together(cache, async |cache, caller| {
        let key = format!("key {}", if caller < 32 { caller / 2 } else { caller + 32 });
        (
            cache.get::<usize>(&key).await.unwrap(),
            cache.exists(&key).await.unwrap(),
            cache.ttl(&key).await.unwrap(),
        )
    });
    for (caller, answer) in got.await.into_iter().enumerate() {
        let there = caller < 32;
        assert_eq!(
            answer,
            (
                there.then_some(caller / 2),
                there,
                there.then_some(Ttl::Never)
            ),
            "{caller}"
        );
    }
    let memoized = together(cache, async |cache, caller| {
        let key = format!("key {caller}");
        cache
            .memoize(&key)
            .get_or_compute(|| async { usize::MAX })
            .await
            .unwrap()
    });
    assert_eq!(memoized.await, (0..64).collect::<Vec<_>>());
    let deleted = together(cache, async |cache, caller| {
        cache.delete(&format!("key {}", caller / 2)).await.unwrap()
    });
    assert_eq!(
        deleted.await.into_iter().filter(|deleted| *deleted).count(),
        32
    );
}

/// Refuses to store the value of one key, past larder.
async fn refuse(db: &TestDatabase, key: &str) {
    if db.is_sqlite() {
        db.execute(&format!(
            "CREATE TRIGGER refused BEFORE INSERT ON cached_item WHEN NEW.key = '{key}' \
             BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        ))
        .await;
    } else {
        db.execute(&format!(
            "ALTER TABLE {{}}cached_item ADD CONSTRAINT \"not this one\" CHECK (key <> '{key}')"
        ))
        .await;
    }
}

both_engines! {
    async fn a_call_takes_little_room_in_the_task_that_waits_for_it(db) {
        let cache = db.cache().await;
        let memo = cache.memoize("key");
        let room = [
            size_of_val(&cache.get::<String>("key")),
            size_of_val(&cache.exists("key")),
            size_of_val(&cache.set("key", "value")),
            size_of_val(&cache.delete("key")),
            size_of_val(&memo.get_or_compute(|| async { 1 })),
        ];
        assert!(room.iter().all(|bytes| *bytes <= 1_536), "{room:?}");
    }

    async fn everybody_is_given_the_answer_to_their_own_call(db) {
        everybody_is_answered(&db.cache().await).await;
    }

    async fn everybody_is_answered_where_statements_have_no_names(db) {
        let database = db.options().prepared(false).connect().await.unwrap();
        everybody_is_answered(&Cache::new(database).namespace("one of many").unwrap()).await;
    }

    async fn calls_that_come_together_share_statements(db) {
        let cache = Cache::new(db.options().max_connections(1).connect().await.unwrap());
        let transaction = cache.database().begin().await.unwrap();
        let mut set: Vec<_> = (0..64)
            .map(|caller| {
                let cache = cache.clone();
                Box::pin(async move { cache.set(&format!("key {caller}"), &caller).await })
            })
            .collect();
        for call in &mut set {
            assert!(futures::poll!(call).is_pending());
        }
        transaction.rollback().await.unwrap();
        for outcome in join_all(set).await {
            outcome.unwrap();
        }
        // What one statement writes is of one generation.
        let statements = db.number("SELECT COUNT(DISTINCT generation) FROM {}cached_item").await;
        assert!(statements < 8, "64 calls took {statements} statements");
    }

    async fn a_get_that_begins_after_a_set_has_returned_sees_it(db) {
        let cache = db.cache().await;
        let other = db.cache().await;
        let over = Arc::new(AtomicBool::new(false));
        let mut readers = JoinSet::new();
        for reader in 0..16 {
            let (cache, over) = (cache.clone(), over.clone());
            readers.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    cache.get::<u32>(&format!("key {reader}")).await.unwrap();
                }
            });
        }
        let writers = (0..16).map(|writer| {
            let (cache, other) = (cache.clone(), other.clone());
            tokio::spawn(async move {
                let key = format!("key {writer}");
                for count in 0..40 {
                    // One who wrote in another pool counts as another process.
                    let by = if count % 2 == 0 { &cache } else { &other };
                    by.set(&key, &count).await.unwrap();
                    assert_eq!(cache.get::<u32>(&key).await.unwrap(), Some(count));
                    assert_eq!(cache.cached::<u32>(&key).value().await.unwrap(), Some(&count));
                }
            })
        });
        for writer in join_all(writers).await {
            writer.unwrap();
        }
        over.store(true, Ordering::Relaxed);
        readers.join_all().await;
    }

    async fn writes_of_one_key_happen_in_their_order(db) {
        let cache = db.cache().await;
        for round in 0..20 {
            let others = together(&cache, async |cache, caller| {
                cache.set(&format!("key {caller}"), &caller).await.unwrap();
            });
            let large = "x".repeat(100_000);
            let in_order = async {
                tokio::join!(
                    biased;
                    async { cache.set("key", "first").await.unwrap() },
                    async { cache.set_with("key", &large, Expiration::Never).await.unwrap() },
                    async { assert!(cache.delete("key").await.unwrap()) },
                    async { assert!(!cache.delete("key").await.unwrap()) },
                    async { cache.set("key", "second").await.unwrap() },
                    async { cache.set_with("key", "last", Expiration::Never).await.unwrap() },
                )
            };
            tokio::join!(others, in_order);
            assert_eq!(cache.get::<String>("key").await.unwrap().as_deref(), Some("last"), "{round}");
        }
    }

    async fn each_call_keeps_its_own_deadline(db) {
        let cache = db.cache().await;
        let expirations = |caller: usize| match caller % 4 {
            0 => Expiration::Keep,
            1 => Expiration::Never,
            2 => Expiration::after(Duration::from_secs(caller as u64)),
            _ => Expiration::after(Duration::ZERO),
        };
        let set = together(&cache, move |cache, caller| async move {
            let key = format!("key {caller}");
            if caller % 8 == 0 {
                cache.set_with(&key, &0, Duration::from_secs(500)).await.unwrap();
            }
            cache.set_with(&key, &caller, expirations(caller)).await.unwrap();
        });
        set.await;
        let left = together(&cache, async |cache, caller| {
            cache.ttl(&format!("key {caller}")).await.unwrap()
        });
        for (caller, left) in left.await.into_iter().enumerate() {
            let expected = match caller % 4 {
                0 if caller % 8 == 0 => Some(Ttl::Left(Duration::from_secs(500))),
                0 | 1 => Some(Ttl::Never),
                2 => Some(Ttl::Left(Duration::from_secs(caller as u64))),
                _ => None,
            };
            assert_eq!(left, expected, "{caller}");
        }
        // What is live is decided anew by each statement.
        db.advance(62);
        let live = together(&cache, async |cache, caller| {
            cache.get::<usize>(&format!("key {caller}")).await.unwrap().is_some()
        });
        for (caller, live) in live.await.into_iter().enumerate() {
            assert_eq!(live, caller % 4 < 2, "{caller}");
        }
    }

    async fn one_that_the_database_refuses_fails_alone(db) {
        let cache = db.cache().await;
        refuse(db, "key 13").await;
        let set = together(&cache, async |cache, caller| {
            cache.set(&format!("key {caller}"), &caller).await
        });
        for (caller, outcome) in set.await.into_iter().enumerate() {
            match outcome {
                Ok(()) => assert_ne!(caller, 13),
                Err(error) => {
                    assert_eq!(caller, 13);
                    assert!(error.to_string().contains("not this one") && !error.is_transient(), "{error}");
                }
            }
        }
        assert_eq!(cache.stats().await.unwrap().total, 63);
    }

    async fn large_values_and_small_ones_are_all_read(db) {
        let cache = db.cache().await;
        // Not to be compressed.
        let text = |caller: usize| -> String {
            let count = if caller.is_multiple_of(8) { 100_000 } else { caller };
            let digits = (0..count as u64).map(|at| format!("{:03x}", at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52));
            digits.collect()
        };
        let set = together(&cache, move |cache, caller| async move {
            cache.set(&format!("key {caller}"), &text(caller)).await.unwrap();
        });
        set.await;
        let got = together(&cache, async |cache, caller| {
            let key = format!("key {caller}");
            let got: Option<String> = cache.get(&key).await.unwrap();
            let memoized = cache.memoize(&key).get_or_compute(|| async { String::new() }).await.unwrap();
            assert_eq!(got.as_ref(), Some(&memoized));
            memoized.len()
        });
        for (caller, length) in got.await.into_iter().enumerate() {
            assert_eq!(length, text(caller).len());
        }
    }

    async fn a_caller_that_goes_away_takes_nobody_along(db) {
        let cache = db.cache().await;
        for round in 0..30_usize {
            let tasks: Vec<_> = (0..64_usize)
                .map(|caller| {
                    let cache = cache.clone();
                    tokio::spawn(async move {
                        let key = format!("key {}", caller / 4);
                        match caller % 4 {
                            0 => cache.set(&key, &caller).await.map(drop),
                            1 => cache.delete(&key).await.map(drop),
                            _ => cache.get::<usize>(&key).await.map(drop),
                        }
                    })
                })
                .collect();
            for _ in 0..round % 5 {
                tokio::task::yield_now().await;
            }
            for task in tasks.iter().skip(round % 3).step_by(3) {
                task.abort();
            }
            for (caller, task) in tasks.into_iter().enumerate() {
                match task.await {
                    Ok(outcome) => outcome.unwrap(),
                    Err(gone) => assert!(gone.is_cancelled() && caller % 3 == round % 3),
                }
            }
        }
        // Nothing is left of them that others would wait for.
        let started = Instant::now();
        everybody_is_answered(&cache).await;
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    async fn a_call_that_is_begun_and_left_lying_holds_up_nobody(db) {
        let cache = db.cache().await;
        cache.set("key", &1).await.unwrap();
        let mut left_lying: Vec<_> = (0..3).map(|_| Box::pin(cache.get::<u32>("key"))).collect();
        for call in &mut left_lying {
            let _ = futures::poll!(call);
        }
        let got = tokio::time::timeout(Duration::from_secs(4), cache.get::<u32>("key"));
        assert_eq!(got.await.unwrap().unwrap(), Some(1));
    }

    async fn calls_end_in_time_while_there_is_no_connection_and_go_on_afterwards(db) {
        let timeout = Duration::from_millis(300);
        let options = db.options().max_connections(1).acquire_timeout(timeout).busy_timeout(timeout);
        let cache = Cache::new(options.connect().await.unwrap());
        let transaction = cache.database().begin().await.unwrap();
        let started = Instant::now();
        let set = together(&cache, async |cache, caller| {
            cache.set(&format!("key {caller}"), &caller).await.unwrap_err()
        });
        for error in set.await {
            assert!(error.is_transient(), "{error}");
            assert!(error.to_string().contains("acquire_timeout"), "{error}");
        }
        assert!(started.elapsed() < timeout * 4, "{:?}", started.elapsed());
        transaction.rollback().await.unwrap();
        everybody_is_answered(&cache).await;
    }

    async fn calls_without_end_let_transactions_go_between(db) {
        let cache = Cache::new(db.options().max_connections(1).connect().await.unwrap());
        let over = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for caller in 0..16 {
            let (cache, over) = (cache.clone(), over.clone());
            callers.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    cache.set(&format!("key {caller}"), &caller).await.unwrap();
                    cache.get::<i32>(&format!("key {caller}")).await.unwrap();
                }
            });
        }
        for _ in 0..20 {
            let begun = tokio::time::timeout(Duration::from_secs(4), cache.database().begin());
            begun.await.unwrap().unwrap().rollback().await.unwrap();
        }
        over.store(true, Ordering::Relaxed);
        callers.join_all().await;
    }

    async fn callers_outlive_the_runtime_of_those_who_asked_with_them(db) {
        let cache = db.cache().await;
        let over = Arc::new(AtomicBool::new(false));
        let survivors: Vec<_> = (0..8)
            .map(|caller| {
                let (cache, over, patient) = (cache.clone(), over.clone(), db.is_sqlite());
                tokio::spawn(async move {
                    let key = format!("survivor {caller}");
                    for count in 0.. {
                        if over.load(Ordering::Relaxed) {
                            return;
                        }
                        let outcome = async {
                            cache.set(&key, &count).await?;
                            cache.get::<i32>(&key).await
                        };
                        match tokio::time::timeout(Duration::from_secs(20), outcome).await.unwrap() {
                            Ok(got) => assert_eq!(got, Some(count)),
                            Err(error) => assert!(error.is_transient() && !patient, "{error}"),
                        }
                    }
                })
            })
            .collect();
        for _ in 0..30 {
            let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            for caller in 0..64 {
                let cache = cache.clone();
                doomed.spawn(async move {
                    loop {
                        let key = format!("key {caller}");
                        // On PostgreSQL a connection of the one runtime is of no use to the other.
                        let _ = cache.set(&key, &caller).await;
                        let _ = cache.get::<i32>(&key).await;
                    }
                });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            doomed.shutdown_background();
        }
        over.store(true, Ordering::Relaxed);
        for survivor in join_all(survivors).await {
            survivor.unwrap();
        }
    }

    async fn one_who_reads_without_end_lets_others_go_between(db) {
        let cache = db.cache().await;
        cache.set("key", &1).await.unwrap();
        let alone = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let over = Arc::new(AtomicBool::new(false));
                let told = over.clone();
                tokio::spawn(async move { told.store(true, Ordering::Relaxed) });
                for _ in 0..10_000 {
                    cache.get::<u32>("key").await.unwrap();
                    if over.load(Ordering::Relaxed) {
                        return true;
                    }
                }
                false
            })
        });
        assert!(alone.await.unwrap());
    }
}

// SQLite's alone: PostgreSQL takes no text that is none.
#[tokio::test]
async fn an_item_whose_text_is_none_fails_alone() {
    let db = TestDatabase::sqlite().await;
    // By a pool, whose rows are read with others'.
    let url = format!("{}?mode=rwc", db.url);
    let cache = Cache::connect(&url).await.unwrap();
    for caller in 0..64 {
        let key = format!("key {caller}");
        cache
            .set_with(&key, &caller, Expiration::Never)
            .await
            .unwrap();
    }
    db.execute("UPDATE {}cached_item SET value = CAST(x'22ff22' AS TEXT) WHERE key = 'key 40'")
        .await;
    let got = together(&cache, async |cache, caller| {
        cache.get::<usize>(&format!("key {caller}")).await
    });
    for (caller, answer) in got.await.into_iter().enumerate() {
        match answer {
            Err(error) => assert_eq!(caller, 40, "{error}"),
            Ok(value) => assert_eq!(value, Some(caller)),
        }
    }
}

/// A database in memory is SQLite's alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_everybody_is_answered_too() {
    let cache = Cache::connect("sqlite::memory:").await.unwrap();
    everybody_is_answered(&cache).await;
}

/// SQLite's own: no other engine runs on the caller's thread.
mod sqlite_file {
    use super::*;
    use sqlx::{Connection, SqliteConnection};

    #[tokio::test]
    async fn a_lock_of_another_process_is_waited_for_and_not_on_the_callers_thread() {
        let db = TestDatabase::sqlite().await;
        let cache = db.cache().await;
        cache.set("key", &1).await.unwrap();
        let mut other = SqliteConnection::connect(&db.url).await.unwrap();
        let transaction = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let (set, started) = (cache.set("key", &2), Instant::now());
        let ticks = async {
            // This task shares its thread with the call.
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            transaction.commit().await.unwrap();
        };
        let (outcome, ()) = tokio::join!(set, ticks);
        outcome.unwrap();
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_eq!(cache.get::<u32>("key").await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn what_was_given_up_is_not_written_after_what_came_later() {
        let db = TestDatabase::sqlite().await;
        let cache = db.cache().await;
        cache.set("key", &0).await.unwrap();
        let mut other = SqliteConnection::connect(&db.url).await.unwrap();
        let transaction = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
        // It waits for the lock on a thread of its own by then, which goes on with it.
        let waits = tokio::time::timeout(Duration::from_millis(200), cache.set("key", &1));
        assert!(waits.await.is_err());
        transaction.commit().await.unwrap();
        cache.set("key", &2).await.unwrap();
        cache.database().close().await;
        assert_eq!(db.cache().await.get("key").await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn the_log_does_not_grow_without_end() {
        let db = TestDatabase::sqlite().await;
        let cache = db.cache().await;
        for count in 0..12_000 {
            cache
                .set(&format!("key {count}"), &"x".repeat(1_000))
                .await
                .unwrap();
        }
        let log = std::fs::metadata(db.path().join("test.db-wal"))
            .unwrap()
            .len();
        assert!(log < 96 * 1024 * 1024, "{log} bytes");
        cache.database().close().await;
        assert!(!db.path().join("test.db-wal").exists());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_log_does_not_grow_without_end_where_others_read_without_a_pause_and_they_see_what_is_written()
     {
        let db = TestDatabase::sqlite().await;
        let (writer, reader) = (db.cache().await, db.cache().await);
        let written = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        writer.set("count", &0).await.unwrap();
        let reads = tokio::spawn({
            let written = written.clone();
            async move {
                let mut seen = 0;
                while seen < 8_000 {
                    let least = written.load(std::sync::atomic::Ordering::SeqCst);
                    let now: Option<u32> = reader.get("count").await.unwrap();
                    assert!(
                        now >= Some(least.max(seen)),
                        "{now:?} after {least} and {seen}"
                    );
                    seen = now.unwrap();
                }
            }
        });
        for count in 1..=8_000 {
            writer
                .set(&format!("key {count}"), &"x".repeat(1_000))
                .await
                .unwrap();
            writer.set("count", &count).await.unwrap();
            written.store(count, std::sync::atomic::Ordering::SeqCst);
        }
        reads.await.unwrap();
        let log = std::fs::metadata(db.path().join("test.db-wal"))
            .unwrap()
            .len();
        assert!(log < 96 * 1024 * 1024, "{log} bytes");
    }

    #[tokio::test]
    async fn the_log_does_not_grow_with_processes_that_write_little() {
        let db = TestDatabase::sqlite().await;
        let mut processes = Vec::new();
        for process in 0..16 {
            // Each counts its own writes, and ends without a word.
            let cache = db.cache().await;
            for count in 0..150 {
                let key = format!("key {process} {count}");
                cache.set(&key, &"x".repeat(60_000)).await.unwrap();
            }
            processes.push(cache);
        }
        let log = std::fs::metadata(db.path().join("test.db-wal"))
            .unwrap()
            .len();
        assert!(log < 96 * 1024 * 1024, "{log} bytes");
    }

    #[test]
    fn a_file_is_the_same_in_another_working_directory() {
        // The connections of callers' threads are opened late, and the file may be named from where one was.
        let folder = tempfile::tempdir().unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "gathered::sqlite_file::moves_elsewhere",
                "--ignored",
            ])
            .current_dir(folder.path())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        assert!(folder.path().join("here.db").exists());
    }

    #[tokio::test]
    #[ignore = "it changes its process's working directory, and is run by the test above"]
    async fn moves_elsewhere() {
        let cache = Cache::connect("sqlite://here.db").await.unwrap();
        cache.set("key", &1).await.unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", elsewhere.path().join("here.db").display());
        Cache::connect(&url)
            .await
            .unwrap()
            .set("key", &2)
            .await
            .unwrap();
        std::env::set_current_dir(elsewhere.path()).unwrap();
        assert_eq!(cache.get::<u32>("key").await.unwrap(), Some(1));
    }
}
