//! Runs a command that the settings file names, in any language, with JSON in and out, and remembers its result where
//! the file gives `fresh_for`. Runs when somebody enqueues it, or by a schedule: cron with a memory, retries and a
//! history.

use chrono::SecondsFormat;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cache::Memo;
use crate::command::{Commands, variable};
use crate::{Data, Job, JobContext, JobError};

/// Its payload: `{"command": "NAME", "input": JSON}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunCommand {
    /// The command, by its name in `[commands.NAME]`.
    pub command: String,
    /// What it reads on its standard input, which is empty without it, and for null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Box<RawValue>>,
}

impl Job for RunCommand {
    const NAME: &'static str = "run_command";
    /// What it wrote to its standard output: JSON, or else a string.
    type Output = Box<RawValue>;
}

/// Runs the command. One whose job is cancelled is told to stop.
///
/// # Errors
/// Where there is no such command (the job is then dead at once), or it fails, as [`CommandError`] says.
///
/// [`CommandError`]: crate::command::CommandError
pub async fn run_command(
    job: RunCommand,
    commands: Option<Data<Commands>>,
    cx: JobContext,
) -> Result<Box<RawValue>, JobError> {
    let commands = commands.map(|commands| (*commands).clone());
    let command = commands.unwrap_or_default().get(&job.command);
    let command = command.map_err(JobError::abort)?;
    let cancelled = cx.cancellation().cancelled();
    let input = job.input.as_deref();
    Ok(command.run_until(cancelled, input, told(&cx)).await?)
}

/// Where its result is remembered, if the command is one that gives `fresh_for`.
#[must_use]
pub fn memo(job: &RunCommand, commands: &Commands) -> Option<Memo> {
    let command = commands.get(&job.command).ok()?;
    let key = format!(
        "{}:{}",
        RunCommand::NAME,
        command.fingerprint(job.input.as_deref())
    );
    let memo = Memo::new(key).fresh_for(command.fresh_for()?);
    Some(memo.stale_for(command.stale_for()))
}

/// Whether its command is among those that there are.
///
/// # Errors
/// Where it is not.
pub fn is_named(job: &RunCommand, commands: &Commands) -> crate::Result<()> {
    commands.get(&job.command).map(drop)
}

/// What the command's process is told of its job.
fn told(cx: &JobContext) -> impl Iterator<Item = (&'static str, String)> + use<> {
    let tick = cx
        .tick
        .map(|tick| tick.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    [
        (variable::JOB_ID, Some(cx.id.to_string())),
        (variable::JOB_ATTEMPT, Some(cx.attempt.to_string())),
        (variable::JOB_SCHEDULE, cx.schedule.clone()),
        (variable::JOB_TICK, tick),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
}
