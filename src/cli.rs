//! The commands. A binary of your own has them all, with your jobs, by one call of [`main`].
//!
//! Results go to standard output, logs and progress to standard error. The exit status is 0 for done or yes, 1 for no,
//! and 2 for an error or bad usage, which is one line on standard error.

mod args;
mod cache;
mod call;
mod config;
mod database;
mod enqueue;
mod failure;
mod input;
mod jobs;
mod log;
mod migrate;
mod output;
mod progress;
mod queues;
mod schedule;
mod supervise;
mod table;
mod usage;
mod wait;
mod worker;

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::settings::{Loaded, ScheduleDefault, Settings, process_environment};
use crate::worker::Handlers;
use failure::{Answer, Failure};
use output::Output;

/// Where help lists the options that every command has.
const GLOBAL: &str = "Options of every command";

/// A cache and a job worker that live in the database you already have.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    after_help = "Settings are taken from flags, then the environment (LARDER_WORKER__CONCURRENCY=4), then the file \
        (--config, LARDER_CONFIG or ./larder.toml), then the defaults; `config show` prints what is in effect.\n\n\
        Exit status: 0 done or yes, 1 no (a miss, nothing deleted, a job that ended dead or cancelled), 2 an error."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// The settings file [default: LARDER_CONFIG, or ./larder.toml if it is there]
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath, help_heading = GLOBAL)]
    config: Option<PathBuf>,
    /// The database, as sqlite://FILE or postgres://USER:PASSWORD@HOST/DATABASE [default: LARDER_DATABASE_URL,
    /// DATABASE_URL, the settings file, or sqlite://larder.db]
    #[arg(long, global = true, value_name = "URL", help_heading = GLOBAL)]
    database_url: Option<String>,
    /// Print results as JSON
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run jobs and schedules until a signal: the daemon
    Worker(worker::Args),
    /// Put a job into its queue, and print its id
    Enqueue(enqueue::Args),
    /// Print the result of a memoized job: the remembered one, or what a worker computes
    Call(call::Args),
    /// Look at jobs, retry, cancel and prune them
    #[command(subcommand)]
    Jobs(jobs::Command),
    /// Look at queues, and pause and resume them over the fleet
    #[command(subcommand)]
    Queues(queues::Command),
    /// Look at schedules, and run one by hand
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Read and write the cache
    #[command(subcommand)]
    Cache(cache::Command),
    /// Lay or upgrade the database's tables
    Migrate(migrate::Args),
    /// Look at the settings
    #[command(subcommand)]
    Config(config::Command),
    /// Print a completion script for a shell
    Completions {
        /// The shell that it is for
        shell: clap_complete::Shell,
    },
}

/// Runs the command that this process's arguments name, with these jobs and schedules.
///
/// A worker starts this program again to supervise each command that a job runs, and so this should be the first thing
/// that a program does.
///
/// ```no_run
/// use larder::worker::Handlers;
///
/// fn main() -> std::process::ExitCode {
///     // Your own: `Handlers::default().register(…)`, beside those that ship.
///     larder::cli::main(larder::jobs::all(), larder::jobs::default_schedule())
/// }
/// ```
#[must_use]
pub fn main(handlers: Handlers, default_schedule: Vec<ScheduleDefault>) -> ExitCode {
    supervise::if_asked(std::env::args_os())
        .unwrap_or_else(|| main_from(std::env::args_os(), handlers, default_schedule))
}

/// [`main`] with other arguments than this process's; the first is the program's name. Unless [`main`] was called
/// first, commands have no supervisor: those of a worker that is killed by SIGKILL go on.
#[must_use]
pub fn main_from(
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
    handlers: Handlers,
    default_schedule: Vec<ScheduleDefault>,
) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            // Help or the version. Nobody may be there to read it, and that is no failure.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let message = usage::message(&error, &arguments);
            return failure::end(Err(Failure::Error(message)), &arguments);
        }
    };
    log::hook_panics();
    let program = usage::program(&arguments);
    let run = AssertUnwindSafe(|| run(cli, handlers, &default_schedule, &program));
    // The hook has told of the panic.
    std::panic::catch_unwind(run).map_or(ExitCode::from(2), |outcome| {
        failure::end(outcome, &arguments)
    })
}

/// What a command works with.
struct Context {
    handlers: Handlers,
    loaded: Loaded,
    given: Given,
    out: Output,
}

/// What stands beside the settings' file, whenever that is read.
#[derive(Clone)]
struct Given {
    file: Option<PathBuf>,
    database_url: Option<String>,
    default_schedule: Vec<ScheduleDefault>,
}

impl Given {
    /// Puts the flags over the settings.
    fn over(&self, loaded: &mut Loaded) {
        if let Some(url) = &self.database_url {
            url.clone_into(&mut loaded.settings.database.url);
            "--database-url".clone_into(&mut loaded.database_url_from);
        }
    }
}

fn run(
    cli: Cli,
    handlers: Handlers,
    default_schedule: &[ScheduleDefault],
    program: &str,
) -> Result<Answer, Failure> {
    let is_worker = matches!(cli.command, Command::Worker(_));
    log::start(is_worker);
    let mut out = Output::new(cli.global.json);
    let answer = match cli.command {
        Command::Completions { shell } => completions(shell, program, &mut out),
        Command::Schedule(schedule::Command::Check(check)) => check.run(&mut out),
        command => {
            let given = Given {
                file: cli.global.config,
                database_url: cli.global.database_url,
                default_schedule: default_schedule.to_vec(),
            };
            let mut context = Context {
                handlers,
                loaded: load(&given)?,
                given,
                out,
            };
            let answer = with_settings(command, &mut context);
            out = context.out;
            answer
        }
    }?;
    out.flush()?;
    Ok(answer)
}

fn with_settings(command: Command, context: &mut Context) -> Result<Answer, Failure> {
    match command {
        Command::Worker(args) => args.run(context),
        Command::Enqueue(args) => args.run(context),
        Command::Call(args) => args.run(context),
        Command::Jobs(command) => command.run(context),
        Command::Queues(command) => command.run(context),
        Command::Schedule(command) => command.run(context),
        Command::Cache(command) => command.run(context),
        Command::Migrate(args) => args.run(context),
        Command::Config(command) => command.run(context),
        Command::Completions { .. } => Ok(Answer::Yes),
    }
}

/// The settings in effect: flags, environment, file, defaults.
fn load(given: &Given) -> Result<Loaded, Failure> {
    let environment = process_environment();
    let mut loaded =
        Settings::load_with(&given.default_schedule, given.file.as_deref(), environment)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    given.over(&mut loaded);
    Ok(loaded)
}

fn completions(
    shell: clap_complete::Shell,
    program: &str,
    out: &mut Output,
) -> Result<Answer, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), program, &mut script);
    out.raw(&script)?;
    Ok(Answer::Yes)
}
