//! The `larder` command as scripts and people meet it: the real binary, on both engines.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

mod cache;
mod call;
mod commands;
mod config;
mod enqueue;
mod errors;
mod fetch;
mod jobs;
mod migrate;
mod own;
mod queues;
mod reload;
mod schedule;
mod secrets;
mod worker;
