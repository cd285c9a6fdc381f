//! Which outcomes are written together, and when.

use std::future::Future;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::outcomes::{Most, Receiver, Weighed};

/// Attempts in one statement.
const MOST: usize = 1_000;
/// Bytes of results and errors in one, unless it is of one attempt.
const BYTES: usize = 1024 * 1024;
/// So many that wait have a statement beside the one under way: while that one is made durable, a server has nothing else
/// to do for this worker.
const MANY: usize = MOST / 2;

/// Hands what comes to `write` until nothing more does and all is written: what has waited when nothing is being written,
/// and [`MANY`] beside that, no more than `most` batches at once.
pub(super) async fn write_all<T: Weighed, W: Future<Output = ()>>(
    mut incoming: Receiver<T>,
    most: usize,
    write: impl Fn(Vec<T>) -> W,
) {
    let (mut writes, mut ended) = (FuturesUnordered::new(), false);
    while !ended || !writes.is_empty() {
        let takes = !ended && writes.len() < most;
        let at_once = Most {
            count: MOST,
            bytes: BYTES,
        };
        let wanted = if writes.is_empty() { 1 } else { MANY };
        tokio::select! {
            biased;
            Some(()) = writes.next(), if !writes.is_empty() => {}
            batch = incoming.take(wanted, at_once), if takes => match batch {
                // Large, and moved three times otherwise.
                Some(batch) => writes.push(Box::pin(write(batch))),
                None => ended = true,
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;

    use futures::FutureExt;
    use tokio::sync::Semaphore;

    use super::super::outcomes::channel;
    use super::*;

    /// An outcome of so many bytes.
    struct Outcome(usize, usize);

    impl Weighed for Outcome {
        fn bytes(&self) -> usize {
            self.1
        }
    }

    /// The batches that are begun, each written when there is a permit for it.
    struct Writes {
        begun: RefCell<Vec<Vec<usize>>>,
        permits: Semaphore,
    }

    impl Writes {
        fn new() -> Self {
            Self {
                begun: RefCell::default(),
                permits: Semaphore::new(0),
            }
        }

        async fn write(&self, batch: Vec<Outcome>) {
            let numbers = batch.iter().map(|outcome| outcome.0).collect();
            self.begun.borrow_mut().push(numbers);
            self.permits.acquire().await.unwrap().forget();
        }

        fn sizes(&self) -> Vec<usize> {
            self.begun.borrow().iter().map(Vec::len).collect()
        }
    }

    #[tokio::test]
    async fn few_wait_for_the_batch_under_way_and_many_go_beside_it() {
        let (writes, (sender, incoming)) = (Writes::new(), channel());
        let mut all = Box::pin(write_all(incoming, 2, |batch| writes.write(batch)));
        let mut send = |range: std::ops::Range<usize>| {
            range.for_each(|n| sender.send(Outcome(n, 10)));
            assert!(all.as_mut().now_or_never().is_none());
            writes.sizes()
        };
        assert_eq!(send(0..3), [3], "at once");
        assert_eq!(send(3..MANY + 2), [3], "they are few");
        assert_eq!(send(MANY + 2..MANY + 3), [3, MANY]);
        assert_eq!(send(MANY + 3..3 * MOST), [3, MANY], "there are two");
        writes.permits.add_permits(1);
        assert_eq!(send(0..0), [3, MANY, MOST], "one has ended");
        drop(sender);
        writes.permits.add_permits(100);
        all.await;
        let begun = writes.begun.borrow().concat();
        assert_eq!(begun, (0..3 * MOST).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn where_there_is_one_writer_there_is_one_batch() {
        let (writes, (sender, incoming)) = (Writes::new(), channel());
        let mut all = Box::pin(write_all(incoming, 1, |batch| writes.write(batch)));
        sender.send(Outcome(0, 10));
        assert!(all.as_mut().now_or_never().is_none());
        (1..=MOST + 1).for_each(|n| sender.send(Outcome(n, 10)));
        assert!(all.as_mut().now_or_never().is_none());
        assert_eq!(writes.sizes(), [1]);
        drop(sender);
        writes.permits.add_permits(100);
        all.await;
        assert_eq!(writes.sizes(), [1, MOST, 1]);
    }

    #[tokio::test]
    async fn of_those_with_many_bytes_few_go_together() {
        let (writes, (sender, incoming)) = (Writes::new(), channel());
        let mut all = Box::pin(write_all(incoming, 1, |batch| writes.write(batch)));
        for n in 0..4 {
            sender.send(Outcome(n, BYTES / 2));
        }
        sender.send(Outcome(4, 3 * BYTES));
        drop(sender);
        writes.permits.add_permits(100);
        assert!(all.as_mut().now_or_never().is_some());
        assert_eq!(writes.sizes(), [2, 2, 1]);
    }
}
