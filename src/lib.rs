//! larder

pub mod cache;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod database;
mod error;
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
pub use error::{Error, Result};
pub use queue::{Job, Queue};
#[cfg(feature = "worker")]
pub use worker::{Data, JobContext, JobError, Worker};
