//! Waiting for a job's end.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::failure::Failure;
use super::progress::Progress;
use crate::queue::{JobId, JobRecord, JobStatus, Queue};

/// The first wait between two looks, and the longest.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// The job's result, waited for as long as `limit` allows.
pub(super) async fn for_result(
    queue: &Queue,
    id: JobId,
    limit: Option<Duration>,
    rescue_after: Duration,
) -> Result<Box<RawValue>, Failure> {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let progress = Progress::spinner(&format!("waiting for job {id}"));
    let (mut wait, mut seen) = (LOOK.0, None);
    loop {
        match queue.get(id).await {
            Ok(Some(job)) if job.status.is_finished() => {
                drop(progress);
                return ended(job);
            }
            Ok(Some(job)) => {
                let standing = match job.status {
                    JobStatus::Running if job.cancelled_at.is_some() => "being cancelled",
                    status => status.as_str(),
                };
                progress.say(format!("job {id} of {} is {standing}", job.name));
                match job.progress {
                    Some(so_far) => progress.at_of(so_far.done, so_far.total),
                    None => progress.without_length(),
                }
                seen = Some(job);
            }
            Ok(None) => {
                return Err(Failure::error(format!(
                    "job {id} is gone: it was pruned before its result was read; keep finished jobs longer (jobs.keep_done)"
                )));
            }
            // Whoever waits for ever also waits for a database that restarts.
            Err(error) if error.is_transient() => progress.say(format!(
                "waiting for job {id}: the database does not answer"
            )),
            Err(error) => return Err(error.into()),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            drop(progress);
            return Err(late(queue, id, limit, seen, rescue_after).await);
        }
        let next = Instant::now() + wait;
        tokio::time::sleep_until(deadline.map_or(next, |deadline| deadline.min(next))).await;
        wait = (wait * 5 / 4).min(LOOK.1);
    }
}

fn ended(job: JobRecord) -> Result<Box<RawValue>, Failure> {
    if job.status == JobStatus::Done {
        return Ok(job.result.unwrap_or_else(|| RawValue::NULL.to_owned()));
    }
    let reason = job
        .error
        .map_or_else(String::new, |error| format!(": {error}"));
    Err(Failure::No(format!(
        "job {} is {}{reason}",
        job.id, job.status
    )))
}

async fn late(
    queue: &Queue,
    id: JobId,
    limit: Option<Duration>,
    seen: Option<JobRecord>,
    rescue_after: Duration,
) -> Failure {
    let limit = crate::settings::format_duration(limit.unwrap_or_default());
    let Some(job) = seen else {
        return Failure::error(format!(
            "the database did not answer within {limit}; job {id} is enqueued, see it with `larder jobs show {id}`"
        ));
    };
    let unknown = job.status == JobStatus::Queued
        && queue
            .live_names(rescue_after)
            .await
            .is_ok_and(|names| !names.contains(&job.name));
    let remedy = if unknown {
        format!(
            "no live worker knows {}, start one with `larder worker`",
            job.name
        )
    } else {
        format!("see it with `larder jobs show {id}`")
    };
    Failure::error(format!(
        "job {id} is still {} after {limit}: {remedy}",
        job.status
    ))
}
