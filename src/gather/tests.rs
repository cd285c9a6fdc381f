//! Calls whose statements take until a test lets them through, and meet what it says.

use std::collections::BTreeMap;
use std::error::Error as StdError;

use sqlx::error::{DatabaseError, ErrorKind};
use tokio::sync::{Semaphore, watch};

use super::*;
use crate::database::{DatabaseOptions, Turn};

/// A code with which the database says no.
#[derive(Debug)]
struct Refusal(&'static str);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl StdError for Refusal {}

impl DatabaseError for Refusal {
    fn message(&self) -> &str {
        self.0
    }

    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some(self.0.into())
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

const LOCKED: &str = "55P03";

/// What the calls of a test meet.
struct Stage {
    /// The calls of each statement, as it is sent.
    sent: watch::Sender<Vec<Vec<&'static str>>>,
    /// Lets a statement through for each permit.
    gate: Semaphore,
    /// The calls that are answered before the gate.
    early: watch::Sender<Vec<&'static str>>,
    /// The codes with which calls are refused, by key.
    refused: watch::Sender<BTreeMap<&'static str, &'static str>>,
    done: Mutex<Vec<&'static str>>,
    gather: Arc<Gather<Gated>>,
    place: Place,
    url: String,
    _directory: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        Arc::new(Self {
            sent: watch::Sender::default(),
            gate: Semaphore::new(0),
            early: watch::Sender::default(),
            refused: watch::Sender::default(),
            done: Mutex::default(),
            gather: Arc::default(),
            place: Place {
                database: Database::connect(&url).await.unwrap(),
                namespace: "one of many".into(),
            },
            url,
            _directory: directory,
        })
    }

    fn refuse(&self, key: &'static str, code: &'static str) {
        self.refused.send_modify(|refused| {
            refused.insert(key, code);
        });
    }

    fn allow(&self, key: &'static str) {
        self.refused.send_modify(|refused| {
            refused.remove(key);
        });
    }

    /// Lets all statements through from now on.
    fn open(&self) {
        self.gate.add_permits(1 << 20);
    }

    async fn has_sent(&self, count: usize) {
        let mut sent = self.sent.subscribe();
        sent.wait_for(|sent| sent.len() >= count).await.unwrap();
    }

    fn done(&self) -> Vec<&'static str> {
        self.done.lock().unwrap().clone()
    }

    async fn call(self: Arc<Self>, name: &'static str) -> Result<&'static str> {
        let call = Gated(self.clone(), name);
        self.gather.ask(&self.place, call).await
    }

    /// A call that has begun.
    fn ask(
        self: &Arc<Self>,
        name: &'static str,
    ) -> impl Future<Output = Result<&'static str>> + use<> {
        let mut call = Box::pin(self.clone().call(name));
        let begun = futures::FutureExt::now_or_never(&mut call);
        assert!(begun.is_none(), "{name} is answered already");
        call
    }

    /// Calls that go out in one statement, where the gate is opened.
    fn ask_together<const N: usize>(
        self: &Arc<Self>,
        names: [&'static str; N],
    ) -> (
        impl Future<Output = Result<&'static str>> + use<N>,
        [impl Future<Output = Result<&'static str>> + use<N>; N],
    ) {
        (self.ask("first"), names.map(|name| self.ask(name)))
    }
}

/// A call, of the key that its name begins with.
struct Gated(Arc<Stage>, &'static str);

impl Call for Gated {
    type Answer = &'static str;
    type Hand = Option<Turn>;
    const ORDERED: bool = true;

    fn key(&self) -> &str {
        self.1.split(':').next().unwrap()
    }

    fn class(&self) -> u8 {
        0
    }

    fn bytes(&self) -> usize {
        0
    }

    async fn connect(database: &Database, _: By) -> Result<Option<Turn>> {
        database.turn().await
    }

    async fn send(
        _: &Place,
        turn: &mut Option<Turn>,
        calls: &[Self],
        lock: Duration,
        mut answer: impl FnMut(usize, &'static str) + Send,
    ) -> Result<()> {
        let stage = &calls[0].0;
        let names: Vec<_> = calls.iter().map(|call| call.1).collect();
        stage.sent.send_modify(|sent| sent.push(names.clone()));
        for (at, name) in names.iter().enumerate() {
            if stage.early.borrow().contains(name) {
                answer(at, name);
            }
        }
        stage.gate.acquire().await.unwrap().forget();
        let mut refused = stage.refused.subscribe();
        let code = |refused: &BTreeMap<_, _>| {
            calls
                .iter()
                .find_map(|call| refused.get(call.key()).copied())
        };
        let mut met = code(&refused.borrow());
        if met == Some(LOCKED) {
            // Rows are locked for themselves, and not by turns.
            turn.take();
            let freed = refused.wait_for(|refused| code(refused).is_none());
            if tokio::time::timeout(lock, freed).await.is_ok() {
                met = None;
            }
        }
        if let Some(code) = met {
            return Err(sqlx::Error::Database(Box::new(Refusal(code))).into());
        }
        stage.done.lock().unwrap().extend(&names);
        (0..).zip(names).for_each(|(at, name)| answer(at, name));
        Ok(())
    }

    fn give_up(_: Option<Turn>) {}
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

async fn end(runtime: tokio::runtime::Runtime) {
    tokio::task::spawn_blocking(move || drop(runtime))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_under_way_when_its_runtime_ends_is_sent_again_by_another() {
    let stage = Stage::new().await;
    let doomed = runtime();
    let first = doomed.spawn(stage.clone().call("first"));
    stage.has_sent(1).await;
    let (second, third) = (stage.ask("second"), stage.ask("third"));
    stage.gate.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap(), "first");
    // The other runtime has these two under way now, and ends.
    stage.has_sent(2).await;
    end(doomed).await;
    stage.open();
    assert_eq!(second.await.unwrap(), "second");
    assert_eq!(third.await.unwrap(), "third");
    assert_eq!(stage.clone().call("second").await.unwrap(), "second");
}

#[tokio::test]
async fn who_has_an_answer_goes_on_while_others_wait_for_theirs() {
    let stage = Stage::new().await;
    stage.early.send_replace(vec!["b"]);
    stage.refuse("a", "23514");
    let (first, [a, b, c]) = stage.ask_together(["a", "b", "c"]);
    stage.gate.add_permits(1);
    first.await.unwrap();
    stage.has_sent(2).await;
    assert_eq!(b.await.unwrap(), "b");
    assert!(!stage.done().contains(&"b"), "its statement is under way");
    // What is refused is sent again in halves, and nobody is told twice.
    stage.open();
    assert!(a.await.is_err());
    assert_eq!(c.await.unwrap(), "c");
}

#[tokio::test]
async fn what_waits_for_a_lock_when_its_runtime_ends_is_sent_again_by_another() {
    let stage = Stage::new().await;
    for key in ["a", "b", "c"] {
        stage.refuse(key, LOCKED);
    }
    let doomed = runtime();
    let first = doomed.spawn(stage.clone().call("first"));
    stage.has_sent(1).await;
    let calls = ["a:1", "b:1", "c:1", "a:2"].map(|name| stage.ask(name));
    stage.open();
    first.await.unwrap().unwrap();
    // Together, in parts, and then aside.
    stage.has_sent(8).await;
    end(doomed).await;
    let later = stage.ask("b:2");
    for key in ["a", "b", "c"] {
        stage.allow(key);
    }
    for call in calls {
        call.await.unwrap();
    }
    later.await.unwrap();
    let (done, at) = (stage.done(), |name| {
        stage.done().iter().rposition(|done| *done == name)
    });
    assert!(at("a:1") < at("a:2") && at("b:1") < at("b:2"), "{done:?}");
}

#[tokio::test]
async fn a_lock_holds_up_those_alone_who_want_it() {
    let stage = Stage::new().await;
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for key in keys {
        stage.refuse(key, LOCKED);
    }
    let (first, locked) = stage.ask_together(keys);
    let free = ["w", "x", "y", "z"].map(|name| stage.ask(name));
    stage.open();
    first.await.unwrap();
    for call in free {
        call.await.unwrap();
    }
    // More than ever are sent at a time wait for locks; one who wants none of these goes on.
    let behind = stage.ask("c:2");
    for _ in 0..20 {
        stage.clone().call("free").await.unwrap();
    }
    assert!(!stage.done().iter().any(|done| keys.contains(done)));
    for key in ["h", "c"] {
        stage.allow(key);
    }
    let [a, b, c, d, e, f, g, h] = locked;
    h.await.unwrap();
    c.await.unwrap();
    behind.await.unwrap();
    let done = stage.done();
    let at = |name| done.iter().position(|done| *done == name);
    assert!(at("c") < at("c:2"), "{done:?}");
    // Those who have gone are not written any more, and no others wait for them.
    drop((a, b));
    for key in keys {
        stage.allow(key);
    }
    for call in [d, e, f, g] {
        call.await.unwrap();
    }
    stage.clone().call("a:2").await.unwrap();
    assert!(stage.gather.queues().is_empty(), "nothing is left of them");
}

#[tokio::test]
async fn calls_of_one_key_keep_their_order_where_it_is_locked_and_one_of_them_is_bad() {
    let stage = Stage::new().await;
    stage.refuse("k", LOCKED);
    let (first, calls) = stage.ask_together(["b", "k:1", "a", "k:2", "c", "k:3"]);
    stage.refuse("b", "23514");
    stage.open();
    first.await.unwrap();
    let [b, k1, a, k2, c, k3] = calls;
    assert!(b.await.unwrap_err().to_string().contains("23514"));
    a.await.unwrap();
    c.await.unwrap();
    stage.allow("k");
    for call in [k1, k2, k3] {
        call.await.unwrap();
    }
    let done = stage.done();
    let of_k: Vec<_> = done.iter().filter(|name| name.starts_with('k')).collect();
    assert_eq!(of_k, [&"k:1", &"k:2", &"k:3"]);
}

#[tokio::test]
async fn only_what_a_part_may_not_meet_is_sent_again_in_parts() {
    for (code, statements) in [
        // One that is bad, of eight: three halvings.
        ("23514", 7),
        ("40P01", 7),
        // Too many connections, a disk that is full, a statement that took too long: a part fares no better.
        ("53300", 1),
        ("53100", 1),
        ("57014", 1),
    ] {
        let stage = Stage::new().await;
        stage.refuse("d", code);
        let (first, calls) = stage.ask_together(["a", "b", "c", "d", "e", "f", "g", "h"]);
        stage.open();
        first.await.unwrap();
        let outcomes = futures::future::join_all(calls).await;
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(failed, if statements == 1 { 8 } else { 1 }, "{code}");
        assert_eq!(stage.sent.borrow().len(), 1 + statements, "{code}");
    }
}

#[tokio::test]
async fn a_file_that_is_busy_is_waited_for_once() {
    let stage = Stage::new().await;
    let database = &stage.place.database;
    let options = DatabaseOptions::new(&stage.url).busy_timeout(Duration::from_millis(1));
    let other = options.connect().await.unwrap();
    let transaction = database.begin().await.unwrap();
    let error = other.begin().await.unwrap_err();
    transaction.rollback().await.unwrap();
    assert!(error.is_transient() && error.is_refusal(), "{error:?}");
    assert!(!error.is_of_its_contents() && !error.is_conflict());
}

#[tokio::test]
async fn a_call_that_leaves_late_takes_nobody_along() {
    let stage = Stage::new().await;
    let enter = |name| stage.gather.enter(&stage.place, Gated(stage.clone(), name));
    let ticket = |entered: &Entered<Gated>| match entered {
        Entered::Queue(waits) => waits.ticket,
        Entered::Lane(..) => unreachable!("somebody has the lane"),
    };
    let lane = enter("a");
    let late = ticket(&enter("b"));
    drop(lane);
    assert!(stage.gather.queues().is_empty());
    // Its namespace has begun anew.
    let _lane = enter("c");
    let waits = enter("d");
    assert!(!stage.gather.leave(&stage.place, late));
    assert!(stage.gather.leave(&stage.place, ticket(&waits)));
}

#[tokio::test]
async fn one_who_is_given_a_lane_has_no_more_time_than_was_left() {
    let stage = Stage::new().await;
    let turn = stage.place.database.turn().await.unwrap();
    let call = Gated(stage.clone(), "key");
    let Entered::Lane(lane, call) = stage.gather.enter(&stage.place, call) else {
        unreachable!("nobody else is there");
    };
    // Its connection would have its five seconds.
    let over = lane.alone(call, Some(Instant::now()));
    let told = tokio::time::timeout(Duration::from_secs(2), over)
        .await
        .unwrap();
    assert!(matches!(told, Alone::Answered(Err(error)) if error.is_timeout_of_the_pool()));
    drop(turn);
}

#[tokio::test]
async fn a_lane_without_work_leaves_the_turn_to_write_to_others() {
    let stage = Stage::new().await;
    let (first, [second]) = stage.ask_together(["second"]);
    stage.open();
    first.await.unwrap();
    second.await.unwrap();
    while !stage.gather.queues().is_empty() {
        assert!(futures::poll!(Box::pin(stage.place.database.turn())).is_ready());
        tokio::task::yield_now().await;
    }
}
