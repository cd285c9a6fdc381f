//! Statements on many rows of an SQLite file, on a thread that may wait, by a connection that is asked directly: sqlx
//! hands each row from thread to thread, which takes longer than to find it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::fold::Fold;
use super::here::{Bind, HereRow, Parameter, borrowed, held};
use super::{Database, Pool, Sql, log};
use crate::error::Result;

/// The connection for such statements: one, for another would forget its pages at each write of this one.
#[derive(Clone, Debug, Default)]
pub(super) struct Bulk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    closed: bool,
}

impl Bulk {
    /// Gives up its connection, for good.
    pub(super) fn close(&self) {
        let mut state = held(&self.0);
        state.closed = true;
        let connection = state.connection.take();
        drop(state);
        drop(connection);
    }

    /// What `work` gives, or `None` where there is no connection or it fails: that is the pool's to tell.
    fn with<T>(
        &self,
        file: &Path,
        busy_timeout: Duration,
        fold: &Fold,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Option<T> {
        let mut state = held(&self.0);
        if state.closed || fold.is_too_long() {
            return None;
        }
        let connection = match state.connection.take() {
            Some(connection) => connection,
            None => open(file, busy_timeout).ok()?,
        };
        let done = work(&connection).ok();
        fold.wrote(log::written());
        if done.is_some() {
            state.connection = Some(connection);
        }
        done
    }
}

fn open(file: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(busy_timeout)?;
    // SQLite makes a table of all statuses to check the one of each row. What is written here comes from the statements' own
    // text and from rows that were checked; nothing is to be inserted by this connection.
    connection.execute_batch(
        "PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA ignore_check_constraints = ON",
    )?;
    // Otherwise a statement that may use a partial index is prepared anew for each of its parameters' values.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    log::count(&connection);
    Ok(connection)
}

impl Database {
    /// The rows that `statement` writes and returns, or `None` where it is left to a connection of the pool. One that does
    /// not decode is written all the same, and left out.
    ///
    /// # Errors
    /// Where it is not this caller's turn to write in time.
    pub(crate) async fn write_rows<T: HereRow + Send + 'static>(
        &self,
        statement: Sql,
        parameters: impl FnOnce() -> Vec<Parameter>,
    ) -> Result<Option<Vec<T>>> {
        self.in_bulk(statement, parameters, |statement, parameters| {
            let (mut rows, mut read) = (statement.query(parameters)?, Vec::new());
            while let Some(row) = rows.next()? {
                read.extend(T::try_from(row));
            }
            Ok(read)
        })
        .await
    }

    /// How many rows `statement` writes, or `None` where it is left to a connection of the pool.
    ///
    /// # Errors
    /// As [`Database::write_rows`].
    pub(crate) async fn write_many(
        &self,
        statement: Sql,
        parameters: impl FnOnce() -> Vec<Parameter>,
    ) -> Result<Option<usize>> {
        self.in_bulk(statement, parameters, |statement, parameters| {
            if statement.column_count() == 0 {
                return statement.execute(parameters);
            }
            let (mut rows, mut count) = (statement.query(parameters)?, 0);
            while rows.next()?.is_some() {
                count += 1;
            }
            Ok(count)
        })
        .await
    }

