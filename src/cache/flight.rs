//! One computation of a key at a time in this process; the others wait for what comes of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::lease::Failure;
use crate::database::Id;

type Key = (Arc<str>, String);

/// The keys that this process computes, or waits for another process to compute.
#[derive(Debug, Default)]
pub(super) struct Flights {
    running: Mutex<HashMap<Key, watch::Receiver<Progress>>>,
}

#[derive(Clone, Debug)]
enum Progress {
    Running,
    /// The value's JSON, or the error, as of an instant before the database was asked.
    Done(Result<Arc<str>, Failure>, Instant),
    /// Whoever led has gone, and may have left this lease.
    Abandoned(Option<Id>),
}

/// What a caller is to a key.
pub(super) enum Part {
    Leads(Leader),
    Waits(Waiter),
}

impl Flights {
    /// The caller leads where nobody does yet. `inherited` is the lease of one who led before.
    pub(super) fn join(
        self: &Arc<Self>,
        namespace: &Arc<str>,
        key: &str,
        inherited: Option<Id>,
    ) -> Part {
        let key = (namespace.clone(), key.to_owned());
        let mut running = self.running();
        if let Some(progress) = running.get(&key) {
            return Part::Waits(Waiter {
                progress: progress.clone(),
                joined: Instant::now(),
            });
        }
        let (tell, progress) = watch::channel(Progress::Running);
        running.insert(key.clone(), progress);
        Part::Leads(Leader {
            flights: self.clone(),
            key,
            tell,
            inherited,
            lease: None,
        })
    }

    /// Nothing panics while it is held.
    fn running(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Progress>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.running().len()
    }
}

/// Who computes the key for this process. Dropped, it hands over to one who waits.
#[derive(Debug)]
pub(super) struct Leader {
    flights: Arc<Flights>,
    key: Key,
    tell: watch::Sender<Progress>,
    /// The lease that one who led before may have left.
    pub(super) inherited: Option<Id>,
    /// The lease that this one leaves if it is dropped.
    pub(super) lease: Option<Id>,
}

impl Leader {
    /// Tells those who wait, and joined before the database was asked at `asked`.
    pub(super) fn finish(self, outcome: Result<Arc<str>, Failure>, asked: Instant) {
        self.tell.send_replace(Progress::Done(outcome, asked));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.flights.running().remove(&self.key);
        self.tell.send_if_modified(|progress| {
            let abandoned = matches!(progress, Progress::Running);
            if abandoned {
                *progress = Progress::Abandoned(self.lease);
            }
            abandoned
        });
    }
}

/// Who waits for another task of this process.
pub(super) struct Waiter {
    progress: watch::Receiver<Progress>,
    joined: Instant,
}

/// What a wait came to.
pub(super) enum Waited {
    /// The value's JSON, or the error.
    For(Result<Arc<str>, Failure>),
    /// Nothing: somebody else may lead now.
    ForNothing(Option<Id>),
}

impl Waiter {
    pub(super) async fn wait(mut self) -> Waited {
        let progress = self
            .progress
            .wait_for(|progress| !matches!(progress, Progress::Running))
            .await;
        match progress.as_deref() {
            // A value that was there before this caller came may be older than what it knows of.
            Ok(Progress::Done(Ok(_), asked)) if *asked < self.joined => Waited::ForNothing(None),
            Ok(Progress::Done(outcome, _)) => Waited::For(outcome.clone()),
            Ok(Progress::Abandoned(lease)) => Waited::ForNothing(*lease),
            Ok(Progress::Running) | Err(_) => Waited::ForNothing(None),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn join(flights: &Arc<Flights>) -> Part {
        flights.join(&"".into(), "key", None)
    }

    fn leads(flights: &Arc<Flights>) -> Leader {
        match join(flights) {
            Part::Leads(leader) => leader,
            Part::Waits(_) => panic!("somebody leads"),
        }
    }

    fn waits(flights: &Arc<Flights>) -> Waiter {
        match join(flights) {
            Part::Waits(waiter) => waiter,
            Part::Leads(_) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn those_who_wait_are_given_what_came_of_it_and_nothing_is_left() {
        let flights = Arc::new(Flights::default());
        let leader = leads(&flights);
        let waiter = waits(&flights);
        leader.finish(Ok("1".into()), Instant::now());
        assert!(matches!(waiter.wait().await, Waited::For(Ok(text)) if &*text == "1"));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn one_who_came_after_the_database_was_asked_is_given_nothing() {
        let flights = Arc::new(Flights::default());
        let leader = leads(&flights);
        let asked = Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(1));
        let late = waits(&flights);
        leader.finish(Ok("1".into()), asked);
        assert!(matches!(late.wait().await, Waited::ForNothing(None)));
    }

    #[tokio::test]
    async fn a_leader_that_is_dropped_hands_over_and_names_its_lease() {
        let flights = Arc::new(Flights::default());
        let mut leader = leads(&flights);
        let waiter = waits(&flights);
        let lease = Id(uuid::Uuid::now_v7());
        leader.lease = Some(lease);
        drop(leader);
        assert!(matches!(waiter.wait().await, Waited::ForNothing(left) if left == Some(lease)));
        drop(leads(&flights));
        assert_eq!(flights.len(), 0);
    }
}
