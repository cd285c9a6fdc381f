//! Calls that go out together, and what stands in the way of one of them.

use std::time::Duration;

use futures::future::join_all;
use larder::{Cache, Expiration};
use tokio::task::JoinHandle;

use crate::support::{TestDatabase, both_engines, run};

const CONNECTIONS: u32 = 3;

/// Calls that are sent together: they come while all connections are in use.
async fn together<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    cache: &Cache,
    calls: impl IntoIterator<Item = F>,
) -> Vec<JoinHandle<T>> {
    let mut held = Vec::new();
    let connections = if cache.database().engine() == larder::database::Engine::Sqlite {
        1
    } else {
        CONNECTIONS
    };
    for _ in 0..connections {
        held.push(cache.database().begin().await.unwrap());
    }
    let mut calls: Vec<_> = calls.into_iter().map(Box::pin).collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending());
    }
    for transaction in held {
        transaction.rollback().await.unwrap();
    }
    calls.into_iter().map(tokio::spawn).collect()
}

async fn opened(db: &TestDatabase) -> Cache {
    let options = db.options().max_connections(CONNECTIONS);
    Cache::new(options.connect().await.unwrap())
}

fn set(cache: &Cache, key: &str) -> impl Future<Output = larder::Result<()>> + Send + use<> {
    let (cache, key) = (cache.clone(), key.to_owned());
    async move { cache.set(&key, "ours").await }
}

async fn in_time<T>(call: impl Future<Output = T>) -> T {
    let call = tokio::time::timeout(Duration::from_secs(15), call);
    call.await.expect("somebody is held up")
}

both_engines! {
    async fn of_items_that_are_set_together_one_may_be_built_from_another(db) {
        let cache = opened(db).await;
        for (built, from) in [("a", "z"), ("y", "b")] {
            let items = cache.tagged(["tag"]).depends_on([from]);
            items.set(built, "theirs", Expiration::Never).await.unwrap();
            let items = cache.tagged(["tag"]).depends_on([built]);
            items.set(&format!("of {built}"), "theirs", Expiration::Never).await.unwrap();
        }
        // The first goes by itself.
        let calls = ["first", "z", "a", "b", "y"];
        for outcome in join_all(together(&cache, calls.map(|key| set(&cache, key))).await).await {
            outcome.unwrap().unwrap();
        }
        let generations = db.number("SELECT COUNT(DISTINCT generation) FROM {}cached_item").await;
        assert_eq!(generations, 2, "they were not set together");
        for key in calls {
            assert_eq!(cache.get::<String>(key).await.unwrap().as_deref(), Some("ours"), "{key}");
        }
        // What was built from what was overwritten is gone.
        for key in ["of a", "of y"] {
            assert!(!cache.exists(key).await.unwrap(), "{key}");
        }
    }
}

/// PostgreSQL's own: SQLite locks no rows.
mod postgres_rows {
    use super::*;

    fn names(what: &str, count: usize) -> Vec<String> {
        (0..count).map(|at| format!("{what} {at:02}")).collect()
    }

    #[test]
    fn a_row_that_somebody_holds_holds_up_nobody_but_those_who_want_it() {
        run(TestDatabase::postgres, async |db| {
            let (cache, other) = (opened(db).await, db.cache().await);
            // More of them than statements are ever sent at a time; half of them are there already.
            let (locked, free) = (names("key", 12), names("other key", 20));
            for key in &locked[..6] {
                other.set(key, "old").await.unwrap();
            }
            let mut held = other.database().begin().await.unwrap();
            for key in &locked {
                other
                    .set_in(&mut held, key, "theirs", Expiration::Never)
                    .await
                    .unwrap();
            }
            let calls = locked.iter().chain(&free).map(|key| set(&cache, key));
            let mut calls = together(&cache, calls).await;
            let others = calls.split_off(locked.len());
            for outcome in in_time(join_all(others)).await {
                outcome.unwrap().unwrap();
            }
            // Who comes later goes on too.
            for key in &free {
                in_time(cache.set(key, "again")).await.unwrap();
                assert_eq!(
                    in_time(cache.get::<String>(key)).await.unwrap().as_deref(),
                    Some("again")
                );
            }
            held.commit().await.unwrap();
            for outcome in in_time(join_all(calls)).await {
                outcome.unwrap().unwrap();
            }
            for key in &locked {
                assert_eq!(
                    cache.get::<String>(key).await.unwrap().as_deref(),
                    Some("ours"),
                    "{key}"
                );
            }
        });
    }

    #[test]
    fn who_holds_a_row_may_set_others() {
        run(TestDatabase::postgres, async |db| {
            let (cache, other) = (opened(db).await, db.cache().await);
            let mut held = other.database().begin().await.unwrap();
            other
                .set_in(&mut held, "locked", "theirs", Expiration::Never)
                .await
                .unwrap();
            let keys = ["first", "another", "locked"];
            let calls = together(&cache, keys.map(|key| set(&cache, key))).await;
            // A statement that has written "another" and waits for "locked" would wait for this very caller.
            in_time(cache.set("another", "from within")).await.unwrap();
            held.commit().await.unwrap();
            for outcome in in_time(join_all(calls)).await {
                outcome.unwrap().unwrap();
            }
        });
    }

    #[test]
    fn deletions_are_held_up_by_no_row_but_their_own() {
        run(TestDatabase::postgres, async |db| {
            let (cache, other) = (opened(db).await, db.cache().await);
            let keys = ["first", "a", "locked", "z"];
            for key in keys {
                cache.set(key, "old").await.unwrap();
            }
            let mut held = other.database().begin().await.unwrap();
            other
                .set_in(&mut held, "locked", "theirs", Expiration::Never)
                .await
                .unwrap();
            let calls = keys.map(|key| {
                let cache = cache.clone();
                async move { cache.delete(key).await }
            });
            let mut calls = together(&cache, calls).await;
            let locked = calls.remove(2);
            for outcome in in_time(join_all(calls)).await {
                assert!(outcome.unwrap().unwrap());
            }
            assert!(!locked.is_finished());
            held.rollback().await.unwrap();
            assert!(in_time(locked).await.unwrap().unwrap());
        });
    }

    #[test]
    fn a_row_that_is_never_free_is_not_waited_for_without_end() {
        run(TestDatabase::postgres, async |db| {
            let options = db.options().acquire_timeout(Duration::from_millis(500));
            let cache = Cache::new(options.connect().await.unwrap());
            let other = db.cache().await;
            let mut held = other.database().begin().await.unwrap();
            other
                .set_in(&mut held, "locked", "theirs", Expiration::Never)
                .await
                .unwrap();
            let error = in_time(cache.set("locked", "ours")).await.unwrap_err();
            assert!(error.is_transient(), "{error}");
            held.rollback().await.unwrap();
            in_time(cache.set("locked", "ours")).await.unwrap();
        });
    }
}
