//! `larder jobs stats`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::list::style_of;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{Output, one_line};
use crate::cli::table::{Cell, Table};
use crate::queue::{JobStatus, Queue};

#[derive(Serialize)]
struct Stats {
    queues: Vec<QueueStats>,
    /// Names of queued jobs that no live worker knows.
    unknown_names: Vec<String>,
    /// Queues that are paused.
    paused: Vec<String>,
}

#[derive(Serialize)]
struct QueueStats {
    queue: String,
    queued: i64,
    running: i64,
    done: i64,
    dead: i64,
    cancelled: i64,
}

pub(super) async fn run(
    queue: &Queue,
    rescue_after: Duration,
    out: &mut Output,
) -> Result<Answer, Failure> {
    let live = queue.live_names(rescue_after).await?;
    let (mut counts, mut unknown) = (BTreeMap::new(), BTreeSet::new());
    for count in queue.counts().await? {
        if count.status == JobStatus::Queued && !live.contains(&count.name) {
            unknown.insert(count.name);
        }
        *counts
            .entry(count.queue)
            .or_insert_with(BTreeMap::new)
            .entry(count.status)
            .or_insert(0) += count.count;
    }
    let queues = counts.into_iter().map(|(queue, counts)| {
        let of = |status| counts.get(&status).copied().unwrap_or(0);
        QueueStats {
            queue,
            queued: of(JobStatus::Queued),
            running: of(JobStatus::Running),
            done: of(JobStatus::Done),
            dead: of(JobStatus::Dead),
            cancelled: of(JobStatus::Cancelled),
        }
    });
    let stats = Stats {
        queues: queues.collect(),
        unknown_names: unknown.into_iter().collect(),
        paused: queue.paused().await?.into_keys().collect(),
    };
    if out.is_json() {
        out.json(&stats)?;
        return Ok(Answer::Yes);
    }
    let mut table = Table::new(["QUEUE", "QUEUED", "RUNNING", "DONE", "DEAD", "CANCELLED"]);
    for queue in &stats.queues {
        let count = |count: i64, status| {
            if count == 0 {
                Cell::new(count)
            } else {
                Cell::styled(count, style_of(status))
            }
        };
        table.row([
            Cell::new(&queue.queue),
            count(queue.queued, JobStatus::Queued),
            count(queue.running, JobStatus::Running),
            count(queue.done, JobStatus::Done),
            count(queue.dead, JobStatus::Dead),
            count(queue.cancelled, JobStatus::Cancelled),
        ]);
    }
    table.print(out)?;
    for (what, names) in [
        ("No live worker knows", &stats.unknown_names),
        ("Paused", &stats.paused),
    ] {
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(|name| one_line(name)).collect();
            out.line(format_args!("{what}: {}", names.join(", ")))?;
        }
    }
    Ok(Answer::Yes)
}
