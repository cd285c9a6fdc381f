//! The supervisor: this program once more, between a worker and a command, so that the command's process group dies
//! even with a worker that is killed by SIGKILL.
//!
//! It leads the group. Its standard input is one end of a socket whose other end only the worker holds. By it come
//! the command's input, behind its length, and its end of file when the worker is gone; and by it goes one report.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use rustix::process::{Signal, getpgrp, getpid, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedReadHalf;
use tokio::process::{ChildStdin, Command as Starting};
use tokio::signal::unix::{SignalKind, signal};

use super::process::not_started;

/// What a supervisor has to say.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The command ended with this status, as `wait` gives it.
    Ended(i32),
    /// It could not be started.
    NotStarted(String),
}

/// What a program does that was started as the supervisor of a command: runs `command`, the arguments behind the one
/// that [`Commands::supervised_by`](super::Commands::supervised_by) names, and tells the worker on standard input how
/// it ended; then, or as soon as the worker has ended, kills its own process group, itself with it.
///
/// ```no_run
/// use larder::command::{Command, Commands, supervise};
///
/// fn main() -> std::io::Result<()> {
///     let mut arguments = std::env::args_os().skip(1);
///     if arguments.next().is_some_and(|first| first == "--supervise") {
///         return supervise(arguments);
///     }
///     let commands = Commands::new([("report".to_owned(), Command::new("./report.sh"))]).supervised_by("--supervise");
///     // A worker that is given them by `Worker::data`.
///     # drop(commands);
///     Ok(())
/// }
/// ```
///
/// # Errors
/// Where it was not started by a worker; it then does nothing.
pub fn supervise(command: impl IntoIterator<Item = OsString>) -> io::Result<()> {
    // By hand it would kill the group of its shell's line.
    if getpgrp() != getpid() {
        return Err(io::Error::other("it does not lead its process group"));
    }
    let worker = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    worker.peer_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(watch(worker, command))?;
    Ok(kill_process_group(getpgrp(), Signal::KILL)?)
}

async fn watch(worker: UnixStream, command: impl IntoIterator<Item = OsString>) -> io::Result<()> {
    // The whole group may be sent these, to end the command: then its status is still to be told.
    let ends = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ];
    let _deaf = ends
        .into_iter()
        .map(signal)
        .collect::<io::Result<Vec<_>>>()?;
    worker.set_nonblocking(true)?;
    let (from, mut to) = tokio::net::UnixStream::from_std(worker)?.into_split();
    let mut command = command.into_iter();
    let program = command.next().unwrap_or_default();
    let started = Starting::new(&program)
        .args(command)
        .stdin(Stdio::piped())
        .spawn();
    let report = match started {
        Err(error) => Report::NotStarted(not_started(&program, &error)),
        Ok(mut child) => {
            let stdin = child.stdin.take();
            tokio::select! {
                status = child.wait() => Report::Ended(status?.into_raw()),
                _ = feed(from, stdin) => return Ok(()),
            }
        }
    };
    to.write_all(&serde_json::to_vec(&report)?).await
}

/// Passes on the command's input, and ends when the worker has.
async fn feed(mut from: OwnedReadHalf, stdin: Option<ChildStdin>) -> io::Result<()> {
    let length = from.read_u64().await?;
    // All of it at once: a command that does not read must not keep the worker's end from being noticed.
    let mut input = Vec::new();
    (&mut from).take(length).read_to_end(&mut input).await?;
    let passing = async {
        if let Some(mut stdin) = stdin {
            // It need not read all.
            let _ = stdin.write_all(&input).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = passing => {}
        _ = from.read_u8() => {}
    }
    Ok(())
}
