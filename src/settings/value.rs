//! One setting as it was written, and what it is read as.

use std::time::Duration;

use toml::Value;

use super::{bytes, duration};
use crate::Error;
use crate::database::redact_url;

/// Instants much further away than this overflow what databases and calendars hold.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

/// A setting that the file or the environment gives.
pub(super) struct Found<'a> {
    /// How a message names it: `` `worker.heartbeat` `` or `LARDER_WORKER__HEARTBEAT`.
    pub name: String,
    /// `" in larder.toml:4"`, or nothing where the name says it.
    pub place: String,
    pub written: Written<'a>,
}

pub(super) enum Written<'a> {
    Toml(&'a Value),
    Variable(&'a str),
}

impl Found<'_> {
    pub(super) fn expected(&self, what: &str) -> Error {
        self.wrong(&format!("expected {what}"))
    }

    pub(super) fn wrong(&self, reason: &str) -> Error {
        let written = match &self.written {
            Written::Toml(Value::String(text)) => show(text),
            Written::Toml(Value::Array(_)) => "an array".into(),
            Written::Toml(Value::Table(_)) => "a table".into(),
            Written::Toml(other) => shorten(&other.to_string()),
            Written::Variable(text) => show(text),
        };
        Error::invalid(one_line(&format!(
            "{} is {written}{}: {reason}",
            self.name, self.place
        )))
    }

    /// As [`wrong`](Self::wrong), for a value that must not be shown.
    fn hidden(&self, reason: &str) -> Error {
        Error::invalid(one_line(&format!(
            "{} is wrong{}: {reason}",
            self.name, self.place
        )))
    }

    fn as_text(&self) -> Option<&str> {
        match self.written {
            Written::Toml(value) => value.as_str(),
            Written::Variable(text) => Some(text),
        }
    }

    pub(super) fn text(&self, what: &str, right: impl Fn(&str) -> bool) -> Result<String, Error> {
        self.as_text()
            .filter(|text| right(text))
            .map(str::to_owned)
            .ok_or_else(|| self.expected(what))
    }

    pub(super) fn url(&self) -> Result<String, Error> {
        let text = self.as_text().filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or_else(|| {
            self.hidden("expected sqlite://FILE or postgres://USER:PASSWORD@HOST/DATABASE")
        })
    }

    pub(super) fn truth(&self) -> Result<bool, Error> {
        let truth = match self.written {
            Written::Toml(value) => value.as_bool(),
            Written::Variable(text) => text.parse().ok(),
        };
        truth.ok_or_else(|| self.expected("true or false"))
    }

    pub(super) fn whole<T: TryFrom<i64>>(&self, least: i64, most: i64) -> Result<T, Error> {
        let number = match self.written {
            Written::Toml(value) => value.as_integer(),
            Written::Variable(text) => text.parse().ok(),
        };
        let in_range = number.filter(|number| (least..=most).contains(number));
        in_range
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.expected(&format!("a whole number from {least} to {most}")))
    }

    pub(super) fn number(&self, what: &str, right: impl Fn(f64) -> bool) -> Result<f64, Error> {
        let number = match self.written {
            Written::Toml(Value::Float(number)) => Some(*number),
            Written::Toml(Value::Integer(number)) => i32::try_from(*number).ok().map(f64::from),
            Written::Toml(_) => None,
            Written::Variable(text) => text.parse().ok(),
        };
        number
            .filter(|number| number.is_finite() && right(*number))
            .ok_or_else(|| self.expected(what))
    }

    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Error> {
        let text = self.as_text();
        let chosen = choices
            .iter()
            .find(|(name, _)| Some(*name) == text)
            .map(|(_, choice)| *choice);
        chosen.ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.expected(&format!("one of {}", names.join(", ")))
        })
    }

    pub(super) fn duration(&self) -> Result<Duration, Error> {
        let text = match self.written {
            Written::Toml(Value::String(text)) => text.clone(),
            Written::Toml(Value::Integer(seconds)) => seconds.to_string(),
            Written::Toml(Value::Float(seconds)) => seconds.to_string(),
            Written::Toml(_) => return Err(self.expected(duration::SHAPE)),
            Written::Variable(text) => text.to_owned(),
        };
        let duration = duration::parse(&text).map_err(|reason| self.wrong(&reason))?;
        if duration > LONGEST {
            Err(self.expected("at most 36500d"))
        } else {
            Ok(duration)
        }
    }

    pub(super) fn positive_duration(&self) -> Result<Duration, Error> {
        let duration = self.duration()?;
        // Times are kept in whole milliseconds, so that less than one is none.
        if duration < Duration::from_millis(1) {
            Err(self.expected("at least 1ms"))
        } else {
            Ok(duration)
        }
    }

    pub(super) fn bytes(&self, least: u64, most: u64) -> Result<u64, Error> {
        let text = match self.written {
            Written::Toml(Value::String(text)) => text.clone(),
            Written::Toml(Value::Integer(number)) => number.to_string(),
            Written::Toml(_) => return Err(self.expected(bytes::SHAPE)),
            Written::Variable(text) => text.to_owned(),
        };
        let size = bytes::parse(&text).map_err(|reason| self.wrong(&reason))?;
        let range = || {
            format!(
                "{} to {}",
                bytes::format_bytes(least),
                bytes::format_bytes(most)
            )
        };
        if (least..=most).contains(&size) {
            Ok(size)
        } else {
            Err(self.expected(&range()))
        }
    }

    /// A job's payload: a table in the file, a JSON object in the environment.
    pub(super) fn payload(&self) -> Result<serde_json::Value, Error> {
        let json = match self.written {
            Written::Toml(value) => {
                to_json(value).ok_or_else(|| self.wrong("JSON has neither nan nor inf"))?
            }
            Written::Variable(text) => {
                // By way of TOML, which must be able to say the same, and has neither null nor numbers over 64 bits.
                let parsed: Result<Value, _> = serde_json::from_str(text);
                let shape = "expected a JSON object without null, such as {\"path\": \"/srv\"}";
                parsed
                    .ok()
                    .as_ref()
                    .and_then(to_json)
                    .filter(serde_json::Value::is_object)
                    .ok_or_else(|| self.hidden(shape))?
            }
        };
        if json.is_object() {
            Ok(json)
        } else {
            Err(self.expected("a table, such as { path = \"/srv\" }"))
        }
    }
}

