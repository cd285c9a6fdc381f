//! Plans that PostgreSQL made for a table that has grown since.
//!
//! A connection plans a named statement a few times, and then keeps what it has. Where a table was empty then, its
//! statements read all of it for good, until somebody analyzes the table: a minute later, if all goes well.

use std::time::Duration;

use super::{Connection, Database, Engine, Sql, query};
use crate::error::Result;

/// A statement of a worker that takes longer than this may be badly planned. Planning all of them takes some milliseconds.
const SLOW: Duration = Duration::from_millis(50);

impl Database {
    /// Has this connection plan its statements anew, if its last one `took` so long that it may be for want of that.
    pub(crate) async fn replan_if_slow(
        &self,
        connection: &mut Connection,
        took: Duration,
    ) -> Result<()> {
        if took < SLOW || self.engine() == Engine::Sqlite {
            return Ok(());
        }
        tracing::debug!(took_ms = took.as_millis(), "planning statements anew");
        let mut tx = connection.tx();
        query!(self, tx, execute, Sql::Replan)?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sqlx::{Row, raw_sql};

    use super::*;
    use crate::database::{DatabaseOptions, Tx};

    async fn ask(connection: &mut Connection, sql: &str) -> Vec<String> {
        let Tx::Postgres(connection) = connection.tx() else {
            unreachable!()
        };
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        let rows = raw_sql(sql).fetch_all(connection).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    // PostgreSQL's alone: SQLite plans by the statement, and has nothing to forget.
    #[tokio::test]
    async fn what_was_planned_for_an_empty_table_is_planned_anew_when_it_took_long() {
        let url = std::env::var("LARDER_TEST_POSTGRES_URL")
            .expect("LARDER_TEST_POSTGRES_URL names no PostgreSQL");
        let schema = format!("test {}", uuid::Uuid::now_v7().simple());
        let options = DatabaseOptions::new(&url).schema(&schema);
        let database = options.connect().await.unwrap();
        let mut connection = database.read().await.unwrap();
        let job = format!("\"{schema}\".job_attempt");
        // Generic plans at once, instead of after five executions.
        let prepare = format!(
            "SET plan_cache_mode = force_generic_plan; \
             PREPARE probe (uuid) AS SELECT attempt FROM {job} WHERE job = $1"
        );
        let explain = "EXPLAIN EXECUTE probe ('00000000-0000-7000-8000-000000000001')";
        let reads_all = async |connection: &mut Connection| {
            ask(connection, explain).await[0].contains("Seq Scan")
        };
        ask(&mut connection, &format!("VACUUM ANALYZE {job}")).await;
        ask(&mut connection, &prepare).await;
        assert!(reads_all(&mut connection).await, "the table is empty");
        let fill = format!(
            "INSERT INTO {job} (job, attempt, started_at, ended_at) \
             SELECT gen_random_uuid(), 1, now(), now() FROM generate_series(1, 20000)"
        );
        ask(&mut connection, &fill).await;

        // Whatever else goes on there may have made it forget already: nothing is said of the plan until now.
        let slow = Duration::from_secs(1);
        database
            .replan_if_slow(&mut connection, slow)
            .await
            .unwrap();
        assert!(!reads_all(&mut connection).await, "it was slow");
        ask(
            &mut connection,
            &format!("DROP SCHEMA \"{schema}\" CASCADE"),
        )
        .await;
    }
}
