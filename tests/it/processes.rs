//! Several processes on one database. Each is this test's own binary, run again with a role to play.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use larder::database::{Database, DatabaseOptions};
use larder::queue::{JobStatus, NewJob};
use larder::{Cache, Expiration, JobError, Queue, Worker};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{TestDatabase, both_engines};
use crate::work::{Probe, becomes, probe, start as start_worker, ticking};

const NEVER: Expiration = Expiration::Never;
const READY: &str = "larder test: ready";
const RESULT: &str = "larder test: result ";
/// Far more than any of them takes; a process that hangs fails the test.
const DEADLINE: Duration = Duration::from_secs(60);
const HAMMER_ROUNDS: i64 = 60;
const SHORT_LEASE: Duration = Duration::from_secs(2);
const SHORT_RESCUE: Duration = Duration::from_secs(1);

/// Runs as many processes in a role, which begin together, and returns what each answered.
async fn together(db: &TestDatabase, count: usize, role: &str) -> Vec<String> {
    let mut processes: Vec<Child> = (0..count).map(|number| start(db, role, number)).collect();
    let mut outputs = Vec::new();
    for process in &mut processes {
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = async {
            while !lines
                .next_line()
                .await
                .unwrap()
                .expect("it ended early")
                .contains(READY)
            {}
        };
        tokio::time::timeout(DEADLINE, ready).await.unwrap();
        outputs.push(lines);
    }
    // The end of their input is the signal to begin.
    for process in &mut processes {
        drop(process.stdin.take());
    }
    let mut answers = Vec::new();
    for (mut process, mut output) in processes.into_iter().zip(outputs) {
        let mut errors = process.stderr.take().unwrap();
        let ended = async {
            let (mut answer, mut stderr) = (String::new(), String::new());
            while let Some(line) = output.next_line().await.unwrap() {
                if let Some((_, result)) = line.split_once(RESULT) {
                    result.clone_into(&mut answer);
                }
            }
            errors.read_to_string(&mut stderr).await.unwrap();
            assert!(process.wait().await.unwrap().success(), "{role}: {stderr}");
            answer
        };
        answers.push(tokio::time::timeout(DEADLINE, ended).await.unwrap());
    }
    answers
}

