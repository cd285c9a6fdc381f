//! A command's processes: one group, that ends as a whole.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command as Starting};
use tokio::signal::unix::{SignalKind, signal};

use super::NamedCommand;
use super::supervise::Report;

/// Far more than a report has.
const LONGEST_REPORT: u64 = 64 << 10;

/// A command that was started.
pub(super) struct Process {
    pub(super) group: Group,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
    pub(super) input: Input,
    /// Comes when the command has ended. The group's leader is not waited for yet, so that its number stays its own.
    pub(super) ended: BoxFuture<'static, Ended>,
}

/// How the end of a command was noticed.
pub(super) enum Ended {
    /// Its supervisor told.
    Told(Report),
    /// The leader of the group has ended.
    Seen,
}

impl Process {
    pub(super) fn start(
        named: &NamedCommand,
        variables: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, String> {
        let command = &named.command;
        let directory = std::path::absolute(&command.directory).map_err(said)?;
        let program = program(&command.argv[0], &directory);
        let prepare = |mut starting: Starting| {
            starting
                .current_dir(&directory)
                .process_group(0)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            for name in super::variable::ALL {
                // Those of a job that this process may run for itself.
                starting.env_remove(name);
            }
            starting
        };
        let mut starting = match &named.supervisor {
            Some(argument) => {
                let mut starting = prepare(Starting::new(this_program().map_err(said)?));
                starting.arg0("larder").arg(argument).arg(&program);
                starting
            }
            None => prepare(Starting::new(&program)),
        };
        starting.args(&command.argv[1..]).envs(variables);
        let cannot = |error: io::Error| {
            if directory.is_dir() {
                not_started(&program, &error)
            } else {
                format!("{} is no directory", directory.display())
            }
        };
        if named.supervisor.is_some() {
            Self::supervised(starting, cannot)
        } else {
            Self::direct(starting, cannot)
        }
    }

    fn supervised(
        mut starting: Starting,
        cannot: impl FnOnce(io::Error) -> String,
    ) -> Result<Self, String> {
        let (ours, theirs) = UnixStream::pair().map_err(said)?;
        ours.set_nonblocking(true).map_err(said)?;
        let ours = tokio::net::UnixStream::from_std(ours).map_err(said)?;
        starting.stdin(Stdio::from(OwnedFd::from(theirs)));
        let mut child = starting.spawn().map_err(cannot)?;
        // The supervisor's end is then its own, and closes with it.
        drop(starting);
        let (reports, input) = ours.into_split();
        let pipes = pipes(&mut child);
        let group = Group::led_by(child)?;
        let (stdout, stderr) = pipes?;
        Ok(Self {
            group,
            stdout,
            stderr,
            input: Input::Supervisor(input),
            ended: told(reports).boxed(),
        })
    }

    fn direct(
        mut starting: Starting,
        cannot: impl FnOnce(io::Error) -> String,
    ) -> Result<Self, String> {
        let mut child = starting.stdin(Stdio::piped()).spawn().map_err(cannot)?;
        let pipes = pipes(&mut child);
        let input = child.stdin.take();
        let group = Group::led_by(child)?;
        let (stdout, stderr) = pipes?;
        let leader = group.leader;
        Ok(Self {
            group,
            stdout,
            stderr,
            input: Input::Pipe(input),
            ended: seen(leader).boxed(),
        })
    }
}

/// What runs: a path from the command's directory, or a name that is looked up in `PATH`.
fn program(written: &str, directory: &Path) -> PathBuf {
    if written.contains('/') {
        directory.join(written)
    } else {
        PathBuf::from(written)
    }
}

/// This very program, though its file may have been replaced or removed since it was started.
fn this_program() -> io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        return Ok(running.to_owned());
    }
    std::env::current_exe()
}

pub(super) fn not_started(program: impl AsRef<OsStr>, error: &io::Error) -> String {
    format!("{}: {error}", program.as_ref().display())
}

fn said(error: io::Error) -> String {
    error.to_string()
}

fn pipes(child: &mut Child) -> Result<(ChildStdout, ChildStderr), String> {
    let pipes = child.stdout.take().zip(child.stderr.take());
    pipes.ok_or_else(|| "it has no pipes".to_owned())
}

/// What the command reads.
pub(super) enum Input {
    /// By way of its supervisor, which lives as long as this end is open.
    Supervisor(OwnedWriteHalf),
    Pipe(Option<ChildStdin>),
}

impl Input {
    /// Writes all, unless the other side stops reading, which it may. What must stay open is returned.
    pub(super) async fn feed(mut self, text: &str) -> Self {
        match &mut self {
            Self::Supervisor(socket) => {
                let _ = socket.write_u64(text.len() as u64).await;
                let _ = socket.write_all(text.as_bytes()).await;
            }
            Self::Pipe(pipe) => {
                if let Some(mut pipe) = pipe.take() {
                    let _ = pipe.write_all(text.as_bytes()).await;
                }
            }
        }
        self
    }
}

/// The process group that a child leads. Dropped, it is killed.
pub(super) struct Group {
    child: Child,
    leader: Pid,
}

impl Group {
    fn led_by(child: Child) -> Result<Self, String> {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let leader = id.and_then(Pid::from_raw).ok_or("it has no process id")?;
        Ok(Self { child, leader })
    }

    pub(super) fn signal(&self, signal: Signal) {
        // Once the leader was waited for, the number may be another's.
        if self.child.id().is_some() {
            // It may be that none is left.
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Kills what is left of it, and returns how its leader ended.
    pub(super) async fn end(mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.child.wait().await
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The supervisor's report, or its silent end.
async fn told(reports: OwnedReadHalf) -> Ended {
    let mut text = Vec::new();
    // A supervisor that was killed leaves what it said before, or nothing.
    let _ = reports.take(LONGEST_REPORT).read_to_end(&mut text).await;
    serde_json::from_slice(&text).map_or(Ended::Seen, Ended::Told)
}

/// The end of a child that is not waited for by it.
async fn seen(leader: Pid) -> Ended {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let Ok(mut children) = signal(SignalKind::child()) else {
        return Ended::Seen;
    };
    while let Ok(None) = waitid(WaitId::Pid(leader), options) {
        children.recv().await;
    }
    Ended::Seen
}

impl Ended {
    /// What came of the command, given how its group's leader ended.
    pub(super) fn outcome(
        self,
        leader: io::Result<ExitStatus>,
        supervised: bool,
    ) -> Result<ExitStatus, String> {
        match self {
            Self::Told(Report::Ended(status)) => Ok(ExitStatus::from_raw(status)),
            Self::Told(Report::NotStarted(reason)) => Err(format!("cannot be started: {reason}")),
            Self::Seen => {
                let status = leader.map_err(|error| format!("cannot be watched: {error}"))?;
                if supervised {
                    Err(format!("was lost: its supervisor ended by {status}"))
                } else {
                    Ok(status)
                }
            }
        }
    }
}
