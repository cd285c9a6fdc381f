//! `larder.toml`, the environment and the defaults, as one checked [`Settings`].
//!
//! The environment wins over the file, the file over the defaults; flags are the caller's, who sets the public
//! fields. [`Settings::load`] names the file, the line, the key, the value and what it expected in any error,
//! on one line.
//!
//! | setting | what it is | default |
//! | --- | --- | --- |
//! | `database.url` | `sqlite://FILE` or `postgres://…` | `sqlite://larder.db` |
//! | `database.busy_timeout` | SQLite: wait for the write lock | `10s` |
//! | `database.acquire_timeout` | wait for a connection | `5s` |
//! | `database.max_connections` | PostgreSQL: connections of one process | `10` |
//! | `database.schema` | PostgreSQL: where the tables are | `public` |
//! | `database.prepared` | PostgreSQL: prepare statements by name; `false` behind PgBouncer in transaction mode | `true` |
//! | `cache.max_value_bytes` | longest value; also a plain number of bytes | `16MiB` |
//! | `cache.lease` | silence after which somebody else computes a memoized value | `30s` |
//! | `cache.memory.items`, `.bytes`, `.max_staleness` | PostgreSQL: what is kept in memory, [for how long](crate::Cache::with_memory) after others wrote; on where any is given | off; then `10000`, `64MiB`, `1s` |
//! | `worker.concurrency` | jobs at once, per queue, 1 to 10,000 | `16` |
//! | `worker.shutdown_timeout` | how long running jobs may go on after a signal | `25s` |
//! | `worker.heartbeat` | how often a worker says that it lives | `5s` |
//! | `worker.rescue_after` | silence after which its jobs go to others, at least two heartbeats | `30s` |
//! | `worker.poll_interval` | how often to look where nothing tells of a job | `1s`; `50ms` on SQLite where the URL has options |
//! | `jobs.max_attempts` | attempts before a job is dead, 1 to 32,767 | `20` |
//! | `jobs.backoff.base`, `.factor`, `.cap`, `.jitter` | the pause before another attempt | `1s`, `2.0`, `1h`, `0.2` |
//! | `jobs.keep_done`, `jobs.keep_dead` | how long finished jobs are kept | `7d`, `30d` |
//! | `jobs.max_done`, `jobs.max_dead` | how many finished jobs are kept, the newest | any number |
//! | `queues.NAME.concurrency` | jobs of that queue at once in one worker | `worker.concurrency` |
//! | `queues.NAME.max_running` | jobs of that queue at once over all workers | any number |
//! | `queues.NAME.rate.limit`, `.per` | jobs of that queue that start in any stretch of time, over all workers | any number |
//! | `schedule.NAME.job`, `.cron` | what is enqueued, and when | required |
//! | `schedule.NAME.timezone` | an IANA timezone | `UTC` |
//! | `schedule.NAME.catch_up` | missed ticks: `skip`, `once` or `all` | `skip` |
//! | `schedule.NAME.catch_up_window` | how old a missed tick may be | `24h` |
//! | `schedule.NAME.overlap` | `allow`, or `skip` while the last job is queued or running | `allow` |
//! | `schedule.NAME.enabled` | `false` stops it | `true` |
//! | `schedule.NAME.payload` | the job's payload, a table; its strings may name the [tick](crate::schedule::ScheduleEntry) | `{}` |
//! | `schedule.NAME.queue`, `.priority`, `.max_attempts` | instead of the job's own | unset |
//! | `commands.NAME.argv` | a program and its arguments, run in the file's directory with no shell | required |
//! | `commands.NAME.timeout` | how long it may run | for ever |
//! | `commands.NAME.fresh_for` | how long its result is kept for the same input | not at all |
//! | `commands.NAME.max_output` | the most bytes that it may write to its standard output | `1MiB` |
//! | `fetch.max_bytes` | the most bytes of a body that a job fetches, decompressed | `4MiB` |
//! | `fetch.max_redirects` | how many redirects are followed, 0 to 50 | `5` |
//! | `fetch.timeout` | how long all of a fetch may take | `30s` |
//! | `fetch.connect_timeout` | how long one connection may take | `5s` |
//! | `fetch.allow_private` | private addresses that may be fetched from: `true`, or `["10.0.0.0/8", "intranet.example.com"]`; in the environment separated by commas | `false` |
//! | `fetch.fresh_for` | how long an answer is fresh that does not say | `1m` |
//! | `fetch.keep_for` | how long after that a response with an `ETag` or `Last-Modified` is kept, to be asked for by it | `7d` |
//!
//! `[fetch]` is there with the feature of that name. In the environment each is `LARDER_` and its name with `__` for a dot, as in `LARDER_WORKER__SHUTDOWN_TIMEOUT=10s`
//! or `LARDER_QUEUES__REPORTS__CONCURRENCY=2`. A `_` there also fits a `-` or `.` in the name of an entry that the file
//! has, or that exists by default. What may run is named by the file alone: the environment adds no command and changes
//! no `argv`. A payload is a JSON object. An empty variable counts as unset. An unknown
//! `LARDER_*` variable is only a warning, since Kubernetes injects some of its own; in the file an unknown name is an
//! error.
//!
//! The database's URL is the first of `LARDER_DATABASE_URL`, `DATABASE_URL`, `LARDER_DATABASE__URL` (with two
//! underscores it stands in for the file, and so behind `DATABASE_URL`), `url` in the file, and the default.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::Error;

