//! larder's tests: behaviours, each on both engines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

mod ahead;
mod batches;
mod cache;
mod cached;
mod connections;
mod counters;
mod dependencies;
mod expiration;
mod gathered;
mod gathered_locks;
mod generations;
mod house;
mod keys;
mod memoize;
mod memoize_model;
mod memoize_stale;
mod memory;
mod migrations;
mod namespaces;
mod partitions;
mod processes;
mod purge;
mod tags;
mod transactions;
mod values;

#[cfg(feature = "worker")]
mod at_once;
#[cfg(feature = "worker")]
mod attempts;
#[cfg(feature = "worker")]
mod away;
#[cfg(feature = "worker")]
mod batch_claims;
#[cfg(feature = "worker")]
mod begin;
#[cfg(feature = "worker")]
mod blocking;
#[cfg(feature = "worker")]
mod broken_rows;
#[cfg(feature = "worker")]
mod calls;
#[cfg(feature = "worker")]
mod calls_refresh;
#[cfg(all(feature = "worker", unix))]
mod commands;
#[cfg(feature = "worker")]
mod control;
#[cfg(feature = "worker")]
mod cron_oracle;
#[cfg(feature = "worker")]
mod drain;
#[cfg(feature = "worker")]
mod dropped;
#[cfg(feature = "worker")]
mod enqueue;
#[cfg(feature = "worker")]
mod failure;
#[cfg(feature = "fetch")]
mod fetch;
#[cfg(feature = "worker")]
mod gathered_enqueue;
#[cfg(feature = "worker")]
mod half_open;
#[cfg(feature = "worker")]
mod jobs;
#[cfg(feature = "worker")]
mod limits;
#[cfg(all(feature = "worker", unix))]
mod memory_fleet;
#[cfg(feature = "worker")]
mod outcomes;
#[cfg(feature = "worker")]
mod pause;
#[cfg(all(feature = "worker", unix))]
mod pgbouncer;
#[cfg(feature = "worker")]
mod pipeline;
#[cfg(feature = "worker")]
mod plans_memo;
#[cfg(feature = "worker")]
mod plans_queue;
#[cfg(feature = "worker")]
mod progress;
#[cfg(feature = "worker")]
mod proxy;
#[cfg(feature = "worker")]
mod remember;
#[cfg(feature = "worker")]
mod retention;
#[cfg(feature = "worker")]
mod rewarm;
#[cfg(feature = "worker")]
mod schedule;
#[cfg(feature = "worker")]
mod wakeup;
#[cfg(feature = "worker")]
mod work;
#[cfg(feature = "worker")]
mod worker;

#[cfg(feature = "cli")]
mod fleet;
#[cfg(feature = "cli")]
mod readme;
