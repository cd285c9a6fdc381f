//! What was computed is written back only if nobody wrote or invalidated meanwhile.

use std::sync::Arc;
use std::time::Duration;

use larder::{Cache, Cached, Expiration};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::support::both_engines;

const NEVER: Expiration = Expiration::Never;
const LONG: Duration = Duration::from_secs(30);

/// Computations that say when they begin, and end when they are let.
struct Computing {
    gate: Arc<Semaphore>,
    begin: mpsc::UnboundedSender<()>,
    began: mpsc::UnboundedReceiver<()>,
}

impl Computing {
    fn new() -> Self {
        let (begin, began) = mpsc::unbounded_channel();
        Self {
            gate: Arc::new(Semaphore::new(0)),
            begin,
            began,
        }
    }

    fn start(&self, cache: &Cache, value: &'static str) -> JoinHandle<String> {
        let (cache, gate, begin) = (cache.clone(), self.gate.clone(), self.begin.clone());
        tokio::spawn(async move {
            let compute = move || async move {
                begin.send(()).unwrap();
                gate.acquire().await.unwrap().forget();
                value.to_owned()
            };
            cache
                .memoize("key")
                .tags(["tag"])
                .get_or_compute(compute)
                .await
                .unwrap()
        })
    }

    async fn began(&mut self) {
        tokio::time::timeout(LONG, self.began.recv())
            .await
            .unwrap()
            .unwrap();
    }

    /// Whether one begins within a time that is long for one that can.
    async fn begins_soon(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.began.recv())
            .await
            .is_ok()
    }

    async fn end(&self, task: JoinHandle<String>) -> String {
        self.gate.add_permits(1);
        tokio::time::timeout(LONG, task).await.unwrap().unwrap()
    }
}

async fn value(cache: &Cache) -> Option<String> {
    cache.get("key").await.unwrap()
}

