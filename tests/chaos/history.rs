//! What happened in a run, and whether all of it is explained.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::worker::{HEARTBEAT, RESCUE_AFTER};

/// Milliseconds since 1970. All processes are on one machine, and go by one clock.
pub(crate) fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// A line of the log, to which workers and the test append.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// A handler began.
    Began {
        job: String,
        attempt: i32,
        process: u32,
        at: i64,
    },
    /// A handler came to its end.
    Ended {
        job: String,
        attempt: i32,
        process: u32,
        ok: bool,
        at: i64,
    },
    /// A worker was told to stop.
    Drains { process: u32, at: i64 },
    /// A worker was killed.
    Killed { process: u32, at: i64 },
    /// A worker was stopped for a while.
    Stopped { process: u32, from: i64, until: i64 },
    /// The server was restarted.
    Restarted { from: i64, until: i64 },
}

/// One attempt of a handler.
#[derive(Clone, Debug)]
struct Run {
    attempt: i32,
    process: u32,
    began: i64,
    /// Whether it ended well, and when.
    ended: Option<(bool, i64)>,
}

/// Milliseconds that the server's clock, as workers have measured it, may differ from the log's.
const CLOCKS_DIFFER: i64 = 100;
/// Milliseconds within which a process that goes on does what it was about to do.
const WAKING: i64 = 1_000;

#[derive(Debug, Default)]
pub(crate) struct History {
    runs: HashMap<String, Vec<Run>>,
    killed: HashMap<u32, i64>,
    drains: HashMap<u32, i64>,
    stops: Vec<(u32, i64, i64)>,
    restarts: Vec<(i64, i64)>,
}

impl History {
    pub(crate) fn read(log: &Path, by_the_test: &[Event]) -> Self {
        let text = std::fs::read_to_string(log).unwrap();
        let mut history = Self::default();
        // A process that was killed may have left half a line.
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        for event in lines.chain(by_the_test.iter().cloned()) {
            history.add(event);
        }
        for runs in history.runs.values_mut() {
            // Not by when they began: a worker that was stopped may begin its attempt late, behind the one that followed.
            runs.sort_by_key(|run| (run.attempt, run.began));
        }
        history
    }

    fn add(&mut self, event: Event) {
        match event {
            Event::Began {
                job,
                attempt,
                process,
                at,
            } => {
                let run = Run {
                    attempt,
                    process,
                    began: at,
                    ended: None,
                };
                self.runs.entry(job).or_default().push(run);
            }
            Event::Ended {
                job,
                attempt,
                process,
                ok,
                at,
            } => {
                let runs = self.runs.entry(job).or_default();
                let run = runs.iter_mut().rev().find(|run| {
                    run.attempt == attempt && run.process == process && run.ended.is_none()
                });
                run.expect("what ends has begun").ended = Some((ok, at));
            }
            Event::Drains { process, at } => {
                self.drains.insert(process, at);
            }
            Event::Killed { process, at } => {
                self.killed.insert(process, at);
            }
            Event::Stopped {
                process,
                from,
                until,
            } => self.stops.push((process, from, until)),
            Event::Restarted { from, until } => self.restarts.push((from, until)),
        }
    }

    /// Whether the worker was killed, or stopped until it was taken for dead, between these instants.
    pub(crate) fn fell_silent(&self, process: u32, from: i64, until: i64) -> bool {
        // A worker may have been about to write its heartbeat when it was stopped.
        let past_deadline = i64::try_from((RESCUE_AFTER - HEARTBEAT * 2).as_millis()).unwrap();
        self.killed.get(&process).is_some_and(|at| *at <= until)
            || self.stops.iter().any(|(stopped, at, on)| {
                *stopped == process && on - at >= past_deadline && *at <= until && *on >= from
            })
    }

    /// Whether a run may be followed by another of the same job.
    fn may_run_again(&self, run: &Run, next: &Run) -> bool {
        let drained = self
            .drains
            .get(&run.process)
            .is_some_and(|at| *at <= next.began);
        let (from, until) = (run.began.min(next.began), run.began.max(next.began));
        match run.ended.map(|(ok, _)| ok) {
            Some(false) => true,
            _ if self.fell_silent(run.process, from, until) => true,
            None => drained,
            // Its outcome was to be written in the drain, if the database could take it then.
            Some(true) => drained && self.was_away(self.drains[&run.process]),
        }
    }

