//! larder behind a PgBouncer in transaction mode, which gives each transaction another server's connection. PostgreSQL
//! alone, as PgBouncer is.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use larder::cache::MemoryTier;
use larder::clock::Clock;
use larder::database::{Database, DatabaseOptions, SchemaPolicy};
use larder::queue::{JobStatus, NewJob, QueueLimits};
use larder::schedule::{Cron, ScheduleEntry};
use larder::{Cache, Expiration, JobContext, JobError, Queue, Worker};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpStream;

use crate::support::{TestDatabase, run};
use crate::work::{Probe, becomes, count, eventually, job, lively, probe, start, within};

/// A PgBouncer of the distribution's, with no more settings than it needs. Dropped, it is ended.
struct PgBouncer {
    child: Child,
    url: String,
}

impl PgBouncer {
    async fn before(db: &TestDatabase) -> Self {
        let server: PgConnectOptions = db.url.parse().unwrap();
        let url = url::Url::parse(&db.url).unwrap();
        let port = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let database = format!(
            "* = host={} port={} user={} password={}",
            server.get_host(),
            server.get_port(),
            server.get_username(),
            url.password().unwrap_or("none"),
        );
        // Fewer servers than clients, so that they go from hand to hand.
        let settings = format!(
            "[databases]\n{database}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\n"
        );
        let file = db.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new(if std::path::Path::new("/usr/sbin/pgbouncer").exists() {
            "/usr/sbin/pgbouncer"
        } else {
            "pgbouncer"
        });
        if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
            // It refuses to run as root.
            open_to_all(db.path());
            command.args(["-u", "nobody"]);
        }
        let child = command
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("PgBouncer is not there: run tests/run.sh, which installs it, or install it");
        let bouncer = Self {
            child,
            url: {
                let mut url = url;
                url.set_host(Some("127.0.0.1")).unwrap();
                url.set_port(Some(port)).unwrap();
                url.to_string()
            },
        };
        eventually("PgBouncer listens", async || {
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        bouncer
    }

    async fn open(&self, db: &TestDatabase) -> Database {
        DatabaseOptions::new(&self.url)
            .schema(&db.schema)
            .clock(Clock::system())
            .prepared(false)
            .schema_policy(SchemaPolicy::Upgrade)
            .connect()
            .await
            .unwrap()
    }
}

fn open_to_all(folder: &std::path::Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_cache_mixes_nothing_up() {
    run(TestDatabase::postgres, async |db| {
        let bouncer = PgBouncer::before(db).await;
        let caches = [
            Cache::new(bouncer.open(db).await),
            Cache::new(bouncer.open(db).await),
        ];
        let tasks = (0..16_usize).map(|task| {
            let cache = caches[task % 2].clone();
            tokio::spawn(async move {
                for round in 0..25 {
                    let key = format!("{task}-{round}");
                    cache.set(&key, &(task, round)).await.unwrap();
                    cache.increment("all", 1, Expiration::Never).await.unwrap();
                    assert_eq!(cache.get(&key).await.unwrap(), Some((task, round)));
                    let both = [(format!("{key}-a"), task), (format!("{key}-b"), round)];
                    cache
                        .set_many(
                            both.iter().map(|(key, value)| (key.as_str(), value)),
                            Expiration::Keep,
                        )
                        .await
                        .unwrap();
                    assert!(
                        cache
                            .touch(&key, Expiration::after(Duration::from_secs(60)))
                            .await
                            .unwrap()
                    );
                    assert!(cache.delete(&key).await.unwrap());
                    assert!(!cache.exists(&key).await.unwrap());
                }
            })
        });
        for task in within(futures::future::join_all(tasks)).await {
            task.unwrap();
        }
        assert_eq!(caches[0].get::<i64>("all").await.unwrap(), Some(16 * 25));
        assert_eq!(caches[1].stats().await.unwrap().total, 1 + 16 * 25 * 2);
    });
}

#[test]
fn workers_without_notifications_do_every_job_once_and_every_tick() {
    run(TestDatabase::postgres, async |db| {
        let bouncer = PgBouncer::before(db).await;
        let mut workers = Vec::new();
        for _ in 0..2 {
            let mut options = lively();
            options.listen = false;
            let mut narrow = QueueLimits::default();
            narrow.max_running = Some(2);
            options.queue_limits.insert("narrow".to_owned(), narrow);
            let every_second = ScheduleEntry::new(
                "every-second",
                Cron::parse_in("* * * * * *", "UTC").unwrap(),
                NewJob::new(&probe(-1)),
            );
            let worker = Worker::new(bouncer.open(db).await).options(options);
            // What is to fail, fails once: its history is kept in a transaction.
            let handler = async |job: Probe, cx: JobContext| match &job.value {
                Value::String(_) if cx.attempt == 1 => {
                    Err(JobError::retry_after("not yet", Duration::ZERO))
                }
                _ => Ok(job.value),
            };
            workers.push(start(worker.schedule(every_second).register(handler)));
        }
        let queue = Queue::new(bouncer.open(db).await);
        let jobs: Vec<_> = (0..300).map(|n| NewJob::new(&probe(n))).collect();
        let jobs = queue.enqueue_many(jobs).await.unwrap();
        for (number, enqueued) in jobs.iter().enumerate() {
            becomes(&queue, enqueued.id, JobStatus::Done).await;
            let job = job(&queue, enqueued.id).await;
            assert_eq!(
                (job.attempt, job.result.unwrap().get()),
                (1, number.to_string().as_str())
            );
        }
        let narrow = (0..20).map(|n| NewJob::new(&probe(format!("{n}"))).queue("narrow"));
        for enqueued in queue.enqueue_many(narrow).await.unwrap() {
            assert_eq!(
                becomes(&queue, enqueued.id, JobStatus::Done).await.attempt,
                2
            );
            assert_eq!(queue.attempts(enqueued.id).await.unwrap().len(), 1);
        }
        eventually("three ticks came", async || {
            count(&queue, JobStatus::Done).await >= 323
        })
        .await;
        for worker in workers {
            worker.end().await;
        }
        let ticks = db
            .number("SELECT COUNT(*) FROM {}job WHERE tick IS NOT NULL")
            .await;
        let different = db
            .number("SELECT COUNT(DISTINCT tick) FROM {}job WHERE tick IS NOT NULL")
            .await;
        assert_eq!(ticks, different);
    });
}

/// Nobody listens to what others write: the notifications would come to whoever has the server's connection then.
#[test]
fn items_in_memory_are_no_older_than_the_bound() {
    run(TestDatabase::postgres, async |db| {
        let bouncer = PgBouncer::before(db).await;
        let bound = Duration::from_millis(200);
        let tier = MemoryTier::default().max_staleness(bound);
        let cache = Cache::new(bouncer.open(db).await).with_memory(tier);
        let writer = Cache::new(bouncer.open(db).await);
        for count in 0..4 {
            writer.set("key", &count).await.unwrap();
            let written = Instant::now();
            loop {
                let asked = Instant::now();
                if cache.get::<i64>("key").await.unwrap() == Some(count) {
                    break;
                }
                assert!(asked.duration_since(written) < bound);
            }
        }
    });
}
