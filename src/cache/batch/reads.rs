//! Reads of one item.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::super::Cache;
use super::{By, Call, Gather, MANY, Place};
use crate::clock::Timestamp;
use crate::database::{
    Bind, Database, FirstColumns, HereRow, JsonText, Keys, PipedColumns, Pipeline, Sql, Untested,
    query, within,
};
use crate::error::Result;

/// What is read of an item.
pub(in crate::cache) trait Columns: Send + Sync + 'static {
    /// For many keys: each row ends with its key. A value that is large is null, and is read on its own.
    const EACH: Sql;
    /// For one key, without it, on SQLite.
    const HERE: Sql;
    type Row: HereRow + FirstColumns + PipedColumns + Clone + Send + Sync + 'static;

    /// What `HERE` is given, in the order of its numbers.
    fn parameters<'p>(
        namespace: &'p dyn Bind,
        key: &'p dyn Bind,
        now: &'p dyn Bind,
    ) -> [&'p dyn Bind; 3] {
        [namespace, key, now]
    }
}

/// The value of an item.
pub(in crate::cache) struct Value;

impl Columns for Value {
    const EACH: Sql = Sql::CacheGetEach;
    const HERE: Sql = Sql::CacheGetHere;
    type Row = (Option<JsonText>,);
}

/// The deadline of an item.
pub(in crate::cache) struct Deadline;

impl Columns for Deadline {
    const EACH: Sql = Sql::CacheDeadlineEach;
    const HERE: Sql = Sql::CacheDeadline;
    type Row = (Option<Timestamp>,);
}

/// A read of one key's item.
pub(in crate::cache) struct Read<T>(String, PhantomData<T>);

impl<T> Read<T> {
    pub(in crate::cache) fn of(key: &str) -> Self {
        Self(key.to_owned(), PhantomData)
    }
}

impl<T: Columns> Gather<Read<T>> {
    /// What the live item of `key` has, and the instant at which it was live.
    pub(in crate::cache) async fn read(
        self: &Arc<Self>,
        cache: &Cache,
        key: &str,
    ) -> Result<(Option<T::Row>, Timestamp)> {
        if cache.place.database.writes_here() {
            let now = cache.now();
            if let Some(row) = Self::here(cache, key, now) {
                // Whoever reads without end lets others go between.
                tokio::task::coop::consume_budget().await;
                return Ok((row, now));
            }
        }
        self.ask(&cache.place, Read::of(key)).await
    }

    fn here(cache: &Cache, key: &str, now: Timestamp) -> Option<Option<T::Row>> {
        let namespace = &*cache.place.namespace;
        let parameters = T::parameters(&namespace, &key, &now);
        cache.place.database.read_here(T::HERE, &parameters)
    }
}

/// What reads are sent by.
pub(in crate::cache) enum Hand {
    Piped(Arc<Pipeline>),
    Lent(Untested, By),
}

impl<T: Columns> Call for Read<T> {
    /// What the live item has, and the instant at which it was live.
    type Answer = (Option<T::Row>, Timestamp);
    type Hand = Hand;
    const ORDERED: bool = false;
    const LANES: usize = 4;

    /// On a pipeline the next statement is to be there when the server is done with the one before.
    fn many(database: &Database) -> usize {
        if database.pipeline().is_some() {
            2
        } else {
            MANY
        }
    }

    fn key(&self) -> &str {
        &self.0
    }

    fn class(&self) -> u8 {
        0
    }

    fn bytes(&self) -> usize {
        self.0.len()
    }

    async fn connect(database: &Database, by: By) -> Result<Hand> {
        if by == By::Lane
            && let Some(pipeline) = database.pipeline()
        {
            return Ok(Hand::Piped(pipeline));
        }
        Ok(Hand::Lent(Untested::to_read(database).await?, by))
    }

