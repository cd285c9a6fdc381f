//! larder's tests: behaviours, each on both engines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

mod batches;
mod cache;
mod cached;
mod connections;
mod counters;
#[cfg(feature = "worker")]
mod cron_oracle;
mod expiration;
#[cfg(feature = "cli")]
mod fleet;
mod house;
mod keys;
mod migrations;
mod namespaces;
mod processes;
mod purge;
#[cfg(feature = "worker")]
mod plans_queue;
#[cfg(feature = "worker")]
mod queue;
#[cfg(feature = "cli")]
mod readme;
mod transactions;
mod values;
