//! A folder and a database a test, the binary in it, and what came of a run.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use larder::database::{Database, DatabaseOptions};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

/// Far longer than anything here takes, and short enough to see that a test hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs each function as a test on SQLite and on PostgreSQL, with a [`Home`] of its own.
macro_rules! both_engines {
    ($($(#[$meta:meta])* fn $name:ident($home:ident) $body:block)*) => {
        $(fn $name($home: &crate::support::Home) $body)*

        mod sqlite {
            $($(#[$meta])* #[test] fn $name() { super::$name(&crate::support::Home::sqlite()); })*
        }
        mod postgres {
            $($(#[$meta])* #[test] fn $name() { super::$name(&crate::support::Home::postgres()); })*
        }
    };
}
pub(crate) use both_engines;

/// Where a test's commands run: a folder and a database that nobody else has. Both are gone when the test has ended.
pub(crate) struct Home {
    directory: tempfile::TempDir,
    pub(crate) url: String,
    pub(crate) schema: String,
}

impl Home {
    pub(crate) fn sqlite() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            url: "sqlite://test.db".to_owned(),
            schema: "public".to_owned(),
        }
    }

    pub(crate) fn postgres() -> Self {
        let url = std::env::var("LARDER_TEST_POSTGRES_URL").expect(
            "LARDER_TEST_POSTGRES_URL names no PostgreSQL: run tests/run.sh, which starts one, or set it to a server of yours",
        );
        Self {
            directory: tempfile::tempdir().unwrap(),
            url,
            schema: format!("Test {}", uuid::Uuid::now_v7().simple()),
        }
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite:")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        // All of it at once: a worker may wait for it.
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, self.path(name)).unwrap();
        self.path(name)
    }

    /// `program` in this folder and on this database, whatever the shell is set up for.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let larders = name.to_string_lossy().starts_with("LARDER_");
            if larders || name == "DATABASE_URL" || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.directory.path())
            .env("LARDER_DATABASE_URL", &self.url)
            .env("LARDER_DATABASE__SCHEMA", &self.schema)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn larder(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_larder"))
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.larder().args(arguments))
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut child = self
            .larder()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        Ended::new(child.wait_with_output().unwrap(), &format!("{arguments:?}"))
    }

    /// The JSON that a command prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(ended.status, 0, "{ended:?}");
        serde_json::from_str(&ended.stdout).expect(&ended.stdout)
    }

    /// Enqueues a job and returns its id.
    pub(crate) fn enqueue(&self, arguments: &[&str]) -> String {
        let ended = self.run(&[&["enqueue"], arguments].concat());
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{ended:?}");
        ended.stdout.trim().to_owned()
    }

    /// The database by the library, for what a command would take long to lay out.
    pub(crate) fn with_database<T>(&self, work: impl AsyncFnOnce(Database) -> T) -> T {
        let url = self.url.replace(
            "sqlite://",
            &format!("sqlite://{}/", self.path("").display()),
        );
        block_on(async {
            let options = DatabaseOptions::new(&url).schema(&self.schema);
            let database = options.connect().await.unwrap();
            let outcome = work(database.clone()).await;
            database.close().await;
            outcome
        })
    }

    /// Runs SQL of the test's own, past larder. `{}` is the schema's prefix.
    pub(crate) fn execute(&self, sql: &str) {
        let schema = self.schema.replace('"', "\"\"");
        block_on(async {
            if self.is_sqlite() {
                let sql = AssertSqlSafe(sql.replace("{}", ""));
                let url = format!("sqlite://{}", self.path("test.db").display());
                let mut connection = SqliteConnection::connect(&format!("{url}?mode=rwc"))
                    .await
                    .unwrap();
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            } else {
                let sql = AssertSqlSafe(sql.replace("{}", &format!("\"{schema}\".")));
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        });
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.is_sqlite() {
            let schema = self.schema.replace('"', "\"\"");
            self.execute(&format!("DROP SCHEMA IF EXISTS \"{schema}\" CASCADE"));
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ended {
    what: String,
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(command: &mut Command) -> Self {
        let what = format!("{:?}", command.get_args().collect::<Vec<_>>());
        Self::new(command.output().unwrap(), &what)
    }

    fn new(output: std::process::Output, what: &str) -> Self {
        Self {
            what: what.to_owned(),
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn is(&self, status: i32, stdout: &str) {
        let found = (self.status, self.stdout.as_str(), self.stderr.as_str());
        assert_eq!(found, (status, stdout, ""), "{}", self.what);
    }

    /// Done, and all that it printed is this.
    pub(crate) fn prints(&self, stdout: &str) {
        self.is(0, stdout);
    }

    /// No, and all that it printed is this.
    pub(crate) fn says_no(&self, stdout: &str) {
        self.is(1, stdout);
    }

    /// One line on standard error with all of `parts`, nothing on standard output, and status 2.
    pub(crate) fn fails(&self, parts: &[&str]) {
        self.fails_with(2, parts);
    }

    pub(crate) fn fails_with(&self, status: i32, parts: &[&str]) {
        assert_eq!(
            (self.status, self.stdout.as_str()),
            (status, ""),
            "{self:?}"
        );
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {self:?}");
        }
    }
}

/// A daemon at work. It is killed if the test ends before it does.
pub(crate) struct Daemon {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// What it has logged so far, as far as it was waited for.
    pub(crate) log: Vec<String>,
}

impl Daemon {
    /// Starts `command` and waits until it is ready.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut daemon = Self::spawn(command);
        daemon.wait_for(|line| line.starts_with("ready"));
        daemon
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            log: Vec::new(),
        }
    }

    /// Waits for a line of its log.
    pub(crate) fn wait_for(&mut self, is_it: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("the line did not come; the log is {:#?}", self.log);
            };
            self.log.push(line.clone());
            if is_it(&line) {
                return line;
            }
        }
    }

    /// Sends a signal to it, and to it alone.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end, and returns its status; its whole log is then in `log`.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it goes on: {:#?}", self.log);
            std::thread::sleep(Duration::from_millis(5));
        };
        self.log.extend(self.lines.iter());
        status
    }

    pub(crate) fn stdout(&mut self) -> String {
        let mut text = String::new();
        let stdout = self.child.stdout.as_mut().unwrap();
        stdout.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
