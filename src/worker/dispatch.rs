//! Running one claimed job: the service that apalis workers call.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use apalis_core::error::BoxDynError;
use apalis_core::task::Task;
use apalis_core::task::extensions::Extensions;
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
use crate::queue::pulse::{Life, Moment, Pulse};
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
    pub(super) backoff: Backoff,
    /// How long the handler of a cancelled job may go on.
    pub(super) cancel_timeout: Duration,
    pub(super) alive: Arc<Alive>,
}

/// Whether a worker may begin what it has claimed. It has none of what the finisher waits for to be gone: a handler may
/// hold its thread, and this, for good.
pub(super) struct Alive {
    pub(super) pulse: Arc<Pulse>,
    /// What each handler may ask for.
    pub(super) data: Extensions,
    /// Told when the worker is no more: its future was dropped.
    pub(super) gone: CancellationToken,
}

/// One attempt, until its outcome is sent. By hand, since there is one for each job and it is moved: an `async fn` would
/// have room for all that it might have to wait for.
pub(super) struct Attempting {
    begun: Option<Begun>,
    /// Until it is over.
    claimed: Option<Claimed>,
    /// What apalis knows of it, until it is begun.
    task: Option<Task<()>>,
    jobs: Arc<Jobs>,
}

struct Begun {
    registered: Arc<Registered>,
    handler: AbortOnDropHandle<Turn>,
    /// Ends when its handler has had its time after a cancellation. There is none before somebody asks for the token.
    outstayed: Option<BoxFuture<'static, ()>>,
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
    type Future = Attempting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Claimed>) -> Self::Future {
        let mut claimed = None;
        let task = task.map_args(|args| claimed = Some(args));
        Attempting {
            begun: None,
            claimed,
            task: Some(task),
            jobs: self.0.clone(),
        }
    }
}

impl Future for Attempting {
    type Output = Result<(), BoxDynError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let outcome = ready!(this.poll_outcome(cx));
        this.begun = None;
        if let (Some(claimed), Some(outcome)) = (this.claimed.take(), outcome) {
            this.jobs.end(claimed, outcome);
        }
        Poll::Ready(Ok(()))
    }
}

impl Attempting {
    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
        let Some(claimed) = &mut self.claimed else {
            return Poll::Ready(None);
        };
        if let Some(task) = self.task.take() {
            match self.jobs.begin(claimed, task) {
                Ok(begun) => self.begun = Some(begun),
                Err(outcome) => return Poll::Ready(Some(outcome)),
            }
        }
        match &mut self.begun {
            Some(begun) => self.jobs.poll_begun(claimed, begun, cx).map(Some),
            None => Poll::Ready(None),
        }
    }
}

impl Jobs {
    /// Starts the handler, or says what comes of an attempt that has none.
    fn begin(&self, claimed: &mut Claimed, task: Task<()>) -> Result<Begun, Outcome> {
        if !claimed.slot.is_taken() {
            return Err(Outcome::Unbegun);
        }
        let broken = RowText::Broken(String::new());
        let RowText::Text(payload) = std::mem::replace(&mut claimed.payload, broken) else {
            let error = JobError::abort("its payload is no text in UTF-8");
            return Err(self.failed(claimed, None, error));
        };
        let registered = match self.handlers.shared(&claimed.name) {
            Ok(registered) => registered.clone(),
            Err(error) => return Err(self.failed(claimed, None, JobError::retry(error))),
        };
        let mut task = task.map_args(|()| payload);
        if registered.takes_data() {
            task.inject_data(context(claimed));
        }
        let turn = turn(
            self.alive.clone(),
            claimed.life,
            registered.clone(),
            task,
            claimed.hold.running().clone(),
        );
        // In a box: tokio moves what it is given, and has room for it wherever its output goes.
        claimed.hold.begin();
        let handler = tokio::spawn(IN_HANDLER.scope((), turn.boxed()));
        Ok(Begun {
            registered,
            handler: AbortOnDropHandle::new(handler),
            outstayed: None,
        })
    }

