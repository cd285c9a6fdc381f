//! The file and the environment as they were written, before any value is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::environment::Variable;
use super::schema;
use super::value::{Found, Written, one_line};
use crate::Error;

const DEFAULT_FILE: &str = "larder.toml";

/// Where the settings' file is, or may come to be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub path: PathBuf,
    why: &'static str,
    /// Whether it may be absent.
    pub optional: bool,
}

impl Place {
    /// The file that was asked for, or `LARDER_CONFIG`, or `./larder.toml` if it is there.
    pub(super) fn new(asked: Option<&Path>, variable: Option<&Variable>) -> Self {
        let (path, why) = match (asked, variable) {
            (Some(path), _) => (path.to_owned(), ""),
            (None, Some(variable)) => (
                PathBuf::from(&variable.value),
                ", which LARDER_CONFIG names",
            ),
            (None, None) => (PathBuf::from(DEFAULT_FILE), ""),
        };
        Self {
            path,
            why,
            optional: asked.is_none() && variable.is_none(),
        }
    }

    pub(super) fn content(&self) -> Content {
        match fs::read(&self.path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Content::Text(text),
                Err(error) => Content::Unreadable(error.utf8_error().to_string()),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Content::Absent(error.to_string()),
            Err(error) => Content::Unreadable(error.to_string()),
        }
    }
}

/// What is in the settings' file, or why nothing is.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Text(String),
    Absent(String),
    Unreadable(String),
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other))
            | (Self::Unreadable(one), Self::Unreadable(other)) => one == other,
            // There are many ways to say so.
            (Self::Absent(_), Self::Absent(_)) => true,
            _ => false,
        }
    }
}

/// `larder.toml`, with every name in it known to be right.
#[derive(Default)]
pub(super) struct File {
    pub path: Option<PathBuf>,
    text: String,
    table: Table,
}

impl File {
    /// Reads the file at `place`.
    pub(super) fn read(place: Place) -> Result<Self, Error> {
        let content = place.content();
        Self::of(place, content)
    }

    /// The file at `place`, of which this is the content.
    pub(super) fn of(place: Place, content: Content) -> Result<Self, Error> {
        let cannot = |reason: &str| {
            let (path, why) = (place.path.display(), place.why);
            Error::invalid(one_line(&format!("cannot read {path}{why}: {reason}")))
        };
        match content {
            Content::Text(text) => Self::parse(place.path, text),
            Content::Unreadable(reason) => Err(cannot(&reason)),
            Content::Absent(_) if place.optional => Ok(Self::default()),
            Content::Absent(reason) => Err(cannot(&reason)),
        }
    }

    /// What was read.
    #[cfg(feature = "cli")]
    pub(super) fn content(&self) -> Content {
        match self.path {
            Some(_) => Content::Text(self.text.clone()),
            None => Content::Absent(String::new()),
        }
    }

    fn parse(path: PathBuf, text: String) -> Result<Self, Error> {
        let table = text.parse::<Table>().map_err(|error| {
            let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
            let reason = error.message().trim().replace('\n', ", ");
            Error::invalid(one_line(&format!(
                "invalid TOML in {}:{line}:{column}: {reason}",
                path.display()
            )))
        })?;
        let file = Self {
            path: Some(path),
            text,
            table,
        };
        file.check_names()?;
        Ok(file)
    }

    fn check_names(&self) -> Result<(), Error> {
        self.check_table(&[], &self.table)
    }

    fn check_table(&self, path: &[&str], table: &Table) -> Result<(), Error> {
        let sections = schema::sections();
        let keys = match schema::shape_at(path) {
            _ if path.is_empty() => Some(sections.as_slice()),
            _ if schema::is_named(path) => None,
            shape => shape.map(|shape| shape.keys),
        };
        for (key, value) in table {
            let path = &[path, &[key.as_str()]].concat()[..];
            if let Some(keys) = keys.filter(|keys| !keys.contains(&key.as_str())) {
                let what = if path.len() == 1 && value.is_table() {
                    "section"
                } else {
                    "key"
                };
                let (name, place, hint) =
                    (path.join("."), self.place(path), schema::hint(key, keys));
                return Err(Error::invalid(one_line(&format!(
                    "unknown {what} `{name}`{place}: {hint}"
                ))));
            }
            if schema::is_table(path) {
                let expected = || {
                    self.found(path, value)
                        .expected(&format!("a section, [{}]", path.join(".")))
                };
                self.check_table(path, value.as_table().ok_or_else(expected)?)?;
            }
        }
        Ok(())
    }

    fn get(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter()
            .try_fold(self.table.get(*first)?, |value, key| value.get(key))
    }

