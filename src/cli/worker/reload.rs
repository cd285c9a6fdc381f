//! What a worker does when `larder.toml` changes under it.

use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::cli::Given;
use crate::cli::{schedule, supervise};
use crate::command::Commands;
use crate::error::Result;
use crate::fetch::Fetcher;
use crate::queue::QueueTable;
use crate::schedule::ScheduleEntry;
use crate::settings::{LiveSettings, Loaded, Settings, Watch, process_environment};
use crate::worker::Handlers;

/// A change is taken when it is seen for the second time, within about a second.
const LOOK: Duration = Duration::from_millis(500);
/// The sections whose changes take effect in a worker at work.
const LIVE: &[&str] = &["schedule", "queues", "commands", "fetch"];

pub(super) struct Reload {
    /// Until it is watched.
    watch: Option<Watch>,
    path: String,
    given: Given,
    handlers: Handlers,
    /// The settings at the start: what of them has changed waits for a restart.
    started: Settings,
    settings: LiveSettings,
    schedule: watch::Sender<Vec<ScheduleEntry>>,
    queues: watch::Sender<QueueTable>,
    commands: Commands,
    fetcher: Fetcher,
    fault: Option<String>,
    told: Vec<String>,
}

impl Reload {
    /// The settings and the schedule of a worker, and what keeps them like the file.
    pub(super) fn new(loaded: &Loaded, given: &Given, handlers: &Handlers) -> Result<Self> {
        let entries = schedule::entries(loaded, handlers)?;
        let defaults = given.default_schedule.clone();
        let watch = Watch::new(loaded, given.file.clone(), defaults, process_environment());
        Ok(Self {
            path: watch.path(),
            watch: Some(watch),
            given: given.clone(),
            handlers: handlers.clone(),
            started: loaded.settings.clone(),
            settings: LiveSettings::new(loaded.settings.clone()),
            schedule: watch::Sender::new(entries),
            queues: watch::Sender::new(table(&loaded.settings)),
            commands: supervise::commands(&loaded.settings),
            fetcher: Fetcher::new(loaded.settings.fetch.options()),
            fault: None,
            told: Vec::new(),
        })
    }

    pub(super) fn settings(&self) -> LiveSettings {
        self.settings.clone()
    }

    pub(super) fn schedule(&self) -> watch::Receiver<Vec<ScheduleEntry>> {
        self.schedule.subscribe()
    }

    pub(super) fn queues(&self) -> watch::Receiver<QueueTable> {
        self.queues.subscribe()
    }

    pub(super) fn commands(&self) -> Commands {
        self.commands.clone()
    }

    pub(super) fn fetcher(&self) -> Fetcher {
        self.fetcher.clone()
    }

    /// Looks at the file again and again, and takes what is new.
    pub(super) async fn run(mut self) {
        if let Some(watch) = self.watch.take() {
            let mut news = looks(watch);
            while let Some(look) = news.recv().await {
                self.take(look);
            }
        }
        tracing::error!("the settings' file is watched no longer; restart the worker");
    }

    fn take(&mut self, look: Result<Loaded>) {
        let taken = look.and_then(|mut loaded| {
            self.given.over(&mut loaded);
            let entries = schedule::entries(&loaded, &self.handlers)?;
            Ok((loaded.settings, entries))
        });
        let file = self.path.clone();
        let (settings, entries) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                let error = error.to_string();
                if self.fault.as_ref() != Some(&error) {
                    tracing::error!(
                        error,
                        "{file} has changed and is no good; all stays as it was"
                    );
                    self.fault = Some(error);
                }
                return;
            }
        };
        if self.fault.take().is_some() {
            tracing::info!("{file} is good again");
        }
        self.tell_of_restart(&file, &settings);
        let before = self.settings.current();
        if *before == settings {
            return;
        }
        // Before the schedule, whose jobs may run them.
        if before.commands != settings.commands {
            self.commands.replace(settings.commands());
            tracing::info!("the commands have changed");
        }
        if before.fetch != settings.fetch {
            self.fetcher.replace(settings.fetch.options());
            tracing::info!("what may be fetched has changed");
        }
        if before.queues != settings.queues {
            self.queues.send_replace(table(&settings));
            tracing::info!("the queues' concurrency and limits have changed");
        }
        if before.schedule != settings.schedule {
            self.schedule.send_replace(entries);
        }
        self.settings.replace(settings);
    }

    /// Names what has changed since the start and waits for a restart, each time that this is something else.
    fn tell_of_restart(&mut self, file: &str, settings: &Settings) {
        let waiting = differences(&self.started, settings);
        if waiting != self.told && !waiting.is_empty() {
            let settings = waiting.join(", ");
            tracing::warn!(
                settings,
                "{file} has changed; restart the worker for these to take effect"
            );
        }
        self.told = waiting;
    }
}

/// What is new of the file, from a plain thread: it may be on another machine, which may be away, and a look by the
/// runtime wakes three of its threads.
fn looks(mut watch: Watch) -> mpsc::Receiver<Result<Loaded>> {
    let (tell, news) = mpsc::channel(1);
    let look = move || {
        while !tell.is_closed() {
            if let Some(look) = watch.look()
                && tell.blocking_send(look).is_err()
            {
                return;
            }
            thread::sleep(LOOK);
        }
    };
    // Without it there are no news, and whoever waits for them is told so.
    drop(
        thread::Builder::new()
            .name("larder-settings".to_owned())
            .spawn(look),
    );
    news
}

/// What the settings say of single queues.
fn table(settings: &Settings) -> QueueTable {
    let queues = || settings.queues.iter();
    QueueTable {
        concurrency: queues()
            .filter_map(|(name, queue)| Some((name.clone(), queue.concurrency?)))
            .collect(),
        limits: queues()
            .map(|(name, queue)| (name.clone(), queue.limits()))
            .collect(),
    }
}

/// The names of the settings that differ, but for those that take effect at once.
fn differences(one: &Settings, other: &Settings) -> Vec<String> {
    let flat = |settings: &Settings| {
        let mut leaves = std::collections::BTreeMap::new();
        if let Ok(serde_json::Value::Object(sections)) = serde_json::to_value(settings) {
            for (name, section) in sections {
                if !LIVE.contains(&name.as_str()) {
                    flatten(&name, section, &mut leaves);
                }
            }
        }
        // Its password is not shown, and may be what has changed.
        let url = settings.database.url.clone().into();
        leaves.insert("database.url".to_owned(), url);
        leaves
    };
    let (one, other) = (flat(one), flat(other));
    let mut names: Vec<String> = one
        .iter()
        .filter(|(name, value)| other.get(*name) != Some(value))
        .chain(other.iter().filter(|(name, _)| !one.contains_key(*name)))
        .map(|(name, _)| name.clone())
        .collect();
    names.sort_unstable();
    names
}

fn flatten(
    name: &str,
    value: serde_json::Value,
    leaves: &mut std::collections::BTreeMap<String, serde_json::Value>,
) {
    match value {
        serde_json::Value::Object(members) => {
            for (key, value) in members {
                flatten(&format!("{name}.{key}"), value, leaves);
            }
        }
        value => {
            leaves.insert(name.to_owned(), value);
        }
    }
}
