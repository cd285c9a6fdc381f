//! A fresh database a test on either engine, and the macro that runs a behaviour on both.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use larder::Cache;
use larder::clock::Clock;
use larder::database::{Database, DatabaseOptions, SchemaPolicy};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

/// Runs each function as a test on SQLite and on PostgreSQL, with a [`TestDatabase`] of its own.
macro_rules! both_engines {
    ($($(#[$meta:meta])* async fn $name:ident($database:ident) $body:block)*) => {
        $(async fn $name($database: &crate::support::TestDatabase) $body)*

        mod sqlite {
            $($(#[$meta])* #[test] fn $name() {
                crate::support::run(crate::support::TestDatabase::sqlite, async |db| super::$name(db).await);
            })*
        }
        mod postgres {
            $($(#[$meta])* #[test] fn $name() {
                crate::support::run(crate::support::TestDatabase::postgres, async |db| super::$name(db).await);
            })*
        }
    };
}
pub(crate) use both_engines;

/// Noon of an ordinary day: where a test's clock stands until it moves it.
pub(crate) fn noon() -> DateTime<Utc> {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

/// A database of one test. It is gone when the test has ended, however it ended.
pub(crate) struct TestDatabase {
    pub(crate) url: String,
    pub(crate) schema: String,
    pub(crate) clock: Clock,
    directory: tempfile::TempDir,
}

impl TestDatabase {
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        Self {
            url,
            schema: "public".to_owned(),
            clock: Clock::manual(noon()),
            directory,
        }
    }

    pub(crate) async fn postgres() -> Self {
        let url = std::env::var("LARDER_TEST_POSTGRES_URL").expect(
            "LARDER_TEST_POSTGRES_URL names no PostgreSQL: run tests/run.sh, which starts one, or set it to a server of yours",
        );
        // A space and capitals: names must be qualified and quoted wherever they stand.
        let schema = format!("Test {}", uuid::Uuid::now_v7().simple());
        Self {
            url,
            schema,
            clock: Clock::manual(noon()),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite:")
    }

    /// A folder of the test's own.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The SQLite file.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("test.db")
    }

    pub(crate) fn options(&self) -> DatabaseOptions {
        DatabaseOptions::new(&self.url)
            .schema(&self.schema)
            .clock(self.clock.clone())
            .max_connections(8)
    }

    /// Opened with the test's clock, which stands still.
    pub(crate) async fn open(&self) -> Database {
        self.options().connect().await.unwrap()
    }

    pub(crate) async fn cache(&self) -> Cache {
        Cache::new(self.open().await)
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.clock.advance(TimeDelta::seconds(seconds));
    }

    pub(crate) fn advance_millis(&self, milliseconds: i64) {
        self.clock.advance(TimeDelta::milliseconds(milliseconds));
    }

    /// Runs SQL of the test's own, past larder. `{}` is the schema's prefix.
    pub(crate) async fn execute(&self, sql: &str) -> u64 {
        self.try_execute(sql).await.unwrap()
    }

    /// Gathers statistics of the test's own tables, and of nobody else's, who may be filling them.
    pub(crate) async fn analyze(&self) {
        let all = "ANALYZE {}cached_item, {}cached_item_link, {}job, {}job_attempt, {}job_queue, {}job_worker";
        self.execute(if self.is_sqlite() { "ANALYZE" } else { all })
            .await;
    }

    /// As [`TestDatabase::execute`], for SQL that may be refused.
    pub(crate) async fn try_execute(&self, sql: &str) -> sqlx::Result<u64> {
        let sql = AssertSqlSafe(self.qualified(sql));
        if self.is_sqlite() {
            let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
            sqlx::raw_sql(sql)
                .execute(&mut connection)
                .await
                .map(|done| done.rows_affected())
        } else {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            sqlx::raw_sql(sql)
                .execute(&mut connection)
                .await
                .map(|done| done.rows_affected())
        }
    }

    /// The one integer that SQL of the test's own reads, past larder.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(self.qualified(sql));
        if self.is_sqlite() {
            let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql)
                .fetch_one(&mut connection)
                .await
                .unwrap()
        } else {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql)
                .fetch_one(&mut connection)
                .await
                .unwrap()
        }
    }

    fn qualified(&self, sql: &str) -> String {
        let prefix = if self.is_sqlite() {
            String::new()
        } else {
            format!("\"{}\".", self.schema.replace('"', "\"\""))
        };
        sql.replace("{}", &prefix)
    }

    /// The texts of one column that SQL of the test's own reads, past larder.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(self.qualified(sql));
        if self.is_sqlite() {
            let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql)
                .fetch_all(&mut connection)
                .await
                .unwrap()
        } else {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql)
                .fetch_all(&mut connection)
                .await
                .unwrap()
        }
    }

    /// Leaves nothing behind, for a database that a test makes beside its own.
    pub(crate) async fn end(self) {
        self.drop_schema().await;
    }

    async fn drop_schema(&self) {
        if !self.is_sqlite() {
            self.execute(&format!(
                "DROP SCHEMA IF EXISTS \"{}\" CASCADE",
                self.schema.replace('"', "\"\"")
            ))
            .await;
        }
    }
}

