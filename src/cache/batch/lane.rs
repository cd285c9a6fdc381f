//! The right to have a statement under way, and what whoever has it does.

use std::sync::Arc;

use super::{Call, Gather, Place, Queue, Told, Waiting};
use crate::error::{Error, Result};

/// How often a lane without work lets others go first before it ends: those whom it has answered may come back.
const LINGER: usize = 4;
/// So many statements of a lane go by one connection, before it goes back to the pool, where others may wait for it. On
/// SQLite, where everybody waits for the one writer, it goes back after each.
const STATEMENTS: usize = 64;

/// The right to have a statement under way. Dropped, somebody who waits is given it.
pub(super) struct Lane<C: Call> {
    gather: Arc<Gather<C>>,
    place: Place,
    /// What is under way, to be sent again by somebody else if this one is dropped: its runtime has ended.
    under_way: Vec<Waiting<C>>,
    /// The key that is under way for the lane's own caller.
    own: Option<String>,
    /// It was sent for beside others, and ends when nobody waits.
    extra: bool,
    ended: bool,
}

impl<C: Call> Lane<C> {
    pub(super) fn new(gather: &Arc<Gather<C>>, place: &Place, own: Option<String>) -> Self {
        Self {
            gather: gather.clone(),
            place: place.clone(),
            under_way: Vec::new(),
            own,
            extra: false,
            ended: false,
        }
    }

    pub(super) fn extra(gather: &Arc<Gather<C>>, place: &Place) -> Self {
        let mut lane = Self::new(gather, place, None);
        lane.extra = true;
        lane
    }

    /// One call, asked in its caller's task. Those who came meanwhile go on in one of their own.
    pub(super) async fn alone(mut self, call: C) -> Result<C::Answer> {
        let mut hand = C::connect(&self.place.database).await?;
        let calls = std::slice::from_ref(&call);
        let answered = C::send(&self.place, &mut hand, calls).await;
        self.settle();
        if self.ends() {
            drop(hand);
        } else {
            let kept = answered.is_ok() && self.keeps(1);
            tokio::spawn(self.run(kept.then_some(hand)));
        }
        let gone = || Error::transient("the call has no answer; try again");
        answered.and_then(|mut answers| answers.pop().ok_or_else(gone))
    }

    /// Sends what waits, until nothing does.
    pub(super) async fn run(mut self, mut hand: Option<C::Hand>) {
        let (mut lingered, mut sent) = (0, 1);
        loop {
            let mut held = match hand.take() {
                Some(hand) => hand,
                None => match C::connect(&self.place.database).await {
                    Ok(hand) => hand,
                    Err(error) => {
                        self.refuse(&error);
                        if self.ends() {
                            return;
                        }
                        continue;
                    }
                },
            };
            if !self.take() {
                if (self.extra || lingered >= LINGER) && self.ends() {
                    return;
                }
                lingered += 1;
                hand = Some(held);
                tokio::task::yield_now().await;
                continue;
            }
            lingered = 0;
            let calls: Vec<C> = self
                .under_way
                .iter()
                .map(|waiting| waiting.call.clone())
                .collect();
            let (answers, usable) = answer(&self.place, &mut held, &calls).await;
            sent += 1;
            hand = (usable && self.keeps(sent)).then_some(held);
            let waiting = std::mem::take(&mut self.under_way);
            self.settle_keys(waiting.iter().map(|waiting| waiting.call.key()));
            for (waiting, answer) in waiting.into_iter().zip(answers) {
                // Whoever asked may be gone.
                let _ = waiting.tell.send(Told::Answer(answer));
            }
            tokio::task::yield_now().await;
        }
    }

    fn keeps(&self, sent: usize) -> bool {
        self.place.database.has_many_writers() && !sent.is_multiple_of(STATEMENTS)
    }

