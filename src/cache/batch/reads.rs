//! Reads of one item.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::super::Cache;
use super::{Call, Gather, Place};
use crate::clock::Timestamp;
use crate::database::{
    Bind, Database, FirstColumns, HereRow, JsonText, Keys, Sql, Untested, query, within,
};
use crate::error::Result;

/// What is read of an item.
pub(in crate::cache) trait Columns: Send + Sync + 'static {
    /// For many keys: each row ends with its key. A value that is large is null, and is read on its own.
    const EACH: Sql;
    /// For one key, without it, on SQLite.
    const HERE: Sql;
    type Row: HereRow + FirstColumns + Clone + Send + Sync + 'static;

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

impl<T: Columns> Call for Read<T> {
    /// What the live item has, and the instant at which it was live.
    type Answer = (Option<T::Row>, Timestamp);
    type Hand = Untested;
    const ORDERED: bool = false;
    const LANES: usize = 4;

    fn key(&self) -> &str {
        &self.0
    }

    fn class(&self) -> u8 {
        0
    }

    fn bytes(&self) -> usize {
        self.0.len()
    }

    async fn connect(database: &Database) -> Result<Untested> {
        Untested::to_read(database).await
    }

    /// Whoever asked goes on as soon as the row is here, while others are on their way.
    async fn send(
        place: &Place,
        hand: &mut Untested,
        calls: &[Self],
        _: Duration,
        mut answer: impl FnMut(usize, Self::Answer) + Send,
    ) -> Result<()> {
        let mut order: Vec<(&str, usize)> = calls.iter().map(Call::key).zip(0..).collect();
        order.sort_unstable();
        let mut keys: Vec<&str> = order.iter().map(|(key, _)| *key).collect();
        keys.dedup();
        let keys = Keys(keys);
        let bytes = calls.iter().map(Call::bytes).sum();
        let mut found = vec![false; calls.len()];
        let now = loop {
            // Not before any of the calls.
            let now = place.database.clock().now();
            let mut next = 0;
            let seen = |key: &str, row: T::Row| {
                let asks = |at: usize| order.get(at).is_some_and(|(asked, _)| *asked == key);
                // Rows come in the order of their index, as a rule.
                if !asks(next) {
                    next = order.partition_point(|(asked, _)| *asked < key);
                }
                let mut row = Some(row);
                while asks(next) {
                    let call = order[next].1;
                    next += 1;
                    found[call] = true;
                    answer(
                        call,
                        (if asks(next) { row.clone() } else { row.take() }, now),
                    );
                }
            };
            let limit = hand.limit(&place.database, bytes);
            let mut tx = hand.tx(&place.database).await?;
            let reads = async {
                query!(
                    place.database,
                    tx,
                    each(seen),
                    T::EACH,
                    &*place.namespace,
                    &keys,
                    now
                )
            };
            let read = within(limit, reads).await;
            if hand.take(read)?.is_some() {
                break now;
            }
        };
        for (call, _) in found.iter().enumerate().filter(|(_, found)| !**found) {
            answer(call, (None, now));
        }
        Ok(())
    }

    fn give_up(mut hand: Untested) {
        hand.give_up();
    }
}
