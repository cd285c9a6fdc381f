//! That nothing in memory is older than the bound, while connections are cut and processes killed and stopped. PostgreSQL
//! alone, since SQLite keeps nothing.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder::Expiration;
use larder::cache::{Cache, MemoryTier};
use larder::database::DatabaseOptions;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::proxy::Proxy;
use crate::support::{TestDatabase, eventually, run};

const KEY: &str = "key";
const BOUND: Duration = Duration::from_millis(300);
/// Far more than any step takes; a process that hangs fails the test.
const DEADLINE: Duration = Duration::from_secs(60);

/// Milliseconds by the machine's clock, which all processes of a test share.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// Of each count, when it was last read: before the read began.
type Seen = BTreeMap<i64, u64>;
/// Of each count, when it was known to be committed.
type Committed = BTreeMap<i64, u64>;

/// A count was old from the moment at which the next was committed.
fn check(who: &str, seen: &Seen, committed: &Committed) {
    for (count, at) in seen {
        if let Some(next) = committed.get(&(count + 1)) {
            let old = at.saturating_sub(*next);
            assert!(
                u128::from(old) <= BOUND.as_millis(),
                "{who} read {count} {old} ms after it was overwritten"
            );
        }
    }
}

async fn open(url: &str, schema: &str, bound: Duration) -> Cache {
    let options = DatabaseOptions::new(url)
        .schema(schema)
        .acquire_timeout(Duration::from_millis(500));
    let tier = MemoryTier::default().max_staleness(bound);
    Cache::new(options.connect().await.unwrap()).with_memory(tier)
}

