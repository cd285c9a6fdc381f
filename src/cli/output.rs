//! Standard output: what a command has to show, to people and to scripts.

use std::fmt::Display;
use std::io::{self, BufWriter, Stdout, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::Style;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::failure::Failure;

/// Standard output, buffered. What is written goes out as it is: a key may hold any character.
pub(super) struct Output {
    json: bool,
    colour: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        // `NO_COLOR` and its kin are honoured here.
        let colour = AutoStream::choice(&stdout) != ColorChoice::Never;
        Self {
            json,
            colour,
            out: BufWriter::new(stdout),
        }
    }

    /// Whether results are to be JSON.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(lost)
    }

    pub(super) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.out, "{text}").map_err(lost)
    }

    /// A line of JSON.
    pub(super) fn json(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, value).map_err(|error| lost(error.into()))?;
        self.raw(b"\n")
    }

    /// `value` as JSON, or else `text`.
    pub(super) fn show(
        &mut self,
        value: &(impl Serialize + ?Sized),
        text: impl Display,
    ) -> Result<(), Failure> {
        if self.json {
            self.json(value)
        } else {
            self.line(text)
        }
    }

    /// `text` in a style, where there is colour.
    pub(super) fn styled(&self, style: Style, text: impl Display) -> String {
        if self.colour {
            format!("{style}{text}{style:#}")
        } else {
            text.to_string()
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(lost)
    }
}

/// A JSON array of unknown length, an element a line, or plain lines.
pub(super) struct List<'a> {
    out: &'a mut Output,
    any: bool,
}

impl<'a> List<'a> {
    pub(super) fn new(out: &'a mut Output) -> Self {
        Self { out, any: false }
    }

    pub(super) fn push(
        &mut self,
        value: &(impl Serialize + ?Sized),
        text: impl Display,
    ) -> Result<(), Failure> {
        if !self.out.json {
            return self.out.line(text);
        }
        self.out.raw(if self.any { b",\n" } else { b"[" })?;
        self.any = true;
        serde_json::to_writer(&mut self.out.out, value).map_err(|error| lost(error.into()))
    }

    /// As [`Output::styled`].
    pub(super) fn styled(&self, style: Style, text: impl Display) -> String {
        self.out.styled(style, text)
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        match (self.out.json, self.any) {
            (false, _) => Ok(()),
            (true, true) => self.out.raw(b"]\n"),
            (true, false) => self.out.raw(b"[]\n"),
        }
    }
}

fn lost(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::Closed;
    }
    Failure::Error(format!(
        "cannot write to standard output: {error}; see where it goes"
    ))
}

/// RFC 3339 in UTC, as JSON has it.
pub(super) fn instant(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The text, or `-` for what is absent.
pub(super) fn or_dash(text: Option<impl Display>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

/// A text in one line: line breaks and what surrounds them become a space, other control characters are escaped.
pub(super) fn one_line(text: &str) -> String {
    let joined = text
        .split(['\n', '\r', '\u{2028}', '\u{2029}'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let mut line = String::with_capacity(joined.len());
    for c in joined.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_many_lines_becomes_one() {
        assert_eq!(
            one_line("syntax error\n  at \"x\"\r\n\r\nhint: y\t!\u{1b}[31m"),
            "syntax error at \"x\" hint: y\\t!\\u{1b}[31m"
        );
    }
}
