//! What is kept, until when, and what ends it before. Pure: instants are arguments.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moka::Equivalent;

use super::super::hit::Hit;
use crate::clock::Timestamp;

/// The names that share a count of writes. A write keeps nobody from keeping others but these.
const SHARDS: usize = 1_024;
/// About what an item takes beside its key and value.
const OVERHEAD: u64 = 400;

/// The present, by the clock of the fleet and by this process's own, which no clock change moves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Timestamp,
    pub(super) instant: Instant,
}

/// An item as it was read.
#[derive(Debug)]
pub(in crate::cache) struct Entry {
    pub(in crate::cache) hit: Hit,
    expires_at: Option<Timestamp>,
    /// It has tags, or was built from other keys: a write of one of those may have ended it.
    linked: bool,
    /// Before the statement that read it was sent.
    asked: Moment,
    seen: u64,
}

/// What is known before a statement is sent.
#[derive(Debug)]
pub(super) struct Noted {
    at: Moment,
    /// Of the name's shard.
    writes: u64,
    all_writes: u64,
    clears: u64,
}

impl Entry {
    pub(super) fn new(
        hit: Hit,
        expires_at: Option<Timestamp>,
        linked: bool,
        noted: &Noted,
    ) -> Self {
        Self {
            hit,
            expires_at,
            linked,
            asked: noted.at,
            seen: if linked {
                noted.all_writes
            } else {
                noted.clears
            },
        }
    }
}

#[derive(Debug)]
struct Name {
    namespace: Box<str>,
    key: Box<str>,
}

/// A name that is looked for.
struct Lookup<'a>(&'a str, &'a str);

impl Hash for Lookup<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0, self.1).hash(state);
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Lookup(&self.namespace, &self.key).hash(state);
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.namespace == other.namespace
    }
}

impl Eq for Name {}

impl Equivalent<Name> for Lookup<'_> {
    fn equivalent(&self, name: &Name) -> bool {
        *self.1 == *name.key && *self.0 == *name.namespace
    }
}

/// Items by their names, no more of them and of their bytes than was asked for.
#[derive(Debug)]
pub(in crate::cache) struct Store {
    items: moka::sync::Cache<Name, Arc<Entry>>,
    max_staleness: Duration,
    hasher: RandomState,
    /// Of each shard, how often one of its names was written. It is held while one is kept or forgotten, so that whoever
    /// read before a write does not keep after it what was there.
    writes: Box<[Mutex<u64>]>,
    /// How often any was written, and how often all that is kept was given up. Both end what was read before.
    all_writes: AtomicU64,
    clears: AtomicU64,
}

impl Store {
    pub(super) fn new(items: u64, bytes: u64, max_staleness: Duration) -> Self {
        // An item counts as its bytes, and at least as its share of all: so neither bound is passed.
        let capacity = bytes.min(items.saturating_mul(u64::from(u32::MAX)));
        let share = capacity.div_ceil(items.max(1));
        let weigh = move |name: &Name, entry: &Arc<Entry>| {
            let texts = name.namespace.len() + name.key.len() + entry.hit.value.len();
            let weight = (texts as u64 + OVERHEAD).max(share);
            u32::try_from(weight).unwrap_or(u32::MAX)
        };
        Self {
            items: moka::sync::Cache::builder()
                .max_capacity(capacity)
                .weigher(weigh)
                .build(),
            max_staleness,
            hasher: RandomState::new(),
            writes: (0..SHARDS).map(|_| Mutex::default()).collect(),
            all_writes: AtomicU64::new(0),
            clears: AtomicU64::new(0),
        }
    }

    /// The item that is kept under a name, if it is good still.
    pub(super) fn get(
        &self,
        namespace: &str,
        key: &str,
        present: impl FnOnce() -> Moment,
    ) -> Option<Arc<Entry>> {
        let entry = self.items.get(&Lookup(namespace, key))?;
        self.is_good(&entry, present()).then_some(entry)
    }

    /// By both clocks: the process's own stands still while the machine sleeps, and the fleet's may be set.
    fn is_good(&self, entry: &Entry, present: Moment) -> bool {
        let written = if entry.linked {
            &self.all_writes
        } else {
            &self.clears
        };
        let Entry { asked, .. } = entry;
        written.load(Ordering::SeqCst) == entry.seen
            && present.instant.saturating_duration_since(asked.instant) < self.max_staleness
            && present.now >= asked.now
            && present.now.since(asked.now) < self.max_staleness
            && entry.expires_at.is_none_or(|at| at > present.now)
    }

    /// To be taken before the statement is sent that reads the item.
    pub(super) fn note(&self, namespace: &str, key: &str, at: Moment) -> Noted {
        Noted {
            at,
            writes: *self.shard(namespace, key),
            all_writes: self.all_writes.load(Ordering::SeqCst),
            clears: self.clears.load(Ordering::SeqCst),
        }
    }

    /// Keeps what was read, unless it has been written since.
    pub(super) fn keep(&self, noted: &Noted, namespace: &str, key: &str, entry: Arc<Entry>) {
        let name = Name {
            namespace: namespace.into(),
            key: key.into(),
        };
        {
            let writes = self.shard(namespace, key);
            if *writes != noted.writes {
                return;
            }
            self.items.insert(name, entry);
        }
        // What is too much goes now, not when somebody next has the time: to read it took far longer.
        self.items.run_pending_tasks();
    }

    /// One name was written.
    pub(super) fn forget(&self, namespace: &str, key: &str) {
        self.all_writes.fetch_add(1, Ordering::SeqCst);
        let mut writes = self.shard(namespace, key);
        *writes = writes.wrapping_add(1);
        self.items.invalidate(&Lookup(namespace, key));
    }

    /// Anything may have been written.
    pub(super) fn forget_all(&self) {
        self.all_writes.fetch_add(1, Ordering::SeqCst);
        self.clears.fetch_add(1, Ordering::SeqCst);
    }

    /// Nothing panics while it is held.
    fn shard(&self, namespace: &str, key: &str) -> MutexGuard<'_, u64> {
        let hash = self.hasher.hash_one(Lookup(namespace, key));
        let shard = &self.writes[usize::try_from(hash % SHARDS as u64).unwrap_or(0)];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
