//! `larder jobs show`.

use std::io::Write;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{Output, instant, one_line, or_dash};
use crate::queue::{AttemptRecord, JobId, JobRecord, JobStatus, Queue};
use crate::settings::format_duration;

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
    let attempts = queue.attempts(id).await?;
    let unknown = job.status == JobStatus::Queued
        && !queue.live_names(rescue_after).await?.contains(&job.name);
    let note = format!(
        "no live worker knows {}: it stays queued until one does",
        one_line(&job.name)
    );
    if out.is_json() {
        out.json(&*with_attempts(&job, &attempts)?)?;
        if unknown {
            // The object is the same for every job; what is said of the fleet goes beside it.
            let _ = writeln!(std::io::stderr(), "note: {note}");
        }
        return Ok(Answer::Yes);
    }
    for (name, value) in fields(&job) {
        out.line(format_args!("{name}: {value}"))?;
    }
    for attempt in &attempts {
        out.line(told(attempt))?;
    }
    if unknown {
        out.line(format_args!("note: {note}"))?;
    }
    Ok(Answer::Yes)
}

/// The job's object with its attempts at the end. They are put together as text: serde flattens no raw JSON.
fn with_attempts(job: &JobRecord, attempts: &[AttemptRecord]) -> Result<Box<RawValue>, Failure> {
    let fault = |error| Failure::error(format!("job {} does not serialise: {error}", job.id));
    let object = serde_json::to_string(job).map_err(fault)?;
    let attempts = serde_json::to_string(attempts).map_err(fault)?;
    let fields = object.strip_suffix('}').unwrap_or(&object);
    RawValue::from_string(format!("{fields},\"attempts\":{attempts}}}")).map_err(fault)
}

/// As the JSON object has them, in its order, each in one line.
fn fields(job: &JobRecord) -> [(&'static str, String); 20] {
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
        ("cancelled_at", or_dash(job.cancelled_at.map(instant))),
        (
            "progress",
            or_dash(
                job.progress
                    .map(|progress| format!("{} of {}", progress.done, progress.total)),
            ),
        ),
    ]
}

/// An attempt in one line.
fn told(attempt: &AttemptRecord) -> String {
    let took = (attempt.ended_at - attempt.started_at)
        .to_std()
        .unwrap_or_default();
    let worker = attempt
        .worker
        .map_or_else(String::new, |worker| format!(", worker {worker}"));
    let error = attempt.error.as_deref().map_or_else(
        || "given back by a worker that stopped".to_owned(),
        one_line,
    );
    format!(
        "attempt {}: {} to {} ({}){worker}: {error}",
        attempt.attempt,
        instant(attempt.started_at),
        instant(attempt.ended_at),
        format_duration(took),
    )
}
