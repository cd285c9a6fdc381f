//! Opening the database for a command, and closing it when the command is done.

use std::time::Duration;

use super::failure::Failure;
use crate::database::{Database, DatabaseOptions, SchemaPolicy};
use crate::error::Error;
use crate::settings::{Loaded, redact_url};

/// Connections of a command that does one thing after another.
const FEW: u32 = 2;
/// How long closing may take: a database that is away does not say goodbye.
const CLOSE: Duration = Duration::from_secs(2);

pub(super) fn options(loaded: &Loaded) -> DatabaseOptions {
    let database = &loaded.settings.database;
    DatabaseOptions::new(&database.url)
        .busy_timeout(database.busy_timeout)
        .acquire_timeout(database.acquire_timeout)
        .max_connections(database.max_connections)
        .schema(&database.schema)
        .prepared(database.prepared)
}

/// Opens the database. An error names it, without its password.
pub(super) async fn open(options: DatabaseOptions, loaded: &Loaded) -> Result<Database, Failure> {
    options
        .connect()
        .await
        .map_err(|error| named(&error, loaded))
}

fn named(error: &Error, loaded: &Loaded) -> Failure {
    if error.is_schema_mismatch() || error.is_invalid() {
        return Failure::error(error.to_string());
    }
    let url = redact_url(&loaded.settings.database.url);
    Failure::error(format!(
        "cannot open {url}: {error}; see whether it runs, and whether its URL (from {}) is right",
        loaded.database_url_from
    ))
}

/// Opens the database, laying the tables of an empty one, does `work`, and closes it.
pub(super) fn with<T>(
    loaded: &Loaded,
    work: impl AsyncFnOnce(&Database) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_policy(loaded, SchemaPolicy::CreateIfEmpty, work)
}

pub(super) fn with_policy<T>(
    loaded: &Loaded,
    policy: SchemaPolicy,
    work: impl AsyncFnOnce(&Database) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let few = loaded.settings.database.max_connections.min(FEW);
    let options = options(loaded).max_connections(few).schema_policy(policy);
    run(options, loaded, work)
}

/// Opens the database as `options` say, does `work`, and closes it. One thread is enough, and starts at once.
pub(super) fn run<T>(
    options: DatabaseOptions,
    loaded: &Loaded,
    work: impl AsyncFnOnce(&Database) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::error(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(async {
        let database = open(options, loaded).await?;
        let outcome = work(&database).await;
        close(&database).await;
        outcome
    });
    runtime.shutdown_background();
    outcome
}

/// Closes the database, so that SQLite folds its log into the file.
pub(super) async fn close(database: &Database) {
    let _ = tokio::time::timeout(CLOSE, database.close()).await;
}
