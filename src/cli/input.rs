//! JSON that a command is given: as it stands, from a file, or from standard input.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};

use serde_json::value::RawValue;

use super::failure::Failure;

/// The JSON that `source` names: `@FILE`, `-` for standard input, or itself. `what` is for messages; more than
/// `most` bytes are not read.
pub(super) fn json(source: &str, what: &str, most: u64) -> Result<Box<RawValue>, Failure> {
    let (text, place) = match source.strip_prefix('@') {
        Some("") => {
            return Err(Failure::error(format!(
                "{what} names no file: write @FILE, or - for standard input"
            )));
        }
        Some(path) => {
            let place = format!(", the file {path},");
            let file = File::open(path).map_err(|error| unreadable(what, &place, &error))?;
            (read(file, what, &place, most)?, place)
        }
        None if source == "-" => {
            let place = ", standard input,".to_owned();
            (read(io::stdin().lock(), what, &place, most)?, place)
        }
        None => (source.to_owned(), String::new()),
    };
    serde_json::from_str::<&RawValue>(&text)
        .map(ToOwned::to_owned)
        .map_err(|error| {
            let hint = if place.is_empty() && is_a_word(source) {
                format!("a string needs double quotes inside the shell's own: '\"{source}\"'")
            } else {
                "write a number, a string in double quotes, true, false, null, [...] or {...}"
                    .to_owned()
            };
            Failure::error(format!("{what}{place} is not JSON ({error}): {hint}"))
        })
}

fn read(source: impl Read, what: &str, place: &str, most: u64) -> Result<String, Failure> {
    let mut text = String::new();
    let read = source
        .take(most.saturating_add(1))
        .read_to_string(&mut text)
        .map_err(|error| unreadable(what, place, &error))?;
    if u64::try_from(read).is_ok_and(|read| read > most) {
        return Err(Failure::error(format!(
            "{what}{place} has more than {most} bytes: give less"
        )));
    }
    Ok(text)
}

fn unreadable(what: &str, place: &str, error: &io::Error) -> Failure {
    Failure::error(format!("{what}{place} cannot be read: {error}"))
}

/// Whether somebody who meant a string may have typed this.
fn is_a_word(text: &str) -> bool {
    let odd = |c: char| c.is_control() || matches!(c, '"' | '\'' | '\\' | '{' | '[');
    (1..=40).contains(&text.len()) && !text.contains(odd)
}

/// Asks on the terminal, and tells whether the answer was yes. `None` where there is no terminal to ask on.
pub(super) fn confirm(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ").ok()?;
    stderr.flush().ok()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ok()?;
    let answer = answer.trim().to_lowercase();
    Some(answer == "y" || answer == "yes")
}
