//! Running one claimed job: the service that apalis workers call.

use std::any::Any;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use apalis_core::error::BoxDynError;
use apalis_core::task::Task;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::Service;

use super::context::Retry;
use super::{Handlers, JobContext, JobError, Registered, memoized};
use crate::clock::Clock;
use crate::database::RowText;
use crate::queue::backend::Claimed;
use crate::queue::finish::{Finished, Outcome, Sender};
use crate::queue::held::RunningAttempt;
use crate::queue::pulse::{Moment, Pulse};
use crate::queue::{Backoff, stored_error, to_delta};

tokio::task_local! {
    static IN_HANDLER: ();
}

/// Whether this thread runs a job's handler now. A panic there is the failure of that job, and told as such.
#[must_use]
pub fn in_handler() -> bool {
    IN_HANDLER.try_with(|()| ()).is_ok()
}

/// Runs each job in a task of its own, so that jobs use all cores and a panic stays with its job, and sends what came
/// of it to the finisher. apalis is told of no failure: it has nothing to do about one.
#[derive(Clone)]
pub(super) struct Dispatch(pub(super) Arc<Jobs>);

/// What all the jobs of a worker share.
pub(super) struct Jobs {
    pub(super) handlers: Handlers,
    pub(super) finished: Sender<Finished>,
    pub(super) clock: Clock,
    pub(super) pulse: Arc<Pulse>,
    pub(super) backoff: Backoff,
    /// How long the handler of a cancelled job may go on.
    pub(super) cancel_timeout: Duration,
    /// Told at the beginning of the drain.
    pub(super) stopping: CancellationToken,
    /// Told when handlers that still run are to be given up.
    pub(super) give_up: CancellationToken,
    /// Told when the worker is no more: its future was dropped.
    pub(super) gone: CancellationToken,
}

/// How the handler's own task ended.
enum Turn {
    Ended(Result<String, JobError>),
    /// Its turn came when the job was perhaps somebody else's.
    Lost,
    /// Its turn came when the job was cancelled.
    Cancelled,
}

impl Service<Task<Claimed>> for Dispatch {
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Claimed>) -> Self::Future {
        let jobs = self.0.clone();
        let mut claimed = None;
        let task = task.map_args(|args| claimed = Some(args));
        async move {
            if let Some(claimed) = claimed {
                jobs.attempt(claimed, task).await;
            }
            Ok(())
        }
        .boxed()
    }
}

impl Jobs {
    /// `task` has what apalis knows of it.
    async fn attempt(self: Arc<Self>, mut claimed: Claimed, task: Task<()>) {
        let broken = RowText::Broken(String::new());
        let outcome = match std::mem::replace(&mut claimed.payload, broken) {
            _ if !claimed.slot.is_taken() => Outcome::Unbegun,
            RowText::Text(payload) => self.run(&claimed, task.map_args(|()| payload)).await,
            RowText::Broken(_) => {
                let error = JobError::abort("its payload is no text in UTF-8");
                self.failed(&claimed, None, error)
            }
        };
        claimed.hold.end();
        let slot =
            (claimed.limited || matches!(outcome, Outcome::Retry { .. })).then_some(claimed.slot);
        self.finished.send(Finished {
            id: claimed.id,
            attempt: claimed.attempt,
            started_at: claimed.started_at,
            outcome,
            progress: claimed.hold.running().unwritten(),
            _hold: claimed.hold,
            _slot: slot,
        });
    }