    fn poll_begun(
        &self,
        claimed: &Claimed,
        begun: &mut Begun,
        cx: &mut Context<'_>,
    ) -> Poll<Outcome> {
        let registered = Some(&*begun.registered);
        if let Poll::Ready(ended) = Pin::new(&mut begun.handler).poll(cx) {
            return Poll::Ready(match ended {
                // Somebody else may be at it already.
                Ok(Turn::Lost) => Outcome::Released,
                // Its row says so too, and makes that of what was not begun.
                Ok(Turn::Cancelled) => Outcome::Unbegun,
                Ok(Turn::Ended(Ok(result))) => {
                    tracing::debug!(job.id = %claimed.id, job.name = &*claimed.name, "done");
                    Outcome::Done { result }
                }
                Ok(Turn::Ended(Err(error))) => self.failed(claimed, registered, error),
                Err(error) => self.failed(claimed, registered, panicked(error)),
            });
        }
        let running = claimed.hold.running();
        running.wake_on_change(cx.waker());
        if running.is_given_up() {
            begun.handler.abort();
            return Poll::Ready(Outcome::Released);
        }
        let Some(cancellation) = running.cancellation_asked_for() else {
            return Poll::Pending;
        };
        let outstayed = begun.outstayed.get_or_insert_with(|| {
            let (cancellation, timeout) = (cancellation.clone(), self.cancel_timeout);
            async move {
                cancellation.cancelled().await;
                tokio::time::sleep(timeout).await;
            }
            .boxed()
        });
        ready!(outstayed.as_mut().poll(cx));
        begun.handler.abort();
        let timeout = seconds(self.cancel_timeout);
        let error = format!("it was cancelled, and dropped when it had not ended {timeout} later");
        Poll::Ready(self.failed(claimed, registered, JobError::abort(error)))
    }

    fn end(&self, mut claimed: Claimed, outcome: Outcome) {
        claimed.hold.end();
        let slot =
            (claimed.limited || matches!(outcome, Outcome::Retry { .. })).then_some(claimed.slot);
        self.finished.send(Finished {
            id: claimed.id,
            attempt: claimed.attempt,
            started_at: claimed.started_at,
            outcome,
            progress: claimed.hold.running().unwritten(),
            hold: claimed.hold,
            _slot: slot,
        });
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
        if claimed.hold.running().is_cancelled() {
            tracing::info!(job.id = %claimed.id, job.name = &*claimed.name, attempt, error, "the job was cancelled");
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
                job.id = %claimed.id, job.name = &*claimed.name, attempt, error, "the job failed and is dead"
            );
            return Outcome::Dead { error };
        };
        tracing::warn!(
            job.id = %claimed.id, job.name = &*claimed.name, attempt, error, retry_in_ms = wait.as_millis(), "the job failed"
        );
        Outcome::Retry {
            error,
            run_at: self.clock.now().saturating_add(to_delta(wait)),
        }
    }
}

/// What the handler's own task does. Whether it may begin is asked when its turn has come: until then others may have held up
/// the thread, or the process stood still.
async fn turn(
    alive: Arc<Alive>,
    life: Life,
    registered: Arc<Registered>,
    task: Task<String>,
    running: Arc<RunningAttempt>,
) -> Turn {
    if alive.gone.is_cancelled() || !alive.pulse.holds(life, Moment::now()) {
        return Turn::Lost;
    }
    if running.is_cancelled() {
        return Turn::Cancelled;
    }
    let begun = registered.begin(task, &alive.data);
    drop(alive);
    Turn::Ended(memoized::attempt(&registered, begun, running).await)
}

fn context(claimed: &Claimed) -> JobContext {
    JobContext {
        id: claimed.id,
        queue: (*claimed.queue).to_owned(),
        attempt: claimed.attempt,
        max_attempts: claimed.max_attempts,
        schedule: claimed.schedule.clone().map(RowText::into_readable),
        tick: claimed.tick.map(Into::into),
        running: claimed.hold.running().clone(),
    }
}

/// `run`, ended by the timeout of its job's type.
pub(super) async fn limited(
    registered: &Registered,
    run: BoxFuture<'static, Result<String, JobError>>,
) -> Result<String, JobError> {
    match registered.timeout {
        None => run.await,
        // Apart: it has a timer in it, and the task of each job would have room for one.
        Some(timeout) => match Box::pin(tokio::time::timeout(timeout, run)).await {
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
