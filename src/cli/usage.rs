//! clap's errors in one line, without the secrets that arguments may hold.

use std::ffi::OsString;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Command, CommandFactory};

use super::Cli;
use crate::settings::redact_url;

/// What was wrong with the arguments, and where to read how they should be.
pub(super) fn message(error: &clap::Error, arguments: &[OsString]) -> String {
    let root = Cli::command();
    let (path, command) = named(&root, arguments);
    let message = if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let commands: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        format!("{path} needs a command: {}", commands.join(", "))
    } else {
        in_one_line(error)
    };
    format!("{message} (see {path} --help)")
}

/// `message` without the passwords of URLs that the arguments hold: one in the wrong place is repeated by many errors,
/// and is not for a log.
pub(super) fn redacted(mut message: String, arguments: &[OsString]) -> String {
    for argument in arguments.iter().map(|argument| argument.to_string_lossy()) {
        for part in argument.split('=').chain([&*argument]) {
            if part.contains("://") || part.starts_with("postgres") {
                message = message.replace(part, &redact_url(part));
            }
        }
    }
    message
}

fn in_one_line(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let mut message = String::new();
    let lines = rendered
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty());
    for line in lines {
        let line = line.strip_prefix("error: ").unwrap_or(line);
        if !message.is_empty() {
            message.push_str(if line.starts_with("tip:") { "; " } else { " " });
        }
        message.push_str(line);
    }
    message
}

/// The command that the arguments name, and how it was called.
fn named<'a>(root: &'a Command, arguments: &[OsString]) -> (String, &'a Command) {
    let (mut path, mut command) = (program(arguments), root);
    let mut arguments = arguments
        .iter()
        .skip(1)
        .map(|argument| argument.to_string_lossy());
    while let Some(argument) = arguments.next() {
        if matches!(&*argument, "--config" | "--database-url") {
            arguments.next();
        } else if let Some(found) = command.find_subcommand(&*argument) {
            command = found;
            path = format!("{path} {}", found.get_name());
        } else if !argument.starts_with('-') {
            break;
        }
    }
    (path, command)
}

/// The program's name, as it was called.
pub(super) fn program(arguments: &[OsString]) -> String {
    arguments
        .first()
        .and_then(|name| Path::new(name).file_stem()?.to_str())
        .filter(|name| !name.is_empty())
        .unwrap_or("larder")
        .to_owned()
}
