//! One load for every benchmark of the cache: 10,000 keys, values of about 250 bytes of JSON, so many callers at once.

mod plain;

use std::sync::Arc;
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

/// When callers stop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Enough {
    /// After so many calls, of all together.
    Calls(u64),
    Until(Instant),
}

impl Enough {
    fn calls_of(self, caller: u64, callers: u64) -> u64 {
        match self {
            Self::Calls(calls) => calls / callers + u64::from(caller < calls % callers),
            Self::Until(_) => u64::MAX,
        }
    }
}

pub(crate) struct Took {
    pub(crate) each: Vec<Duration>,
    pub(crate) all: Duration,
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
                let (plain, value) = (self.plain.as_ref().unwrap(), Profile::new(id));
                // Its statement would make the tasks of all works some kilobytes larger.
                Box::pin(plain.set(key, &value)).await;
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

    /// What the callers' calls took, each; and all of them together. The clock is read once a call, and a time takes four
    /// bytes: to read it thrice and keep it in sixteen was a tenth of what a gathered get takes the client.
    pub(crate) async fn run(self: &Arc<Self>, work: Work, callers: u64, enough: Enough) -> Took {
        let started = Instant::now();
        let tasks: Vec<_> = (0..callers)
            .map(|caller| {
                let store = self.clone();
                let most = enough.calls_of(caller, callers);
                tokio::spawn(async move {
                    let mut took = Vec::with_capacity(1 << 12);
                    let mut began = Instant::now();
                    for call in 1..=most {
                        store.one(work, scatter((caller << 40) + call) % KEYS).await;
                        let ended = Instant::now();
                        took.push(u32::try_from((ended - began).as_nanos()).unwrap_or(u32::MAX));
                        if matches!(enough, Enough::Until(until) if ended >= until) {
                            break;
                        }
                        began = ended;
                    }
                    took
                })
            })
            .collect();
        let mut each = Vec::new();
        for task in tasks {
            each.push(task.await.unwrap());
        }
        let all = started.elapsed();
        let nanoseconds = each.into_iter().flatten().map(u64::from);
        Took {
            each: nanoseconds.map(Duration::from_nanos).collect(),
            all,
        }
    }

    pub(crate) async fn end(&self) {
        self.cache.database().close().await;
        self.place.clear().await;
    }
}