    /// Whether the database may have been away about this instant: restarted, or its file held by one who was stopped.
    fn was_away(&self, at: i64) -> bool {
        let near = |from: i64, until: i64| from - 2_000 <= at && at <= until + 2_000;
        self.restarts
            .iter()
            .any(|(from, until)| near(*from, *until))
            || self
                .stops
                .iter()
                .any(|(_, from, until)| near(*from, *until))
    }

    /// Every run that nothing explains.
    pub(crate) fn unexplained(&self) -> Vec<String> {
        let mut unexplained = Vec::new();
        for (job, runs) in &self.runs {
            for pair in runs.windows(2) {
                if !self.may_run_again(&pair[0], &pair[1]) {
                    unexplained.push(format!("{job}: {:?}, and then {:?}", pair[0], pair[1]));
                }
            }
        }
        unexplained
    }

    /// Runs that began though their job was finished, or a later attempt had begun, each by a worker that had just been
    /// taken for dead: it was stopped between its last look at its own heartbeat and the handler's first line.
    fn late(
        &self,
        finished: &BTreeMap<String, i64>,
    ) -> impl Iterator<Item = (&String, &Run, bool)> {
        let late = |(job, run, others): &(&String, &Run, &Vec<Run>)| {
            let overtaken = |other: &Run| other.attempt > run.attempt && other.began < run.began;
            let finished = finished.get(*job);
            others.iter().any(overtaken)
                || finished.is_some_and(|at| run.began > at + CLOCKS_DIFFER)
        };
        let runs = self.runs.iter();
        let runs = runs.flat_map(|(job, runs)| runs.iter().map(move |run| (job, run, runs)));
        runs.filter(late).map(|(job, run, _)| {
            let woke = |(stopped, _, on): &(u32, i64, i64)| {
                *stopped == run.process && (*on - WAKING..=*on + WAKING).contains(&run.began)
            };
            (
                job,
                run,
                self.stops.iter().any(woke) && self.fell_silent(run.process, 0, run.began),
            )
        })
    }

    /// Runs that began after their job was finished, or behind a later attempt: those that a stop explains, and those
    /// that nothing does.
    pub(crate) fn begun_late(
        &self,
        finished: &BTreeMap<String, i64>,
    ) -> (Vec<String>, Vec<String>) {
        let told = |(job, run, _): (&String, &Run, bool)| {
            let stops = self
                .stops
                .iter()
                .filter(|(process, ..)| *process == run.process);
            format!(
                "{job}, finished {:?}: {run:?} of {:?}, stopped {:?}",
                finished.get(job),
                self.runs.get(job),
                stops.collect::<Vec<_>>()
            )
        };
        let (explained, unexplained): (Vec<_>, Vec<_>) = self
            .late(finished)
            .partition(|(_, _, explained)| *explained);
        (
            explained.into_iter().map(told).collect(),
            unexplained.into_iter().map(told).collect(),
        )
    }

    /// The process that ran an attempt.
    pub(crate) fn process_of(&self, job: &str, attempt: i32) -> Option<u32> {
        let runs = self.runs.get(job)?;
        runs.iter()
            .find(|run| run.attempt == attempt)
            .map(|run| run.process)
    }

    pub(crate) fn summary(&self) -> String {
        let runs: usize = self.runs.values().map(Vec::len).sum();
        let again = self.runs.values().map(|runs| runs.len() - 1).sum::<usize>();
        let processes: HashSet<u32> = self
            .runs
            .values()
            .flatten()
            .map(|run| run.process)
            .collect();
        format!(
            "{} jobs, {runs} runs ({again} of them once more), {} processes, {} killed, {} stopped, {} drained, {} restarts of the server",
            self.runs.len(),
            processes.len(),
            self.killed.len(),
            self.stops.len(),
            self.drains.len(),
            self.restarts.len()
        )
    }
}
