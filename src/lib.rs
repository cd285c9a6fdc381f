//! larder

pub mod cache;
pub mod clock;
pub mod database;
mod error;

pub use cache::{Cache, Cached, Expiration};
pub use error::{Error, Result};
