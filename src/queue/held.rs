//! Which attempts this worker has: claimed, and their outcome not yet written.
//!
//! A claim whose answer was lost with its connection leaves a job that its row calls running and that nobody runs, and
//! that nobody rescues either while this worker lives. By comparing rows with what it holds, the fetcher finds these.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::JobId;

/// A job and which of its attempts.
type Attempt = (JobId, i32);

/// The attempts that a worker has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    attempts: Arc<Mutex<HashSet<Attempt>>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    held: Held,
    attempt: Attempt,
}

impl Held {
    pub(crate) fn hold(&self, id: JobId, attempt: i32) -> Hold {
        self.lock().insert((id, attempt));
        Hold {
            held: self.clone(),
            attempt: (id, attempt),
        }
    }

    pub(crate) fn contains(&self, id: JobId, attempt: i32) -> bool {
        self.lock().contains(&(id, attempt))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.lock().remove(&self.attempt);
    }
}
