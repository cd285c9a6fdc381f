//! Logs, on standard error.

use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};
use tracing_subscriber::EnvFilter;

use super::output::one_line;
use crate::worker::in_handler;

/// Crates below us that have much to say of what is no news.
const QUIET: &str =
    "apalis=warn,apalis_core=warn,sqlx=warn,tokio_cron_scheduler=warn,tokio_postgres=warn";

/// Logs what `RUST_LOG` asks for; unless it does, a worker from `info` on and other commands from `warn` on.
pub(super) fn start(worker: bool) {
    let asked = std::env::var("RUST_LOG")
        .ok()
        .filter(|asked| !asked.is_empty());
    let level = if worker { "info" } else { "warn" };
    // Of two directives for one target the last counts, and so what `RUST_LOG` says of these.
    let filter = |directives: &str| EnvFilter::try_new(format!("{QUIET},{directives}"));
    let (filter, refused) = match asked.as_deref().map(filter) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (default(level), Some(error)),
        None => (default(level), None),
    };
    let colour = AutoStream::choice(&io::stderr()) != ColorChoice::Never;
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour)
        // It would panic where standard error is closed.
        .log_internal_errors(false)
        .try_init();
    if let (Ok(()), Some(error)) = (started, refused) {
        tracing::warn!(
            "RUST_LOG is ignored: {}; write it as `info` or `larder=debug,warn`",
            one_line(&error.to_string())
        );
    }
}

fn default(level: &str) -> EnvFilter {
    EnvFilter::new(format!("{QUIET},{level}"))
}

/// A panic is told in one line. One of a handler is told by the worker, as its job's failure.
pub(super) fn hook_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if in_handler() {
            return;
        }
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic
            .location()
            .map_or_else(String::new, |place| format!(" at {place}"));
        let line = one_line(&format!(
            "larder panicked{place}: {message}; this is a bug, please report it"
        ));
        // Not by tracing: the panic may come from there.
        let _ = writeln!(io::stderr(), "error: {line}");
    }));
}
