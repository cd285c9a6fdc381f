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
            runs.sort_by_key(|run| run.began);
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
        match run.ended.map(|(ok, _)| ok) {
            Some(false) => true,
            _ if self.fell_silent(run.process, run.began, next.began) => true,
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

    /// Jobs that began once more after they were finished, by which attempt finished them. The database's clock and the
    /// log's are not compared, but attempts, and the log with itself.
    pub(crate) fn begun_after(&self, finished: &BTreeMap<String, i32>) -> Vec<String> {
        let begun_late = |(job, last): &(&String, &i32)| {
            let runs = || self.runs.get(*job).into_iter().flatten();
            let of_last = runs().filter(|run| run.attempt == **last);
            let end = of_last.filter_map(|run| run.ended.map(|(_, at)| at)).min();
            runs().any(|run| {
                run.attempt > **last
                    || (run.attempt == **last && end.is_some_and(|end| run.began > end))
            })
        };
        finished
            .iter()
            .filter(begun_late)
            .map(|(job, _)| format!("{job}: {:?}", self.runs.get(job)))
            .collect()
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
