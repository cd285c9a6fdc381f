//! larder's tests: behaviours, each on both engines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

mod cache;
#[cfg(feature = "worker")]
mod cron_oracle;
#[cfg(feature = "cli")]
mod fleet;
#[cfg(feature = "worker")]
mod plans_queue;
#[cfg(feature = "worker")]
mod queue;
#[cfg(feature = "cli")]
mod readme;
