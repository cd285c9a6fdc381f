//! Commands: programs that settings name and jobs run, with no shell between.
//!
//! A command's arguments are fixed. What a job gives it is the JSON on its standard input; what it gives back is its
//! standard output. It runs in a process group of its own, which dies with it, with its timeout, and with whoever
//! waits for it. With a worker that is killed by SIGKILL it dies where commands have a supervisor, as they do in the
//! `larder` command and in whatever calls `larder::cli::main`; see [`Commands::supervised_by`] for other programs.
//!
//! A process that leaves the group (`setsid`, a daemon) is out of reach.

mod error;
#[cfg(unix)]
mod output;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod run;
#[cfg(unix)]
mod supervise;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

pub use error::CommandError;
#[cfg(unix)]
pub use supervise::supervise;

use crate::error::{Error, Result};

/// The most bytes of standard output, unless a command says otherwise.
pub const MAX_OUTPUT: usize = 1 << 20;

/// What a command's process is told of the job that it runs for, in its environment.
pub mod variable {
    /// The job's id.
    pub const JOB_ID: &str = "LARDER_JOB_ID";
    /// Which attempt it is, from 1.
    pub const JOB_ATTEMPT: &str = "LARDER_JOB_ATTEMPT";
    /// The schedule that enqueued the job, if one did.
    pub const JOB_SCHEDULE: &str = "LARDER_JOB_SCHEDULE";
    /// The instant that its schedule named, by RFC 3339 in UTC.
    pub const JOB_TICK: &str = "LARDER_JOB_TICK";
    /// All of them.
    pub const ALL: [&str; 4] = [JOB_ID, JOB_ATTEMPT, JOB_SCHEDULE, JOB_TICK];
}

/// A program, its arguments, and how it is run.
///
/// ```
/// use larder::command::Command;
/// use std::time::Duration;
///
/// let report = Command::new("python3").arg("report.py").timeout(Duration::from_secs(600));
/// assert_eq!(report.argv(), ["python3", "report.py"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    argv: Vec<String>,
    directory: PathBuf,
    timeout: Option<Duration>,
    fresh_for: Option<Duration>,
    stale_for: Duration,
    max_output: usize,
}

impl Command {
    /// Runs `program`: a path if it holds a slash, from the command's directory where it is relative; else a name that
    /// is looked up in `PATH`.
    #[must_use]
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            argv: vec![program.into()],
            directory: PathBuf::from("."),
            timeout: None,
            fresh_for: None,
            stale_for: Duration::ZERO,
            max_output: MAX_OUTPUT,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.argv.push(argument.into());
        self
    }

    /// The working directory; unless said, that of this process.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// How long it may run; unless said, for ever. Then its process group is sent SIGTERM, and two seconds later
    /// SIGKILL.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long its result is kept, and given to whoever runs the command with the same input.
    #[must_use]
    pub fn fresh_for(mut self, fresh_for: Duration) -> Self {
        self.fresh_for = Some(fresh_for);
        self
    }

    /// How long after that its stale result is still given to callers while a job refreshes it; unless said, not at all.
    #[must_use]
    pub fn stale_for(mut self, stale_for: Duration) -> Self {
        self.stale_for = stale_for;
        self
    }

    /// The most bytes that it may write to its standard output; [`MAX_OUTPUT`] unless said.
    #[must_use]
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }

    /// The program and its arguments.
    #[must_use]
    pub fn argv(&self) -> &[String] {
        &self.argv
    }
}

/// The commands that may be run, by name. Clones share them, so that [`Commands::replace`] concerns all.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use larder::command::{Command, Commands};
/// use serde_json::value::RawValue;
///
/// let commands = Commands::new([("sum".to_owned(), Command::new("jq").arg("add"))]);
/// let shared = commands.clone();
/// commands.replace([("count".to_owned(), Command::new("wc").arg("-c"))]);
///
/// let input = RawValue::from_string("[1,2]".to_owned())?;
/// let count = shared.get("count")?.run(Some(&input), []).await?;
/// assert_eq!(count.get().trim(), "5");
///
/// let error = shared.get("sum").unwrap_err().to_string();
/// assert_eq!(error, r#"there is no command "sum": choose one of count, or name it in the settings file under [commands]"#);
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
pub struct Commands {
    by_name: Arc<RwLock<BTreeMap<String, Command>>>,
    supervisor: Option<OsString>,
}

impl Commands {
    /// These.
    #[must_use]
    pub fn new(commands: impl IntoIterator<Item = (String, Command)>) -> Self {
        Self {
            by_name: Arc::new(RwLock::new(commands.into_iter().collect())),
            supervisor: None,
        }
    }

