//! What is read by a pipeline.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::error::BoxDynError;
use tokio::time::error::Elapsed;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Row, Statement};

use super::super::element::Element;
use super::super::{Database, Sql};
use super::Pipeline;
use crate::clock::Timestamp;

/// A column as it came.
struct Raw<'r>(Option<&'r [u8]>);

impl<'r> FromSql<'r> for Raw<'r> {
    fn from_sql(_: &Type, bytes: &'r [u8]) -> Result<Self, BoxDynError> {
        Ok(Self(Some(bytes)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, BoxDynError> {
        Ok(Self(None))
    }

    /// Whoever reads one has written the statement.
    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The columns of a row that comes by a pipeline.
pub(crate) trait PipedColumns: Sized {
    /// How many there are.
    const COUNT: usize;
    fn of(row: &Row) -> Result<Self, BoxDynError>;
}

macro_rules! piped_columns {
    ($count:literal: $($Column:ident $index:literal),+) => {
        impl<$($Column: Element),+> PipedColumns for ($($Column,)+) {
            const COUNT: usize = $count;

            fn of(row: &Row) -> Result<Self, BoxDynError> {
                Ok(($($Column::of(row.try_get::<_, Raw<'_>>($index)?.0)?,)+))
            }
        }
    };
}

piped_columns!(1: A 0);
piped_columns!(2: A 0, B 1);
piped_columns!(6: A 0, B 1, C 2, D 3, E 4, F 5);
piped_columns!(8: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

impl Pipeline {
    /// Hands on each row of `statement`, which ends with its key, as it comes. Whether all have come.
    pub(crate) async fn each<T: PipedColumns>(
        &self,
        database: &Database,
        statement: Sql,
        (namespace, keys, now): (&str, &[&str], Timestamp),
        mut seen: impl FnMut(&str, T) + Send,
    ) -> bool {
        if self.is_lost() {
            return false;
        }
        self.used.store(true, Ordering::Relaxed);
        let text = database.statement(statement);
        let bytes = keys.iter().map(|key| key.len()).sum();
        let now = SystemTime::from(DateTime::<Utc>::from(now));
        let came = AtomicBool::new(false);
        let seen = |key: &str, row| {
            came.store(true, Ordering::Relaxed);
            seen(key, row);
        };
        let mut reads = pin!(async {
            let statement = self.prepared(statement, text.as_str()).await?;
            self.rows(&statement, &[&namespace, &keys, &now], seen)
                .await
        });
        let silence = database.untested_patience(bytes);
        let read = loop {
            match tokio::time::timeout(silence, reads.as_mut()).await {
                Ok(read) => break read,
                Err(_) if came.swap(false, Ordering::Relaxed) => {}
                Err(silent) => break Err(silent.into()),
            }
        };
        let Err(error) = read else {
            return true;
        };
        if is_of_its_connection(&*error) {
            self.lost.store(true, Ordering::Relaxed);
            // Has it closed.
            database.pipeline();
        }
        tracing::debug!(error, "reads are sent again by the pool");
        false
    }

    pub(super) async fn rows<T: PipedColumns>(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
        mut seen: impl FnMut(&str, T),
    ) -> Result<(), BoxDynError> {
        let rows = self.client.query_raw(statement, parameters.iter().copied());
        let mut rows = pin!(rows.await?);
        while let Some(row) = rows.try_next().await? {
            let Raw(key) = row.try_get(T::COUNT)?;
            seen(std::str::from_utf8(key.unwrap_or_default())?, T::of(&row)?);
        }
        Ok(())
    }

    async fn prepared(&self, statement: Sql, text: &str) -> Result<Statement, BoxDynError> {
        if let Some(prepared) = self.statements().get(&statement) {
            return Ok(prepared.clone());
        }
        let prepared = self.client.prepare(text).await?;
        self.statements().insert(statement, prepared.clone());
        Ok(prepared)
    }

    /// Nothing panics while it is held.
    fn statements(&self) -> MutexGuard<'_, HashMap<Sql, Statement>> {
        let statements = self.statements.lock();
        statements.unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it closed: its server does not answer.
    pub(crate) fn give_up(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) || self.client.is_closed()
    }
}

/// Whether the connection itself is at fault, and not what was asked. One whose plans are of a table that was changed is too.
fn is_of_its_connection(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    if error.is::<Elapsed>() {
        return true;
    }
    let Some(error) = error.downcast_ref::<tokio_postgres::Error>() else {
        return false;
    };
    let state = error.code().map(SqlState::code);
    state.is_none_or(|code| {
        ["08", "57P", "0A"]
            .iter()
            .any(|class| code.starts_with(class))
    })
}
