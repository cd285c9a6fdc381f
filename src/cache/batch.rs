//! Calls that come while a statement is under way gather, and go out together as the next one.
//!
//! A call that meets no other asks at once, in its own task, and waits for nothing. What comes while it is under way waits
//! in a queue; whoever is done takes all of it along, on the connection that it has. Where that takes long, more statements
//! are sent beside it. A call is only ever answered by a statement that was sent after it began.

mod lane;
mod reads;
mod writes;

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use lane::Lane;
pub(super) use reads::{Columns, Deadline, Read, Value};
pub(super) use writes::Write;

use crate::database::Database;
use crate::error::{Error, Result};

/// Calls, and bytes of them, that go into one statement.
const MOST_CALLS: usize = 256;
const MOST_BYTES: usize = 1024 * 1024;
/// A call of more bytes has a statement to itself, and so has an answer: see the statements for that.
const LARGE: usize = 64 * 1024;
/// How long a call waits for the statements under way before it has one more sent, and how many that may come to.
const PATIENCE: Duration = Duration::from_millis(5);
const MOST_LANES: usize = 6;

/// What is asked of the database, one item of it.
pub(super) trait Call: Clone + Send + Sync + Sized + 'static {
    type Answer: Send + 'static;
    /// What statements are sent by.
    type Hand: Send;
    /// Whether calls of one key are sent in their order, and one after the other.
    const ORDERED: bool;

    fn key(&self) -> &str;
    /// Calls of one class may share a statement.
    fn class(&self) -> u8;
    fn bytes(&self) -> usize;
    fn connect(database: &Database) -> impl Future<Output = Result<Self::Hand>> + Send;
    /// The answers to `calls`, which are of one class, in their order.
    fn send(
        place: &Place,
        hand: &mut Self::Hand,
        calls: &[Self],
    ) -> impl Future<Output = Result<Vec<Self::Answer>>> + Send;
}

/// Where calls go.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) database: Database,
    pub(super) namespace: Arc<str>,
}

/// What all clones of a cache have under way.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) gets: Arc<Gather<Read<Value>>>,
    pub(super) deadlines: Arc<Gather<Read<Deadline>>>,
    pub(super) hits: Arc<Gather<Read<super::hit::Memoized>>>,
    pub(super) kept: Arc<Gather<Read<super::memory::Kept>>>,
    pub(super) writes: Arc<Gather<Write>>,
}

/// The calls of one kind, by namespace.
pub(super) struct Gather<C: Call> {
    queues: Mutex<HashMap<Arc<str>, Queue<C>>>,
}

struct Queue<C: Call> {
    waiting: VecDeque<Waiting<C>>,
    lanes: usize,
    /// The keys of ordered calls that are under way.
    busy: HashSet<String>,
    tickets: u64,
}

struct Waiting<C: Call> {
    call: C,
    ticket: u64,
    tell: oneshot::Sender<Told<C>>,
}

enum Told<C: Call> {
    Answer(Result<C::Answer>),
    /// Whoever had the lane has gone.
    Lead(C, Lane<C>),
}

impl<C: Call> Default for Gather<C> {
    fn default() -> Self {
        Self {
            queues: Mutex::default(),
        }
    }
}

impl<C: Call> std::fmt::Debug for Gather<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gather").finish_non_exhaustive()
    }
}

impl<C: Call> Default for Queue<C> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            lanes: 0,
            busy: HashSet::new(),
            tickets: 0,
        }
    }
}

impl<C: Call> Gather<C> {
    /// The answer to `call`.
    pub(super) async fn ask(self: &Arc<Self>, place: &Place, call: C) -> Result<C::Answer> {
        let began = Instant::now();
        let (ticket, mut told) = match self.enter(place, call) {
            Entered::Lane(lane, call) => return lane.alone(call).await,
            Entered::Queue(ticket, told) => (ticket, told),
        };
        if let Ok(told) = tokio::time::timeout(PATIENCE, &mut told).await {
            return self.told(told.ok()).await;
        }
        if let Some(lane) = self.another_lane(place) {
            tokio::spawn(lane.run(None));
        }
        let limit = began + place.database.acquire_timeout();
        if let Ok(told) = tokio::time::timeout_at(limit, &mut told).await {
            return self.told(told.ok()).await;
        }
        if self.leave(place, ticket) {
            return Err(Error::from(sqlx::Error::PoolTimedOut));
        }
        self.told(told.await.ok()).await
    }