    async fn run(&self, claimed: &Claimed, mut task: Task<String>) -> Outcome {
        match self.handlers.get(&claimed.name) {
            Err(error) => self.failed(claimed, None, JobError::retry(error)),
            Ok(registered) => {
                task.inject_data(self.context(claimed));
                let (job, running) = (claimed.id, claimed.hold.running().clone());
                let (pulse, life, gone) = (self.pulse.clone(), claimed.life, self.gone.clone());
                let registered_here = registered.clone();
                // Asked when its turn has come: until then others may have held up the thread, or the process stood still.
                // It has none of what the finisher waits for to be gone: a handler may hold its thread for good.
                let begin = async move {
                    if gone.is_cancelled() || !pulse.holds(life, Moment::now()) {
                        return Turn::Lost;
                    }
                    if running.cancellation.is_cancelled() {
                        return Turn::Cancelled;
                    }
                    Turn::Ended(memoized::attempt(registered_here, task, job, running).await)
                };
                let handler = tokio::spawn(IN_HANDLER.scope((), begin));
                let mut handler = AbortOnDropHandle::new(handler);
                tokio::select! {
                    biased;
                    ended = &mut handler => match ended {
                        // Somebody else may be at it already.
                        Ok(Turn::Lost) => Outcome::Released,
                        // Its row says so too, and makes that of what was not begun.
                        Ok(Turn::Cancelled) => Outcome::Unbegun,
                        Ok(Turn::Ended(Ok(result))) => {
                            tracing::debug!(job.id = %claimed.id, job.name = claimed.name, "done");
                            Outcome::Done { result }
                        }
                        Ok(Turn::Ended(Err(error))) => self.failed(claimed, Some(registered), error),
                        Err(error) => self.failed(claimed, Some(registered), panicked(error)),
                    },
                    () = self.give_up.cancelled() => {
                        handler.abort();
                        Outcome::Released
                    }
                    () = self.outstayed(claimed.hold.running()) => {
                        handler.abort();
                        let timeout = seconds(self.cancel_timeout);
                        let error = format!("it was cancelled, and dropped when it had not ended {timeout} later");
                        self.failed(claimed, Some(registered), JobError::abort(error))
                    }
                }
            }
        }
    }

    /// Returns when the job was cancelled and its handler had its time to end.
    async fn outstayed(&self, running: &RunningAttempt) {
        running.cancellation.cancelled().await;
        tokio::time::sleep(self.cancel_timeout).await;
    }

    fn context(&self, claimed: &Claimed) -> JobContext {
        JobContext {
            id: claimed.id,
            queue: claimed.queue.to_string(),
            attempt: claimed.attempt,
            max_attempts: claimed.max_attempts,
            schedule: claimed.schedule.clone().map(RowText::into_readable),
            tick: claimed.tick.map(Into::into),
            running: claimed.hold.running().clone(),
            stopping: self.stopping.clone(),
        }
    }

    /// What comes of a failed attempt; it is logged here, and nowhere else.
    fn failed(
        &self,
        claimed: &Claimed,
        registered: Option<&Registered>,
        error: JobError,
    ) -> Outcome {
        let failure = error.into_failure();
        let backoff = registered
            .and_then(|registered| registered.backoff)
            .unwrap_or(self.backoff);
        let attempt = u32::try_from(claimed.attempt).unwrap_or(1);
        let error = stored_error(failure.message);
        if claimed.hold.running().cancellation.is_cancelled() {
            tracing::info!(job.id = %claimed.id, job.name = claimed.name, attempt, error, "the job was cancelled");
            return Outcome::Cancelled { error };
        }
        let wait = match failure.retry {
            _ if claimed.attempt >= claimed.max_attempts => None,
            Retry::Never => None,
            Retry::After(wait) => Some(wait),
            Retry::WithBackoff => Some(backoff.delay(attempt, rand::random())),
        };
        let Some(wait) = wait else {
            tracing::error!(
                job.id = %claimed.id, job.name = claimed.name, attempt, error, "the job failed and is dead"
            );
            return Outcome::Dead { error };
        };
        tracing::warn!(
            job.id = %claimed.id, job.name = claimed.name, attempt, error, retry_in_ms = wait.as_millis(), "the job failed"
        );
        Outcome::Retry {
            error,
            run_at: self.clock.now().saturating_add(to_delta(wait)),
        }
    }
}

/// The handler's run, ended by its type's timeout.
pub(super) async fn limited(
    registered: Registered,
    task: Task<String>,
) -> Result<String, JobError> {
    let run = (registered.run)(task);
    match registered.timeout {
        None => run.await,
        Some(timeout) => match tokio::time::timeout(timeout, run).await {
            Ok(ended) => ended,
            Err(_) => Err(JobError::retry(format!(
                "it took longer than its timeout of {}",
                seconds(timeout)
            ))),
        },
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

fn panicked(error: tokio::task::JoinError) -> JobError {
    let Ok(panic) = error.try_into_panic() else {
        return JobError::retry("its task was cancelled");
    };
    JobError::retry(panic_message(&*panic))
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("its handler panicked: {message}")
}
