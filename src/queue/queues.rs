//! Pausing and resuming queues over the fleet, and how they stand.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Queue;
use crate::cache::check_text;
use crate::clock::Timestamp;
use crate::database::{Sql, query};
use crate::error::Result;

/// How a queue stands.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// Since when it is paused.
    pub paused_at: Option<DateTime<Utc>>,
    /// Jobs that may start, as far as no limit holds them back.
    pub ready: i64,
    /// Jobs that wait for their time or for their next attempt.
    pub waiting: i64,
    /// Jobs that run.
    pub running: i64,
}

impl QueueState {
    /// A queue of which there is nothing to say.
    #[must_use]
    pub fn idle(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            paused_at: None,
            ready: 0,
            waiting: 0,
            running: 0,
        }
    }
}

impl Queue {
    /// Pauses the queue `name` over the whole fleet, whether there are jobs in it or not. Once this has returned no
    /// worker takes one of its jobs; those that are running go on. Of jobs that are over in no time a worker takes some
    /// ahead, and may begin them up to half a second later. Whether it was not paused before.
    ///
    /// # Errors
    /// Where the name is not valid or the database fails.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let queue = larder::Queue::connect("sqlite::memory:").await?;
    /// assert!(queue.pause("mail").await?);
    /// assert!(!queue.pause("mail").await?);
    /// assert_eq!(queue.queues().await?[0].name, "mail");
    /// assert!(queue.resume("mail").await?);
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    pub async fn pause(&self, name: &str) -> Result<bool> {
        check_text("a queue's name", name, 1, 255)?;
        let now = self.database.clock().now();
        let mut connection = self.database.write().await?;
        let mut tx = connection.tx();
        // By itself, so that who claims finds a row to hold while this waits for it.
        query!(self.database, tx, execute, Sql::QueueAdd, name)?;
        let paused = query!(self.database, tx, execute, Sql::QueuePause, name, now)?;
        Ok(paused > 0)
    }

    /// Resumes the queue `name`, and wakes workers. Whether it was paused.
    ///
    /// # Errors
    /// Where the name is not valid or the database fails.
    pub async fn resume(&self, name: &str) -> Result<bool> {
        check_text("a queue's name", name, 1, 255)?;
        let mut connection = self.database.write().await?;
        let mut tx = connection.tx();
        let resumed = query!(self.database, tx, execute, Sql::QueueResume, name)?;
        if resumed > 0 {
            query!(self.database, tx, execute, Sql::QueueNotify, name)?;
            self.database.announce();
        }
        Ok(resumed > 0)
    }

    /// The queues that are paused, by name.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn paused(&self) -> Result<BTreeMap<String, DateTime<Utc>>> {
        let mut connection = self.database.read().await?;
        let mut tx = connection.tx();
        let rows: Vec<(String, Option<Timestamp>)> =
            query!(self.database, tx, fetch_all, Sql::QueueList)?;
        Ok(rows
            .into_iter()
            .filter_map(|(name, paused_at)| Some((name, paused_at?.into())))
            .collect())
    }

    /// The queues that are paused or have jobs which are not finished, by name.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn queues(&self) -> Result<Vec<QueueState>> {
        let mut queues = BTreeMap::new();
        for (name, paused_at) in self.paused().await? {
            let mut state = QueueState::idle(&name);
            state.paused_at = Some(paused_at);
            queues.insert(name, state);
        }
        let mut connection = self.database.read().await?;
        let mut tx = connection.tx();
        let counts: Vec<(String, String, i64)> =
            query!(self.database, tx, fetch_all, Sql::QueueCounts)?;
        for (name, what, count) in counts {
            let state = queues
                .entry(name)
                .or_insert_with_key(|name| QueueState::idle(name));
            match what.as_str() {
                "ready" => state.ready += count,
                "waiting" => state.waiting += count,
                _ => state.running += count,
            }
        }
        Ok(queues.into_values().collect())
    }
}
