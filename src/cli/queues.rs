//! `larder queues …`: how queues stand, and pausing them over the fleet.

use anstyle::{AnsiColor, Style};
use clap::Subcommand;
use serde::Serialize;

use super::failure::{Answer, Failure};
use super::output::{List, instant, or_dash};
use super::table::{Cell, Table};
use super::{Context, database};
use crate::queue::{Queue, QueueState};
use crate::settings::{RateSettings, Settings, format_duration};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the queues that have unfinished jobs, are paused, or are in the settings
    List,
    /// Begin no more jobs of these queues, on any worker; those that run go on. Exit 1 where one is paused already
    Pause {
        /// Their names
        #[arg(required = true, value_name = "NAME", value_parser = queue)]
        names: Vec<String>,
    },
    /// Begin jobs of these queues again. Exit 1 where one is not paused
    Resume {
        /// Their names
        #[arg(required = true, value_name = "NAME", value_parser = queue)]
        names: Vec<String>,
    },
}

/// All are checked before the first is paused.
fn queue(name: &str) -> Result<String, String> {
    if (1..=255).contains(&name.len()) {
        return Ok(name.to_owned());
    }
    Err("a queue's name is 1 to 255 bytes".to_owned())
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    state: QueueState,
    max_running: Option<u32>,
    rate: Option<RateSettings>,
}

impl Row {
    fn new(state: QueueState, settings: &Settings) -> Self {
        let of = settings.queues.get(&state.name);
        Self {
            max_running: of.and_then(|of| of.max_running),
            rate: of.and_then(|of| of.rate),
            state,
        }
    }

    fn cells(&self) -> [Cell; 8] {
        let yellow = Style::new().fg_color(Some(AnsiColor::Yellow.into()));
        let state = match self.state.paused_at {
            Some(_) => Cell::styled("paused", yellow),
            None => Cell::new("active"),
        };
        let rate = self
            .rate
            .map(|rate| format!("{}/{}", rate.limit, format_duration(rate.per)));
        [
            Cell::new(&self.state.name),
            state,
            Cell::new(or_dash(self.state.paused_at.map(instant))),
            Cell::new(self.state.ready),
            Cell::new(self.state.waiting),
            Cell::new(self.state.running),
            Cell::new(or_dash(self.max_running)),
            Cell::new(or_dash(rate)),
        ]
    }
}

impl Command {
    pub(super) fn run(self, context: &mut Context) -> Result<Answer, Failure> {
        let (loaded, out) = (&context.loaded, &mut context.out);
        database::with(loaded, async |database| {
            let queue = Queue::new(database.clone());
            let names = match &self {
                Self::List => {
                    let rows = rows(&queue, &loaded.settings).await?;
                    if out.is_json() {
                        let mut list = List::new(out);
                        for row in &rows {
                            list.push(row, "")?;
                        }
                        list.end()?;
                        return Ok(Answer::Yes);
                    }
                    let mut table = Table::new([
                        "NAME",
                        "STATE",
                        "SINCE",
                        "READY",
                        "WAITING",
                        "RUNNING",
                        "MAX_RUNNING",
                        "RATE",
                    ]);
                    for row in &rows {
                        table.row(row.cells());
                    }
                    table.print(out)?;
                    return Ok(Answer::Yes);
                }
                Self::Pause { names } | Self::Resume { names } => names,
            };
            let mut all = true;
            for name in names {
                all &= match self {
                    Self::Resume { .. } => queue.resume(name).await?,
                    _ => queue.pause(name).await?,
                };
            }
            Ok(all.into())
        })
    }
}

/// What the database knows, and the queues that only the settings name.
async fn rows(queue: &Queue, settings: &Settings) -> Result<Vec<Row>, Failure> {
    let mut states = queue.queues().await?;
    for name in settings.queues.keys() {
        if states.iter().all(|state| state.name != *name) {
            states.push(QueueState::idle(name));
        }
    }
    states.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(states
        .into_iter()
        .map(|state| Row::new(state, settings))
        .collect())
}
