//! One load for every benchmark of the cache: 10,000 keys, values of about 250 bytes of JSON, so many callers at once.

mod plain;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::cache::{Cache, MemoryTier};
use larder::database::Engine;
use plain::Plain;
use serde::{Deserialize, Serialize};

use crate::place::{Place, scatter};

pub(crate) const KEYS: u64 = 10_000;

/// What a caller does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Get,
    Set,
    GetOrCompute,
    /// One key again and again, and the same with the memory tier.
    GetHot,
    GetHotMemory,
    /// A set past larder, on PostgreSQL.
    PlainSet,
}

/// The value: about 250 bytes of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Profile {
    id: u64,
    name: String,
    email: String,
    tags: Vec<String>,
    score: f64,
    text: String,
}

impl Profile {
    pub(crate) fn new(id: u64) -> Self {
        Self {
            id,
            name: format!("User {id}"),
            email: format!("user{id}@example.com"),
            tags: ["alpha", "beta", "gamma"].map(str::to_owned).to_vec(),
            score: 12.5,
            text: "x".repeat(128),
        }
    }
}

/// A cache of its own, gone when it ends.
pub(crate) struct Store {
    pub(crate) cache: Cache,
    /// The same with the memory tier.
    kept: Cache,
    place: Place,
    keys: Arc<[String]>,
    plain: Option<Plain>,
}

impl Store {
    pub(crate) async fn new(engine: Engine) -> Self {
        let place = Place::new(engine);
        let cache = Cache::new(place.connect().await);
        let items = (0..KEYS).map(|id| (format!("user:{id}"), Profile::new(id)));
        cache
            .set_many(items.collect::<Vec<_>>(), larder::Expiration::Never)
            .await
            .unwrap();
        let plain = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(Plain::new(&place.url, &place.schema).await),
        };
        Self {
            kept: cache.clone().with_memory(MemoryTier::default()),
            cache,
            place,
            plain,
            keys: (0..KEYS).map(|id| format!("user:{id}")).collect(),
        }
    }

    async fn get(&self, cache: &Cache, id: u64) {
        let key = &self.keys[usize::try_from(id).unwrap()];
        let found: Option<Profile> = cache.get(key).await.unwrap();
        assert_eq!(found.unwrap().id, id);
    }

    async fn one(&self, work: Work, id: u64) {
        let key = &self.keys[usize::try_from(id).unwrap()];
        match work {
            Work::Get => self.get(&self.cache, id).await,
            Work::GetHot => self.get(&self.cache, 7).await,
            Work::GetHotMemory => self.get(&self.kept, 7).await,
            Work::Set => self.cache.set(key, &Profile::new(id)).await.unwrap(),
            Work::PlainSet => {
                let plain = self.plain.as_ref().unwrap();
                plain.set(key, &Profile::new(id)).await;
            }
            Work::GetOrCompute => {
                let memo = self.cache.memoize(key);
                let found: Profile = memo
                    .get_or_compute(|| async { unreachable!() })
                    .await
                    .unwrap();
                assert_eq!(found.id, id);
            }
        }
    }

    /// What the callers' calls took, each; and all of them together.
    pub(crate) async fn run(
        self: &Arc<Self>,
        work: Work,
        callers: u64,
        enough: impl Fn(u64) -> bool + Clone + Send + Sync + 'static,
    ) -> (Vec<Duration>, Duration) {
        let done = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let tasks: Vec<_> = (0..callers)
            .map(|caller| {
                let (store, done, enough) = (self.clone(), done.clone(), enough.clone());
                tokio::spawn(async move {
                    let mut took = Vec::with_capacity(1 << 16);
                    let mut seed = caller << 40;
                    while !enough(done.fetch_add(1, Ordering::Relaxed)) {
                        seed += 1;
                        let began = Instant::now();
                        store.one(work, scatter(seed) % KEYS).await;
                        took.push(began.elapsed());
                    }
                    took
                })
            })
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await.unwrap());
        }
        (took, started.elapsed())
    }

    pub(crate) async fn end(&self) {
        self.cache.database().close().await;
        self.place.clear().await;
    }
}
