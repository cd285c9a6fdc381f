//! Calls that come while a statement is under way gather, and go out together as the next one.
//!
//! A call that meets no other asks at once, in its own task, and waits for nothing. What comes while it is under way waits
//! in a queue; whoever is done takes all of it along, on the connection that it has. Where that takes long, more statements
//! are sent beside it. What meets a lock of somebody else's waits for it aside, and holds up nobody. A call is only ever
//! answered by a statement that was sent after it began.

mod aside;
mod lane;
mod patience;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod together;

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::iter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use lane::{Alone, Lane};
use together::Together;

use crate::database::Database;
use crate::error::{Error, Result};

/// Calls, and bytes of them, that go into one statement.
const MOST_CALLS: usize = 256;
const MOST_BYTES: usize = 1024 * 1024;
/// A call of more bytes has a statement to itself, and so has an answer: see the statements for that.
pub(crate) const LARGE: usize = 64 * 1024;

/// A statement of few costs both sides about as much as one of many.
pub(crate) const MANY: usize = 8;

/// What is asked of the database: one item of it, or one job.
pub(crate) trait Call: Send + Sync + Sized + 'static {
    type Answer: Send + 'static;
    /// What statements are sent by.
    type Hand: Send;
    /// Whether calls change what they are about: those of one key are sent in their order, and one after the other, and
    /// they may meet locks.
    const ORDERED: bool;
    /// How many statements are under way at once on a server at the most without anybody's patience being tried: while it is at
    /// one that reads, what it answered to another is taken in. Of those that write, more at once would be more commits.
    const LANES: usize = 1;

    /// Where there may be more than one statement at once, a second is sent beside the first when so many calls wait, and each
    /// further one when so many times as many do.
    fn many(_: &Database) -> usize {
        MANY
    }

    fn key(&self) -> &str;
    /// Calls of one class may share a statement.
    fn class(&self) -> u8;
    fn bytes(&self) -> usize;
    fn connect(database: &Database, by: By) -> impl Future<Output = Result<Self::Hand>> + Send;
    /// Gives an `answer` to each of `calls`, which are of one class, by its place among them. Those that were given before
    /// it fails hold. A row that somebody else holds is waited for no longer than `lock`.
    fn send(
        place: &Place,
        hand: &mut Self::Hand,
        calls: &[Self],
        lock: Duration,
        answer: impl FnMut(usize, Self::Answer) + Send,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Lets go of what a server does not answer.
    fn give_up(hand: Self::Hand);
}

/// Who sends calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// One who calls, in a task that may be dropped, or not polled for long.
    Caller,
    /// A task that sees to those who wait.
    Lane,
    /// One more, since others are held up: by what it does not wait for.
    Beside,
}

/// Where calls go.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) database: Database,
    pub(crate) namespace: Arc<str>,
}

/// The calls of one kind, by namespace.
pub(crate) struct Gather<C: Call> {
    queues: Mutex<HashMap<Arc<str>, Queue<C>>>,
    tickets: AtomicU64,
}

struct Queue<C: Call> {
    waiting: VecDeque<Waiting<C>>,
    lanes: usize,
    /// Of these, those whose tasks see to it that nobody waits too long.
    watching: usize,
    /// The keys of ordered calls that are under way, or wait for a lock.
    busy: HashSet<String>,
    /// What waits for locks, beside what lanes aside have of it: calls of one key each.
    blocked: VecDeque<Together<C>>,
    aside: usize,
}

struct Waiting<C: Call> {
    call: C,
    asker: Asker<C>,
}

/// Who waits for an answer.
struct Asker<C: Call> {
    ticket: u64,
    limit: Instant,
    tell: oneshot::Sender<Told<C>>,
}

/// What one who asks waits for.
struct Answered<C: Call> {
    ticket: u64,
    /// Until then it is to be under way.
    limit: Instant,
    /// Somebody else sees to that.
    is_watched: bool,
    told: oneshot::Receiver<Told<C>>,
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
            tickets: AtomicU64::new(0),
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
            watching: 0,
            busy: HashSet::new(),
            blocked: VecDeque::new(),
            aside: 0,
        }
    }
}

