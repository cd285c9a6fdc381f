//! What handlers send to the finisher. It is woken for as many as it waits for, and not for each: its thread is another
//! one than theirs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many bytes it sends to the database.
pub(crate) trait Weighed {
    fn bytes(&self) -> usize;
}

/// One end for those who send, who may be many, and one for who receives.
pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            waiting: VecDeque::new(),
            wanted: 1,
            closed: false,
        }),
        wake: Notify::new(),
    });
    let open = Arc::new(Open(shared.clone()));
    (Sender(open), Receiver(shared))
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    /// The receiver is woken when so many wait.
    wanted: usize,
    closed: bool,
}

impl<T> Shared<T> {
    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends. When all clones are gone, the receiver is told of the end.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Open<T>>);

#[derive(Debug)]
struct Open<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Drop for Open<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, one: T) {
        let shared = &self.0.0;
        let mut state = shared.lock();
        state.waiting.push_back(one);
        let enough = state.waiting.len() == state.wanted;
        drop(state);
        if enough {
            shared.wake.notify_one();
        }
    }
}

/// Receives.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// How many are taken at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) count: usize,
    /// No further one is taken beyond these.
    pub(super) bytes: usize,
}

impl Most {
    fn of<'t, T: Weighed + 't>(self, waiting: impl IntoIterator<Item = &'t T>) -> usize {
        let mut bytes = 0;
        let fits = waiting.into_iter().take(self.count).take_while(|one| {
            let is_first = bytes == 0;
            bytes += one.bytes().max(1);
            is_first || bytes <= self.bytes
        });
        fits.count()
    }
}

impl<T: Weighed> Receiver<T> {
    /// The first ones, `most` at once, as soon as `wanted` wait, or fewer at the end; then none. Whoever gives up the wait
    /// loses nothing.
    pub(super) async fn take(&mut self, wanted: usize, most: Most) -> Option<Vec<T>> {
        loop {
            {
                let mut state = self.0.lock();
                if state.closed && state.waiting.is_empty() {
                    return None;
                }
                if state.closed || state.waiting.len() >= wanted {
                    let count = most.of(&state.waiting);
                    // What stays is left where it is, for its senders wait meanwhile.
                    return Some(state.waiting.drain(..count).collect());
                }
                state.wanted = wanted;
            }
            self.0.wake.notified().await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use futures::FutureExt;

    use super::*;

    impl Weighed for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    fn most(count: usize) -> Most {
        let bytes = usize::MAX;
        Most { count, bytes }
    }

    #[test]
    fn as_many_go_together_as_have_room_and_one_always() {
        let most = Most {
            count: 3,
            bytes: 10,
        };
        assert_eq!(most.of(&[1, 2, 3, 4]), 3);
        assert_eq!(most.of(&[4, 6, 1]), 2);
        assert_eq!(most.of(&[4, 7, 1]), 1);
        assert_eq!(most.of(&[11, 1]), 1);
        assert_eq!(most.of(&[0, 11]), 1);
        assert_eq!(most.of::<usize>(&[]), 0);
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn the_receiver_is_woken_for_as_many_as_it_waits_for_and_at_the_end() {
        let wakes = Arc::new(Wakes::default());
        let woken = || wakes.0.load(Ordering::SeqCst);
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        let (sender, mut receiver) = channel();
        let other = sender.clone();
        {
            let mut taken = pin!(receiver.take(3, most(4)));
            assert!(taken.as_mut().poll(&mut cx).is_pending());
            sender.send(1);
            other.send(2);
            assert_eq!(woken(), 0);
            (3..=5).for_each(|n| other.send(n));
            assert_eq!(woken(), 1);
            assert_eq!(taken.poll(&mut cx), Poll::Ready(Some(vec![1, 2, 3, 4])));
        }
        {
            let mut taken = pin!(receiver.take(2, most(4)));
            assert!(taken.as_mut().poll(&mut cx).is_pending());
            drop(other);
            assert_eq!(woken(), 1);
            drop(sender);
            assert_eq!(woken(), 2);
            assert_eq!(taken.poll(&mut cx), Poll::Ready(Some(vec![5])));
        }
        assert!(receiver.take(1, most(4)).await.is_none());
    }

    #[tokio::test]
    async fn what_waited_before_is_counted_and_what_is_given_up_is_not_lost() {
        let (sender, mut receiver) = channel();
        (0..3).for_each(|n| sender.send(n));
        assert!(receiver.take(4, most(10)).now_or_never().is_none());
        let taken = receiver.take(2, most(10)).now_or_never();
        assert_eq!(taken.unwrap().unwrap(), [0, 1, 2]);
        assert!(receiver.take(2, most(10)).now_or_never().is_none());
        sender.send(3);
        sender.send(4);
        assert_eq!(receiver.take(2, most(10)).await.unwrap(), [3, 4]);
        // The wake that was meant for the wait that was given up is no harm.
        assert!(receiver.take(1, most(10)).now_or_never().is_none());
    }
}