fn start(db: &TestDatabase, role: &str, number: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::plays_its_role", "--nocapture"])
        .env("LARDER_TEST_ROLE", role)
        .env("LARDER_TEST_ROLE_URL", &db.url)
        .env("LARDER_TEST_ROLE_SCHEMA", &db.schema)
        .env("LARDER_TEST_ROLE_NUMBER", number.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Does nothing by itself; [`together`] runs it in processes of their own, and reads their standard output.
#[test]
#[allow(clippy::print_stdout)]
fn plays_its_role() {
    let Ok(role) = std::env::var("LARDER_TEST_ROLE") else {
        return;
    };
    let variable = |name: &str| std::env::var(format!("LARDER_TEST_ROLE_{name}")).unwrap();
    let options = DatabaseOptions::new(&variable("URL"))
        .schema(&variable("SCHEMA"))
        .max_connections(4);
    let number: i64 = variable("NUMBER").parse().unwrap();
    println!("{READY}");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let mut runtime = match role.as_str() {
        "stop" => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let database = options.connect().await.unwrap();
        match role.as_str() {
            "open" => database.migrations().await.unwrap().len().to_string(),
            "increment" => increment(Cache::new(database)).await,
            "add" => Cache::new(database)
                .add("key", &number, NEVER)
                .await
                .unwrap()
                .to_string(),
            "hammer" => hammer(database, number).await,
            "memoize" => memoize(Cache::new(database)).await,
            "stop" => stop(database).await,
            "refresh" => refresh(Cache::new(database)).await,
            "hold" => hold(Cache::new(database).with_lease(SHORT_LEASE)).await,
            other => panic!("no role {other}"),
        }
    });
    println!("{RESULT}{answer}");
}

/// Tasks that ask for one key together. Its computation counts itself and takes 300 ms. The answer is the longest wait.
async fn memoize(cache: Cache) -> String {
    let tasks = (0..8).map(|_| {
        let cache = cache.clone();
        tokio::spawn(async move {
            let (asked, counter) = (std::time::Instant::now(), cache.clone());
            let compute = move || async move {
                counter.increment("computations", 1, NEVER).await.unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
                "value".to_owned()
            };
            let value = cache
                .memoize("key")
                .fresh_for(DEADLINE)
                .get_or_compute(compute)
                .await;
            assert_eq!(value.unwrap(), "value");
            asked.elapsed().as_millis()
        })
    });
    let waits = futures::future::try_join_all(tasks).await.unwrap();
    waits.into_iter().max().unwrap().to_string()
}

/// Tasks that ask for one stale key together, whose refresh counts itself and takes 300 ms. The answer is the longest wait
/// for the stale value; the process ends when it reads the new one.
async fn refresh(cache: Cache) -> String {
    let tasks = (0..8).map(|_| {
        let cache = cache.clone();
        tokio::spawn(async move {
            let (asked, counter) = (std::time::Instant::now(), cache.clone());
            let compute = move || async move {
                counter.increment("computations", 1, NEVER).await.unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
                "new".to_owned()
            };
            let memoize = cache.memoize("key").fresh_for(DEADLINE).stale_for(DEADLINE);
            let value = memoize.get_or_compute(compute).await.unwrap();
            (value, asked.elapsed().as_millis())
        })
    });
    let answers = futures::future::try_join_all(tasks).await.unwrap();
    assert!(
        answers.iter().any(|(value, _)| value == "old"),
        "{answers:?}"
    );
    let new = async || cache.get::<String>("key").await.unwrap().unwrap() == "new";
    crate::support::eventually("it is refreshed", DEADLINE, new).await;
    answers
        .iter()
        .map(|(_, waited)| waited)
        .max()
        .unwrap()
        .to_string()
}

/// Computes, and is never done.
async fn hold(cache: Cache) -> String {
    let counter = cache.clone();
    let compute = move || async move {
        counter.increment("computations", 1, NEVER).await.unwrap();
        std::future::pending::<String>().await
    };
    cache.memoize("key").get_or_compute(compute).await.unwrap()
}

/// A worker of one thread that stops in its first job, with another claimed and not begun, until somebody has it go on.
/// Its jobs name a file, in which they leave a line.
async fn stop(database: Database) -> String {
    let mut options = crate::work::lively();
    (options.rescue_after, options.once) = (SHORT_RESCUE, true);
    // Seldom: whoever is stopped in the middle of a write keeps SQLite's lock.
    options.heartbeat = SHORT_RESCUE / 2;
    let handler = async |job: Probe| {
        // Nothing here lets another job begin meanwhile.
        if leave_a_line(&job) == 1 {
            signal("STOP", std::process::id());
            // Each thread stops by itself, this one perhaps a little later.
            let go_on = PathBuf::from(job.value["go_on"].as_str().unwrap());
            while !go_on.exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok::<_, JobError>(job.value)
    };
    let worker = Worker::new(database).options(options).register(handler);
    worker.run_until(std::future::pending()).await.unwrap();
    "done".to_owned()
}

/// How many lines there are then.
fn leave_a_line(job: &Probe) -> usize {
    let path = job.value["file"].as_str().unwrap();
    let mut file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    let line = format!("{} by {}\n", job.value["number"], std::process::id());
    file.write_all(line.as_bytes()).unwrap();
    std::fs::read_to_string(path).unwrap().lines().count()
}

fn signal(name: &str, process: u32) {
    let sent = std::process::Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

async fn increment(cache: Cache) -> String {
    let tasks = (0..4).map(|_| {
        let cache = cache.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                cache.increment("key", 1, NEVER).await.unwrap();
            }
        })
    });
    futures::future::try_join_all(tasks).await.unwrap();
    "done".to_owned()
}

/// Every kind of write, from several tasks at once; any error ends the process.
async fn hammer(database: Database, number: i64) -> String {
    let cache = Cache::new(database);
    let tasks = (0..3).map(|task| {
        let cache = cache.clone();
        tokio::spawn(async move {
            let own = format!("{number}:{task}");
            for round in 0..HAMMER_ROUNDS {
                cache.increment("single", 1, NEVER).await.unwrap();
                cache.set(&own, &round).await.unwrap();
                cache
                    .set_many((0..50).map(|n| (format!("{own}:{n}"), n)), -1)
                    .await
                    .unwrap();
                let mut transaction = cache.database().begin().await.unwrap();
                let before = cache
                    .get_in::<i64>(&mut transaction, "read then written")
                    .await
                    .unwrap();
                cache
                    .set_in(&mut transaction, &format!("{own}:last"), &round, NEVER)
                    .await
                    .unwrap();
                cache
                    .increment_in(&mut transaction, "read then written", 1, NEVER)
                    .await
                    .unwrap();
                assert!(before.unwrap_or(0) >= round);
                transaction.commit().await.unwrap();
                if round % 10 == task {
                    cache.purge().all_namespaces().run().await.unwrap();
                }
                if round % 20 == task {
                    cache.clear_prefix(&format!("{own}:")).await.unwrap();
                }
                assert_eq!(cache.get::<i64>(&own).await.unwrap(), Some(round));
            }
        })
    });
    futures::future::try_join_all(tasks).await.unwrap();
    "done".to_owned()
}