mod bytes;
mod command;
mod duration;
mod environment;
#[cfg(feature = "fetch")]
mod fetch;
mod live;
mod read;
mod schedule;
mod schema;
mod section;
mod source;
mod value;
#[cfg(feature = "cli")]
mod watch;

pub use crate::database::redact_url;
pub use bytes::{format_bytes, parse_bytes};
pub use command::CommandSettings;
pub use duration::{format_duration, parse_duration, parse_signed_duration};
pub use environment::process_environment;
#[cfg(feature = "fetch")]
pub use fetch::FetchSettings;
pub use live::LiveSettings;
pub use schedule::{CatchUp, Overlap, ScheduleDefault, ScheduleSettings};
pub use section::{
    BackoffSettings, CacheSettings, DatabaseSettings, JobSettings, MemorySettings, QueueSettings,
    RateSettings, Settings, WorkerSettings,
};

use environment::Environment;
use source::{File, Place, Source};
#[cfg(feature = "cli")]
pub(crate) use watch::Watch;

/// What [`Settings::load`] found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Loaded {
    /// The settings in effect, but for flags.
    pub settings: Settings,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// Where the database's URL comes from: a variable's name, the file's path, or `default`.
    pub database_url_from: String,
    /// Lines to show to the user: `LARDER_*` variables that mean nothing here.
    pub warnings: Vec<String>,
    origin: Origin,
}

impl Loaded {
    /// Where `[schedule.NAME]` was written, for a message about it: `" in larder.toml:4"`, or nothing where it exists by
    /// default.
    #[cfg(feature = "cli")]
    pub(crate) fn schedule_place(&self, name: &str) -> String {
        self.origin.0.entry_place("schedule", name)
    }
}

