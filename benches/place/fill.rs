//! Rows by the hundred thousand, past larder, as it would have left them.

use larder::database::Engine;

use super::Place;

/// Items `item:1` and so on, of some 250 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Items {
    pub(crate) count: u64,
    /// Every so-manieth has expired; none of them where this is 0.
    pub(crate) expired: u64,
}

/// What has become of the jobs, all of one name and one queue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Jobs {
    Finished,
    /// For tomorrow.
    Waiting,
    Ready,
}

impl Place {
    pub(crate) async fn fill_items(&self, items: Items) {
        let count = items.count;
        let (series, now, value) = match self.engine {
            Engine::Sqlite => (
                recursive(count),
                "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
                "json_object('id', n, 'text', printf('%.*c', 220, 'x'))",
            ),
            Engine::Postgres => (
                format!("WITH n AS (SELECT generate_series(1, {count}) AS n)"),
                "clock_timestamp()",
                "json_build_object('id', n, 'text', repeat('x', 220))",
            ),
        };
        let hour = match self.engine {
            Engine::Sqlite => "3600000",
            Engine::Postgres => "interval '1 hour'",
        };
        let expires_at = match items.expired {
            0 => "NULL".to_owned(),
            every => format!("CASE WHEN n % {every} = 0 THEN {now} - {hour} END"),
        };
        self.execute(&format!(
            "{series} INSERT INTO {{}}cached_item (namespace, key, value, expires_at, generation, created_at, updated_at) \
             SELECT '', 'item:' || n, {value}, {expires_at}, n, {now}, {now} FROM n"
        ))
        .await;
        self.settle("cached_item").await;
    }

    pub(crate) async fn fill_jobs(&self, count: u64, jobs: Jobs) {
        let (series, id, at, no) = match self.engine {
            Engine::Sqlite => (
                recursive(count),
                "printf('00000000-0000-7000-8000-%012d', n)",
                "(CAST(unixepoch('subsec') * 1000 AS INTEGER) + OFFSET * 1000 + n)",
                ["0", "1"],
            ),
            Engine::Postgres => (
                format!("WITH n AS (SELECT generate_series(1, {count}) AS n)"),
                "CAST('00000000-0000-7000-8000-' || lpad(CAST(n AS text), 12, '0') AS uuid)",
                "(clock_timestamp() + (OFFSET + n / 1000.0) * interval '1 second')",
                ["FALSE", "TRUE"],
            ),
        };
        let (status, due, attempt, offset) = match jobs {
            Jobs::Finished => ("done", no[0], 1, "-86400"),
            Jobs::Waiting => ("queued", no[0], 0, "86400"),
            Jobs::Ready => ("queued", no[1], 0, "-86400"),
        };
        let at = at.replace("OFFSET", offset);
        let ended = if status == "done" {
            at.as_str()
        } else {
            "NULL"
        };
        self.execute(&format!(
            "{series} INSERT INTO {{}}job (id, name, queue, status, due, priority, attempt, max_attempts, run_at, created_at, finished_at, payload) \
             SELECT {id}, 'nothing', 'default', '{status}', {due}, 0, {attempt}, 20, {at}, {at}, {ended}, '{{ }}' FROM n",
        ))
        .await;
        self.settle("job").await;
    }

    /// As autovacuum does in the life of a table. What the filling left to be written is no business of what comes.
    async fn settle(&self, table: &str) {
        match self.engine {
            Engine::Sqlite => {
                self.execute("ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)")
                    .await
            }
            Engine::Postgres => {
                self.execute(&format!("VACUUM (ANALYZE) {{}}{table}")).await;
                self.execute("CHECKPOINT").await;
            }
        }
    }
}

fn recursive(count: u64) -> String {
    format!("WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT {count})")
}