fn to_json(value: &Value) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    Some(match value {
        Value::String(text) => Json::String(text.clone()),
        Value::Integer(number) => Json::from(*number),
        Value::Float(number) => Json::Number(serde_json::Number::from_f64(*number)?),
        Value::Boolean(truth) => Json::Bool(*truth),
        Value::Datetime(instant) => Json::String(instant.to_string()),
        Value::Array(values) => Json::Array(values.iter().map(to_json).collect::<Option<_>>()?),
        Value::Table(table) => {
            let members = table
                .iter()
                .map(|(key, value)| Some((key.clone(), to_json(value)?)));
            Json::Object(members.collect::<Option<_>>()?)
        }
    })
}

/// A URL may stand where it does not belong, and its password is not for an error message.
fn show(text: &str) -> String {
    let may_be_url = text.contains("://") || (text.contains(':') && text.contains('@'));
    if may_be_url {
        quote(&redact_url(text))
    } else {
        quote(text)
    }
}

/// Text in quotes, on one line and not too long.
pub(super) fn quote(text: &str) -> String {
    shorten(&format!("{text:?}"))
}

fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A message with its line breaks and other control characters escaped: names of files and keys may hold any.
pub(super) fn one_line(message: &str) -> String {
    let separates = |c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}';
    message
        .chars()
        .flat_map(|c| {
            if separates(c) {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}
