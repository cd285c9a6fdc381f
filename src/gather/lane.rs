//! The right to have a statement under way, and what whoever has it does.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::aside::{BRIEFLY, IN_PARTS};
use super::{Answered, By, Call, Gather, Place, Queue, Together, Told, Waiting};
use crate::error::{Error, Result};

/// How often a lane without work lets others go first before it ends: those whom it has answered may come back.
const LINGER: usize = 4;
/// So many statements of a lane go by one connection, before it goes back to the pool, where others may wait for it. On
/// SQLite, where everybody waits for the one writer, it goes back after each.
const STATEMENTS: usize = 64;

/// The right to have a statement under way. Dropped, somebody who waits is given it.
pub(super) struct Lane<C: Call> {
    pub(super) gather: Arc<Gather<C>>,
    pub(super) place: Place,
    /// What is under way, to be sent again by somebody else if this one is dropped: its runtime has ended.
    pub(super) under_way: Together<C>,
    /// The key that is under way for the lane's own caller.
    own: Option<String>,
    pub(super) kind: Kind,
    /// Its task sees to it that nobody waits too long.
    watches: bool,
    pub(super) ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// It was sent for beside others, and ends when nobody waits.
    Extra,
    /// It waits for a lock.
    Aside,
}

/// What a call came to that was asked in its caller's task.
pub(super) enum Alone<C: Call> {
    Answered(Result<C::Answer>),
    /// It waits for a lock.
    Blocked(Answered<C>),
}

impl<C: Call> Lane<C> {
    pub(super) fn new(gather: &Arc<Gather<C>>, place: &Place, own: Option<String>) -> Self {
        Self {
            gather: gather.clone(),
            place: place.clone(),
            under_way: Together::default(),
            own,
            kind: Kind::Plain,
            watches: false,
            ended: false,
        }
    }

    pub(super) fn of_kind(gather: &Arc<Gather<C>>, place: &Place, kind: Kind) -> Self {
        let mut lane = Self::new(gather, place, None);
        lane.kind = kind;
        lane
    }

    /// One call, asked in its caller's task, which has waited until `limit` at the latest for a connection. Those who came
    /// meanwhile go on in a task of their own.
    pub(super) async fn alone(mut self, call: C, limit: Option<Instant>) -> Alone<C> {
        let connected = {
            // Futures of this size are not to be moved.
            let mut connects = pin!(C::connect(&self.place.database, By::Caller));
            match limit {
                None => connects.await,
                Some(limit) => match tokio::time::timeout_at(limit, connects.as_mut()).await {
                    Ok(connected) => connected,
                    Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
                },
            }
        };
        let mut hand = match connected {
            Ok(hand) => hand,
            Err(error) => return Alone::Answered(Err(error)),
        };
        let mut given = None;
        let heard = {
            let (calls, gives) = (std::slice::from_ref(&call), |_, answer| {
                given = Some(answer)
            });
            let sends = pin!(C::send(&self.place, &mut hand, calls, BRIEFLY, gives));
            self.place.database.heard(call.bytes(), sends).await
        };
        let (sent, hand) = match heard {
            Ok(Ok(())) => (Ok(()), Some(hand)),
            Ok(Err(error)) => (Err(error), None),
            Err(error) => {
                C::give_up(hand);
                (Err(error), None)
            }
        };
        let came_to = match sent {
            Err(error) if C::ORDERED && error.is_lock_timeout() => {
                let (asker, waits) = self.gather.asker(&self.place);
                // Its key goes along.
                self.own = None;
                let mut blocked = Together::of(vec![Waiting { call, asker }]);
                blocked.block_all();
                self.part_with(&Together::default(), blocked.take_blocked());
                Alone::Blocked(waits)
            }
            sent => {
                self.settle();
                let gone = || Error::transient("the call has no answer; try again");
                let answer = given.map_or_else(|| sent.and_then(|()| Err(gone())), Ok);
                Alone::Answered(answer)
            }
        };
        if !self.ends() {
            let kept = hand.filter(|_| self.keeps(1));
            tokio::spawn(self.run(kept));
        }
        came_to
    }

    /// Sends what waits, until nothing does.
    pub(super) async fn run(mut self, mut hand: Option<C::Hand>) {
        let (mut lingered, mut sent) = (0, 1);
        let (gather, place) = (self.gather.clone(), self.place.clone());
        self.watch();
        loop {
            if !self.has_work() {
                if (self.kind == Kind::Extra || lingered >= LINGER) && self.ends() {
                    return;
                }
                lingered += 1;
                tokio::task::yield_now().await;
                continue;
            }
            let held = match hand.take() {
                Some(hand) => hand,
                None => {
                    let by = match self.kind {
                        Kind::Extra => By::Beside,
                        _ => By::Lane,
                    };
                    let connects = pin!(C::connect(&place.database, by));
                    match gather.relieving(&place, connects).await {
                        Ok(hand) => hand,
                        Err(error) => {
                            self.refuse(&error);
                            if self.ends() {
                                return;
                            }
                            continue;
                        }
                    }
                }
            };
            if !self.take() {
                hand = self.keeps(sent).then_some(held);
                continue;
            }
            lingered = 0;
            let usable = {
                let delivers = pin!(self.deliver(held, BRIEFLY));
                gather.relieving(&place, delivers).await
            };
            sent += 1;
            hand = usable.filter(|_| self.keeps(sent));
            let blocked = self.under_way.take_blocked();
            let done = std::mem::take(&mut self.under_way);
            self.part_with(&done, blocked);
            tokio::task::yield_now().await;
        }
    }