/// The body of a test: a runtime, a database, the behaviour, and an end that leaves nothing.
pub(crate) fn run<F>(database: impl AsyncFnOnce() -> TestDatabase, behaviour: F)
where
    F: AsyncFnOnce(&TestDatabase),
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    run_on(&runtime, database, behaviour);
}

/// [`run`] on a runtime of the test's choice.
pub(crate) fn run_on<F>(
    runtime: &tokio::runtime::Runtime,
    database: impl AsyncFnOnce() -> TestDatabase,
    behaviour: F,
) where
    F: AsyncFnOnce(&TestDatabase),
{
    runtime.block_on(async {
        let database = database().await;
        let outcome =
            futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(behaviour(&database)))
                .await;
        database.drop_schema().await;
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A JSON text as a value that keeps its bytes.
pub(crate) fn raw(text: &str) -> Box<serde_json::value::RawValue> {
    serde_json::value::RawValue::from_string(text.to_owned()).unwrap()
}

/// Opens with the worker's policy, which upgrades.
pub(crate) async fn upgraded(database: &TestDatabase) -> Database {
    database
        .options()
        .schema_policy(SchemaPolicy::Upgrade)
        .connect()
        .await
        .unwrap()
}

/// Looks again and again until `condition` holds; a test that waits longer than `limit` fails.
#[allow(dead_code)]
pub(crate) async fn eventually(what: &str, limit: Duration, condition: impl AsyncFn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let waited = tokio::time::timeout(limit, async {
        loop {
            looks.tick().await;
            if condition().await {
                return;
            }
        }
    });
    assert!(waited.await.is_ok(), "{what}: not within {limit:?}");
}

/// A `larder worker` of its own process. Dropped, it is killed.
#[cfg(feature = "cli")]
pub(crate) struct WorkerProcess {
    child: std::process::Child,
    log: std::sync::mpsc::Receiver<String>,
}

#[cfg(feature = "cli")]
impl WorkerProcess {
    pub(crate) fn start(db: &TestDatabase, arguments: &[&str]) -> Self {
        use std::io::BufRead;
        use std::process::{Command, Stdio};
        let mut child = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["--database-url", &db.url])
            .args(arguments)
            .arg("worker")
            .env("LARDER_DATABASE__SCHEMA", &db.schema)
            .env_remove("RUST_LOG")
            .current_dir(db.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (lines, log) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(stderr)
                .lines()
                .map_while(Result::ok)
            {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, log }
    }

    pub(crate) fn wait_until_ready(&mut self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let mut seen = Vec::new();
        while let Ok(line) = self
            .log
            .recv_timeout(deadline.saturating_duration_since(std::time::Instant::now()))
        {
            if line.starts_with("ready") {
                return;
            }
            seen.push(line);
        }
        panic!("the worker is not ready; it said {seen:#?}");
    }

    /// SIGTERM, and the exit status that comes of it.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        std::process::Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap();
        self.child.wait().unwrap().code()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[cfg(feature = "cli")]
impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
