//! The store beside a model of the database, of those who write and read, and of what can befall them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::hit::hit;
use super::store::{Entry, Moment, Noted, Store};
use crate::clock::Timestamp;
use crate::database::JsonText;

const BOUND: u64 = 1_000;

/// `base` is built from nothing, and `built` from `base`: whoever writes `base` deletes `built`.
const KEYS: [&str; 2] = ["base", "built"];

fn entry(text: String, expires_at: Option<Timestamp>, linked: bool, noted: &Noted) -> Arc<Entry> {
    let hit = hit((JsonText(text), 0, None, None, None, None));
    Arc::new(Entry::new(hit, expires_at, linked, noted))
}

#[derive(Clone, Debug)]
enum Step {
    /// Milliseconds go by.
    Wait(u64),
    /// The machine sleeps for so many, or its clock is set back by as many.
    Disturb(u64),
    /// A reader notes what it needs to, and sends its statement; the database carries it out; the answer is kept.
    Ask(usize, usize),
    Answer(usize),
    Keep(usize),
    /// Somebody else commits a write, of an item that is good for so long.
    OtherWrites(usize, Option<u64>),
    /// This process does, and then its call returns.
    OwnCommits(usize),
    OwnReturns,
    Hear,
    Lose,
    Reconnect,
    Look(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let time = proptest::option::of(1..1_500_u64);
    prop_oneof![
        12 => (1..700_u64).prop_map(Step::Wait),
        1 => (1..1_500_u64).prop_map(Step::Disturb),
        8 => (0..3_usize, key.clone()).prop_map(|(reader, key)| Step::Ask(reader, key)),
        12 => (0..3_usize).prop_map(Step::Answer),
        12 => (0..3_usize).prop_map(Step::Keep),
        4 => (key.clone(), time).prop_map(|(key, time)| Step::OtherWrites(key, time)),
        4 => key.clone().prop_map(Step::OwnCommits),
        8 => Just(Step::OwnReturns),
        4 => Just(Step::Hear),
        1 => Just(Step::Lose),
        1 => Just(Step::Reconnect),
        24 => key.prop_map(Step::Look),
    ]
}

struct Reader {
    key: usize,
    noted: Noted,
    /// What the database answered: a version, and its deadline.
    answer: Option<(u64, Option<u64>)>,
}

struct World {
    store: Store,
    start: Instant,
    /// Milliseconds since the start, and how far the clocks are off.
    time: u64,
    slept: u64,
    set_back: u64,
    sleeps: bool,
    /// Of each key its version, its deadline, and when each version before was overwritten.
    rows: [(u64, Option<u64>); 2],
    overwritten: [BTreeMap<u64, u64>; 2],
    /// The versions that calls of this process which have returned have overwritten, all of them less than this.
    known: [u64; 2],
    returning: VecDeque<(usize, [u64; 2])>,
    readers: [Option<Reader>; 3],
    told: VecDeque<usize>,
    listens: bool,
    hits: usize,
}

impl World {
    fn new(sleeps: bool) -> Self {
        Self {
            store: Store::new(100, 1_000_000, Duration::from_millis(BOUND)),
            start: Instant::now(),
            time: 0,
            slept: 0,
            set_back: 0,
            sleeps,
            rows: [(0, None); 2],
            overwritten: Default::default(),
            known: [0; 2],
            returning: VecDeque::new(),
            readers: Default::default(),
            told: VecDeque::new(),
            listens: true,
            hits: 0,
        }
    }

    /// By the clock of the fleet.
    fn now(&self) -> u64 {
        1_000_000 + self.time - self.set_back
    }

    fn moment(&self) -> Moment {
        Moment {
            now: at(self.now()),
            instant: self.start + Duration::from_millis(self.time - self.slept),
        }
    }

