//! That nobody waits too long for the statements under way, nor longer than for a connection of the pool.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lane::{Kind, Lane};
use super::{Answered, Call, Gather, Place, Queue, Told};
use crate::error::Error;

/// How long a call waits for the statements under way before it has one more sent, and how many that may come to.
const PATIENCE: Duration = Duration::from_millis(5);
const MOST_LANES: usize = 6;

impl<C: Call> Gather<C> {
    /// What one who waits is told.
    pub(super) async fn wait(
        self: &Arc<Self>,
        place: &Place,
        mut waits: Answered<C>,
    ) -> Option<Told<C>> {
        if waits.is_watched {
            return waits.told.await.ok();
        }
        if let Ok(told) = tokio::time::timeout(PATIENCE, &mut waits.told).await {
            return told.ok();
        }
        self.relieve(place);
        if let Ok(told) = tokio::time::timeout_at(waits.limit, &mut waits.told).await {
            return told.ok();
        }
        if self.leave(place, waits.ticket) {
            return Some(too_late());
        }
        waits.told.await.ok()
    }

    /// What `work` of a lane comes to. Those who came meanwhile, and rely on that lane, are not forgotten.
    pub(super) async fn relieving<T>(
        self: &Arc<Self>,
        place: &Place,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> T {
        loop {
            match tokio::time::timeout(PATIENCE, work.as_mut()).await {
                Ok(done) => return done,
                Err(_) => self.relieve(place),
            }
        }
    }

    /// One more lane for those who wait, and an end for those who have waited too long.
    fn relieve(self: &Arc<Self>, place: &Place) {
        let (late, another) = {
            let mut queues = self.queues();
            let Some(queue) = queues.get_mut(&place.namespace) else {
                return;
            };
            let late = queue.take_late(Instant::now());
            let another = queue.lanes < MOST_LANES && queue.has_work();
            queue.lanes += usize::from(another);
            (late, another)
        };
        for waiting in late {
            let _ = waiting.asker.tell.send(too_late());
        }
        if another {
            tokio::spawn(Lane::of_kind(self, place, Kind::Extra).run(None));
        }
    }

    /// Whether the call was waiting still, which it does no more.
    pub(super) fn leave(&self, place: &Place, ticket: u64) -> bool {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(&place.namespace) else {
            return false;
        };
        let before = queue.waiting.len();
        queue
            .waiting
            .retain(|waiting| waiting.asker.ticket != ticket);
        queue.waiting.len() < before
    }
}

fn too_late<C: Call>() -> Told<C> {
    Told::Answer(Err(Error::from(sqlx::Error::PoolTimedOut)))
}

impl<C: Call> Queue<C> {
    fn take_late(&mut self, now: Instant) -> Vec<super::Waiting<C>> {
        let is_late = |waiting: &super::Waiting<C>| waiting.asker.limit <= now;
        if !self.waiting.iter().any(is_late) {
            return Vec::new();
        }
        let (late, left) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(is_late);
        self.waiting = left.into();
        late
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::database::{Database, DatabaseOptions, Turn};
    use crate::error::Result;
    use crate::gather::By;

    /// A server that answers as many statements as it is told to.
    #[derive(Default)]
    struct Server {
        sent: watch::Sender<usize>,
        answers: watch::Sender<usize>,
    }

    /// A read. Where there are `TURNS`, statements are sent one after the other.
    struct Read<const TURNS: bool>(Arc<Server>);

    impl<const TURNS: bool> Call for Read<TURNS> {
        type Answer = ();
        type Hand = Option<Turn>;
        const ORDERED: bool = false;
        const LANES: usize = 4;

        fn key(&self) -> &str {
            ""
        }

        fn class(&self) -> u8 {
            0
        }

        fn bytes(&self) -> usize {
            0
        }

        async fn connect(database: &Database, _: By) -> Result<Option<Turn>> {
            if TURNS {
                database.turn().await
            } else {
                Ok(None)
            }
        }

        async fn send(
            _: &Place,
            _: &mut Option<Turn>,
            calls: &[Self],
            _: Duration,
            mut answer: impl FnMut(usize, ()) + Send,
        ) -> Result<()> {
            let server = &calls[0].0;
            let mut own = 0;
            server.sent.send_modify(|sent| {
                *sent += 1;
                own = *sent;
            });
            let mut answers = server.answers.subscribe();
            answers.wait_for(|answers| *answers >= own).await.unwrap();
            (0..calls.len()).for_each(|call| answer(call, ()));
            Ok(())
        }

        fn give_up(_: Option<Turn>) {}
    }

    struct Stage<const TURNS: bool> {
        server: Arc<Server>,
        gather: Arc<Gather<Read<TURNS>>>,
        place: Place,
        _folder: tempfile::TempDir,
    }

    impl<const TURNS: bool> Stage<TURNS> {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}", folder.path().join("test.db").display());
            let soon = Duration::from_millis(100);
            let options = DatabaseOptions::new(&url).acquire_timeout(soon);
            Self {
                server: Arc::default(),
                gather: Arc::default(),
                place: Place {
                    database: options.busy_timeout(soon).connect().await.unwrap(),
                    namespace: "".into(),
                },
                _folder: folder,
            }
        }