/// What the settings were read from. It is shown to nobody: there may be secrets in it.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "cli"),
    allow(dead_code, reason = "the command watches it")
)]
struct Origin(Arc<Source>);

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl PartialEq for Origin {
    /// Settings are the same wherever they were read.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Settings {
    /// Reads `file`, or else the one that `LARDER_CONFIG` names, or else `./larder.toml` if it is there; then `env`.
    ///
    /// ```
    /// use larder::settings::Settings;
    ///
    /// let env = [("LARDER_WORKER__CONCURRENCY".into(), "4".into())];
    /// let loaded = Settings::load(None, env)?;
    /// assert_eq!(loaded.settings.worker.concurrency, 4);
    /// assert_eq!(loaded.file, None);
    ///
    /// let env = [("LARDER_WORKER__CONCURRENCY".into(), "many".into())];
    /// let error = Settings::load(None, env).unwrap_err().to_string();
    /// assert_eq!(error, "LARDER_WORKER__CONCURRENCY is \"many\": expected a whole number from 1 to 10000");
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is not TOML, has an unknown name, or any value is not what it should be.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, Error> {
        Self::load_with(&[], file, env)
    }

    /// As [`load`](Self::load), with schedule entries that exist without being in the file.
    ///
    /// The file changes of such an entry only the keys that it gives; `enabled = false` disables it.
    ///
    /// ```
    /// use larder::settings::{ScheduleDefault, Settings};
    ///
    /// let defaults = [ScheduleDefault { name: "clear-all", job: "clear_all", cron: "@daily" }];
    /// let env = [("LARDER_SCHEDULE__CLEAR_ALL__CRON".into(), "@hourly".into())];
    /// let schedule = Settings::load_with(&defaults, None, env)?.settings.schedule;
    /// assert_eq!(schedule["clear-all"].cron, "@hourly");
    /// assert_eq!(schedule["clear-all"].job, "clear_all");
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_with(
        defaults: &[ScheduleDefault],
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, Error> {
        let environment = Environment::read(env);
        let file = File::read(Place::new(file, environment.config.as_ref()))?;
        Self::from_file(defaults, file, environment)
    }

    fn from_file(
        defaults: &[ScheduleDefault],
        file: File,
        environment: Environment,
    ) -> Result<Loaded, Error> {
        let path = file.path.clone();
        let names: BTreeSet<&str> = defaults.iter().map(|default| default.name).collect();
        let source = Source::new(file, environment.settings, &names)?;
        let mut settings = read::settings(&source, defaults)?;
        let mut database_url_from = source
            .places(&[&["database", "url"]])
            .trim_start_matches(" in ")
            .to_owned();
        if let Some(variable) = environment.database_url {
            settings.database.url = variable.value;
            database_url_from = variable.name;
        }
        if database_url_from.is_empty() {
            "default".clone_into(&mut database_url_from);
        }
        Ok(Loaded {
            settings,
            file: path,
            database_url_from,
            warnings: environment.warnings,
            origin: Origin(Arc::new(source)),
        })
    }

    /// The settings as a `larder.toml`, for `larder config show`. The database's password is `***`.
    ///
    /// [`load`](Self::load) reads the same settings back, but for a password, and for a null in a payload,
    /// which is left out because TOML has none.
    ///
    /// ```
    /// use larder::settings::Settings;
    ///
    /// let toml = Settings::default().to_toml();
    /// assert!(toml.starts_with("[database]\nurl = \"sqlite://larder.db\"\nbusy_timeout = \"10s\"\n"));
    /// ```
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut settings = self.clone();
        for entry in settings.schedule.values_mut() {
            say_in_toml(&mut entry.payload);
        }
        // What is left are strings, numbers and tables, which TOML has.
        toml::to_string(&settings)
            .unwrap_or_else(|error| format!("# {}\n", value::one_line(&error.to_string())))
    }
}

/// Takes out what JSON has and TOML has not: nulls, and whole numbers over 63 bits.
fn say_in_toml(json: &mut Value) {
    match json {
        Value::Array(values) => {
            values.retain(|value| !value.is_null());
            values.iter_mut().for_each(say_in_toml);
        }
        Value::Object(members) => {
            members.retain(|_, value| !value.is_null());
            members.values_mut().for_each(say_in_toml);
        }
        Value::Number(number) if number.as_i64().is_none() => {
            *json = number
                .as_f64()
                .map_or(Value::String(number.to_string()), Value::from);
        }
        _ => {}
    }
}