    async fn in_bulk<T: Send + 'static>(
        &self,
        statement: Sql,
        parameters: impl FnOnce() -> Vec<Parameter>,
        work: impl FnOnce(&mut rusqlite::Statement<'_>, &[(&str, &dyn Bind)]) -> rusqlite::Result<T>
        + Send
        + 'static,
    ) -> Result<Option<T>> {
        let Pool::Sqlite {
            write,
            here: Some(here),
            ..
        } = &self.inner.pool
        else {
            return Ok(None);
        };
        let busy_timeout = write.options().get_acquire_timeout();
        let (file, bulk, fold) = here.bulk();
        let (text, parameters) = (self.statement(statement), parameters());
        let turn = self.turn().await?;
        let done = tokio::task::spawn_blocking(move || {
            let done = bulk.with(&file, busy_timeout, &fold, |connection| {
                let mut statement = connection.prepare_cached(text.as_str())?;
                let parameters = borrowed(&parameters);
                work(&mut statement, &parameters)
            });
            drop(turn);
            done
        });
        // A panic is not to be expected, and is the pool's to tell too.
        Ok(done.await.ok().flatten())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::cache::Cache;

    const STATEMENTS: [Sql; 8] = [
        Sql::JobFetch,
        Sql::JobClaim,
        Sql::JobFetchKey,
        Sql::JobDone,
        Sql::JobDoneSame,
        Sql::JobFinish,
        Sql::JobRelease,
        Sql::JobUnclaim,
    ];

    // What SQLite does for a statement is not PostgreSQL's.
    #[tokio::test]
    async fn no_table_is_made_for_each_job_and_no_statement_is_prepared_for_each_batch() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.db");
        let database = Database::connect(&format!("sqlite://{}", file.display()))
            .await
            .unwrap();
        let connection = open(&file, Duration::ZERO).unwrap();
        for sql in STATEMENTS {
            let text = database.statement(sql);
            let mut explain = connection
                .prepare(&format!("EXPLAIN {}", text.as_str()))
                .unwrap();
            let steps = explain.raw_query().mapped(|row| row.get("opcode"));
            // From the first of the tables that are written on to where the statement's constants are set.
            let writes: Vec<String> = steps
                .map(Result::unwrap)
                .skip_while(|step| step != "OpenWrite")
                .take_while(|step| step != "Transaction")
                .collect();
            assert!(writes.iter().any(|step| step == "Insert"), "{sql:?}");
            assert!(
                !writes.iter().any(|step| step == "OpenEphemeral"),
                "{sql:?}"
            );
            let mut statement = connection.prepare(text.as_str()).unwrap();
            for batch in ["[]", "[[1]]"] {
                for parameter in 1..=statement.parameter_count() {
                    statement.raw_bind_parameter(parameter, batch).unwrap();
                }
                // Some take a number where the batch stands, and say so.
                let _ = statement.raw_query().next();
            }
            let prepared = statement.get_status(StatementStatus::RePrepare);
            assert_eq!(prepared, 0, "{sql:?}");
        }
        database.close().await;
    }

    // SQLite alone: to PostgreSQL rows go by the pool.
    #[tokio::test]
    async fn it_writes_what_others_see_and_leaves_what_fails_to_the_pool() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        let database = Database::connect(&url).await.unwrap();
        let cache = Cache::new(database.clone());
        for key in ["a", "b"] {
            cache.set(key, &1).await.unwrap();
        }
        let deletes = async |keys: &'static str| {
            let parameters =
                || -> Vec<Parameter> { vec![("$1", Box::new("")), ("$2", Box::new(keys))] };
            let rows = database.write_rows::<(String, bool)>(Sql::CacheDeleteMany, parameters);
            rows.await.unwrap().map(|rows| rows.len())
        };
        assert_eq!(deletes(r#"[["a"],["c"]]"#).await, Some(1));
        assert_eq!(cache.get::<u32>("a").await.unwrap(), None);
        assert_eq!(deletes("no JSON").await, None);
        assert_eq!(deletes(r#"[["b"]]"#).await, Some(1), "it is opened anew");
        cache.set("c", &1).await.unwrap();
        let parameters =
            || -> Vec<Parameter> { vec![("$1", Box::new("")), ("$2", Box::new(r#"[["c"]]"#))] };
        let written = database.write_many(Sql::CacheDeleteMany, parameters).await;
        assert_eq!(written.unwrap(), Some(1), "though it returns rows");
        database.close().await;
        assert_eq!(deletes(r#"[["b"]]"#).await, None, "it is closed for good");
        let memory = Database::connect("sqlite::memory:").await.unwrap();
        let none = memory.write_many(Sql::CacheDeleteMany, Vec::new).await;
        assert_eq!(none.unwrap(), None);
    }
}