        fn ask(&self) -> tokio::task::JoinHandle<Result<()>> {
            let (gather, place) = (self.gather.clone(), self.place.clone());
            let call = Read(self.server.clone());
            tokio::spawn(async move { gather.ask(&place, call).await })
        }

        /// Waits until the queue is so.
        async fn queue(&self, is_so: impl Fn(&Queue<Read<TURNS>>) -> bool) {
            let namespace = &self.place.namespace;
            while !self.gather.queues().get(namespace).is_some_and(&is_so) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn in_time<T>(work: impl Future<Output = T>) -> T {
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, work).await.unwrap()
    }

    #[tokio::test]
    async fn who_relies_on_a_lane_that_is_held_up_is_given_another() {
        let stage = Stage::<false>::new().await;
        in_time(async {
            let first = stage.ask();
            stage.queue(|queue| queue.lanes == 1).await;
            let second = stage.ask();
            stage.queue(|queue| queue.waiting.len() == 1).await;
            stage.server.answers.send_replace(1);
            first.await.unwrap().unwrap();
            stage
                .queue(|queue| queue.watching == 1 && queue.waiting.is_empty())
                .await;
            let third = stage.ask();
            let mut sent = stage.server.sent.subscribe();
            sent.wait_for(|sent| *sent == 3).await.unwrap();
            stage.server.answers.send_replace(3);
            second.await.unwrap().unwrap();
            third.await.unwrap().unwrap();
        })
        .await;
    }

    // PostgreSQL's alone: on SQLite there is one statement at a time.
    #[tokio::test]
    async fn more_statements_are_sent_where_many_wait_and_one_where_few_do() {
        let url = std::env::var("LARDER_TEST_POSTGRES_URL")
            .expect("LARDER_TEST_POSTGRES_URL names no PostgreSQL");
        let schema = format!("test {}", uuid::Uuid::now_v7().simple());
        let options = DatabaseOptions::new(&url).schema(&schema);
        let mut stage = Stage::<false>::new().await;
        stage.place.database = options.connect().await.unwrap();
        let (mut entered, mut lanes) = (Vec::new(), Vec::new());
        for _ in 0..=512 {
            let call = Read(stage.server.clone());
            entered.push(stage.gather.enter(&stage.place, call));
            lanes.push(stage.gather.queues()[&stage.place.namespace].lanes);
        }
        // One has the first lane, and the others wait.
        let waiting = [0, 7, 8, 63, 64, 511, 512];
        assert_eq!(waiting.map(|waiting| lanes[waiting]), [1, 1, 2, 2, 3, 3, 4]);
        drop(entered);
        let mut transaction = stage.place.database.begin().await.unwrap();
        if let crate::database::Tx::Postgres(connection) = (&mut transaction).into() {
            let drop_schema = format!("DROP SCHEMA \"{schema}\" CASCADE");
            let drop_schema = sqlx::query(sqlx::AssertSqlSafe(drop_schema));
            drop_schema.execute(connection).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }

    #[tokio::test]
    async fn who_relies_on_a_lane_without_a_connection_is_told_in_time() {
        let stage = Stage::<true>::new().await;
        in_time(async {
            let first = stage.ask();
            stage.queue(|queue| queue.lanes == 1).await;
            let (second, turn) = (stage.ask(), stage.place.database.turn());
            stage.queue(|queue| queue.waiting.len() == 1).await;
            let (turn, ()) = tokio::join!(turn, async {
                tokio::task::yield_now().await;
                stage.server.answers.send_replace(usize::MAX);
            });
            first.await.unwrap().unwrap();
            stage.queue(|queue| queue.watching == 1).await;
            let third = stage.ask();
            let late = [second.await.unwrap(), third.await.unwrap()];
            assert!(
                late.iter()
                    .all(|late| { late.as_ref().is_err_and(Error::is_timeout_of_the_pool) })
            );
            drop(turn);
            stage.ask().await.unwrap().unwrap();
        })
        .await;
    }
}
