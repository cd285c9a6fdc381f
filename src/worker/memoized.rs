//! An attempt of a job whose type has a memo: a fresh result is the job's without its handler, and what the handler gives
//! is remembered.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;

use apalis_core::task::Task;
use futures::FutureExt;

use super::dispatch::{limited, panic_message};
use super::handler::Begun;
use super::{JobError, Registered};
use crate::cache::{Cache, MadeBy, Memo, Turn};
use crate::queue::held::RunningAttempt;

/// How often a handler is run again within its attempt because its result was invalidated while it ran. After that the
/// result is the job's, and is not remembered.
const AGAIN: u32 = 3;

/// The result of the attempt, computed or found.
pub(super) async fn attempt(
    registered: &Registered,
    begun: Begun,
    running: Arc<RunningAttempt>,
) -> Result<String, JobError> {
    match begun {
        Begun::Runs(run) => limited(registered, run).await,
        // Apart: it is large, and most jobs are not memoized.
        Begun::Remembers(remembered_in, task) => {
            let (memo, cache) = *remembered_in;
            Box::pin(remembered(registered, task, running, memo, cache)).await
        }
    }
}

async fn remembered(
    registered: &Registered,
    task: Task<String>,
    running: Arc<RunningAttempt>,
    memo: Memo,
    cache: Cache,
) -> Result<String, JobError> {
    let (job, _) = running.attempt();
    memo.check().map_err(JobError::abort)?;
    // As whoever calls it would enqueue it.
    let made_by = MadeBy {
        name: registered.name.to_owned(),
        queue: registered.queue.to_owned(),
        max_attempts: registered.max_attempts,
        payload: task.args.clone(),
    };
    let mut again = 0;
    loop {
        let turn = tokio::select! {
            biased;
            turn = cache.turn_of(&memo, job, again == 0) => turn?,
            () = running.cancellation().cancelled() => {
                return Err(JobError::retry("it was cancelled while it waited for somebody else who computes its result"));
            }
        };
        let computation = match turn {
            Turn::Fresh(result) => {
                tracing::debug!(job.id = %job, key = memo.key(), "its result is remembered");
                return Ok(result);
            }
            Turn::Computes(computation) => computation,
        };
        let run = computation.run(limited(registered, registered.run(task.clone())));
        let result = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => {
                computation.fail(error.to_string()).await;
                return Err(error);
            }
            Err(panic) => {
                computation.fail(panic_message(&*panic)).await;
                resume_unwind(panic);
            }
        };
        // What it depends on may have changed while it ran, and then it is not the result of that key.
        let now = registered.memo(&task.args, task.data());
        if now.is_none_or(|now| now.key() != memo.key()) {
            return Ok(result);
        }
        match computation
            .keep(&result, running.take_remember(), &made_by)
            .await
        {
            Ok(true) => return Ok(result),
            Ok(false) if again < AGAIN && !running.is_cancelled() => {
                again += 1;
                tracing::info!(job.id = %job, key = memo.key(), "its result was invalidated while it ran: it runs again");
            }
            Ok(false) => {
                tracing::warn!(job.id = %job, key = memo.key(), "its result was invalidated while it ran, and is not remembered");
                return Ok(result);
            }
            // The work is done: a result that the cache does not take is a result.
            Err(error) => {
                tracing::warn!(job.id = %job, key = memo.key(), %error, "its result is not remembered");
                return Ok(result);
            }
        }
    }
}