both_engines! {
    async fn eight_processes_that_open_an_empty_database_together_lay_its_tables_once(db) {
        let answers = together(db, 8, "open").await;
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        let rows = db.number("SELECT COUNT(*) FROM {}larder_migration").await;
        assert_eq!(rows.to_string(), answers[0]);
        assert_eq!(db.number("SELECT COUNT(DISTINCT version) FROM {}larder_migration").await, rows);
    }

    async fn increments_of_several_processes_are_all_counted(db) {
        let cache = db.cache().await;
        together(db, 4, "increment").await;
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(800));
    }

    async fn of_racing_adds_of_several_processes_one_wins(db) {
        let cache = db.cache().await;
        let answers = together(db, 8, "add").await;
        let winners: Vec<_> = (0_i64..).zip(&answers).filter(|(_, added)| *added == "true").collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(winners[0].0));
    }

    async fn of_many_processes_that_ask_for_a_cold_key_one_computes_it(db) {
        let cache = db.cache().await;
        let answers = together(db, 4, "memoize").await;
        assert_eq!(cache.get::<i64>("computations").await.unwrap(), Some(1));
        let longest = answers.iter().map(|answer| answer.parse::<u128>().unwrap()).max().unwrap();
        assert!((300..30_000).contains(&longest), "{answers:?}: within the lease");
    }

    async fn of_many_processes_that_ask_for_a_stale_key_one_refreshes_it_and_none_waits(db) {
        let cache = Cache::new(db.options().clock(larder::clock::Clock::system()).connect().await.unwrap());
        let memoize = cache.memoize("key").fresh_for(DEADLINE).stale_for(DEADLINE);
        memoize.get_or_compute(|| async { "old".to_owned() }).await.unwrap();
        db.execute("UPDATE {}cached_item SET stale_at = created_at").await;
        let answers = together(db, 4, "refresh").await;
        assert_eq!(cache.get::<i64>("computations").await.unwrap(), Some(1), "{answers:?}");
    }

    async fn what_a_killed_process_computed_is_computed_once_more_after_its_lease(db) {
        let cache = Cache::new(db.options().clock(larder::clock::Clock::system()).connect().await.unwrap());
        let mut holder = start(db, "hold", 0);
        drop(holder.stdin.take());
        let computing = || async { cache.get::<i64>("computations").await.unwrap() == Some(1) };
        crate::support::eventually("it computes", DEADLINE, computing).await;
        holder.start_kill().unwrap();
        holder.wait().await.unwrap();
        // Nobody is left to renew it: this is the deadline.
        let deadline = db.number(if db.is_sqlite() {
            "SELECT lease_until FROM {}cached_item WHERE key = 'key'"
        } else {
            "SELECT CAST(extract(epoch FROM lease_until) * 1000 AS bigint) FROM {}cached_item WHERE key = 'key'"
        }).await;
        let clock = cache.database().clock();
        assert!(clock.now().as_millis() < deadline);
        let ended = together(db, 3, "memoize").await;
        assert_eq!(ended.len(), 3);
        assert!(clock.now().as_millis() >= deadline + 300);
        assert_eq!(cache.get::<i64>("computations").await.unwrap(), Some(2));
        assert_eq!(cache.get::<String>("key").await.unwrap().as_deref(), Some("value"));
    }

    async fn a_worker_that_stood_still_begins_nothing_that_others_rescued(db) {
        let queue = Queue::new(ticking(db).await);
        let (file, go_on) = (db.path().join("begun"), db.path().join("go on"));
        let jobs = (0..2).map(|number| {
            NewJob::new(&probe(serde_json::json!({ "file": file, "go_on": go_on, "number": number })))
        });
        let jobs = queue.enqueue_many(jobs).await.unwrap();
        let mut stopped = start(db, "stop", 0);
        drop(stopped.stdin.take());
        crate::support::eventually("it stands still", DEADLINE, || async { file.exists() }).await;
        let both_claimed = || async { db.number("SELECT COUNT(*) FROM {}job WHERE status = 'running'").await == 2 };
        assert!(both_claimed().await);

        let mut options = crate::work::lively();
        options.rescue_after = SHORT_RESCUE;
        let handler = async |job: Probe| {
            leave_a_line(&job);
            Ok::<_, JobError>(job.value)
        };
        let other = start_worker(Worker::new(ticking(db).await).options(options).register(handler));
        for job in &jobs {
            assert_eq!(becomes(&queue, job.id, JobStatus::Done).await.attempt, 2);
        }
        let process = stopped.id().unwrap();
        std::fs::write(&go_on, "").unwrap();
        signal("CONT", process);
        let ended = tokio::time::timeout(DEADLINE, stopped.wait()).await.unwrap().unwrap();
        assert!(ended.success());
        other.end().await;
        let begun = std::fs::read_to_string(&file).unwrap();
        let its_own = begun.lines().filter(|line| line.ends_with(&process.to_string())).count();
        assert_eq!((begun.lines().count(), its_own), (3, 1), "{begun}");
    }

    async fn no_caller_meets_the_lock_of_another_process(db) {
        let cache = db.cache().await;
        together(db, 2, "hammer").await;
        for key in ["single", "read then written"] {
            assert_eq!(cache.get::<i64>(key).await.unwrap(), Some(2 * 3 * HAMMER_ROUNDS), "{key}");
        }
        let own = ["0:0", "0:1", "0:2", "1:0", "1:1", "1:2"];
        let found = cache.get_many::<i64>(own).await.unwrap();
        assert!(found.len() == 6 && found.values().all(|round| *round == HAMMER_ROUNDS - 1), "{found:?}");
    }
}