    /// Runs each under a supervisor: this program again, with `argument` before all others, which its `main` must
    /// answer by `supervise`. Without one, a process that is killed by SIGKILL leaves its commands running.
    #[must_use]
    pub fn supervised_by(mut self, argument: impl Into<OsString>) -> Self {
        self.supervisor = Some(argument.into());
        self
    }

    /// These from now on, instead of those before. What runs already goes on as it began.
    pub fn replace(&self, commands: impl IntoIterator<Item = (String, Command)>) {
        let commands = commands.into_iter().collect();
        *self.by_name.write().unwrap_or_else(PoisonError::into_inner) = commands;
    }

    /// The command of this name.
    ///
    /// # Errors
    /// Where there is none, naming those that there are.
    pub fn get(&self, name: &str) -> Result<NamedCommand> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let Some(command) = by_name.get(name) else {
            let names: Vec<&str> = by_name.keys().map(String::as_str).collect();
            let choose = if names.is_empty() {
                String::new()
            } else {
                format!("choose one of {}, or ", names.join(", "))
            };
            return Err(Error::invalid(format!(
                "there is no command {name:?}: {choose}name it in the settings file under [commands]"
            )));
        };
        Ok(NamedCommand {
            name: name.to_owned(),
            command: command.clone(),
            supervisor: self.supervisor.clone(),
        })
    }
}

/// One of [`Commands`], as it was when it was asked for.
#[derive(Clone, Debug)]
pub struct NamedCommand {
    name: String,
    command: Command,
    #[cfg_attr(not(unix), expect(dead_code, reason = "commands run on Unix"))]
    supervisor: Option<OsString>,
}

impl NamedCommand {
    /// How long its result may be given to others.
    #[must_use]
    pub fn fresh_for(&self) -> Option<Duration> {
        self.command.fresh_for
    }

    /// How long after that its stale result may be given, while it is refreshed.
    #[must_use]
    pub fn stale_for(&self) -> Duration {
        self.command.stale_for
    }

    /// What tells its runs apart: its name, and a hash of its arguments and `input`, which counts as it is written.
    ///
    /// ```
    /// use larder::command::{Command, Commands};
    /// let commands = Commands::new([("sum".to_owned(), Command::new("jq").arg("add"))]);
    /// assert!(commands.get("sum")?.fingerprint(None).starts_with("sum:"));
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[must_use]
    pub fn fingerprint(&self, input: Option<&RawValue>) -> String {
        let mut hash = Sha256::new();
        // Each is told apart by its length, so that ["ab", "c"] is not ["a", "bc"].
        let argv = self.command.argv.iter().map(String::as_str);
        for part in argv.chain(["", input.map_or("", RawValue::get)]) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let hash: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{}:{hash}", self.name)
    }

    /// Runs it with `input` on its standard input, which is empty without one, and with `variables` (of
    /// [`variable`]) besides the environment of this process. Its result is its standard output less one final
    /// newline: as JSON where it is JSON, else as a string.
    ///
    /// If the future is dropped, the command's process group is killed.
    ///
    /// # Errors
    /// Where it cannot be started, exits with another status than 0, is killed, runs longer than its timeout, or
    /// writes too much or what is not UTF-8.
    pub async fn run(
        &self,
        input: Option<&RawValue>,
        variables: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Box<RawValue>, CommandError> {
        self.run_until(std::future::pending(), input, variables)
            .await
    }

    /// [`NamedCommand::run`], cut short when `stop` comes: the command's process group is then sent SIGTERM, and two
    /// seconds later SIGKILL.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::command::{Command, Commands};
    ///
    /// let commands = Commands::new([("rest".to_owned(), Command::new("sleep").arg("600"))]);
    /// let stopped = commands.get("rest")?.run_until(async {}, None, []).await;
    /// assert_eq!(stopped.unwrap_err().to_string(), r#"command "rest" was told to stop"#);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`NamedCommand::run`], and where it was stopped.
    #[cfg(unix)]
    pub async fn run_until(
        &self,
        stop: impl Future<Output = ()>,
        input: Option<&RawValue>,
        variables: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Box<RawValue>, CommandError> {
        run::run(self, input.map_or("", RawValue::get), variables, stop).await
    }

    /// Fails: a command's processes can be held together on Unix alone.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(unix))]
    pub async fn run_until(
        &self,
        _: impl Future<Output = ()>,
        _: Option<&RawValue>,
        _: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Box<RawValue>, CommandError> {
        let what = "cannot be started: commands run on Unix alone";
        Err(CommandError::new(&self.name, what, ""))
    }
}
