//! `LARDER_*` variables: `__` for a dot, in any case.

use std::collections::BTreeMap;

use super::schema;
use super::value::one_line;
use crate::command::variable;

/// The variables of this process. A name or value that is not Unicode is kept, with `�` for what is not.
///
/// [`std::env::vars`] panics on those.
///
/// ```
/// use larder::settings::process_environment;
///
/// assert!(process_environment().any(|(name, _value)| name == "PATH"));
/// ```
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

#[derive(Debug, Clone)]
pub(super) struct Variable {
    pub name: String,
    pub value: String,
}

/// What the environment says; an empty variable counts as unset.
#[derive(Debug, Default, Clone)]
pub(super) struct Environment {
    pub config: Option<Variable>,
    /// `LARDER_DATABASE_URL`, or else `DATABASE_URL`.
    pub database_url: Option<Variable>,
    /// `LARDER_A__B` as `["a", "b"]`.
    pub settings: BTreeMap<Vec<String>, Variable>,
    pub warnings: Vec<String>,
}

impl Environment {
    pub(super) fn read(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut environment = Self::default();
        // Sorted, so that the usual upper-case name stands before another spelling of it.
        let variables: BTreeMap<String, String> = variables
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let mut plain_database_url = None;
        for (name, value) in variables {
            let upper = name.to_ascii_uppercase();
            let variable = Variable { name, value };
            match (upper.as_str(), upper.strip_prefix("LARDER_")) {
                ("LARDER_CONFIG", _) => environment.config = environment.config.or(Some(variable)),
                ("LARDER_DATABASE_URL", _) => {
                    environment.database_url = environment.database_url.or(Some(variable));
                }
                // What a command that a job runs is told of it; it may call larder itself.
                (name, _) if variable::ALL.contains(&name) => {}
                _ if variable.name == "DATABASE_URL" => plain_database_url = Some(variable),
                (_, Some(path)) if !path.starts_with("TEST_") => environment.keep(path, variable),
                _ => {}
            }
        }
        environment.database_url = environment.database_url.or(plain_database_url);
        environment
    }

    fn keep(&mut self, path: &str, variable: Variable) {
        let path: Vec<String> = path.to_lowercase().split("__").map(str::to_owned).collect();
        if !is_setting(&path) {
            self.warnings
                .push(one_line(&unknown(&path, &variable.name)));
        } else if let Some(first) = self.settings.get(&path) {
            let (name, first) = (&variable.name, &first.name);
            let warning = format!("environment variable {name} is ignored: {first} says the same");
            self.warnings.push(one_line(&warning));
        } else {
            self.settings.insert(path, variable);
        }
    }
}

fn is_setting(path: &[String]) -> bool {
    let Some((key, table)) = path.split_last() else {
        return false;
    };
    let named = table.iter().all(|part| !part.is_empty());
    named
        && !schema::is_table(path)
        && schema::shape_at(table).is_some_and(|shape| shape.keys.contains(&key.as_str()))
}

fn unknown(path: &[String], name: &str) -> String {
    let start = &name[.."LARDER_".len()];
    let in_its_table = path.split_last().and_then(|(key, table)| {
        let near = schema::nearest(key, schema::shape_at(table)?.keys.iter().copied())?;
        Some(format!("{}__{near}", table.join("__")))
    });
    let near = in_its_table.or_else(|| {
        // A short one such as `LARDER_PORT`, which Kubernetes injects, is no misspelt setting.
        if path.concat().len() <= 8 {
            return None;
        }
        let names = schema::fixed_names();
        let near = schema::nearest(&path.join("."), names.iter().map(String::as_str))?;
        Some(near.replace('.', "__"))
    });
    match near
        .map(|near| near.to_uppercase())
        .filter(|near| !name.ends_with(near))
    {
        Some(near) => {
            format!("unknown environment variable {name} is ignored: did you mean {start}{near}?")
        }
        None => format!("unknown environment variable {name} is ignored: no setting has this name"),
    }
}