    /// Whoever asked goes on as soon as the row is here, while others are on their way.
    async fn send(
        place: &Place,
        hand: &mut Hand,
        calls: &[Self],
        _: Duration,
        mut answer: impl FnMut(usize, Self::Answer) + Send,
    ) -> Result<()> {
        if calls.len() > 1 {
            hand.prefer_pipeline(&place.database);
        }
        let mut asked = Asked::of(calls);
        let keys = asked.keys();
        let now = loop {
            // Not before any of the calls.
            let now = place.database.clock().now();
            asked.next = 0;
            let seen = |key: &str, row: T::Row| {
                asked.answered(key, row, |call, row| answer(call, (Some(row), now)));
            };
            if hand.read::<T>(place, &keys, now, seen).await? {
                break now;
            }
        };
        for call in asked.not_found() {
            answer(call, (None, now));
        }
        Ok(())
    }

    fn give_up(hand: Hand) {
        match hand {
            Hand::Piped(pipeline) => pipeline.give_up(),
            Hand::Lent(mut untested, _) => untested.give_up(),
        }
    }
}

impl Hand {
    /// Those who have gathered go by a pipeline: by this one if it is open, and they are not beside those that are held up on it.
    fn prefer_pipeline(&mut self, database: &Database) {
        if matches!(self, Self::Lent(_, By::Caller | By::Lane)) {
            match database.pipeline() {
                Some(pipeline) => *self = Self::Piped(pipeline),
                None => database.open_pipeline(),
            }
        }
    }

    /// Hands on each row as it comes. If not all do, those that are left are to be asked for again.
    async fn read<T: Columns>(
        &mut self,
        place: &Place,
        keys: &Keys<'_>,
        now: Timestamp,
        seen: impl FnMut(&str, T::Row) + Send,
    ) -> Result<bool> {
        let database = &place.database;
        match self {
            Self::Piped(pipeline) => {
                let asked = (&*place.namespace, &*keys.0, now);
                let all = pipeline.each(database, T::EACH, asked, seen).await;
                if !all {
                    *self = Self::Lent(Untested::to_read(database).await?, By::Beside);
                }
                Ok(all)
            }
            Self::Lent(untested, _) => {
                let limit = untested.limit(database, keys.0.iter().map(|key| key.len()).sum());
                let mut tx = untested.tx(database).await?;
                let reads = async {
                    let namespace = &*place.namespace;
                    query!(database, tx, each(seen), T::EACH, namespace, keys, now)
                };
                let read = within(limit, reads).await;
                Ok(untested.take(read)?.is_some())
            }
        }
    }
}

/// The keys of calls, and which of them were found.
struct Asked<'c> {
    order: Vec<(&'c str, usize)>,
    found: Vec<bool>,
    next: usize,
}

impl<'c> Asked<'c> {
    fn of<C: Call>(calls: &'c [C]) -> Self {
        let mut order: Vec<_> = calls.iter().map(Call::key).zip(0..).collect();
        order.sort_unstable();
        Self {
            order,
            found: vec![false; calls.len()],
            next: 0,
        }
    }

    fn keys(&self) -> Keys<'c> {
        let mut keys: Vec<_> = self.order.iter().map(|(key, _)| *key).collect();
        keys.dedup();
        Keys(keys)
    }

    /// Gives the row of `key` to each call that asks for it.
    fn answered<R: Clone>(&mut self, key: &str, row: R, mut give: impl FnMut(usize, R)) {
        let order = &self.order;
        let asks = |at: usize| order.get(at).is_some_and(|(asked, _)| *asked == key);
        // Rows come in the order of their index, as a rule.
        if !asks(self.next) {
            self.next = order.partition_point(|(asked, _)| *asked < key);
        }
        while asks(self.next) {
            let call = order[self.next].1;
            self.next += 1;
            self.found[call] = true;
            if !asks(self.next) {
                return give(call, row);
            }
            give(call, row.clone());
        }
    }

    fn not_found(&self) -> impl Iterator<Item = usize> {
        let found = self.found.iter().enumerate();
        found.filter_map(|(call, found)| (!found).then_some(call))
    }
}
