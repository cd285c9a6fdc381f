//! Which outcomes are written together, and when.

use std::future::Future;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::outcomes::Receiver;

/// Attempts in one statement.
const MOST: usize = 1_000;
/// So many that wait have a statement beside the one under way: while that one is made durable, a server has nothing else
/// to do for this worker.
const MANY: usize = MOST / 2;

/// Hands what comes to `write` until nothing more does and all is written: what has waited when nothing is being written,
/// and [`MANY`] beside that, no more than `most` batches at once.
pub(super) async fn write_all<T, W: Future<Output = ()>>(
    mut incoming: Receiver<T>,
    most: usize,
    write: impl Fn(Vec<T>) -> W,
) {
    let (mut writes, mut ended) = (FuturesUnordered::new(), false);
    while !ended || !writes.is_empty() {
        let takes = !ended && writes.len() < most;
        let wanted = if writes.is_empty() { 1 } else { MANY };
        tokio::select! {
            biased;
            Some(()) = writes.next(), if !writes.is_empty() => {}
            batch = incoming.take(wanted, MOST), if takes => match batch {
                Some(batch) => writes.push(write(batch)),
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

        async fn write(&self, batch: Vec<usize>) {
            self.begun.borrow_mut().push(batch);
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
            range.for_each(|n| sender.send(n));
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
        sender.send(0);
        assert!(all.as_mut().now_or_never().is_none());
        (1..=MOST + 1).for_each(|n| sender.send(n));
        assert!(all.as_mut().now_or_never().is_none());
        assert_eq!(writes.sizes(), [1]);
        drop(sender);
        writes.permits.add_permits(100);
        all.await;
        assert_eq!(writes.sizes(), [1, MOST, 1]);
    }
}