    fn take(&mut self) -> bool {
        let mut queues = self.gather.queues();
        if let Some(queue) = queues.get_mut(&self.place.namespace) {
            self.under_way = queue.take();
        }
        !self.under_way.is_empty()
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
            let _ = waiting.tell.send(Told::Answer(Err(error.clone())));
        }
    }

    /// Other calls of these keys may go.
    fn settle_keys<'k>(&self, keys: impl Iterator<Item = &'k str>) {
        if C::ORDERED
            && let Some(queue) = self.gather.queues().get_mut(&self.place.namespace)
        {
            for key in keys {
                queue.busy.remove(key);
            }
        }
    }

    fn settle(&mut self) {
        if let Some(own) = self.own.take() {
            self.settle_keys(std::iter::once(own.as_str()));
        }
    }

    /// Ends the lane, unless there is somebody to take. Who waits for a key is taken by the lane that has the key.
    fn ends(&mut self) -> bool {
        let mut queues = self.gather.queues();
        let Some(queue) = queues.get_mut(&self.place.namespace) else {
            self.ended = true;
            return true;
        };
        queue.waiting.retain(|waiting| !waiting.tell.is_closed());
        if queue.waiting.iter().any(|waiting| queue.may_go(waiting)) {
            return false;
        }
        queue.lanes -= 1;
        self.ended = true;
        if queue.lanes == 0 && queue.waiting.is_empty() && !self.place.namespace.is_empty() {
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
        self.settle_keys(under_way.iter().map(|waiting| waiting.call.key()));
        if let Some(queue) = self.gather.queues().get_mut(&self.place.namespace) {
            for waiting in under_way.into_iter().rev() {
                queue.waiting.push_front(waiting);
            }
        }
        while !self.ends() {
            let next = {
                let mut queues = self.gather.queues();
                let queue = queues.get_mut(&self.place.namespace);
                queue.and_then(Queue::pop)
            };
            let Some(Waiting { call, tell, .. }) = next else {
                continue;
            };
            let own = C::ORDERED.then(|| call.key().to_owned());
            let lane = Self::new(&self.gather, &self.place, own);
            match tell.send(Told::Lead(call, lane)) {
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

/// The answers to `calls`, and whether the hand is good for more. What the database refuses is sent again in halves,
/// so that one bad call fails alone.
async fn answer<C: Call>(
    place: &Place,
    hand: &mut C::Hand,
    calls: &[C],
) -> (Vec<Result<C::Answer>>, bool) {
    let (mut answers, mut usable) = (Vec::with_capacity(calls.len()), true);
    let mut parts = vec![calls];
    while let Some(part) = parts.pop() {
        match C::send(place, hand, part).await {
            Ok(all) => answers.extend(all.into_iter().map(Ok)),
            Err(error) if part.len() > 1 && error.is_refusal() => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
            Err(error) => {
                usable &= error.is_refusal();
                answers.extend(part.iter().map(|_| Err(error.clone())));
            }
        }
    }
    (answers, usable)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::LazyLock;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::database::Database;

    static GATE: Semaphore = Semaphore::const_new(0);
    static SENT: LazyLock<tokio::sync::watch::Sender<usize>> = LazyLock::new(Default::default);

    /// A call whose statement takes until the gate lets it through.
    #[derive(Clone)]
    struct Gated(String);

    impl Call for Gated {
        type Answer = String;
        type Hand = ();
        const ORDERED: bool = true;

        fn key(&self) -> &str {
            &self.0
        }

        fn class(&self) -> u8 {
            0
        }

        fn bytes(&self) -> usize {
            0
        }

        async fn connect(_: &Database) -> Result<()> {
            Ok(())
        }

        async fn send(_: &Place, (): &mut (), calls: &[Self]) -> Result<Vec<String>> {
            SENT.send_modify(|sent| *sent += 1);
            GATE.acquire().await.unwrap().forget();
            Ok(calls.iter().map(|call| call.0.clone()).collect())
        }
    }

    #[tokio::test]
    async fn what_is_under_way_when_its_runtime_ends_is_sent_again_by_another() {
        let gather = Arc::new(Gather::<Gated>::default());
        let place = Place {
            database: Database::connect("sqlite::memory:").await.unwrap(),
            namespace: "".into(),
        };
        let sent = async |count: usize| {
            let mut seen = SENT.subscribe();
            seen.wait_for(|sent| *sent == count).await.unwrap();
        };
        let doomed = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let first = doomed.spawn({
            let (gather, place) = (gather.clone(), place.clone());
            async move { gather.ask(&place, Gated("first".to_owned())).await }
        });
        sent(1).await;
        let ask = |key: &str| Box::pin(gather.ask(&place, Gated(key.to_owned())));
        let (mut second, mut third) = (ask("second"), ask("third"));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut third).is_pending());
        GATE.add_permits(1);
        assert_eq!(first.await.unwrap().unwrap(), "first");
        // The other runtime has these two under way now, and ends.
        sent(2).await;
        tokio::task::spawn_blocking(move || drop(doomed))
            .await
            .unwrap();
        GATE.add_permits(8);
        assert_eq!(second.await.unwrap(), "second");
        assert_eq!(third.await.unwrap(), "third");
        assert_eq!(
            gather
                .ask(&place, Gated("second".to_owned()))
                .await
                .unwrap(),
            "second"
        );
    }
}
