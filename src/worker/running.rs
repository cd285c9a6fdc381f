//! A worker at work: its tasks, and how they end.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apalis_core::worker::builder::WorkerBuilder;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::dispatch::{Alive, Dispatch, Jobs};
use super::{Ended, Worker, listen};
use crate::database::{Database, Engine};
use crate::error::{Error, Result};
use crate::queue::JobId;
use crate::queue::QueueTable;
use crate::queue::backend::JobBackend;
use crate::queue::batch_claim::BatchClaims;
use crate::queue::control::Control;
use crate::queue::fetch::{FetchOptions, Fetcher};
use crate::queue::finish::{self, Finisher};
use crate::queue::held::Held;
use crate::queue::presence::Presence;
use crate::queue::pulse::{Moment, Pulse};
use crate::schedule::Scheduler;

/// More than the tasks that use them, so that some may be lost to a cut network for a while.
const OWN_CONNECTIONS: u32 = 8;
/// Whatever is asked for, a drain ends.
const LONGEST_DRAIN: Duration = Duration::from_secs(365 * 86_400);
/// How long the last words to the database are tried.
const LAST_TRY: Duration = Duration::from_secs(1);
const UNWRITTEN: &str =
    "the database took not all outcomes in time; their jobs will be rescued and run again";

/// The tasks of a worker at work. They end with it.
pub(super) struct Running {
    callers: Database,
    database: Database,
    presence: Arc<Presence>,
    shutdown_timeout: Duration,
    fetcher: AbortOnDropHandle<()>,
    finisher: AbortOnDropHandle<()>,
    /// Told to stop at the beginning of the drain, and at its end.
    fetching: CancellationToken,
    present: CancellationToken,
    held: Held,
    background: Vec<AbortOnDropHandle<()>>,
    /// The apalis workers, one a queue; the fetcher starts them.
    apalis: Arc<Mutex<Vec<JoinHandle<()>>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Running {
    /// Handlers run on the runtime `handlers_runtime`, until `gone` is told; everything else on the caller's.
    pub(super) async fn start(
        worker: Worker,
        handlers_runtime: Handle,
        gone: CancellationToken,
    ) -> Result<Self> {
        let Worker {
            cache: _,
            queue,
            options,
            handlers,
            data,
            schedules,
            queues,
            on_ready,
        } = worker;
        // Handlers may use up every connection of theirs, and the worker must not fall silent for it. On SQLite only
        // its heartbeat has its own: writers of one connection queue up fairly, those of several meet each other's lock.
        let callers = queue.database().clone();
        let database = match callers.engine() {
            Engine::Sqlite => callers.clone(),
            Engine::Postgres => callers.apart(OWN_CONNECTIONS),
        };
        let queue = queue.over(&database);
        let id = JobId(Uuid::now_v7());
        let names = handlers.names();
        let pulse = Arc::new(Pulse::new(options.rescue_after, Moment::now()));
        let presence = Arc::new(Presence {
            database: callers.apart(1),
            worker: id,
            names: names.clone(),
            heartbeat: options.heartbeat,
            rescue_after: options.rescue_after,
            pulse: pulse.clone(),
        });
        let rescue_from = presence.begin(options.once).await?;
        let scheduler = Scheduler::load(queue, schedules).await?;
        if options.once {
            scheduler.catch_up().await?;
        }

        let (fetching, present) = (CancellationToken::new(), CancellationToken::new());
        let (finished, outcomes) = finish::channel();
        let claims = BatchClaims::new(database.clone(), id);
        let finisher = Finisher {
            database: database.clone(),
            worker: id,
            finished: outcomes,
            claims: claims.clone(),
        };
        let finisher = spawn(finisher.run());
        let (wake, control, held) = (
            Arc::new(Notify::new()),
            Arc::new(Notify::new()),
            Held::new(fetching.clone()),
        );
        let mut background = vec![spawn({
            let (presence, present) = (presence.clone(), present.clone());
            async move { presence.run(rescue_from, present).await }
        })];
        if options.listen && database.engine() == Engine::Postgres {
            let listeners = listen::Listeners {
                fetcher: wake.clone(),
                control: control.clone(),
            };
            background.push(spawn(listen::run(
                database.clone(),
                listeners,
                present.clone(),
            )));
        }
        if database.engine() == Engine::Postgres {
            background.push(spawn(claims.clone().run(present.clone())));
        }
        let control = Control {
            database: database.clone(),
            worker: id,
            held: held.clone(),
            claims: claims.clone(),
            wake: control,
            look_interval: options.heartbeat,
        };
        background.push(spawn(control.run(present.clone())));
        if !options.once {
            background.push(spawn(scheduler.run(fetching.clone())));
        }

        let apalis = Arc::new(Mutex::new(Vec::new()));
        let takers = handlers.takers();
        let dispatch = Dispatch(Arc::new(Jobs {
            handlers,
            finished,
            clock: database.clock().clone(),
            backoff: options.backoff,
            cancel_timeout: options.shutdown_timeout,
            alive: Arc::new(Alive {
                pulse: pulse.clone(),
                data: data.clone(),
                gone: gone.clone(),
            }),
        }));
        let (workers, told) = (apalis.clone(), gone.clone());
        let serve = Box::new(move |queue: &str, backend: JobBackend| {
            let worker = WorkerBuilder::new(format!("{queue}-{}", id.0))
                .backend(backend.with_data(data.clone(), takers.clone()))
                .build(dispatch.clone());
            let name = queue.to_owned();
            let gone = told.clone();
            let task = handlers_runtime.spawn(async move {
                if let Some(Err(error)) = gone.run_until_cancelled(worker.run()).await {
                    tracing::error!(queue = name, %error, "the queue's apalis worker failed");
                }
            });
            workers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(task);
        });
        let poll_interval = options
            .poll_interval
            .unwrap_or_else(|| database.poll_interval());
        let table = queues.unwrap_or_else(|| {
            let table = QueueTable {
                concurrency: options.queue_concurrency,
                limits: options.queue_limits,
            };
            watch::channel(table).1
        });
        let fetcher = Fetcher {
            database: database.clone(),
            worker: id,
            options: FetchOptions {
                names,
                queues: options.queues,
                concurrency: options.concurrency,
                table,
                poll_interval,
                audit_interval: options.rescue_after,
                once: options.once,
            },
            held: held.clone(),
            claims,
            pulse,
            wake,
            stop: fetching.clone(),
            gone,
            serve,
        };
        tracing::debug!(worker.id = %id, "ready to run jobs");
        on_ready();
        Ok(Self {
            callers,
            database,
            presence,
            shutdown_timeout: options.shutdown_timeout,
            fetcher: spawn(fetcher.run()),
            finisher,
            fetching,
            present,
            held,
            background,
            apalis,
            workers: Vec::new(),
        })
    }

    pub(super) async fn until(
        mut self,
        signal: impl Future<Output = ()>,
        force: impl Future<Output = ()>,
    ) -> Result<Ended> {
        let mut fetched = Ok(());
        tokio::select! {
            () = signal => tracing::info!(
                shutdown_timeout_ms = self.shutdown_timeout.as_millis(), "stopping: running jobs may finish"
            ),
            // With `once`, the fetcher ends by itself.
            ended = &mut self.fetcher => fetched = ended,
        }
        self.fetching.cancel();
        let mut force = std::pin::pin!(force);
        let mut ended = Ended::Drained;
        let deadline = tokio::time::Instant::now() + self.shutdown_timeout.min(LONGEST_DRAIN);
        tokio::select! {
            () = self.finish_jobs() => {}
            () = tokio::time::sleep_until(deadline) => tracing::warn!("shutdown_timeout is over, jobs go back to their queue"),
            () = &mut force => ended = Ended::Forced,
        }
        self.held.give_up();
        if ended == Ended::Drained {
            let last = deadline.max(tokio::time::Instant::now() + LAST_TRY);
            tokio::select! {
                () = self.write_outcomes() => {}
                () = tokio::time::sleep_until(last) => tracing::error!("{UNWRITTEN}"),
                () = &mut force => ended = Ended::Forced,
            }
        }
        if ended == Ended::Forced {
            tracing::warn!("told twice to stop, jobs go back to their queue");
            if tokio::time::timeout(LAST_TRY, self.write_outcomes())
                .await
                .is_err()
            {
                tracing::error!("{UNWRITTEN}");
            }
        }
        self.leave().await;
        tracing::info!("stopped");
        fetched
            .map(|()| ended)
            .map_err(|error| Error::invalid(format!("the fetcher of jobs failed: {error}")))
    }

    /// Ends the tasks that are left, and tells the fleet.
    async fn leave(mut self) {
        self.present.cancel();
        self.fetcher.abort();
        self.finisher.abort();
        for mut task in self.background.drain(..) {
            // A heartbeat that is under way must not come after the leave.
            if tokio::time::timeout(LAST_TRY, &mut task).await.is_err() {
                task.abort();
                let _ = task.await;
            }
        }
        if let Ok(Err(error)) = tokio::time::timeout(LAST_TRY, self.presence.end()).await {
            tracing::debug!(%error, "cannot take leave; the fleet will notice");
        }
        let (own, shared) = (&self.presence.database, &self.database);
        let _ = tokio::time::timeout(LAST_TRY, own.close_apart_from(shared)).await;
        let _ = tokio::time::timeout(LAST_TRY, shared.close_apart_from(&self.callers)).await;
    }

    /// Waits until every outcome is in the database.
    async fn write_outcomes(&mut self) {
        self.finish_jobs().await;
        if !self.finisher.is_finished() {
            let _ = (&mut self.finisher).await;
        }
    }

    /// Waits until the fetcher has ended and every claimed job has an outcome.
    async fn finish_jobs(&mut self) {
        if !self.fetcher.is_finished() {
            let _ = (&mut self.fetcher).await;
        }
        self.workers
            .append(&mut self.apalis.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in &mut self.workers {
            // Whoever waits may give up and come back: what has ended is not waited for again.
            if !worker.is_finished() {
                let _ = worker.await;
            }
        }
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}
