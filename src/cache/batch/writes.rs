//! Writes of one item.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::super::rows::{rows_of_keys, to_rows};
use super::super::write::new_generation;
use super::{By, Call, LARGE, Place};
use crate::clock::Timestamp;
use crate::database::{Connection, Database, JsonText, Parameter, Sql, Turn, Tx, Written, query};
use crate::error::{Error, Result};

/// A write of one key's item.
#[derive(Debug)]
pub(in crate::cache) enum Write {
    Set {
        key: String,
        text: String,
        at: Option<Timestamp>,
        keep: bool,
    },
    Delete {
        key: String,
    },
}

impl Call for Write {
    /// Of a deletion, whether there was a row.
    type Answer = bool;
    type Hand = Hand;
    const ORDERED: bool = true;

    fn key(&self) -> &str {
        match self {
            Self::Set { key, .. } | Self::Delete { key } => key,
        }
    }

    fn class(&self) -> u8 {
        match self {
            Self::Set { keep, .. } => u8::from(*keep),
            Self::Delete { .. } => 2,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Set { key, text, .. } => key.len() + text.len(),
            Self::Delete { key } => key.len(),
        }
    }

    async fn connect(database: &Database, _: By) -> Result<Hand> {
        if database.writes_here()
            && let Some(turn) = database.turn().await?
        {
            return Ok(Hand::Turn(Some(turn)));
        }
        Ok(Hand::Connection(database.write().await?))
    }

    async fn send(
        place: &Place,
        hand: &mut Hand,
        calls: &[Self],
        lock: Duration,
        mut answer: impl FnMut(usize, bool) + Send,
    ) -> Result<()> {
        if let Hand::Turn(turn) = hand {
            let mut written = set_here(place, calls);
            if written == Written::ToWait
                && let Some((statement, parameters)) = set_patiently(place, calls)
            {
                let database = &place.database;
                let writes = database.write_patiently(turn.take(), statement, parameters);
                let done;
                (*turn, done) = writes.await;
                written = if done {
                    Written::Here
                } else {
                    Written::NotHere
                };
            }
            if written == Written::Here {
                // Whoever writes without end lets others go between.
                tokio::task::coop::consume_budget().await;
                (0..calls.len()).for_each(|call| answer(call, true));
                return Ok(());
            }
            let turn = match turn.take() {
                None => place.database.turn().await?,
                turn => turn,
            };
            *hand = Hand::Connection(place.database.write_in(turn).await?);
        }
        let Hand::Connection(connection) = hand else {
            return Err(Error::transient("the turn to write was lost; try again"));
        };
        if matches!(calls.first(), Some(Self::Delete { .. })) {
            let mut rows = delete(place, connection.tx(), calls, lock).await?;
            // Of those who delete the same row, the first did.
            for (at, call) in calls.iter().enumerate() {
                answer(at, rows.remove(call.key()) == Some(false));
            }
            return Ok(());
        }
        set(place, connection.tx(), calls, lock).await?;
        (0..calls.len()).for_each(|call| answer(call, true));
        Ok(())
    }

    fn give_up(hand: Hand) {
        if let Hand::Connection(mut connection) = hand {
            connection.give_up();
        }
    }
}

/// What writes go by: on SQLite the turn, until a connection is needed.
pub(in crate::cache) enum Hand {
    Turn(Option<Turn>),
    Connection(Connection),
}

/// So many at once are written on the caller's own thread: what takes longer must not hold it up.
const MOST_HERE: usize = 16;

/// What came of `calls` on this thread.
fn set_here(place: &Place, calls: &[Write]) -> Written {
    let bytes: usize = calls.iter().map(Call::bytes).sum();
    if calls.len() > MOST_HERE || bytes > LARGE {
        return Written::ToWait;
    }
    let now = place.database.clock().now();
    let generation = new_generation();
    if let [
        Write::Set {
            key,
            text,
            at,
            keep,
        },
    ] = calls
    {
        return place.database.write_here(
            Sql::CacheSet,
            &[
                ("$1", &&*place.namespace),
                ("$2", key),
                ("$3", text),
                ("$4", at),
                ("$5", &generation),
                ("$6", &now),
                ("$7", keep),
                ("$8", &false),
            ],
        );
    }
    let Some((rows, keeps)) = rows_of(calls) else {
        return Written::NotHere;
    };
    place.database.write_here(
        Sql::CacheSetMany,
        &[
            ("$1", &&*place.namespace),
            ("$2", &rows),
            ("$3", &generation),
            ("$4", &now),
            ("$5", &keeps),
            ("$6", &false),
        ],
    )
}

/// The same for a thread that may wait.
fn set_patiently(place: &Place, calls: &[Write]) -> Option<(Sql, Vec<Parameter>)> {
    let (rows, keeps) = rows_of(calls)?;
    let parameters: Vec<Parameter> = vec![
        ("$1", Box::new(place.namespace.to_string())),
        ("$2", Box::new(rows)),
        ("$3", Box::new(new_generation())),
        ("$4", Box::new(place.database.clock().now())),
        ("$5", Box::new(keeps)),
        ("$6", Box::new(false)),
    ];
    Some((Sql::CacheSetMany, parameters))
}

/// The rows that are set, and whether they keep their deadlines.
fn rows_of(calls: &[Write]) -> Option<(JsonText, bool)> {
    // In the order of their keys, as everybody locks them. Of a key that comes twice the last wins.
    let mut rows = BTreeMap::new();
    let mut keeps = false;
    for call in calls {
        let Write::Set {
            key,
            text,
            at,
            keep,
        } = call
        else {
            return None;
        };
        rows.insert(key, (text, at.map(Timestamp::as_millis)));
        keeps = *keep;
    }
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(key, (text, at))| (key, text, at))
        .collect();
    to_rows(&rows).ok().map(|rows| (rows, keeps))
}

/// As PostgreSQL has its `lock_timeout`.
fn in_words(lock: Duration) -> String {
    format!("{}ms", lock.as_millis())
}

async fn set(place: &Place, mut tx: Tx<'_>, calls: &[Write], lock: Duration) -> Result<()> {
    let Some((rows, keeps)) = rows_of(calls) else {
        return Err(Error::invalid("a batch does not serialise"));
    };
    query!(
        place.database,
        tx,
        execute,
        Sql::CacheSetEach,
        &*place.namespace,
        &rows,
        new_generation(),
        place.database.clock().now(),
        keeps,
        false,
        in_words(lock)
    )?;
    Ok(())
}

/// The rows that there were, and whether each was vacant.
async fn delete(
    place: &Place,
    mut tx: Tx<'_>,
    calls: &[Write],
    lock: Duration,
) -> Result<HashMap<String, bool>> {
    let keys = rows_of_keys(calls.iter().map(Call::key))?;
    let rows: Vec<(String, bool)> = query!(
        place.database,
        tx,
        fetch_all,
        Sql::CacheDeleteEach,
        &*place.namespace,
        &keys,
        in_words(lock)
    )?;
    Ok(rows.into_iter().collect())
}
