//! A worker's presence in the database: its heartbeat, and the rescue of jobs whose worker fell silent.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::held::Attempt;
use super::pulse::{Moment, Pulse};
use super::{JobId, Queue, to_delta};
use crate::clock::Timestamp;
use crate::database::{Database, JsonText, Sql, Tx, query};
use crate::error::Result;

/// Silent workers are forgotten after so many times `rescue_after`.
const FORGET: u32 = 20;
/// A heartbeat that failed is tried again this soon.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Presence {
    pub(crate) database: Database,
    pub(crate) worker: JobId,
    pub(crate) names: Vec<String>,
    pub(crate) heartbeat: Duration,
    pub(crate) rescue_after: Duration,
    pub(crate) pulse: Arc<Pulse>,
}

impl Presence {
    /// Tells the fleet that this worker is there.
    pub(crate) async fn beat(&self) -> Result<()> {
        let names = JsonText(serde_json::json!(self.names).to_string());
        let process = i32::try_from(std::process::id()).unwrap_or(0);
        let (sent, now) = (Moment::now(), self.database.clock().now());
        let mut connection = self.database.write().await?;
        let mut tx = connection.tx();
        query!(
            self.database,
            tx,
            execute,
            Sql::WorkerBeat,
            self.worker,
            host(),
            process,
            env!("CARGO_PKG_VERSION"),
            &names,
            now
        )?;
        self.pulse.beaten(sent, Moment::now());
        Ok(())
    }

    /// Beats for the first time, and rescues. Whoever starts when no other worker has beaten of late cannot tell who is
    /// dead from who waits for a database that was away, and rescues nobody yet: what is returned is since when it
    /// waits. One that ends when nothing is ready has no time to wait.
    pub(crate) async fn begin(&self, once: bool) -> Result<Option<Timestamp>> {
        let workers = Queue::new(self.database.clone()).workers().await?;
        let now = self.database.clock().now();
        let of_late = now.saturating_add(-to_delta(self.cut_off()));
        let of_late = chrono::DateTime::<chrono::Utc>::from(of_late);
        let others_beat = workers.iter().any(|worker| worker.heartbeat_at > of_late);
        self.beat().await?;
        if once || others_beat {
            self.rescue().await?;
            return Ok(None);
        }
        Ok(Some(now))
    }

    /// Longer than from one beat to the next, whatever share of `rescue_after` that is.
    fn cut_off(&self) -> Duration {
        (self.rescue_after / 2).max(self.heartbeat.saturating_mul(3) / 2)
    }

    /// Beats until it is told to stop, whatever handlers do, and rescues the jobs of those who no longer do.
    pub(crate) async fn run(&self, mut back_since: Option<Timestamp>, stop: CancellationToken) {
        let mut failing = false;
        let mut last = self.database.clock().now();
        while !stop.is_cancelled() {
            let wait = if failing {
                self.heartbeat.min(RETRY)
            } else {
                self.heartbeat
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let round = async {
                self.database.measure_clock().await?;
                self.beat().await?;
                // Whoever was cut off cannot tell who is dead from who was cut off too, be it from a database that
                // was away or in a machine that slept. It rescues nobody until the others had time to come back.
                let now = self.database.clock().now();
                if now.since(last) > self.cut_off() {
                    back_since = Some(now);
                }
                last = now;
                if back_since.is_none_or(|back| now.since(back) > self.rescue_after / 2) {
                    self.rescue().await?;
                }
                Ok::<_, crate::Error>(())
            };
            // Soon enough that a cut connection costs a few beats, and not the worker's life.
            let limit = self.rescue_after / 3;
            match self.database.answered_within(limit, round).await {
                Ok(()) => failing = false,
                Err(error) if failing => tracing::debug!(%error, "still no heartbeat"),
                Err(error) => {
                    failing = true;
                    tracing::warn!(%error, "cannot write the heartbeat, trying until the database takes it");
                }
            }
        }
    }

    /// Returns to their queue the jobs whose worker has been silent for `rescue_after`.
    pub(crate) async fn rescue(&self) -> Result<()> {
        let now = self.database.clock().now();
        let deadline = now.saturating_add(-to_delta(self.rescue_after));
        let error = format!(
            "its worker fell silent for {} s and is taken for dead",
            self.rescue_after.as_secs()
        );
        let mut transaction = self.database.begin_briefly().await?;
        let mut tx = Tx::from(&mut transaction);
        if self.database.has_many_writers() {
            query!(self.database, tx, execute, Sql::ClaimLose, deadline)?;
        }
        let lost: Vec<Attempt> = query!(
            self.database,
            tx,
            fetch_all,
            Sql::AttemptLose,
            now,
            deadline,
            &error
        )?;
        let mut rescued = 0;
        if !lost.is_empty() {
            let lost = JsonText(serde_json::json!(lost).to_string());
            rescued = query!(
                self.database,
                tx,
                execute,
                Sql::JobRescue,
                lost,
                now,
                &error
            )?;
        }
        transaction.commit_quietly().await?;
        let long_ago = now.saturating_add(-to_delta(self.rescue_after.saturating_mul(FORGET)));
        let mut connection = self.database.write().await?;
        let mut tx = connection.tx();
        query!(self.database, tx, execute, Sql::WorkerForget, long_ago)?;
        drop(connection);
        if rescued > 0 {
            tracing::warn!(jobs = rescued, "rescued jobs of a worker that fell silent");
            self.database.announce();
        }
        Ok(())
    }

    /// Takes leave.
    pub(crate) async fn end(&self) -> Result<()> {
        let mut connection = self.database.write().await?;
        let mut tx = connection.tx();
        query!(self.database, tx, execute, Sql::WorkerEnd, self.worker)?;
        Ok(())
    }
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "unknown".to_owned())
}
