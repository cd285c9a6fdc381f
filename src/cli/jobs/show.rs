//! `larder jobs show`.

use std::io::Write;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{Output, instant, one_line, or_dash};
use crate::queue::{JobId, JobRecord, JobStatus, Queue};

pub(super) async fn run(
    queue: &Queue,
    id: JobId,
    rescue_after: Duration,
    out: &mut Output,
) -> Result<Answer, Failure> {
    let Some(job) = queue.get(id).await? else {
        if out.is_json() {
            out.json(&())?;
        }
        return Ok(Answer::No);
    };
    let unknown = job.status == JobStatus::Queued
        && !queue.live_names(rescue_after).await?.contains(&job.name);
    let note = format!(
        "no live worker knows {}: it stays queued until one does",
        one_line(&job.name)
    );
    if out.is_json() {
        out.json(&job)?;
        if unknown {
            // The object is the same for every job; what is said of the fleet goes beside it.
            let _ = writeln!(std::io::stderr(), "note: {note}");
        }
        return Ok(Answer::Yes);
    }
    for (name, value) in fields(&job) {
        out.line(format_args!("{name}: {value}"))?;
    }
    if unknown {
        out.line(format_args!("note: {note}"))?;
    }
    Ok(Answer::Yes)
}

/// As the JSON object has them, in its order, each in one line.
fn fields(job: &JobRecord) -> [(&'static str, String); 18] {
    let json = |json: &RawValue| one_line(json.get());
    [
        ("id", job.id.to_string()),
        ("name", one_line(&job.name)),
        ("queue", one_line(&job.queue)),
        ("status", job.status.to_string()),
        ("priority", job.priority.to_string()),
        ("attempt", job.attempt.to_string()),
        ("max_attempts", job.max_attempts.to_string()),
        (
            "unique_key",
            or_dash(job.unique_key.as_deref().map(one_line)),
        ),
        ("schedule", or_dash(job.schedule.as_deref().map(one_line))),
        ("tick", or_dash(job.tick.map(instant))),
        ("run_at", instant(job.run_at)),
        ("created_at", instant(job.created_at)),
        ("started_at", or_dash(job.started_at.map(instant))),
        ("finished_at", or_dash(job.finished_at.map(instant))),
        ("worker", or_dash(job.worker)),
        ("error", or_dash(job.error.as_deref().map(one_line))),
        ("payload", json(&job.payload)),
        ("result", or_dash(job.result.as_deref().map(json))),
    ]
}