    fn found<'a>(&self, path: &[&str], value: &'a Value) -> Found<'a> {
        Found {
            name: format!("`{}`", path.join(".")),
            place: self.place(path),
            written: Written::Toml(value),
        }
    }

    /// `" in FILE:LINE"`. The file is parsed once more for the line, since it is only wanted for an error.
    fn place(&self, path: &[&str]) -> String {
        let Some(file) = &self.path else {
            return String::new();
        };
        match self.line(path) {
            Some(line) => format!(" in {}:{line}", file.display()),
            None => format!(" in {}", file.display()),
        }
    }

    fn line(&self, path: &[&str]) -> Option<usize> {
        let document = DeTable::parse(&self.text).ok()?;
        let mut table = document.get_ref();
        let mut start = None;
        for key in path {
            let (name, value) = table.iter().find(|(name, _)| name.get_ref() == key)?;
            start = Some(name.span().start);
            let DeValue::Table(inner) = value.get_ref() else {
                break;
            };
            table = inner;
        }
        Some(position(&self.text, start?).0)
    }
}

/// File and environment together: the environment wins.
pub(super) struct Source {
    pub file: File,
    settings: BTreeMap<Vec<String>, Variable>,
}

impl Source {
    /// `defaults` are the schedule entries that exist without being in the file.
    pub(super) fn new(
        file: File,
        variables: BTreeMap<Vec<String>, Variable>,
        defaults: &BTreeSet<&str>,
    ) -> Result<Self, Error> {
        let mut source = Self {
            file,
            settings: BTreeMap::new(),
        };
        for (mut path, variable) in variables {
            if schema::is_named(&path[..1]) {
                let mut names = source.file_names(&path[0]);
                if path[0] == "schedule" {
                    names.extend(defaults.iter().map(|name| (*name).to_owned()));
                }
                path[1] = choose_name(&path[1], &names, &variable)?;
            }
            source.settings.insert(path, variable);
        }
        Ok(source)
    }

    pub(super) fn get(&self, path: &[&str]) -> Option<Found<'_>> {
        let owned: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
        if let Some(variable) = self.settings.get(&owned) {
            let written = Written::Variable(&variable.value);
            return Some(Found {
                name: variable.name.clone(),
                place: String::new(),
                written,
            });
        }
        self.file
            .get(path)
            .map(|value| self.file.found(path, value))
    }

    /// Puts what is written at `path`, if anything is, into `setting`.
    pub(super) fn read<'a, T>(
        &'a self,
        setting: &mut T,
        path: &[&str],
        read: impl FnOnce(&Found<'a>) -> Result<T, Error>,
    ) -> Result<(), Error> {
        if let Some(found) = self.get(path) {
            *setting = read(&found)?;
        }
        Ok(())
    }

    /// The names that users gave in the table `section`, in the file or in the environment.
    pub(super) fn names(&self, section: &str) -> BTreeSet<String> {
        let mut names = self.file_names(section);
        names.extend(
            self.settings
                .keys()
                .filter(|path| path[0] == section)
                .map(|path| path[1].clone()),
        );
        names
    }

    /// Where something that concerns all of `paths` can be changed: `" in larder.toml:4"`.
    pub(super) fn places(&self, paths: &[&[&str]]) -> String {
        let place = |found: Found<'_>| {
            if found.place.is_empty() {
                format!(" in {}", found.name)
            } else {
                found.place
            }
        };
        let places: Vec<String> = paths
            .iter()
            .filter_map(|path| self.get(path))
            .map(place)
            .collect();
        places.join(" and")
    }

    /// Where the entry `name` of `section` is: the file's line, or a variable.
    pub(super) fn entry_place(&self, section: &str, name: &str) -> String {
        if self.file.get(&[section, name]).is_some() {
            return self.file.place(&[section, name]);
        }
        let variable = self
            .settings
            .iter()
            .find(|(path, _)| path[0] == section && path[1] == name);
        variable.map_or_else(String::new, |(_, variable)| {
            format!(" in {}", variable.name)
        })
    }

    /// The directory of the file, or the working directory without one.
    pub(super) fn directory(&self) -> Result<PathBuf, Error> {
        let file = self.file.path.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        let absolute = std::path::absolute(file).map_err(|error| {
            let message = format!("cannot tell the directory of {}: {error}", file.display());
            Error::invalid(one_line(&message))
        })?;
        Ok(absolute.parent().unwrap_or(&absolute).to_owned())
    }

    fn file_names(&self, section: &str) -> BTreeSet<String> {
        let table = self.file.table.get(section).and_then(Value::as_table);
        table
            .map(|table| table.keys().cloned().collect())
            .unwrap_or_default()
    }
}

/// The entry that a variable means, since a variable's name cannot say `-`, `.` or upper case.
fn choose_name(
    written: &str,
    names: &BTreeSet<String>,
    variable: &Variable,
) -> Result<String, Error> {
    let plain = |name: &str| {
        name.to_lowercase()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "_")
    };
    if names.contains(written) {
        return Ok(written.to_owned());
    }
    let fitting: Vec<&String> = names.iter().filter(|name| plain(name) == written).collect();
    match fitting[..] {
        [] => Ok(written.to_owned()),
        [only] => Ok(only.clone()),
        [first, second, ..] => Err(Error::invalid(one_line(&format!(
            "{} may mean `{first}` or `{second}`: set it in the file, or rename one of them",
            variable.name
        )))),
    }
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}