both_engines! {
    async fn what_was_written_meanwhile_wins_and_is_what_the_caller_is_given(db) {
        let cache = db.cache().await;
        for way in ["set", "set_with", "set_many", "add", "set_if", "set_in"] {
            cache.clear_all().await.unwrap();
            let mut computing = Computing::new();
            let task = computing.start(&cache, "computed");
            computing.began().await;
            match way {
                "set" => cache.set("key", "written").await.unwrap(),
                "set_with" => cache.set_with("key", "written", 60).await.unwrap(),
                "set_many" => cache.set_many([("key", "written")], NEVER).await.unwrap(),
                "add" => assert!(cache.add("key", "written", NEVER).await.unwrap()),
                "set_if" => assert!(cache.set_if("key", "written", None, NEVER).await.unwrap()),
                _ => {
                    let mut transaction = cache.database().begin().await.unwrap();
                    cache.set_in(&mut transaction, "key", "written", NEVER).await.unwrap();
                    transaction.commit().await.unwrap();
                }
            }
            assert_eq!(computing.end(task).await, "written", "{way}");
            assert_eq!(value(&cache).await.as_deref(), Some("written"), "{way}");
        }
    }

    async fn what_was_invalidated_meanwhile_stays_so_also_what_was_never_there(db) {
        let cache = db.cache().await;
        let ways = ["delete", "delete_many", "clear_prefix", "clear_all", "clear_all_namespaces", "clear_tag",
            "delete_in", "delete_many_in", "clear_prefix_in", "clear_all_in", "clear_tag_in", "set, expired, purged"];
        for way in ways {
            let mut computing = Computing::new();
            let task = computing.start(&cache, "computed");
            computing.began().await;
            let mut transaction = cache.database().begin().await.unwrap();
            match way {
                "delete_in" => assert!(!cache.delete_in(&mut transaction, "key").await.unwrap()),
                "delete_many_in" => assert_eq!(cache.delete_many_in(&mut transaction, ["key"]).await.unwrap(), 0),
                "clear_prefix_in" => assert_eq!(cache.clear_prefix_in(&mut transaction, "k").await.unwrap(), 0),
                "clear_all_in" => assert_eq!(cache.clear_all_in(&mut transaction).await.unwrap(), 0),
                "clear_tag_in" => assert_eq!(cache.clear_tag_in(&mut transaction, "tag").await.unwrap(), 0),
                _ => {}
            }
            transaction.commit().await.unwrap();
            match way {
                "delete" => assert!(!cache.delete("key").await.unwrap()),
                "delete_many" => assert_eq!(cache.delete_many(["key"]).await.unwrap(), 0),
                "clear_prefix" => assert_eq!(cache.clear_prefix("k").await.unwrap(), 0),
                "clear_all" => assert_eq!(cache.clear_all().await.unwrap(), 0),
                "clear_all_namespaces" => assert_eq!(cache.clear_all_namespaces().await.unwrap(), 0),
                "clear_tag" => assert_eq!(cache.clear_tag("tag").await.unwrap(), 0),
                "set, expired, purged" => {
                    cache.set_with("key", "written", -1).await.unwrap();
                    assert_eq!(cache.clear_expired().await.unwrap(), 1);
                }
                _ => {}
            }
            assert_eq!(computing.end(task).await, "computed", "{way}");
            assert_eq!(value(&cache).await, None, "{way}");
        }
    }

    async fn touch_expiry_and_purge_let_a_computation_write_back(db) {
        let cache = db.cache().await;
        cache.set_with("key", "old", -1).await.unwrap();
        let mut computing = Computing::new();
        let task = computing.start(&cache, "computed");
        computing.began().await;
        assert_eq!(cache.clear_expired().await.unwrap(), 0, "it is being computed");
        assert!(!cache.touch("key", 60).await.unwrap());
        cache.delete("another").await.unwrap();
        cache.clear_prefix("keys").await.unwrap();
        cache.clear_tag("another").await.unwrap();
        cache.namespace("another").unwrap().clear_all().await.unwrap();
        assert_eq!(computing.end(task).await, "computed");
        assert_eq!(value(&cache).await.as_deref(), Some("computed"));
    }

    async fn those_who_wait_for_what_was_invalidated_compute_anew(db) {
        let cache = db.cache().await;
        let mut computing = Computing::new();
        let first = computing.start(&cache, "too old");
        computing.began().await;
        cache.delete("key").await.unwrap();
        // They came after the invalidation: what was begun before it is not for them.
        let late = computing.start(&cache, "new");
        let elsewhere = computing.start(&Cache::new(cache.database().clone()), "new");
        // The one of another cache may compute at once; the waiter once the first has ended.
        computing.began().await;
        // First come, first let: it ends while the others still compute.
        computing.gate.add_permits(1);
        let ended = async |task: JoinHandle<String>| tokio::time::timeout(LONG, task).await.unwrap().unwrap();
        assert_eq!(ended(first).await, "too old", "it asked before");
        computing.gate.add_permits(2);
        assert_eq!((ended(late).await, ended(elsewhere).await), ("new".to_owned(), "new".to_owned()));
        assert_eq!(value(&cache).await.as_deref(), Some("new"));
    }

    /// The heart of it: what is computed while a transaction is open sees the domain's rows of before.
    async fn a_computation_does_not_begin_while_a_transaction_that_invalidates_its_key_is_open(db) {
        let cache = db.cache().await;
        // On SQLite nobody else writes while it is open, and the write of the lease waits.
        for way in ["delete_in", "delete_in of what is there", "delete_many_in", "clear_prefix_in", "clear_all_in", "clear_tag_in", "set_in"] {
            cache.clear_all().await.unwrap();
            if way == "delete_in of what is there" {
                cache.set("key", "old").await.unwrap();
                cache.touch("key", -1).await.unwrap();
            }
            let mut computing = Computing::new();
            let mut transaction = cache.database().begin().await.unwrap();
            match way {
                "delete_many_in" => drop(cache.delete_many_in(&mut transaction, ["key", "other"]).await.unwrap()),
                "clear_prefix_in" => drop(cache.clear_prefix_in(&mut transaction, "k").await.unwrap()),
                "clear_all_in" => drop(cache.clear_all_in(&mut transaction).await.unwrap()),
                "clear_tag_in" => drop(cache.clear_tag_in(&mut transaction, "tag").await.unwrap()),
                "set_in" => cache.set_in(&mut transaction, "key", "old", -1).await.unwrap(),
                _ => drop(cache.delete_in(&mut transaction, "key").await.unwrap()),
            }
            let task = computing.start(&cache, "computed");
            assert!(!computing.begins_soon().await, "{way}");
            transaction.commit().await.unwrap();
            computing.began().await;
            assert_eq!(computing.end(task).await, "computed");
            assert_eq!(value(&cache).await.as_deref(), Some("computed"), "{way}");
        }
    }

    async fn a_transaction_that_clears_another_key_or_tag_holds_nobody_up(db) {
        // SQLite has one writer.
        if db.is_sqlite() {
            return;
        }
        let cache = db.cache().await;
        let mut computing = Computing::new();
        let mut transaction = cache.database().begin().await.unwrap();
        cache.delete_in(&mut transaction, "other").await.unwrap();
        cache.clear_tag_in(&mut transaction, "other").await.unwrap();
        cache.namespace("other").unwrap().clear_all_in(&mut transaction).await.unwrap();
        // Nor do transactions that clear the same hold up each other.
        let mut second = cache.database().begin().await.unwrap();
        cache.clear_tag_in(&mut second, "other").await.unwrap();
        cache.clear_prefix_in(&mut second, "p").await.unwrap();
        second.commit().await.unwrap();
        let task = computing.start(&cache, "computed");
        computing.began().await;
        assert_eq!(computing.end(task).await, "computed");
        transaction.commit().await.unwrap();
        assert_eq!(value(&cache).await.as_deref(), Some("computed"));
    }

    async fn of_those_who_set_at_the_generation_that_they_saw_one_wins(db) {
        let cache = db.cache().await;
        let mut first: Cached<i64> = cache.cached("key");
        let mut second: Cached<i64> = cache.cached("key");
        assert_eq!(first.generation().await.unwrap(), None);
        assert!(first.set_if(&1, None).await.unwrap());
        assert!(!second.set_if(&2, None).await.unwrap());
        let seen = second.generation().await.unwrap();
        assert_eq!(seen, first.generation().await.unwrap());
        assert!(second.set_if(&2, seen).await.unwrap());
        assert!(!first.set_if(&3, seen).await.unwrap());
        assert_eq!(first.value().await.unwrap(), Some(&2), "the snapshot is forgotten either way");
        // Deleted and set anew, it is another generation, whatever its value.
        let seen = first.generation().await.unwrap();
        cache.delete("key").await.unwrap();
        assert!(!first.set_if(&3, seen).await.unwrap());
        cache.set("key", &2).await.unwrap();
        assert!(!first.set_if(&3, seen).await.unwrap());
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(2));
    }

    async fn a_generation_lasts_until_the_next_write(db) {
        let cache = db.cache().await;
        cache.set_with("key", &1, 60).await.unwrap();
        let generation = async || cache.info("key").await.unwrap().unwrap().generation;
        let seen = generation().await;
        cache.touch("key", 30).await.unwrap();
        assert_eq!(generation().await, seen);
        assert!(cache.set_if("key", &2, seen, Expiration::Keep).await.unwrap());
        assert_ne!(generation().await, seen);
        assert_eq!(cache.info("key").await.unwrap().unwrap().expires_at, Some(crate::support::noon() + chrono::TimeDelta::seconds(30)));
        let seen = generation().await;
        db.advance(30);
        assert!(!cache.set_if("key", &3, seen, 60).await.unwrap(), "what has expired is absent");
        assert!(cache.set_if("key", &3, None, 60).await.unwrap());
        let mut transaction = cache.database().begin().await.unwrap();
        let seen = cache.info_in(&mut transaction, "key").await.unwrap().unwrap().generation;
        assert!(cache.set_if_in(&mut transaction, "key", &4, seen, NEVER).await.unwrap());
        assert!(!cache.set_if_in(&mut transaction, "key", &5, None, NEVER).await.unwrap());
        transaction.rollback().await.unwrap();
        assert_eq!(cache.get::<i64>("key").await.unwrap(), Some(3));
    }
}