    /// From now on those who come rely on it.
    fn watch(&mut self) {
        if let Some(queue) = self.gather.queues().get_mut(&self.place.namespace) {
            queue.watching += 1;
            self.watches = true;
        }
    }

    fn keeps(&self, sent: usize) -> bool {
        self.place.database.has_many_writers() && !sent.is_multiple_of(STATEMENTS)
    }

    fn has_work(&self) -> bool {
        let queues = self.gather.queues();
        let queue = queues.get(&self.place.namespace);
        queue.is_some_and(Queue::has_work)
    }

    fn take(&mut self) -> bool {
        let mut queues = self.gather.queues();
        if let Some(queue) = queues.get_mut(&self.place.namespace) {
            self.under_way = queue.take();
        }
        !self.under_way.is_empty()
    }

    /// Has what is under way answered, but for what met a lock; and the hand if it is good for more.
    pub(super) async fn deliver(&mut self, mut hand: C::Hand, lock: Duration) -> Option<C::Hand> {
        let (database, bytes) = (self.place.database.clone(), self.under_way.bytes());
        let heard = {
            let sends = pin!(self.send(&mut hand, lock));
            database.heard(bytes, sends).await
        };
        match heard {
            Ok(usable) => usable.then_some(hand),
            Err(error) => {
                C::give_up(hand);
                self.under_way.refuse_all(&error);
                None
            }
        }
    }

    /// What the database refuses is sent again in halves, so that one bad call fails alone.
    async fn send(&mut self, hand: &mut C::Hand, mut lock: Duration) -> bool {
        let mut parts = Vec::new();
        parts.push(0..self.under_way.calls().len());
        let mut usable = true;
        while let Some(part) = parts.pop() {
            let (calls, answer) = self.under_way.asked(part.clone());
            match C::send(&self.place, hand, calls, lock, answer).await {
                Ok(()) => {}
                Err(error) => {
                    if let Some(middle) = self.under_way.middle(&part, &error) {
                        parts.extend([middle..part.end, part.start..middle]);
                        lock = lock.min(IN_PARTS);
                    } else if C::ORDERED && error.is_lock_timeout() && !self.is_over() {
                        self.under_way.block(part, &mut parts);
                    } else {
                        usable &= error.is_refusal();
                        self.under_way.refuse(part, &error);
                    }
                }
            }
        }
        usable
    }

    /// Whether what is under way has waited long enough for a lock.
    pub(super) fn is_over(&self) -> bool {
        let patience = self.place.database.patience(self.under_way.bytes());
        let since = self.under_way.blocked_since;
        since.is_some_and(|since| patience.is_some_and(|patience| since.elapsed() >= patience))
    }

    /// Tells those who wait that there is no connection. One that did not come in time may come for those who have time.
    fn refuse(&self, error: &Error) {
        if error.is_timeout_of_the_pool() {
            return;
        }
        let waiting = {
            let mut queues = self.gather.queues();
            let queue = queues.get_mut(&self.place.namespace);
            queue.map(|queue| std::mem::take(&mut queue.waiting))
        };
        for waiting in waiting.into_iter().flatten() {
            let _ = waiting.asker.tell.send(Told::Answer(Err(error.clone())));
        }
    }

    /// Other calls of its caller's key may go.
    fn settle(&mut self) {
        if let Some(own) = self.own.take()
            && let Some(queue) = self.gather.queues().get_mut(&self.place.namespace)
        {
            queue.settle([own.as_str()]);
        }
    }

    /// Ends the lane, unless there is somebody to take. Who waits for a key is taken by the lane that has the key.
    fn ends(&mut self) -> bool {
        let mut queues = self.gather.queues();
        let Some(queue) = queues.get_mut(&self.place.namespace) else {
            self.ended = true;
            return true;
        };
        queue
            .waiting
            .retain(|waiting| !waiting.asker.tell.is_closed());
        if queue.has_work() {
            return false;
        }
        queue.lanes -= 1;
        queue.watching -= usize::from(std::mem::take(&mut self.watches));
        self.ended = true;
        if queue.is_idle() && !self.place.namespace.is_empty() {
            queues.remove(&self.place.namespace);
        }
        true
    }
}

impl<C: Call> Drop for Lane<C> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.settle();
        let under_way = std::mem::take(&mut self.under_way);
        if let Some(queue) = self.gather.queues().get_mut(&self.place.namespace) {
            queue.watching -= usize::from(std::mem::take(&mut self.watches));
            if self.kind == Kind::Aside {
                // Its place is a lane's now: whoever waits is to be given that.
                queue.give_up_aside();
                self.kind = Kind::Plain;
            }
            queue.put_back(under_way);
        }
        while !self.ends() {
            let next = {
                let mut queues = self.gather.queues();
                let queue = queues.get_mut(&self.place.namespace);
                queue.and_then(Queue::pop)
            };
            let Some(Waiting { call, asker }) = next else {
                continue;
            };
            let own = C::ORDERED.then(|| call.key().to_owned());
            let lane = Self::new(&self.gather, &self.place, own);
            match asker.tell.send(Told::Lead(call, lane)) {
                Ok(()) => {
                    self.ended = true;
                    return;
                }
                Err(Told::Lead(_, mut lane)) => {
                    lane.settle();
                    lane.ended = true;
                }
                Err(Told::Answer(_)) => {}
            }
        }
    }
}
