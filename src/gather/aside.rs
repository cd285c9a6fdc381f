//! What met a lock of somebody else's: it waits for it in lanes of its own, and holds up none but calls of its keys.

use std::time::Duration;

use super::lane::{Kind, Lane};
use super::{By, Call, Queue, Together};

/// How long calls wait for rows that somebody else holds before they are parted, or go aside.
pub(super) const BRIEFLY: Duration = Duration::from_millis(20);
/// How long each part does.
pub(super) const IN_PARTS: Duration = Duration::from_millis(4);
/// How long what waits aside holds a connection before others that wait there have their turn. In all it waits for as long
/// as a server has to answer.
const A_TURN: Duration = Duration::from_millis(250);
/// The connections that calls wait on for locks.
const MOST_ASIDE: usize = 2;

impl<C: Call> Lane<C> {
    /// Calls of the keys of `done` may go. What met a lock is given lanes of its own, or waits for one.
    pub(super) fn part_with(&self, done: &Together<C>, blocked: Vec<Together<C>>) {
        if !C::ORDERED {
            return;
        }
        let mut lanes = Vec::new();
        if let Some(queue) = self.gather.queues().get_mut(&self.place.namespace) {
            queue.settle(done.keys());
            queue.wait_aside(blocked);
            while queue.aside < MOST_ASIDE
                && let Some(next) = queue.next_aside()
            {
                queue.aside += 1;
                lanes.push(next);
            }
        }
        for under_way in lanes {
            let mut lane = Self::of_kind(&self.gather, &self.place, Kind::Aside);
            lane.under_way = under_way;
            tokio::spawn(lane.wait());
        }
    }

    /// Sends what met a lock until the lock is gone, or those who asked are, or it took too long.
    async fn wait(mut self) {
        loop {
            match C::connect(&self.place.database, By::Lane).await {
                Ok(hand) => drop(self.deliver(hand, A_TURN).await),
                Err(error) if error.is_timeout_of_the_pool() && !self.is_over() => {
                    self.under_way.block_all();
                }
                Err(error) => self.under_way.refuse_all(&error),
            }
            if !self.turns() {
                return;
            }
        }
    }

    /// Takes up the next of what waits for locks, or ends. What met its lock again comes after it.
    fn turns(&mut self) -> bool {
        let blocked = self.under_way.take_blocked();
        let done = std::mem::take(&mut self.under_way);
        let wakes = {
            let mut queues = self.gather.queues();
            let Some(queue) = queues.get_mut(&self.place.namespace) else {
                self.ended = true;
                return false;
            };
            queue.settle(done.keys());
            queue.wait_aside(blocked);
            match queue.next_aside() {
                Some(next) => self.under_way = next,
                None => {
                    queue.aside -= 1;
                    self.ended = true;
                }
            }
            // Who waited for the keys has nobody else who would take them along.
            let wakes = queue.lanes == 0 && queue.has_work();
            queue.lanes += usize::from(wakes);
            if queue.is_idle() && !self.place.namespace.is_empty() {
                queues.remove(&self.place.namespace);
            }
            wakes
        };
        if wakes {
            tokio::spawn(Self::new(&self.gather, &self.place, None).run(None));
        }
        !self.ended
    }
}

impl<C: Call> Queue<C> {
    fn wait_aside(&mut self, blocked: Vec<Together<C>>) {
        for calls in blocked {
            self.busy.extend(calls.keys().map(str::to_owned));
            self.blocked.push_back(calls);
        }
    }

    /// The next of what waits for locks that somebody still asks for.
    fn next_aside(&mut self) -> Option<Together<C>> {
        while let Some(next) = self.blocked.pop_front() {
            if next.is_asked_for() {
                return Some(next);
            }
            self.settle(next.keys());
        }
        None
    }

    /// A lane aside is a plain one from now on, and takes what waits for locks along.
    pub(super) fn give_up_aside(&mut self) {
        self.aside -= 1;
        self.lanes += 1;
        for calls in std::mem::take(&mut self.blocked) {
            self.put_back(calls);
        }
    }
}