    async fn told(&self, told: Option<Told<C>>) -> Result<C::Answer> {
        match told {
            Some(Told::Answer(answer)) => answer,
            Some(Told::Lead(call, lane)) => lane.alone(call).await,
            // Nothing drops a sender without a word.
            None => Err(Error::transient("the call was given up; try again")),
        }
    }

    /// A lane of the caller's own where there is one, or else a place in the queue.
    fn enter(self: &Arc<Self>, place: &Place, call: C) -> Entered<C> {
        let mut queues = self.queues();
        let queue = match queues.get_mut(&place.namespace) {
            Some(queue) => queue,
            None => queues.entry(place.namespace.clone()).or_default(),
        };
        let free = queue.lanes == 0 && queue.waiting.is_empty();
        if (free || call.bytes() > LARGE) && !queue.is_behind(&call) {
            queue.lanes += 1;
            let own = C::ORDERED.then(|| call.key().to_owned());
            queue.busy.extend(own.clone());
            return Entered::Lane(Lane::new(self, place, own), call);
        }
        let (tell, told) = oneshot::channel();
        queue.tickets += 1;
        let ticket = queue.tickets;
        queue.waiting.push_back(Waiting { call, ticket, tell });
        Entered::Queue(ticket, told)
    }

    /// One more lane for those who wait.
    fn another_lane(self: &Arc<Self>, place: &Place) -> Option<Lane<C>> {
        let mut queues = self.queues();
        let queue = queues.get_mut(&place.namespace)?;
        if queue.waiting.is_empty() || queue.lanes >= MOST_LANES {
            return None;
        }
        queue.lanes += 1;
        Some(Lane::extra(self, place))
    }

    /// Whether the call was waiting still, which it does no more.
    fn leave(&self, place: &Place, ticket: u64) -> bool {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(&place.namespace) else {
            return false;
        };
        let before = queue.waiting.len();
        queue.waiting.retain(|waiting| waiting.ticket != ticket);
        queue.waiting.len() < before
    }

    /// Nothing panics while it is held.
    fn queues(&self) -> MutexGuard<'_, HashMap<Arc<str>, Queue<C>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Entered<C: Call> {
    Lane(Lane<C>, C),
    Queue(u64, oneshot::Receiver<Told<C>>),
}

impl<C: Call> Queue<C> {
    /// Whether a call of the same key must be answered first.
    fn is_behind(&self, call: &C) -> bool {
        let waits = || {
            self.waiting
                .iter()
                .any(|other| other.call.key() == call.key())
        };
        C::ORDERED && (self.busy.contains(call.key()) || waits())
    }

    fn may_go(&self, waiting: &Waiting<C>) -> bool {
        !(C::ORDERED && self.busy.contains(waiting.call.key()))
    }

    /// Takes out one that may go, and takes its key.
    fn pop(&mut self) -> Option<Waiting<C>> {
        let first = self
            .waiting
            .iter()
            .position(|waiting| self.may_go(waiting))?;
        let waiting = self.waiting.remove(first)?;
        if C::ORDERED {
            self.busy.insert(waiting.call.key().to_owned());
        }
        Some(waiting)
    }

    /// The calls that go out next, of one class: those of a key that is under way wait, and what came after them for the
    /// same key.
    fn take(&mut self) -> Vec<Waiting<C>> {
        let mut taken: Vec<Waiting<C>> = Vec::new();
        let (mut left, mut bytes) = (VecDeque::new(), 0);
        let mut passed_over: HashSet<String> = HashSet::new();
        while let Some(waiting) = self.waiting.pop_front() {
            if waiting.tell.is_closed() {
                continue;
            }
            let call = &waiting.call;
            let fits = taken
                .first()
                .is_none_or(|first| first.call.class() == call.class() && call.bytes() <= LARGE)
                && (!C::ORDERED
                    || !self.busy.contains(call.key()) && !passed_over.contains(call.key()));
            if !fits {
                if C::ORDERED {
                    passed_over.insert(call.key().to_owned());
                }
                left.push_back(waiting);
                continue;
            }
            bytes += call.bytes();
            taken.push(waiting);
            if taken.len() >= MOST_CALLS || bytes >= MOST_BYTES || taken[0].call.bytes() > LARGE {
                break;
            }
        }
        left.append(&mut self.waiting);
        self.waiting = left;
        if C::ORDERED {
            let keys = taken.iter().map(|waiting| waiting.call.key().to_owned());
            self.busy.extend(keys);
        }
        taken
    }
}
