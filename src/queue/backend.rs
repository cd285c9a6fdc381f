//! apalis's `Backend` over our job table: one for each queue that a worker serves.
//!
//! It hands on what the [`fetcher`](super::fetch) has claimed, and touches the database itself in no way, so that no
//! fault of the database ever ends an apalis worker and nothing that a worker does holds up the database's tasks.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::extensions::Extensions;
use apalis_core::task::task_id::TaskId;
use apalis_core::worker::context::WorkerContext;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::layer::util::Identity;

use super::JobId;
use super::held::Hold;
use super::pulse::Life;
use super::slots::{PATIENCE, Slot};
use crate::clock::Timestamp;
use crate::database::RowText;

/// A job that this worker has claimed, and the slot that it waits for and takes up until its handler has ended.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) id: JobId,
    pub(crate) name: Arc<str>,
    pub(crate) queue: Arc<str>,
    pub(crate) attempt: i32,
    pub(crate) max_attempts: i32,
    pub(crate) schedule: Option<RowText>,
    pub(crate) tick: Option<Timestamp>,
    pub(crate) payload: RowText,
    /// It runs within a limit of the fleet: its slot is free when its outcome is written, and there is room.
    pub(crate) limited: bool,
    pub(crate) hold: Hold,
    /// When it was claimed; it is begun within the same alone.
    pub(crate) life: Life,
    /// By its row.
    pub(crate) started_at: Timestamp,
    /// By this process.
    pub(crate) claimed_at: Instant,
    pub(crate) slot: Slot,
}

impl Claimed {
    /// As apalis takes it, with what its handler may ask for.
    fn into_task(self, data: Extensions) -> Task<Self> {
        let begun_before = usize::try_from(self.attempt - 1).unwrap_or(0);
        TaskBuilder::new(())
            .with_data(data)
            .task_id(TaskId::from_string(self.id.text()))
            // apalis counts the attempt when it begins.
            .attempt(begun_before)
            .max_attempts(usize::try_from(self.max_attempts).unwrap_or(usize::MAX))
            .build()
            .map_args(|()| self)
    }
}

/// The jobs of one queue, as apalis takes them: each when it has its slot.
#[derive(Debug)]
pub(crate) struct JobBackend {
    claimed: mpsc::UnboundedReceiver<Claimed>,
    /// What handlers may ask for, and the jobs whose handlers do.
    data: Extensions,
    takers: Arc<BTreeSet<&'static str>>,
    waiting: Option<Claimed>,
    /// How long it waits; of the runtime that it is polled on.
    patience: Option<Pin<Box<Sleep>>>,
    stop: CancellationToken,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl JobBackend {
    pub(super) fn new(claimed: mpsc::UnboundedReceiver<Claimed>, stop: CancellationToken) -> Self {
        Self {
            claimed,
            data: Extensions::new(),
            takers: Arc::default(),
            waiting: None,
            patience: None,
            stopped: Box::pin(stop.clone().cancelled_owned()),
            stop,
        }
    }

    /// Gives `data` to the jobs of these names.
    pub(crate) fn with_data(
        self,
        mut data: Extensions,
        takers: Arc<BTreeSet<&'static str>>,
    ) -> Self {
        make_room(&mut data);
        Self {
            data,
            takers,
            ..self
        }
    }

    /// Whether a job that has waited since `claimed_at` goes back to its queue.
    fn poll_give_up(&mut self, claimed_at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = (claimed_at + PATIENCE).into();
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if patience.deadline() != deadline {
            patience.as_mut().reset(deadline);
        }
        if patience.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        self.stopped.as_mut().poll(cx)
    }
}

/// Room for what each task is given besides, which a clone has too: else each would move all that it has to make some.
fn make_room(data: &mut Extensions) {
    #[derive(Clone)]
    struct One;
    #[derive(Clone)]
    struct Other;
    data.insert(One);
    data.insert(Other);
    data.remove::<One>();
    data.remove::<Other>();
}

impl Backend for JobBackend {
    type Task = Task<Claimed>;
    type Error = std::convert::Infallible;

    fn poll_ready(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Self::Error>>> {
        let next = match self.waiting.take() {
            Some(claimed) => Some(claimed),
            None => std::task::ready!(self.claimed.poll_recv(cx)),
        };
        let Some(mut claimed) = next else {
            // At the end of its backend apalis finishes what runs, and then waits to be stopped.
            let _ = worker.stop();
            return Poll::Ready(None);
        };
        // Without a slot it is handed on to be given back, and at the stop all that had none.
        if !self.stop.is_cancelled()
            && claimed.slot.poll_take(cx).is_pending()
            && self.poll_give_up(claimed.claimed_at, cx).is_pending()
        {
            self.waiting = Some(claimed);
            return Poll::Pending;
        }
        let data = if self.takers.contains(&*claimed.name) {
            self.data.clone()
        } else {
            Extensions::new()
        };
        Poll::Ready(Some(Ok(claimed.into_task(data))))
    }

    fn poll_close(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for JobBackend {
    type Args = Claimed;
    type Id = JobId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &Self::Config {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Self::Layer {
        Identity::new()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::super::held::Held;
    use super::super::pulse::{Moment, Pulse};
    use super::super::slots::Slots;
    use super::*;

    #[tokio::test]
    async fn at_the_stop_what_waits_for_a_slot_is_handed_on_without_one() {
        let (freed, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let slots = Slots::new(1, freed, Instant::now());
        let now = Moment::now();
        let life = Pulse::new(Duration::from_secs(3600), now)
            .life(now)
            .unwrap();
        let (held, now) = (Held::default(), crate::clock::Clock::system().now());
        let (sender, claimed) = mpsc::unbounded_channel();
        for _ in 0..3 {
            let id = JobId(uuid::Uuid::now_v7());
            let claimed = Claimed {
                id,
                name: "test".into(),
                queue: "default".into(),
                attempt: 1,
                max_attempts: 1,
                schedule: None,
                tick: None,
                payload: RowText::Text("null".to_owned()),
                limited: false,
                hold: held.hold(id, 1),
                life,
                started_at: now,
                claimed_at: Instant::now() + Duration::from_secs(3600),
                slot: slots.wait(),
            };
            sender.send(claimed).unwrap();
        }
        let mut backend = JobBackend::new(claimed, stop.clone());
        let worker = WorkerContext::new("test");
        let mut next = async || {
            let task = std::future::poll_fn(|cx| backend.poll_next(cx, &worker)).await;
            task.unwrap().unwrap().args
        };
        let first = next().await;
        assert!(first.slot.is_taken());
        let mut second = Box::pin(next());
        assert!(futures::poll!(&mut second).is_pending());
        stop.cancel();
        assert!(!second.await.slot.is_taken());
        drop(first);
        assert!(!next().await.slot.is_taken(), "though there is one");
    }
}