    fn write(&mut self, key: usize, time: Option<u64>) {
        for key in key..KEYS.len() {
            let (version, _) = self.rows[key];
            self.overwritten[key].insert(version, self.time);
            self.rows[key] = (version + 1, time.map(|time| self.now() + time));
            if self.listens {
                self.told.push_back(key);
            }
        }
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Wait(time) => self.time += time,
            Step::Disturb(time) if self.sleeps => {
                self.time += time;
                self.slept += time;
            }
            Step::Disturb(time) => self.set_back += time,
            Step::Ask(reader, key) => {
                let noted = self.store.note("", KEYS[key], self.moment());
                self.readers[reader] = Some(Reader {
                    key,
                    noted,
                    answer: None,
                });
            }
            Step::Answer(reader) => {
                let rows = self.rows;
                if let Some(reader) = &mut self.readers[reader] {
                    reader.answer.get_or_insert(rows[reader.key]);
                }
            }
            Step::Keep(reader) => {
                let answered = |reader: &mut Reader| reader.answer.is_some();
                if let Some(Reader {
                    key,
                    noted,
                    answer: Some((version, until)),
                }) = self.readers[reader].take_if(answered)
                {
                    let entry = entry(version.to_string(), until.map(at), key == 1, &noted);
                    self.store.keep(&noted, "", KEYS[key], entry);
                }
            }
            Step::OtherWrites(key, time) => self.write(key, time),
            Step::OwnCommits(key) => {
                self.write(key, None);
                self.returning
                    .push_back((key, self.rows.map(|(version, _)| version)));
            }
            Step::OwnReturns => {
                if let Some((key, versions)) = self.returning.pop_front() {
                    self.store.forget("", KEYS[key]);
                    let seen = self.known.iter_mut().zip(versions).skip(key);
                    seen.for_each(|(known, version)| *known = version.max(*known));
                }
            }
            Step::Hear => {
                if let Some(key) = self.told.pop_front() {
                    self.store.forget("", KEYS[key]);
                }
            }
            Step::Lose => {
                self.listens = false;
                self.told.clear();
            }
            Step::Reconnect => {
                self.listens = true;
                self.store.forget_all();
            }
            Step::Look(key) => return self.look(key),
        }
        Ok(())
    }

    fn look(&mut self, key: usize) -> Result<(), TestCaseError> {
        let Some(found) = self.store.get("", KEYS[key], || self.moment()) else {
            return Ok(());
        };
        self.hits += 1;
        let version: u64 = found.hit.value.parse().unwrap();
        prop_assert!(
            version >= self.known[key],
            "an own write that has returned is not seen"
        );
        if let Some(overwritten) = self.overwritten[key].get(&version) {
            let old = self.time - overwritten;
            prop_assert!(old < BOUND, "{} ms old", old);
            return Ok(());
        }
        let (_, until) = self.rows[key];
        prop_assert!(
            until.is_none_or(|until| until > self.now()),
            "it has expired"
        );
        Ok(())
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(millis).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_older_than_the_bound_nor_than_an_own_write_whatever_happens(
        sleeps in any::<bool>(), steps in proptest::collection::vec(step(), 1..300)
    ) {
        let mut world = World::new(sleeps);
        for step in steps {
            world.take(step)?;
        }
    }
}

#[test]
fn what_is_told_ends_what_is_kept_before_the_bound_does_and_else_it_is_kept() {
    use Step::{Answer, Ask, Hear, Keep, Look, OtherWrites, Wait};
    let mut world = World::new(false);
    let hits = |world: &mut World, steps: Vec<Step>| {
        let before = world.hits;
        for step in steps {
            world.take(step).unwrap();
        }
        world.hits - before
    };
    let read = |key| [Ask(0, key), Answer(0), Keep(0)];
    world.listens = true;
    for key in [0, 1] {
        assert_eq!(hits(&mut world, read(key).to_vec()), 0);
        assert_eq!(
            hits(
                &mut world,
                vec![Look(key), Wait(999), Look(key), Wait(1), Look(key)]
            ),
            2
        );
        hits(&mut world, read(key).to_vec());
        assert_eq!(hits(&mut world, vec![OtherWrites(1, None), Look(key)]), 1);
        assert_eq!(
            hits(&mut world, vec![Hear, Look(key)]),
            usize::from(key == 0)
        );
    }
    // Who asked before it was told keeps nothing afterwards.
    let late = vec![
        Ask(0, 0),
        Answer(0),
        OtherWrites(0, None),
        Hear,
        Hear,
        Keep(0),
        Look(0),
    ];
    assert_eq!(hits(&mut world, late), 0);
}

#[test]
fn neither_bound_is_passed() {
    let moment = || Moment {
        now: at(0),
        instant: Instant::now(),
    };
    let sizes = |items, bytes, value: usize| {
        let store = Store::new(items, bytes, Duration::from_secs(3_600));
        let mut found = 0;
        for key in 0..2_000 {
            let (key, moment) = (format!("key {key}"), moment());
            let noted = store.note("", &key, moment);
            store.keep(
                &noted,
                "",
                &key,
                entry("x".repeat(value), None, false, &noted),
            );
            // Not the first time that it is asked for: what nobody asks for is not kept for others' sake.
            store.get("", &key, || moment);
        }
        for key in 0..2_000 {
            found += usize::from(store.get("", &format!("key {key}"), moment).is_some());
        }
        found
    };
    assert_eq!(sizes(10, 1 << 40, 10), 10);
    let some = sizes(1_000_000, 100_000, 600);
    assert!((50..=100).contains(&some), "{some}");
    assert_eq!(sizes(1_000, 10_000, 20_000), 0);
    assert_eq!(sizes(0, 10_000, 1), 0);
}