impl<C: Call> Gather<C> {
    /// The answer to `call`.
    pub(crate) async fn ask(self: &Arc<Self>, place: &Place, call: C) -> Result<C::Answer> {
        // That of the pool, for one who does not wait here.
        let mut limit = None;
        let mut entered = self.enter(place, call);
        loop {
            let waits = match entered {
                // Kept in the caller's task, it would make each that waits some 5 kB larger.
                Entered::Lane(lane, call) => match Box::pin(lane.alone(call, limit)).await {
                    Alone::Answered(answer) => return answer,
                    Alone::Blocked(waits) => waits,
                },
                Entered::Queue(waits) => waits,
            };
            limit = Some(waits.limit);
            match self.wait(place, waits).await {
                Some(Told::Answer(answer)) => return answer,
                Some(Told::Lead(call, lane)) => entered = Entered::Lane(lane, call),
                // Nothing drops a sender without a word.
                None => return Err(Error::transient("the call was given up; try again")),
            }
        }
    }

    /// A lane of the caller's own where there is one, or else a place in the queue.
    fn enter(self: &Arc<Self>, place: &Place, call: C) -> Entered<C> {
        // Made before the lock is taken, for which all others wait.
        let (asker, mut waits) = self.asker(place);
        let mut queues = self.queues();
        let queue = match queues.get_mut(&place.namespace) {
            Some(queue) => queue,
            None => queues.entry(place.namespace.clone()).or_default(),
        };
        let free = queue.lanes == 0 && !queue.has_work();
        if (free || call.bytes() > LARGE) && !queue.is_behind(&call) {
            queue.lanes += 1;
            let own = C::ORDERED.then(|| call.key().to_owned());
            queue.busy.extend(own.clone());
            return Entered::Lane(Lane::new(self, place, own), call);
        }
        waits.is_watched = !C::ORDERED && queue.watching > 0;
        queue.waiting.push_back(Waiting { call, asker });
        let another = queue.wants_another(&place.database);
        queue.lanes += usize::from(another);
        drop(queues);
        if another {
            // On a runtime that ends it is dropped at once, which looks at the queue.
            tokio::spawn(Lane::new(self, place, None).run(None));
        }
        Entered::Queue(waits)
    }

    fn asker(&self, place: &Place) -> (Asker<C>, Answered<C>) {
        let (tell, told) = oneshot::channel();
        // Another one than any other's, whatever became of the queue meanwhile.
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let limit = Instant::now() + place.database.acquire_timeout();
        let asker = Asker {
            ticket,
            limit,
            tell,
        };
        let answered = Answered {
            ticket,
            limit,
            is_watched: false,
            told,
        };
        (asker, answered)
    }

    /// Nothing panics while it is held.
    fn queues(&self) -> MutexGuard<'_, HashMap<Arc<str>, Queue<C>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lanes_at_once<C: Call>(database: &Database) -> usize {
    if database.has_many_writers() {
        C::LANES
    } else {
        1
    }
}

enum Entered<C: Call> {
    Lane(Lane<C>, C),
    Queue(Answered<C>),
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

    /// Whether somebody waits for a lane, and not for a key.
    fn has_work(&self) -> bool {
        self.waiting.iter().any(|waiting| self.may_go(waiting))
    }

    /// Whether so many wait as make one more statement worth while beside those under way.
    fn wants_another(&self, database: &Database) -> bool {
        let wanted = || iter::repeat_n(C::many(database), self.lanes).product::<usize>();
        self.lanes < lanes_at_once::<C>(database) && self.waiting.len() >= wanted()
    }

    fn is_idle(&self) -> bool {
        self.lanes + self.aside == 0 && self.waiting.is_empty() && self.blocked.is_empty()
    }

    /// Other calls of these keys may go.
    fn settle<'k>(&mut self, keys: impl IntoIterator<Item = &'k str>) {
        if C::ORDERED {
            for key in keys {
                self.busy.remove(key);
            }
        }
    }

    /// What was under way waits again, before all others.
    fn put_back(&mut self, calls: Together<C>) {
        self.settle(calls.keys());
        for waiting in calls.into_waiting().rev() {
            self.waiting.push_front(waiting);
        }
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
    fn take(&mut self) -> Together<C> {
        let mut taken: Vec<Waiting<C>> = Vec::new();
        let (mut left, mut bytes) = (Vec::new(), 0);
        let mut passed_over: HashSet<String> = HashSet::new();
        while let Some(waiting) = self.waiting.pop_front() {
            if waiting.asker.tell.is_closed() {
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
                left.push(waiting);
                continue;
            }
            bytes += call.bytes();
            taken.push(waiting);
            if taken.len() >= MOST_CALLS || bytes >= MOST_BYTES || taken[0].call.bytes() > LARGE {
                break;
            }
        }
        for waiting in left.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
        if C::ORDERED {
            let keys = taken.iter().map(|waiting| waiting.call.key().to_owned());
            self.busy.extend(keys);
        }
        Together::of(taken)
    }
}
