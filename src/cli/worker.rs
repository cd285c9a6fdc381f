//! `larder worker`: the daemon.

mod reload;

use std::io::Write;
use std::time::Duration;

use tokio::sync::oneshot;

use super::args::{duration, name};
use super::failure::{Answer, Failure};
use super::{Context, database};
use crate::cache::Cache;
use crate::database::{Database, SchemaPolicy};
use crate::queue::{Backoff, Queue};
use crate::settings::{Settings, redact_url};
use crate::worker::{Ended, Worker, WorkerOptions};
use reload::Reload;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Serve these queues alone, separated by commas [default: all]
    #[arg(long, value_name = "A,B", value_delimiter = ',', value_parser = name)]
    queues: Option<Vec<String>>,
    /// How many jobs of each queue run at once [default: `worker.concurrency`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000), allow_hyphen_values = true)]
    concurrency: Option<u16>,
    /// How long running jobs may go on after a signal, such as 25s [default: `worker.shutdown_timeout`]
    #[arg(long, value_name = "D", value_parser = duration, allow_hyphen_values = true)]
    shutdown_timeout: Option<Duration>,
    /// Look for jobs by polling alone, without PostgreSQL's notifications
    #[arg(long)]
    no_listen: bool,
    /// End when no job is ready and none runs
    #[arg(long)]
    once: bool,
}

impl Args {
    pub(super) fn run(self, context: &mut Context) -> Result<Answer, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::error(format!("cannot start the worker: {error}")))?;
        let ended = runtime.block_on(self.serve(context));
        // A handler that was given up may block its thread for ever.
        runtime.shutdown_background();
        Ok((ended? == Ended::Drained).into())
    }

    async fn serve(self, context: &Context) -> Result<Ended, Failure> {
        let Context {
            handlers,
            loaded,
            given,
            ..
        } = context;
        let (mut first, second) = signals()?;
        let settings = &loaded.settings;
        let reload = Reload::new(loaded, given, handlers)?;
        let options = self.options(settings);
        let url = redact_url(&settings.database.url);
        let queues = match &options.queues {
            Some(queues) => queues.join(","),
            None => "all".to_owned(),
        };
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            database = url,
            queues,
            concurrency = options.concurrency,
            shutdown_timeout_ms = options.shutdown_timeout.as_millis(),
            "starting"
        );
        let open = database::options(loaded).schema_policy(SchemaPolicy::Upgrade);
        let database = tokio::select! {
            database = database::open(open, loaded) => database?,
            _ = &mut first => return Ok(Ended::Drained),
        };
        let ready = format!(
            "ready version={} engine={} database={url} queues={queues}",
            env!("CARGO_PKG_VERSION"),
            format!("{:?}", database.engine()).to_lowercase(),
        );
        let once = options.once;
        let worker = worker(settings, &database, options)
            .register_all(handlers.clone())
            .schedules(reload.schedule())
            .queues(reload.queues())
            .data(reload.commands())
            .data(reload.fetcher())
            .data(reload.settings())
            // For whoever waits for it, a line of its own that no log filter takes away.
            .on_ready(move || {
                let _ = writeln!(std::io::stderr(), "{ready}");
            });
        let reload = (!once).then(|| tokio::spawn(reload.run()));
        let (first, second) = (came(first), came(second));
        let ended = worker.run_until_forced(first, second).await;
        if let Some(reload) = reload {
            reload.abort();
        }
        database::close(&database).await;
        Ok(ended?)
    }

    /// The settings, with the flags over them.
    fn options(self, settings: &Settings) -> WorkerOptions {
        let backoff = &settings.jobs.backoff;
        WorkerOptions {
            concurrency: self
                .concurrency
                .map_or(settings.worker.concurrency, usize::from),
            queues: self.queues,
            shutdown_timeout: self
                .shutdown_timeout
                .unwrap_or(settings.worker.shutdown_timeout),
            heartbeat: settings.worker.heartbeat,
            rescue_after: settings.worker.rescue_after,
            poll_interval: settings.worker.poll_interval,
            listen: !self.no_listen,
            once: self.once,
            backoff: Backoff {
                base: backoff.base,
                factor: backoff.factor,
                cap: backoff.cap,
                jitter: backoff.jitter,
            },
            ..WorkerOptions::default()
        }
    }
}

fn worker(settings: &Settings, database: &Database, options: WorkerOptions) -> Worker {
    let most = usize::try_from(settings.cache.max_value_bytes).unwrap_or(usize::MAX);
    let mut cache = Cache::new(database.clone())
        .with_max_value_bytes(most)
        .with_lease(settings.cache.lease);
    if let Some(memory) = &settings.cache.memory {
        cache = cache.with_memory(memory.tier());
    }
    Worker::new(database.clone())
        .options(options)
        .with_cache(cache)
        .with_queue(Queue::new(database.clone()).with_max_attempts(settings.jobs.max_attempts))
        .data(settings.jobs.retention())
}

/// Comes when the signal has; a watch that ended without one never comes.
async fn came(signal: oneshot::Receiver<()>) {
    if signal.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The first and the second of SIGTERM and SIGINT. They are watched from now on, also while the worker starts.
fn signals() -> Result<(oneshot::Receiver<()>, oneshot::Receiver<()>), Failure> {
    let (tell_first, first) = oneshot::channel();
    let (tell_second, second) = oneshot::channel();
    let failed = |error| Failure::error(format!("cannot watch signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::watch().map_err(failed)?
    };
    let watch = async move {
        signals.next().await;
        let _ = tell_first.send(());
        signals.next().await;
        let _ = tell_second.send(());
    };
    // On a thread of its own: jobs may block every thread of the worker's runtime.
    std::thread::Builder::new()
        .name("larder-signals".to_owned())
        .spawn(move || runtime.block_on(watch))
        .map_err(failed)?;
    Ok((first, second))
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn watch() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn watch() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
