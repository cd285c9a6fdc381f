//! One run of a command, from its start to its result.

use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until, timeout};

use super::output::{self, Tail, TooMuch};
use super::process::{Ended, Process};
use super::{CommandError, NamedCommand};

/// How long a command that was told to end may take for it.
const GRACE: Duration = Duration::from_secs(2);
/// How long the pipes are read after the group's end: who still holds them has left the group.
const LINGER: Duration = Duration::from_secs(1);
/// Longer than any command runs.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What ended a run.
enum End {
    Itself(Ended),
    /// It was told to end, for this reason.
    Told(String),
    Output,
}

pub(super) async fn run(
    named: &NamedCommand,
    input: &str,
    variables: impl IntoIterator<Item = (&'static str, String)>,
    stop: impl Future<Output = ()>,
) -> Result<Box<RawValue>, CommandError> {
    let fail = |what: String, stderr: &Tail| CommandError::new(&named.name, what, &stderr.text());
    let most = named.command.max_output;
    let (mut stdout, mut stderr) = (Vec::new(), Tail::default());
    let process = Process::start(named, variables)
        .map_err(|reason| fail(format!("cannot be started: {reason}"), &stderr))?;
    let group = process.group;
    let outcome = {
        let mut reading = pin!(async {
            let all = output::read(process.stdout, most, &mut stdout);
            tokio::try_join!(all, async {
                stderr.read(process.stderr).await;
                Ok(())
            })
        });
        let mut feeding = pin!(process.input.feed(input));
        let (mut ended, mut stop) = (process.ended, pin!(stop));
        let limit = named.command.timeout.unwrap_or(NEVER);
        let mut deadline = pin!(sleep_until(Instant::now() + limit.min(NEVER)));
        // What is fed stays open: with it the supervisor ends.
        let (mut read, mut fed, mut told) = (false, None, None);
        let end = loop {
            let reason = tokio::select! {
                end = &mut ended => break told.map_or(End::Itself(end), End::Told),
                all = &mut reading, if !read => {
                    read = true;
                    match all {
                        Ok(_) => continue,
                        Err(TooMuch) => break End::Output,
                    }
                }
                input = &mut feeding, if fed.is_none() => {
                    fed = Some(input);
                    continue;
                }
                () = &mut stop, if told.is_none() => "was told to stop".to_owned(),
                () = &mut deadline => match told {
                    Some(reason) => break End::Told(reason),
                    None => format!("ran longer than its timeout of {limit:?}"),
                },
            };
            group.signal(Signal::TERM);
            told = Some(reason);
            deadline.as_mut().reset(Instant::now() + GRACE);
        };
        let leader = group.end().await;
        let late = !read && matches!(timeout(LINGER, reading).await, Ok(Err(TooMuch)));
        match end {
            End::Told(reason) => Err(reason),
            End::Itself(end) if !late => end.outcome(leader, named.supervisor.is_some()),
            End::Itself(_) | End::Output => Err(format!(
                "wrote more than {most} bytes to stdout: write less, or raise its max_output"
            )),
        }
    };
    match outcome {
        Ok(status) if status.success() => {
            let result = output::result(stdout).map_err(|what| fail(what, &stderr))?;
            let (name, stderr) = (&named.name, stderr.text());
            tracing::debug!(command = name, stderr, "the command is done");
            Ok(result)
        }
        Ok(status) => Err(fail(how(status), &stderr)),
        Err(what) => Err(fail(what, &stderr)),
    }
}

fn how(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exited with status {code}"),
        None => format!("was ended by {status}"),
    }
}