/// Reads without a pause until `enough` of what was read. What fails while a connection is cut is no read, nor is what
/// hangs: a connection that falls silent in the middle of a statement is not noticed for long.
async fn read_until(cache: &Cache, seen: &mut Seen, enough: impl Fn(i64) -> bool) {
    loop {
        let began = now();
        let read = tokio::time::timeout(Duration::from_secs(1), cache.get::<i64>(KEY));
        if let Ok(Ok(Some(count))) = read.await {
            seen.insert(count, began);
            if enough(count) {
                return;
            }
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn what_was_kept_before_a_connection_was_cut_is_given_up() {
    run(TestDatabase::postgres, async |db| {
        let other = db.cache().await;
        other.set(KEY, &1).await.unwrap();
        let proxy = Proxy::before(&db.url).await;
        let hour = Duration::from_secs(3_600);
        let cache = open(&proxy.url, &db.schema, hour).await;
        let get = async || cache.get::<i64>(KEY).await.ok().flatten();
        assert_eq!(get().await, Some(1));
        eventually("the database tells what is written", DEADLINE, async || {
            db.number("SELECT last_value FROM {}cached_item_watch")
                .await
                > 1
        })
        .await;
        for count in 1..4 {
            eventually("it is kept", DEADLINE, async || get().await == Some(count)).await;
            proxy.cut();
            other.set(KEY, &(count + 1)).await.unwrap();
            proxy.mend();
            eventually("it is given up", DEADLINE, async || {
                get().await == Some(count + 1)
            })
            .await;
        }
    });
}

#[test]
fn the_bound_holds_while_connections_are_cut_and_fall_silent() {
    run(TestDatabase::postgres, async |db| {
        let (writer, proxy) = (db.cache().await, Proxy::before(&db.url).await);
        writer.set(KEY, &0).await.unwrap();
        let cache = open(&proxy.url, &db.schema, BOUND).await;
        let (told, mut latest) = watch::channel(0);
        let reading = tokio::spawn(async move {
            let mut seen = Seen::new();
            while !told.is_closed() {
                let one = |_| true;
                read_until(&cache, &mut seen, one).await;
                told.send_replace(*seen.last_key_value().unwrap().0);
            }
            seen
        });
        let mut committed = Committed::new();
        for round in 0..12 {
            // Twice, so that what is kept of the first is old when the line is cut.
            for _ in 0..2 {
                let count = writer.increment(KEY, 1, Expiration::Never).await.unwrap();
                committed.insert(count, now());
            }
            match round % 4 {
                1 => proxy.silence(),
                2 => proxy.cut(),
                3 => proxy.mend(),
                _ => {}
            }
            if round % 4 != 2 {
                let last = *committed.last_key_value().unwrap().0;
                let reached = latest.wait_for(|count| *count >= last);
                tokio::time::timeout(DEADLINE, reached)
                    .await
                    .unwrap()
                    .unwrap();
            }
        }
        drop(latest);
        let seen = reading.await.unwrap();
        assert!(seen.len() > 8, "{seen:?}");
        check("the reader", &seen, &committed);
    });
}

/// A process of the test's own, in a role.
struct Role {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

const SAID: &str = "larder test: ";

impl Role {
    fn start(db: &TestDatabase, role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory_fleet::plays_its_role", "--nocapture"])
            .env("LARDER_TEST_ROLE", role)
            .env("LARDER_TEST_ROLE_URL", &db.url)
            .env("LARDER_TEST_ROLE_SCHEMA", &db.schema)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The two numbers of the next line that it says, if it says any more.
    async fn next(&mut self) -> Option<(i64, u64)> {
        let said = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if let Some((_, said)) = line.split_once(SAID) {
                    let (count, at) = said.split_once(' ').unwrap();
                    return Some((count.parse().unwrap(), at.parse().unwrap()));
                }
            }
            None
        };
        tokio::time::timeout(DEADLINE, said).await.unwrap()
    }

    /// All that it says until its end.
    async fn rest(mut self) -> BTreeMap<i64, u64> {
        drop(self.child.stdin.take());
        let mut said = BTreeMap::new();
        while let Some((count, at)) = self.next().await {
            said.insert(count, at);
        }
        said
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().unwrap().to_string();
        let sent = std::process::Command::new("kill")
            .args([signal, &id])
            .status();
        assert!(sent.unwrap().success());
    }
}

/// Does nothing by itself; [`Role`] runs it in processes of their own. A reader says each count and when it read it first and
/// last, a writer each count and when it was committed.
#[test]
#[allow(clippy::print_stdout)]
fn plays_its_role() {
    let Ok(role) = std::env::var("LARDER_TEST_ROLE") else {
        return;
    };
    let variable = |name: &str| std::env::var(format!("LARDER_TEST_ROLE_{name}")).unwrap();
    let (ended, mut end) = watch::channel(false);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ended.send_replace(true);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let cache = open(&variable("URL"), &variable("SCHEMA"), BOUND).await;
        let say = |count: i64, at: u64| println!("{SAID}{count} {at}");
        let mut last = None;
        while !*end.borrow_and_update() {
            if role == "writer" {
                let count = cache.increment(KEY, 1, Expiration::Never).await.unwrap();
                say(count, now());
                continue;
            }
            let began = now();
            let count: i64 = cache.get(KEY).await.unwrap().unwrap();
            if last.is_none_or(|(before, _)| before != count) {
                if let Some((before, at)) = last {
                    say(before, at);
                }
                say(count, began);
            }
            last = Some((count, began));
        }
    });
}

#[test]
fn the_bound_holds_while_processes_are_killed_and_stopped() {
    run(TestDatabase::postgres, async |db| {
        let cache = open(&db.url, &db.schema, BOUND).await;
        cache.set(KEY, &0).await.unwrap();
        let mut readers: Vec<Role> = (0..3).map(|_| Role::start(db, "reader")).collect();
        for reader in &mut readers {
            reader.next().await.expect("a reader reads");
        }
        let (mut committed, mut seen) = (Committed::new(), Seen::new());
        for round in 0..6 {
            let mut writer = Role::start(db, "writer");
            if round % 2 == 0 {
                readers[1].signal("-STOP");
            }
            for _ in 0..50 {
                let (count, at) = writer.next().await.expect("a writer writes");
                committed.insert(count, at);
            }
            // In the middle of a write, maybe; what it has said until then is read.
            writer.signal("-KILL");
            committed.extend(writer.rest().await);
            if round == 3 {
                readers.remove(2).signal("-KILL");
            }
            // The process that was stopped has what it had when it was stopped, until it has gone on.
            readers[1].signal("-CONT");
            let count = cache.increment(KEY, 1, Expiration::Never).await.unwrap();
            committed.insert(count, now());
            let reads = read_until(&cache, &mut seen, |read| read >= count);
            tokio::time::timeout(DEADLINE, reads).await.unwrap();
            for reader in &mut readers {
                while let Some((said, at)) = reader.next().await {
                    check("a reader", &Seen::from([(said, at)]), &committed);
                    if said >= count {
                        break;
                    }
                }
            }
        }
        check("this process", &seen, &committed);
        assert!(committed.len() > 300);
    });
}
