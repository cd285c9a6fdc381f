//! apalis's `Backend` over our job table: one for each queue that a worker serves.
//!
//! It hands on what the [`fetcher`](super::fetch) has claimed, and touches the database itself in no way, so that no
//! fault of the database ever ends an apalis worker and nothing that a worker does holds up the database's tasks.

use std::sync::Arc;
use std::task::{Context, Poll};

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::TaskId;
use apalis_core::worker::context::WorkerContext;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tower::layer::util::Identity;

use super::JobId;
use super::held::Hold;
use super::pulse::Life;
use crate::clock::Timestamp;

/// A job that this worker has claimed, and the slot that it takes up until its handler has ended.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) queue: Arc<str>,
    pub(crate) attempt: i32,
    pub(crate) max_attempts: i32,
    pub(crate) schedule: Option<String>,
    pub(crate) tick: Option<Timestamp>,
    pub(crate) payload: String,
    /// It runs within a limit of the fleet: its slot is free when its outcome is written, and there is room.
    pub(crate) limited: bool,
    pub(crate) hold: Hold,
    /// When it was claimed; it is begun within the same alone.
    pub(crate) life: Life,
    pub(crate) slot: Slot,
}

/// One of a queue's slots. Dropping it tells the fetcher that there is room.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) freed: Arc<tokio::sync::Notify>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Given back first: whoever is woken must find the room.
        drop(self.permit.take());
        self.freed.notify_one();
    }
}

impl Claimed {
    pub(super) fn into_task(self) -> Task<Self> {
        let begun_before = usize::try_from(self.attempt - 1).unwrap_or(0);
        TaskBuilder::new(())
            .task_id(TaskId::from_string(self.id.to_string()))
            // apalis counts the attempt when it begins.
            .attempt(begun_before)
            .max_attempts(usize::try_from(self.max_attempts).unwrap_or(usize::MAX))
            .build()
            .map_args(|()| self)
    }
}

/// The jobs of one queue, as apalis takes them.
#[derive(Debug)]
pub(crate) struct JobBackend {
    pub(super) claimed: mpsc::UnboundedReceiver<Claimed>,
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
        self.claimed.poll_recv(cx).map(|claimed| {
            if claimed.is_none() {
                // At the end of its backend apalis finishes what runs, and then waits to be stopped.
                let _ = worker.stop();
            }
            claimed.map(|claimed| Ok(claimed.into_task()))
        })
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
