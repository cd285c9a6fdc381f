//! The supervisor of one command: this program, started by a worker of its own, before it is anything else.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::command::Commands;
use crate::settings::Settings;

/// What comes before all other arguments then.
const ARGUMENT: &str = "__supervise";

/// Whether this program, started again, would look for [`ARGUMENT`] first.
static LOOKED: AtomicBool = AtomicBool::new(false);

/// Supervises, if that is what this process is started for.
pub(super) fn if_asked(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    LOOKED.store(true, Ordering::Relaxed);
    if arguments.nth(1).is_none_or(|first| first != ARGUMENT) {
        return None;
    }
    Some(supervise(arguments))
}

#[cfg(unix)]
fn supervise(command: impl Iterator<Item = OsString>) -> ExitCode {
    match crate::command::supervise(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

#[cfg(not(unix))]
fn supervise(_: impl Iterator<Item = OsString>) -> ExitCode {
    refuse(&"commands run on Unix alone")
}

fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(
        std::io::stderr(),
        "error: {ARGUMENT} is what a worker starts for each command, and for nobody else: {error}"
    );
    ExitCode::from(2)
}

/// The commands of the settings, each under a supervisor where this program can be one.
pub(super) fn commands(settings: &Settings) -> Commands {
    let commands = Commands::new(settings.commands());
    if LOOKED.load(Ordering::Relaxed) {
        commands.supervised_by(ARGUMENT)
    } else {
        commands
    }
}
