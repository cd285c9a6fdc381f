//! A cache and a background job worker that live in the database you already have.
//!
//! larder keeps a cache and a job queue in tables of SQLite (one file, nothing to install) or PostgreSQL (what many
//! machines share). A long-running worker lays those tables, purges expired items on a cron schedule, runs jobs, and
//! gives every job handler the cache, so that an expensive result is computed once and shared.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use larder::{Cache, Expiration};
//! use std::time::Duration;
//!
//! let cache = Cache::connect("sqlite::memory:").await?;
//!
//! let mut report = cache.cached::<String>("report:2026-11");
//! if !report.exists().await? {
//!     report.set_with(&"all is well".to_owned(), Expiration::after(Duration::from_secs(60))).await?;
//! }
//! assert_eq!(report.value().await?.map(String::as_str), Some("all is well"));
//!
//! // Computed once over all tasks, processes and hosts; refreshed in the background once it is stale.
//! let total = cache
//!     .memoize("total")
//!     .fresh_for(Duration::from_secs(300))
//!     .stale_for(Duration::from_secs(3600))
//!     .get_or_compute(|| async { 6 * 7 })
//!     .await?;
//! assert_eq!(total, 42);
//!
//! assert_eq!(cache.increment("visits", 1, Expiration::Never).await?, 1);
//! assert!(cache.delete("visits").await?);
//! # Ok::<(), larder::Error>(()) }).unwrap();
//! ```
//!
//! # Concepts
//!
//! An *item* is a key, a JSON value and perhaps a deadline; it is *live*, and readable, until that. *Purging* deletes
//! what has expired. A *memoized* item is *fresh* until it is *stale*, and still served then while one refresh runs; the
//! *lease* is the right to compute it. Items carry *tags*, and *depend* on the keys that they were built from, by which
//! they are invalidated together. A *job* is a named unit of work with a JSON payload, run at least once; a *queue* is a named line
//! of jobs with its own concurrency; an *attempt* is one execution. A *schedule* is a cron expression in a timezone
//! that enqueues a job at each of its *ticks*, once over all workers of a database.
//!
//! Every operation also runs in the caller's own sqlx transaction (the forms that end in `_in`, and
//! [`in_tx`](queue::Enqueue::in_tx)): a change of your own tables, the invalidation of what was cached of them and the
//! job that follows from it commit or roll back together.
//!
//! # What it is not
//!
//! Not a cache in memory, unless [`Cache::with_memory`] is asked for: a read is a query. Not exactly once: a job whose worker dies is run again. Not for MySQL.
//!
//! # The modules, in reading order
//!
//! - [`cache`]: [`Cache`], operations on keys; [`Cached`], the handle of one key; [`Expiration`];
//!   [`Memoize`](cache::Memoize), computing a value once; [`Tagged`](cache::Tagged), writing with tags.
//! - [`queue`]: [`Queue`], which enqueues [`Job`]s, looks at them, retries and cancels them.
//! - [`Larder`], the two together: [`Larder::call`] gives a job's result, remembered or computed; [`Larder::rewarming`]
//!   invalidates results and has them made anew.
//! - `worker`: `Worker`, which runs them; `Data`, `JobContext` and `JobError`, for handlers.
//! - `schedule`: cron expressions, their ticks, and the fleet's record of them.
//! - `command`: programs of any language that a job runs.
//! - `fetch`: URLs that a job fetches, by the rules of a shared HTTP cache.
//! - `jobs`: the jobs that ship, an example for your own.
//! - `settings`: `larder.toml`, the environment, and their defaults. `cli`: the `larder` command.
//! - [`database`]: connections, transactions, migrations. [`clock`]: the fleet's clock.
//!
//! # Features
//!
//! Without any, larder is the cache and the enqueuing side of the queue. `worker` adds the worker, the schedules and
//! the jobs that ship; `fetch` adds the one that fetches URLs, and its HTTP client; `cli`, the default, adds the command
//! and all of these.

pub mod cache;
mod call;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
#[cfg(feature = "worker")]
pub mod command;
pub mod database;
mod error;
#[cfg(feature = "fetch")]
pub mod fetch;
mod gather;
#[cfg(feature = "worker")]
#[path = "../jobs/mod.rs"]
pub mod jobs;
pub mod queue;
#[cfg(feature = "worker")]
pub mod schedule;
#[cfg(feature = "worker")]
pub mod settings;
#[cfg(feature = "worker")]
pub mod worker;

pub use cache::{Cache, Cached, Expiration};
pub use call::{Call, Larder, Rewarmed, Rewarming};
pub use error::{Error, Result};
pub use queue::{Job, Queue};
#[cfg(feature = "worker")]
pub use worker::{Data, JobContext, JobError, Worker};

/// The examples of the README, run as tests.
#[cfg(all(doctest, feature = "worker"))]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
