//! How a command ends: the exit status, and the one line of an error.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};

use super::output::one_line;
use super::usage;
use crate::error::Error;

/// What a command that did its work has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Done, or yes: status 0.
    Yes,
    /// A miss, nothing deleted, and their like: status 1.
    No,
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// Why a command did not do its work.
#[derive(Debug)]
pub(super) enum Failure {
    /// An error: status 2 and a line.
    Error(String),
    /// What was waited for came to nothing: status 1 and a line.
    No(String),
    /// Whoever read standard output has gone, and wants no more: status 0.
    Closed,
}

impl Failure {
    pub(super) fn error(message: impl Into<String>) -> Self {
        Self::Error(message.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error.to_string())
    }
}

/// The exit status of a command's end; a failure is told in one line, without what is secret in the arguments.
pub(super) fn end(outcome: Result<Answer, Failure>, arguments: &[OsString]) -> ExitCode {
    let (message, status) = match outcome {
        Ok(Answer::Yes) | Err(Failure::Closed) => return ExitCode::SUCCESS,
        Ok(Answer::No) => return ExitCode::from(1),
        Err(Failure::No(message)) => (message, 1),
        Err(Failure::Error(message)) => (message, 2),
    };
    let message = one_line(&usage::redacted(message, arguments));
    let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    let mut stderr = AutoStream::auto(std::io::stderr());
    // Without a standard error there is still the status.
    let _ = writeln!(stderr, "{red}error:{red:#} {message}");
    ExitCode::from(status)
}
