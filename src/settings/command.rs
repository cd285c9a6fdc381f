//! `[commands.NAME]`: what jobs may run.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::Settings;
use super::read::check_name;
use super::section::{bytes, optional_duration};
use super::source::Source;
use super::value::{Found, Written, one_line};
use crate::Error;
use crate::command::{Command, MAX_OUTPUT};

/// As much as the cache may be told to hold.
const MOST_OUTPUT: u64 = 1_000_000_000;

/// `[commands.NAME]`.
///
/// ```no_run
/// use larder::settings::Settings;
///
/// let settings = Settings::load(Some("larder.toml".as_ref()), [])?.settings;
/// for (name, command) in &settings.commands {
///     println!("{name} runs {:?} in {}", command.argv, command.directory.display());
/// }
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CommandSettings {
    /// The program and its arguments; at least the program.
    pub argv: Vec<String>,
    /// How long it may run.
    #[serde(serialize_with = "optional_duration")]
    pub timeout: Option<Duration>,
    /// How long its result is kept for the same input.
    #[serde(serialize_with = "optional_duration")]
    pub fresh_for: Option<Duration>,
    /// How long after that its stale result is still given to callers while it is refreshed.
    #[serde(serialize_with = "optional_duration")]
    pub stale_for: Option<Duration>,
    /// The most bytes that it may write to its standard output.
    #[serde(serialize_with = "bytes")]
    pub max_output: u64,
    /// The directory of the file that names it, where it runs.
    #[serde(skip)]
    pub directory: PathBuf,
}

impl CommandSettings {
    fn command(&self) -> Option<Command> {
        let (program, arguments) = self.argv.split_first()?;
        let most = usize::try_from(self.max_output).unwrap_or(usize::MAX);
        let mut command = Command::new(program)
            .directory(&self.directory)
            .max_output(most);
        for argument in arguments {
            command = command.arg(argument);
        }
        if let Some(timeout) = self.timeout {
            command = command.timeout(timeout);
        }
        if let Some(fresh_for) = self.fresh_for {
            command = command.fresh_for(fresh_for);
        }
        if let Some(stale_for) = self.stale_for {
            command = command.stale_for(stale_for);
        }
        Some(command)
    }
}

impl Settings {
    /// The commands, as [`Commands`](crate::command::Commands) takes them.
    ///
    /// ```
    /// use larder::command::Commands;
    /// use larder::settings::Settings;
    ///
    /// let commands = Commands::new(Settings::default().commands());
    /// assert!(commands.get("report").is_err());
    /// ```
    #[must_use]
    pub fn commands(&self) -> Vec<(String, Command)> {
        let named = |(name, settings): (&String, &CommandSettings)| {
            Some((name.clone(), settings.command()?))
        };
        self.commands.iter().filter_map(named).collect()
    }
}

pub(super) fn read(source: &Source, settings: &mut Settings) -> Result<(), Error> {
    for name in source.names("commands") {
        check_name("command", "commands", &name, source)?;
        let command = command(source, &name)?;
        settings.commands.insert(name, command);
    }
    Ok(())
}

fn command(source: &Source, name: &str) -> Result<CommandSettings, Error> {
    let place = source.entry_place("commands", name);
    let wrong = |message: String| Err(Error::invalid(one_line(&message)));
    if source.get(&["commands", name]).is_none() {
        return wrong(format!(
            "there is no command `{name}`{place}: expected [commands.{name}] in the settings file, which alone says what may run"
        ));
    }
    let Some(argv) = source.get(&["commands", name, "argv"]) else {
        return wrong(format!(
            "command `{name}`{place} has no `argv`: expected {ARGV}"
        ));
    };
    let mut command = CommandSettings {
        argv: read_argv(&argv)?,
        timeout: None,
        fresh_for: None,
        stale_for: None,
        max_output: MAX_OUTPUT as u64,
        directory: source.directory()?,
    };
    let at = |key: &'static str| ["commands", name, key];
    source.read(&mut command.timeout, &at("timeout"), |found| {
        found.positive_duration().map(Some)
    })?;
    source.read(&mut command.fresh_for, &at("fresh_for"), |found| {
        found.positive_duration().map(Some)
    })?;
    source.read(&mut command.stale_for, &at("stale_for"), |found| {
        found.positive_duration().map(Some)
    })?;
    if command.stale_for.is_some() && command.fresh_for.is_none() {
        return wrong(format!(
            "command `{name}`{place} has `stale_for` and no `fresh_for`: without that its result is not kept at all; give both, or neither"
        ));
    }
    source.read(&mut command.max_output, &at("max_output"), |found| {
        found.bytes(1, MOST_OUTPUT)
    })?;
    Ok(command)
}

const ARGV: &str =
    "the program and its arguments, such as [\"python3\", \"report.py\"]; there is no shell";

fn read_argv(found: &Found<'_>) -> Result<Vec<String>, Error> {
    let Written::Toml(value) = found.written else {
        return Err(found.wrong("the settings file alone says what may run: write it there"));
    };
    let argv: Option<Vec<String>> = value.as_array().and_then(|values| {
        let text = |value: &toml::Value| value.as_str().map(str::to_owned);
        values.iter().map(text).collect()
    });
    let argv = argv.filter(|argv| argv.first().is_some_and(|program| !program.is_empty()));
    let argv = argv.ok_or_else(|| found.expected(ARGV))?;
    if argv.iter().any(|argument| argument.contains('\0')) {
        return Err(found.wrong("no argument can hold a NUL"));
    }
    Ok(argv)
}
