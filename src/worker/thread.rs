//! A thread with a runtime of its own, for a worker's own tasks: handlers that block every thread of their runtime hold
//! up neither its heartbeat nor its drain.

use std::future::Future;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// The thread. It ends when this is dropped, and its tasks with it.
pub(super) struct OwnThread {
    runtime: Handle,
    _stop: Option<oneshot::Sender<()>>,
}

impl OwnThread {
    /// None at all, for a database in memory: its tables are gone with its one connection, and that may be on loan when
    /// the thread ends. Nobody else can take its worker for dead.
    pub(super) fn none(callers: Handle) -> Self {
        Self {
            runtime: callers,
            _stop: None,
        }
    }

    pub(super) fn start() -> Result<Self> {
        let failed =
            |error| Error::invalid(format!("cannot start the worker's own thread: {error}"));
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let log = tracing::dispatcher::get_default(Clone::clone);
        thread::Builder::new()
            .name("larder-worker".to_owned())
            .spawn(move || {
                let _log = tracing::dispatcher::set_default(&log);
                // It comes to its end when the sender is dropped.
                let _ = runtime.block_on(stopped);
            })
            .map_err(failed)?;
        Ok(Self {
            runtime: handle,
            _stop: Some(stop),
        })
    }

    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }
}
