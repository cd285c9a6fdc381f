//! Every statement, once, as a template in the text that both engines take.
//!
//! `{item}` and its kin are the tables' qualified names, `{live:$n}` is the one definition of a live item, and what
//! is left are the [`PAIRS`]: the few words in which the engines part. Templates are rendered once, at connect.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

/// Which engine a database runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// SQLite, embedded in the process.
    Sqlite,
    /// PostgreSQL, a server.
    Postgres,
}

/// A word that the engines say differently; `?` stands for its argument.
#[derive(Debug)]
pub(super) struct Pair {
    /// The word as templates write it.
    pub(super) name: &'static str,
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

/// Where the engines part. Keep this list short enough to read in one breath.
pub(super) const PAIRS: [Pair; 31] = [
    // Rows of a JSON array of arrays; both then read a column by `e.value->>0`. PostgreSQL reads a row of `json` from its
    // start for each of its columns, and SQLite would write each row as text, and parse that.
    Pair {
        name: "each",
        sqlite: "jsonb_each(?)",
        postgres: "jsonb_array_elements(CAST(? AS jsonb))",
    },
    // Those of a list of texts, whose type is `Keys`. It costs PostgreSQL less than rows of JSON. A list that it saw while it
    // plans it would count, find cheaper than one of unknown length, and so plan each statement of few keys anew.
    Pair {
        name: "listed",
        sqlite: "IN (SELECT value FROM json_each(?))",
        postgres: "= ANY(CAST((SELECT CAST(? AS text[])) AS text[]))",
    },
    // The jobs of a list of ids, whose type is `Ids`. Joined with one, PostgreSQL would look each up among all of the others.
    Pair {
        name: "of",
        sqlite: "FROM (SELECT e.value AS id FROM json_each(?) AS e) AS e WHERE job.id IS NOT NULL AND job.id = e.id",
        postgres: "WHERE job.id = ANY(CAST((SELECT CAST(? AS uuid[])) AS uuid[]))",
    },
    // Bytes of a value as it is stored, which neither engine reads it for.
    Pair {
        name: "size",
        sqlite: "octet_length(?)",
        postgres: "pg_column_size(?)",
    },
    // SQLite has no types of this name, and CAST to an unknown one rewrites numbers.
    Pair {
        name: "json",
        sqlite: "?",
        postgres: "CAST(? AS json)",
    },
    Pair {
        name: "uuid",
        sqlite: "?",
        postgres: "CAST(? AS uuid)",
    },
    Pair {
        name: "time",
        sqlite: "CAST(? AS INTEGER)",
        postgres: "(timestamptz 'epoch' + CAST(? AS bigint) * interval '1 millisecond')",
    },
    // By its index, whatever PostgreSQL believes of the table: a join with one that was empty when it was last looked at
    // reads all of it for each row of the batch.
    Pair {
        name: "among",
        sqlite: "IN (?)",
        postgres: "= ANY(ARRAY(?))",
    },
    // The same of rows that are joined besides, which SQLite always finds by that.
    Pair {
        name: "found",
        sqlite: "IS NOT NULL",
        postgres: "= ANY(ARRAY(?))",
    },
    // Whether a job is in the index of those that have ended, in the words by which each engine knows it: for a long IN SQLite
    // makes a table, and by an OR PostgreSQL would look thrice.
    Pair {
        name: "ended",
        sqlite: "(status = 'done' OR status = 'dead' OR status = 'cancelled')",
        postgres: "status IN ('done', 'dead', 'cancelled')",
    },
    // Where a row is, for a statement that has just found and locked it: no index is asked again. One that was written
    // meanwhile is elsewhere, and is not found.
    Pair {
        name: "row",
        sqlite: "?.rowid",
        postgres: "?.ctid",
    },
    // What a connection planned for a table that has grown since is forgotten. SQLite plans by the statement alone.
    Pair {
        name: "replan",
        sqlite: "SELECT 1",
        postgres: "DISCARD PLANS",
    },
    // SQLite has one writer, and so no rows that somebody else holds.
    Pair {
        name: "skip_locked",
        sqlite: "",
        postgres: "FOR UPDATE SKIP LOCKED",
    },
    // Held in the order of their keys, so that two that hold many do not wait for each other in a circle.
    Pair {
        name: "lock",
        sqlite: "",
        postgres: "FOR UPDATE",
    },
    // What SQLite alone is asked: of rows by their place in the file, and of its log.
    Pair {
        name: "sqlite",
        sqlite: "?",
        postgres: "SELECT 1",
    },
    // What PostgreSQL alone is asked: to delete rows of any partition by their place in it, and of jobs that are claimed
    // many at once.
    Pair {
        name: "postgres",
        sqlite: "SELECT 1",
        postgres: "?",
    },
    // Whether the next attempt of a job is in no claim of many. SQLite has none.
    Pair {
        name: "free",
        sqlite: "TRUE",
        postgres: "((job.id, job.attempt + 1) NOT IN (SELECT unnest(claim.jobs), unnest(claim.attempts) FROM ?)) IS TRUE",
    },
    // Whether each statement of the transaction sees what was committed before it. Who writes to SQLite sees what there is.
    Pair {
        name: "current",
        sqlite: "TRUE",
        postgres: "current_setting('transaction_isolation') = 'read committed'",
    },
    // Of a queue without a row PostgreSQL cannot tell who else claims from it, and its workers make one first.
    Pair {
        name: "or_none",
        sqlite: "IS NOT FALSE",
        postgres: "IS TRUE",
    },
    // Holds off whoever pauses the queue, until what is claimed meanwhile is there to see; and nobody else. The argument says
    // what becomes of a row that somebody else holds.
    Pair {
        name: "share",
        sqlite: "",
        postgres: "FOR KEY SHARE ?",
    },
    // Wakes the workers of other processes when the transaction commits, also to learn when a delayed job starts. The
    // argument is another channel's ending, for what is of no use to whoever waits for jobs.
    Pair {
        name: "notify",
        sqlite: "",
        postgres: ", pg_notify('larder_job?', @schema || '/' || queue)",
    },
    // The same of the jobs that are left to them.
    Pair {
        name: "notify_queued",
        sqlite: "",
        postgres: ", CASE WHEN status = 'queued' THEN pg_notify('larder_job', @schema || '/' || queue) END",
    },
    // Wakes those in other processes who wait for the item.
    Pair {
        name: "told",
        sqlite: "",
        postgres: ", pg_notify('larder_cache', @schema || '/' || namespace || '/' || key)",
    },
    // Has the triggers of cached_item tell what is written, for so many seconds from now. SQLite tells nobody.
    Pair {
        name: "watch_for",
        sqlite: "SELECT ?",
        postgres: "SELECT setval(@watch, \
                   CAST(date_part('epoch', clock_timestamp()) AS bigint) + ?)",
    },
    // A transaction that clears what has no row to lock says so, for as long as it is open. SQLite has one writer, which
    // nobody else passes by.
    Pair {
        name: "hold",
        sqlite: "?",
        postgres: "pg_advisory_xact_lock_shared(?)",
    },
    Pair {
        name: "is_free",
        sqlite: "? IS NOT NULL",
        postgres: "pg_try_advisory_xact_lock(?)",
    },
    // How long this statement waits for rows that somebody else holds, and none after it. An uncorrelated subquery is
    // evaluated once, before the first row. SQLite's one lock has the busy timeout of its connection.
    Pair {
        name: "within",
        sqlite: "? IS NOT NULL",
        postgres: "(SELECT set_config('lock_timeout', ?, TRUE)) IS NOT NULL",
    },
    Pair {
        name: "clock",
        sqlite: "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        postgres: "SELECT clock_timestamp()",
    },
    // Held until the end of the transaction; the number is "larder" in ASCII. SQLite's write lock does the same.
    Pair {
        name: "migration_lock",
        sqlite: "SELECT 1",
        postgres: "SELECT pg_advisory_xact_lock(119182957241714)",
    },
    Pair {
        name: "schema_count",
        sqlite: "SELECT 1",
        postgres: "SELECT COUNT(*) FROM pg_catalog.pg_namespace WHERE nspname = @schema",
    },
    Pair {
        name: "migrated",
        sqlite: "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = 'larder_migration'",
        postgres: "SELECT COUNT(*) FROM pg_catalog.pg_tables \
                   WHERE schemaname = @schema AND tablename = 'larder_migration'",
    },
];

macro_rules! statements {
    ($($name:ident: $template:expr;)*) => {
        /// The name of a statement.
        #[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
        #[cfg_attr(not(feature = "worker"), allow(dead_code, reason = "some are the worker's alone"))]
        pub(crate) enum Sql { $($name),* }

        pub(super) const TEMPLATES: &[(&str, &str)] = &[$((stringify!($name), $template)),*];
    };
}

/// What a value that is written ends: the one before, and whoever computes the next. Tags stay with a live item alone.
macro_rules! forget {
    () => {
        concat!(forget!(made), ", generation = excluded.generation")
    };
    (made) => {
        concat!(forget!(computed), ", job = NULL, made_by = NULL, stale_at = NULL, cost = NULL")
    };
    (computed) => {
        "vacant = FALSE, holder = NULL, lease_until = NULL, failed = NULL, last_error = NULL, failures = 0, \
         retry_at = NULL, error_until = NULL, refresh = NULL"
    };
}

/// Whether an expired item may go: nobody computes it, and nothing that was built from it is left. For an EXISTS
/// PostgreSQL would read all links.
macro_rules! purgeable {
    ($now:literal) => {
        concat!(
            "(item.holder IS NULL OR item.lease_until <= ", $now, ") AND (NOT item.needed OR (\
             SELECT link.key FROM {link} AS link WHERE link.namespace = item.namespace AND link.kind = 'key' \
             AND link.name = item.key LIMIT 1) IS NULL)"
        )
    };
}

/// The items of the namespace `$1` among the keys of the batch `$2`, and what was built from them. By its CROSS JOIN
/// SQLite looks up the links of each key, instead of reading all of them for each step.
macro_rules! built {
    () => {
        "WITH RECURSIVE built (key) AS (SELECT item.key FROM {item} AS item WHERE item.namespace = $1 \
         AND item.key {among:SELECT e.value->>0 FROM {each:$2} AS e} UNION \
         SELECT link.key FROM built CROSS JOIN {link} AS link \
         WHERE link.namespace = $1 AND link.kind = 'key' AND link.name = built.key) SELECT built.key FROM built"
    };
}

/// How `set` and `set_many` overwrite: a live item keeps its age, and its deadline where the caller says keep.
macro_rules! overwrite {
    ($now:literal, $keep:literal) => {
        concat!(
            " ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value, ",
            forget!(),
            ", ",
            "linked = excluded.linked OR item.linked AND {live:",
            $now,
            "}, ",
            "expires_at = CASE WHEN ",
            $keep,
            " AND {live:",
            $now,
            "} THEN item.expires_at ELSE excluded.expires_at END, ",
            "created_at = CASE WHEN {live:",
            $now,
            "} THEN item.created_at ELSE excluded.created_at END, ",
            "updated_at = CASE WHEN {live:",
            $now,
            "} AND item.created_at > excluded.updated_at ",
            "THEN item.created_at ELSE excluded.updated_at END"
        )
    };
}

/// The jobs of a batch, at `$2`.
macro_rules! enqueue {
    () => {
        concat!(enqueue!(""), enqueue!("'queued'", "", ""))
    };
    // Those that are begun by their own insertion, by the worker `$3`: all of them, where `begins` holds of their queue.
    (begun) => {
        concat!(
            begins!("$4"),
            enqueue!(", attempt, worker, started_at"),
            enqueue!(
                "CASE WHEN queue.begins THEN 'running' ELSE 'queued' END",
                ", CASE WHEN queue.begins THEN 1 ELSE 0 END, CASE WHEN queue.begins THEN {uuid:$3} END, \
                 CASE WHEN queue.begins THEN $2 END",
                ", queue"
            )
        )
    };
    ($columns:literal) => {
        concat!(
            "INSERT INTO {job} AS job (id, name, queue, status, due, priority, max_attempts, unique_key, schedule, tick, \
             run_at, created_at, payload, limit_key, max_running",
            $columns,
            ") "
        )
    };
    ($status:literal, $values:literal, $of:literal) => {
        concat!(
            "SELECT {uuid:e.value->>0}, e.value->>1, e.value->>2, ",
            $status,
            ", {time:e.value->>8} <= $2, \
             CAST(e.value->>3 AS integer), CAST(e.value->>4 AS integer), e.value->>5, e.value->>6, {time:e.value->>7}, \
             {time:e.value->>8}, $2, {json:e.value->>9}, e.value->>10, CAST(e.value->>11 AS integer)",
            $values,
            " FROM {each:$1} AS e",
            $of,
            " WHERE TRUE "
        )
    };
}

/// Whether a job may be begun as it is enqueued: its queue is not paused, and no job is ready there that it would overtake. Who
/// pauses the queue waits until the job is there to see. Who has the queue's row already, to pause it or to claim many, is
/// not waited for: the job is theirs to claim.
macro_rules! begins {
    ($name:literal) => {
        concat!(
            "WITH queue AS MATERIALIZED (SELECT (SELECT queue.paused_at IS NULL FROM {queue} AS queue WHERE queue.name = ",
            $name,
            " {share:SKIP LOCKED}) {or_none} AND (SELECT job.id FROM {job} AS job WHERE job.queue = ",
            $name,
            " AND ",
            ready!(),
            " ORDER BY job.priority DESC, job.run_at, job.id LIMIT 1) IS NULL \
             AND (SELECT job.id FROM {job} AS job WHERE job.queue = ",
            $name,
            " AND ",
            ready!(limited),
            " ORDER BY job.limit_key LIMIT 1) IS NULL AS begins) "
        )
    };
}

/// What a value that is there has to be refreshed as: nothing, as a rule.
macro_rules! to_refresh {
    ($now:literal) => {
        concat!(
            "CASE WHEN item.stale_at <= ",
            $now,
            " AND NOT COALESCE(item.retry_at > ",
            $now,
            ", FALSE) THEN item.generation END"
        )
    };
}

/// The items of a batch, where `$which` holds.
macro_rules! set_many {
    ($which:literal) => {
        concat!(
            "INSERT INTO {item} AS item (namespace, key, value, expires_at, generation, created_at, updated_at, linked) \
             SELECT $1, e.value->>0, {json:e.value->>1}, {time:e.value->>2}, $3, $4, $4, $6 FROM {each:$2} AS e WHERE ",
            $which,
            overwrite!("$4", "$5")
        )
    };
}

/// Without the items of a batch, where `$which` holds.
macro_rules! delete_many {
    ($which:literal) => {
        concat!(
            "WITH batch AS MATERIALIZED (SELECT item.key AS batch_key FROM {item} AS item \
             WHERE item.namespace = $1 AND item.key {among:SELECT e.value->>0 FROM {each:$2} AS e} AND ",
            $which,
            " ORDER BY item.key {lock}) \
             DELETE FROM {item} AS item WHERE item.namespace = $1 AND item.key {among:SELECT batch_key FROM batch} \
             RETURNING key, vacant"
        )
    };
}

/// The stored value of a counter as text, and whether it is one: `null`, or an integer of at most 18 digits.
/// Written without a failing cast, which would abort the caller's transaction on PostgreSQL.
macro_rules! counter {
    (text) => {
        "CAST(item.value AS text)"
    };
    (value) => {
        concat!(
            "CASE WHEN ",
            counter!(text),
            " = 'null' THEN 0 ELSE CAST(",
            counter!(text),
            " AS bigint) END"
        )
    };
    (digits) => {
        concat!(
            "CASE WHEN substr(",
            counter!(text),
            ", 1, 1) = '-' THEN substr(",
            counter!(text),
            ", 2) ELSE ",
            counter!(text),
            " END"
        )
    };
    (fits $delta:literal) => {
        concat!(
            "CASE WHEN ",
            counter!(text),
            " = 'null' THEN TRUE ",
            "WHEN length(",
            counter!(digits),
            ") BETWEEN 1 AND 18 AND trim(",
            counter!(digits),
            ", '0123456789') = '' ",
            "THEN CAST(",
            counter!(text),
            " AS bigint) + ",
            $delta,
            " BETWEEN -999999999999999999 AND 999999999999999999 ELSE FALSE END"
        )
    };
}

/// The value of an item, or null where it is large.
macro_rules! small {
    () => {
        "CASE WHEN {size:item.value} <= 65536 THEN item.value END"
    };
}

macro_rules! job_columns {
    () => {
        "id, name, queue, status, priority, attempt, max_attempts, unique_key, schedule, tick, run_at, \
         created_at, started_at, finished_at, worker, error, payload, result, cancelled_at, progress_done, progress_total"
    };
}

/// Whether a job's name is among those of the JSON array `$names`. `IS TRUE` keeps PostgreSQL from turning the test
/// into a join, which would sort every ready job before the first is fetched.
macro_rules! known {
    ($names:literal) => {
        concat!(
            "(name IN (SELECT e.value->>0 FROM {each:",
            $names,
            "} AS e)) IS TRUE"
        )
    };
}

macro_rules! schedule_columns {
    () => {
        "name, definition, until, last_tick, last_job, paused_at, seen_at, updated_at"
    };
}

/// Starting from `$now` never goes back behind ticks that are dealt with; only an instant later than `$wrong` is the
/// doing of a clock that was wrong.
macro_rules! from_now {
    ($now:literal, $wrong:literal) => {
        concat!(
            "CASE WHEN schedule.until > ",
            $now,
            " AND schedule.until <= ",
            $wrong,
            " THEN schedule.until ELSE ",
            $now,
            " END"
        )
    };
}

/// The attempts of the batch `$1` that are the worker `$2`'s still: `e.value` is a row of it, first the job's id and
/// then which attempt it is. `IS TRUE` is as it is there because of the index of running jobs.
macro_rules! fenced {
    // And that began when the batch says, where it does: one that was given back may be claimed again under its number.
    (begun) => {
        concat!(
            fenced!(),
            " AND (job.started_at = {time:e.value->>8}) IS NOT FALSE"
        )
    };
    () => {
        concat!(
            " WHERE ",
            one_of!(),
            " AND (job.worker = $2 AND job.status = 'running') IS TRUE \
             AND job.attempt = CAST(e.value->>1 AS integer)"
        )
    };
}

/// That a job is the one of `e`, a row of the batch `$1`, and for PostgreSQL that it is among those of all rows.
macro_rules! one_of {
    () => {
        "job.id {found:SELECT {uuid:each.value->>0} FROM {each:$1} AS each} AND job.id = {uuid:e.value->>0}"
    };
}

/// Whether a job is in the index of those without a key, or of those with one.
macro_rules! ready {
    () => {
        "job.status = 'queued' AND job.due AND job.limit_key IS NULL"
    };
    (limited) => {
        "job.status = 'queued' AND job.due AND job.limit_key IS NOT NULL"
    };
}

/// Since when a queue is paused; null also where nothing is known of it.
macro_rules! paused {
    ($name:literal) => {
        paused!($name, "")
    };
    ($name:literal, $lock:literal) => {
        concat!(
            "(SELECT queue.paused_at FROM {queue} AS queue WHERE queue.name = ",
            $name,
            " ",
            $lock,
            ")"
        )
    };
}

/// That many of the queue's jobs were not claimed at once while this statement waited for that: it does not see what was
/// claimed. The row that is held is read as it is now, and the other as it was when the statement began.
macro_rules! current {
    ($name:literal) => {
        concat!(
            "(SELECT queue.claims = (SELECT seen.claims FROM {queue} AS seen WHERE seen.name = ",
            $name,
            ") FROM {queue} AS queue WHERE queue.name = ",
            $name,
            " {share}) {or_none}"
        )
    };
}

/// That an attempt, by its number, is the worker `$2`'s still: its job's row says so, or it is one of a claim of many, whose
/// rows are as they were before. Whoever takes an attempt away counts it, and so its job's row is never like that again.
macro_rules! runs {
    ($attempt:literal) => {
        concat!(
            "((job.worker = $2 AND job.status = 'running' AND job.attempt = ",
            $attempt,
            ") OR (job.status = 'queued' AND job.due AND job.attempt = ",
            $attempt,
            " - 1)) IS TRUE"
        )
    };
}

/// Has the rows of the attempts `e` (id, attempt, worker, started_at) say that they run, where they are still as they were when
/// they were claimed with many. In the order in which everybody locks many; which of them it could lock.
macro_rules! begin {
    ($lock:literal) => {
        concat!(
            "held AS MATERIALIZED (SELECT job.id FROM {job} AS job WHERE job.id {among:SELECT e.id FROM e} \
             ORDER BY job.id ",
            $lock,
            "), begun AS (UPDATE {job} AS job SET status = 'running', worker = e.worker, attempt = e.attempt, \
             started_at = e.started_at, finished_at = NULL FROM e \
             WHERE job.id {among:SELECT held.id FROM held} AND job.id = e.id \
             AND (job.status = 'queued' AND job.due AND job.attempt = e.attempt - 1) IS TRUE) \
             SELECT held.id FROM held"
        )
    };
}

/// Attempts of this worker as a batch has them, for [`begin`].
macro_rules! begun {
    () => {
        "WITH e AS MATERIALIZED (SELECT {uuid:e.value->>0} AS id, CAST(e.value->>1 AS integer) AS attempt, \
         CAST($2 AS uuid) AS worker, {time:e.value->>8} AS started_at FROM {each:$1} AS e), "
    };
}

/// What an attempt ends in. A job that was to be cancelled is done or cancelled, and neither tried again nor dead.
macro_rules! ends {
    // The status of the row of the batch, unless the job was to be cancelled.
    (status) => {
        "CASE WHEN job.cancelled_at IS NULL OR e.value->>2 = 'done' THEN e.value->>2 ELSE 'cancelled' END"
    };
    (again) => {
        "(job.cancelled_at IS NULL AND e.value->>2 = 'queued')"
    };
    // A drain gives the attempt back three times; then it counts.
    (given_back) => {
        "(job.cancelled_at IS NULL AND job.released < 3)"
    };
    (released) => {
        "(job.cancelled_at IS NULL AND (job.released < 3 OR job.attempt < job.max_attempts))"
    };
    (rescued) => {
        "(job.cancelled_at IS NULL AND job.attempt < job.max_attempts)"
    };
    (not $again:ident) => {
        concat!(
            "CASE WHEN ",
            ends!($again),
            " THEN 'queued' WHEN job.cancelled_at IS NOT NULL THEN 'cancelled' ELSE 'dead' END"
        )
    };
    // What a job that is to be tried again has no more, and one that has ended keeps.
    (keep $column:literal unless $again:ident) => {
        concat!("CASE WHEN ", ends!($again), " THEN NULL ELSE ", $column, " END")
    };
}

/// An attempt may come back within the same millisecond, where a drain gave it back: the later end is the one kept.
macro_rules! kept {
    () => {
        "ON CONFLICT (job, ended_at, attempt) DO UPDATE SET worker = excluded.worker, \
         started_at = excluded.started_at, error = excluded.error"
    };
}

/// The ids of the jobs that have not ended and that a cancellation picks.
macro_rules! unended {
    ($status:literal, $part:literal) => {
        concat!(
            "SELECT id FROM {job} WHERE status = '",
            $status,
            "' AND ",
            $part,
            " AND ($1 IS NULL OR $1 = '",
            $status,
            "') AND ($2 IS NULL OR queue = $2) AND ($3 IS NULL OR name = $3)"
        )
    };
}

/// The end of a claim: the jobs of `batch` are this worker's.
macro_rules! claim {
    ($worker:literal, $now:literal) => {
        concat!(
            "UPDATE {job} AS job SET status = 'running', worker = ",
            $worker,
            ", attempt = attempt + 1, started_at = ",
            $now,
            ", finished_at = NULL WHERE {row:job} {among:SELECT batch_row FROM batch} AND (status = 'queued' AND due) IS TRUE \
             RETURNING id, name, attempt, max_attempts, schedule, tick, priority, run_at, payload, started_at"
        )
    };
}

/// Claims many ready jobs, which `QueueClaim` keeps others from changing: to lock each would take a third of the time. Those
/// where `$which` holds and that are in none of the queue's claims of which `$claims` holds. One row of
/// arrays, which takes whoever reads it a fifth of what so many rows do; of payloads that are large together none.
macro_rules! fetch_many {
    ($which:literal, $claims:literal) => {
        concat!(
            "{postgres:WITH batch AS MATERIALIZED (SELECT job.id, job.name, job.attempt + 1 AS attempt, job.max_attempts, \
             job.schedule, job.tick, job.priority, job.run_at, CAST(job.payload AS text) AS payload FROM {job} AS job \
             WHERE job.queue = $1 AND ",
            ready!(),
            " AND ",
            $which,
            " AND {free:{claim} AS claim WHERE claim.queue = $1 AND ",
            $claims,
            "} AND ",
            known!("$2"),
            " ORDER BY job.priority DESC, job.run_at, job.id LIMIT $3), \
             gathered AS MATERIALIZED (SELECT array_agg(id) AS jobs, array_agg(attempt) AS attempts, array_agg(name) AS names, \
             array_agg(max_attempts) AS max_attempts, array_agg(schedule) AS schedules, array_agg(tick) AS ticks, \
             SUM(octet_length(payload)) AS bytes, (array_agg(priority))[COUNT(*)] AS priority, \
             (array_agg(run_at))[COUNT(*)] AS run_at, (array_agg(id))[COUNT(*)] AS last FROM batch HAVING COUNT(*) > 0), \
             claimed AS (INSERT INTO {claim} (id, worker, queue, started_at, jobs, attempts, priority, run_at, last) \
             SELECT $6, $4, $1, $5, jobs, attempts, priority, run_at, last FROM gathered) \
             SELECT jobs, attempts, names, max_attempts, schedules, ticks, \
             CASE WHEN bytes <= $7 THEN ARRAY(SELECT payload FROM batch) END, priority, run_at, last FROM gathered}"
        )
    };
}

statements! {
    // Where the server itself is, whatever stands between.
    ServerAddress: "{postgres:SELECT host(inet_server_addr())}";
    CacheGet: "SELECT item.value FROM {item} AS item WHERE item.namespace = $1 AND item.key = $2 AND {live:$3}";
    CacheGetMany: "SELECT item.key, item.value FROM {item} AS item WHERE item.namespace = $1 \
        AND item.key {among:SELECT e.value->>0 FROM {each:$2} AS e} AND {live:$3}";
    // What SQLite reads on the caller's own thread. Parameters come in the order of their numbers, and so must these.
    CacheGetHere: concat!("SELECT ", small!(), " FROM {item} AS item \
        WHERE item.namespace = $1 AND item.key = $2 AND {live:$3}");
    MemoReadHere: concat!("SELECT ", small!(), ", item.generation, item.stale_at, item.cost, item.retry_at, item.refresh \
        FROM {item} AS item WHERE item.namespace = $1 AND item.key = $2 AND {live:$3}");
    // The items of calls that were gathered, with their keys at the end. A value that is large is read on its own, so that it holds up no other.
    CacheGetEach: concat!("SELECT ", small!(), ", item.key FROM {item} AS item \
        WHERE item.namespace = $1 AND item.key {listed:$2} AND {live:$3}");
    CacheDeadlineEach: "SELECT item.expires_at, item.key FROM {item} AS item \
        WHERE item.namespace = $1 AND item.key {listed:$2} AND {live:$3}";
    CacheRead: "SELECT item.value, item.expires_at, item.created_at, item.updated_at, item.generation, item.stale_at, \
        item.cost, CASE WHEN item.holder IS NOT NULL AND item.lease_until > $3 THEN item.lease_until END, \
        item.last_error, item.failures, item.linked, COALESCE(item.refresh, item.job) \
        FROM {item} AS item WHERE item.namespace = $1 AND item.key = $2 AND {live:$3}";
    CacheDeadline: "SELECT item.expires_at FROM {item} AS item \
        WHERE item.namespace = $1 AND item.key = $2 AND {live:$3}";
    CacheSet: concat!(
        "INSERT INTO {item} AS item (namespace, key, value, expires_at, generation, created_at, updated_at, linked) \
         VALUES ($1, $2, $3, $4, $5, $6, $6, $8)", overwrite!("$6", "$7"));
    CacheSetMany: set_many!("TRUE");
    // Of calls that were gathered: whose row somebody else holds must not hold up the others.
    CacheSetEach: set_many!("{within:$7}");
    CacheAdd: concat!(
        "INSERT INTO {item} AS item (namespace, key, value, expires_at, generation, created_at, updated_at, linked) \
         VALUES ($1, $2, $3, $4, $5, $6, $6, $7) \
         ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at, ",
        forget!(), ", linked = excluded.linked, created_at = excluded.created_at, \
         updated_at = excluded.updated_at WHERE NOT {live:$6}");
    CacheSetIf: concat!(
        "UPDATE {item} AS item SET value = $3, expires_at = CASE WHEN $7 THEN item.expires_at ELSE $4 END, ",
        forget!(made), ", generation = $5, \
         updated_at = CASE WHEN item.created_at > $6 THEN item.created_at ELSE $6 END \
         WHERE item.namespace = $1 AND item.key = $2 AND item.generation = $8 AND {live:$6}");
    CacheIncrement: concat!(
        "INSERT INTO {item} AS item (namespace, key, value, expires_at, generation, created_at, updated_at) \
         VALUES ($1, $2, {json:CAST(CAST($3 AS bigint) AS text)}, $4, $5, $6, $6) \
         ON CONFLICT (namespace, key) DO UPDATE SET ", forget!(), ", linked = item.linked AND {live:$6}, \
         value = CASE WHEN {live:$6} THEN {json:CAST(", counter!(value), " + $3 AS text)} ELSE excluded.value END, \
         expires_at = CASE WHEN {live:$6} THEN item.expires_at ELSE excluded.expires_at END, \
         created_at = CASE WHEN {live:$6} THEN item.created_at ELSE excluded.created_at END, \
         updated_at = CASE WHEN {live:$6} AND item.created_at > excluded.updated_at \
         THEN item.created_at ELSE excluded.updated_at END \
         WHERE NOT {live:$6} OR ", counter!(fits "$3"), " RETURNING CAST(CAST(value AS text) AS bigint)");
    CacheTouch: "UPDATE {item} AS item SET expires_at = $4 \
        WHERE item.namespace = $1 AND item.key = $2 AND {live:$3}";
    CacheDelete: "DELETE FROM {item} AS item WHERE item.namespace = $1 AND item.key = $2 RETURNING vacant";
    CacheDeleteMany: delete_many!("TRUE");
    CacheDeleteEach: delete_many!("{within:$3}");
    CacheKeys: "SELECT item.key FROM {item} AS item WHERE item.namespace = $1 \
        AND item.key >= $2 AND item.key <> $3 AND item.key < $4 AND {live:$5} ORDER BY item.key LIMIT $6";
    CacheNamespaces: "SELECT DISTINCT item.namespace FROM {item} AS item ORDER BY 1";
    CacheRangeEnd: "SELECT item.key FROM {item} AS item WHERE item.namespace = $1 \
        AND item.key >= $2 AND item.key < $3 ORDER BY item.key LIMIT 1 OFFSET $4";
    CacheClearRange: "WITH batch AS MATERIALIZED (SELECT item.key AS batch_key FROM {item} AS item \
        WHERE item.namespace = $1 AND item.key >= $2 AND item.key < $3 ORDER BY item.key {lock}) \
        DELETE FROM {item} AS item WHERE item.namespace = $1 AND item.key {among:SELECT batch_key FROM batch} \
        RETURNING vacant";
    // `IS TRUE` keeps PostgreSQL from reading all that is expired for each batch.
    // By place, since a deletion asks no index, and by partition, where another one has a row in that place. A purge that a
    // crash undoes is done again, so nobody waits for the disk.
    CachePurge: concat!("{postgres:WITH batch AS MATERIALIZED (SELECT item.ctid AS place, item.tableoid AS part, item.expires_at FROM {item} AS item \
        WHERE item.expires_at <= $1 AND item.expires_at >= $3 AND NOT item.vacant \
        AND (CAST($4 AS text) IS NULL OR item.namespace || '' = $4) AND ", purgeable!("$1"),
        " ORDER BY item.expires_at LIMIT $2 {skip_locked}), \
        gone AS (DELETE FROM {item} AS item USING batch WHERE item.ctid = batch.place \
        AND item.tableoid = batch.part AND (NOT {live:$1}) IS TRUE RETURNING 1) \
        SELECT COUNT(*), (SELECT COUNT(*) FROM gone), MAX(batch.expires_at), set_config('synchronous_commit', 'off', TRUE) FROM batch}");
    // In a transaction of somebody's. The empty text keeps SQLite from the primary key: it would read and sort the namespace.
    CachePurgeNamespace: concat!("WITH batch AS MATERIALIZED (SELECT item.namespace, item.key FROM {item} AS item \
        WHERE item.expires_at <= $1 AND item.expires_at >= $4 AND NOT item.vacant \
        AND item.namespace || '' = $3 AND ", purgeable!("$1"),
        " ORDER BY item.expires_at LIMIT $2 {skip_locked}) \
        DELETE FROM {item} AS item WHERE (item.namespace, item.key) IN (SELECT namespace, key FROM batch) \
        AND (NOT {live:$1}) IS TRUE RETURNING expires_at");
    // By the index alone.
    CacheExpiredPlaces: "{sqlite:SELECT json_group_array(expired.place), MAX(expired.expires_at) FROM (\
        SELECT item.rowid AS place, item.expires_at FROM {item} AS item \
        WHERE item.expires_at <= $1 AND item.expires_at >= $2 AND (item.expires_at > $2 OR item.rowid > $3) \
        ORDER BY item.expires_at, item.rowid LIMIT $4) AS expired}";
    CachePurgePlaces: concat!("{sqlite:DELETE FROM {item} AS item WHERE item.rowid IN (SELECT e.value FROM json_each($2) AS e) \
        AND NOT {live:$1} AND NOT item.vacant AND ", purgeable!("$1"), " AND ($3 IS NULL OR item.namespace = $3)}");
    LogFold: "{sqlite:PRAGMA wal_checkpoint(PASSIVE)}";
    CachePurgeVacant: concat!("WITH batch AS MATERIALIZED (SELECT item.namespace, item.key FROM {item} AS item \
        WHERE item.vacant AND (item.error_until IS NULL OR item.error_until <= $1) AND ", purgeable!("$1"),
        " LIMIT $2 {skip_locked}) \
        DELETE FROM {item} AS item WHERE (item.namespace, item.key) IN (SELECT namespace, key FROM batch)");
    CacheCountExpired: "SELECT COUNT(*) FROM {item} AS item WHERE item.expires_at <= $1 AND NOT item.vacant";
    CacheStats: "SELECT COUNT(*), COUNT(*) FILTER (WHERE NOT {live:$2}), \
        COUNT(*) FILTER (WHERE item.expires_at IS NOT NULL AND {live:$2}), \
        COUNT(*) FILTER (WHERE item.expires_at IS NULL), \
        CAST(COALESCE(SUM(octet_length(item.key) + octet_length(CAST(item.value AS text))), 0) AS bigint), \
        MIN(item.created_at), MAX(item.created_at) FROM {item} AS item WHERE item.namespace = $1 AND NOT item.vacant";

    // The one read of a memoized value that is there, for one who refreshes it when it is stale and no sooner. A column that
    // is not sent is not read.
    MemoFreshHere: concat!("SELECT ", small!(), ", ", to_refresh!("$1"), " FROM {item} AS item \
        WHERE item.namespace = $2 AND item.key = $3 AND {live:$1}");
    MemoFreshEach: concat!("SELECT ", small!(), ", ", to_refresh!("$3"), ", item.key FROM {item} AS item \
        WHERE item.namespace = $1 AND item.key {listed:$2} AND {live:$3}");
    // All that is to be known of it.
    MemoRead: "SELECT item.value, item.generation, item.stale_at, item.cost, item.retry_at, item.refresh \
        FROM {item} AS item WHERE item.namespace = $1 AND item.key = $2 AND {live:$3}";
    // Of a value that nobody has written since.
    MemoRefresh: "UPDATE {item} AS item SET refresh = $4 \
        WHERE item.namespace = $1 AND item.key = $2 AND item.generation = $3 AND {live:$5}";
    // What jobs made of the live items among the keys, and of those that were built from them.
    MemoMade: concat!("SELECT item.key, item.made_by, item.cost, item.generation, \
        CASE WHEN item.holder IS NOT NULL THEN item.job END FROM {item} AS item \
        WHERE item.namespace = $1 AND item.key {among:", built!(), "} AND item.made_by IS NOT NULL AND {live:$3}");
    MemoReadEach: concat!("SELECT ", small!(), ", item.generation, item.stale_at, item.cost, item.retry_at, item.refresh, item.key \
        FROM {item} AS item WHERE item.namespace = $1 AND item.key {listed:$2} AND {live:$3}");
    // Whoever computes has the row: a vacant one where there was none, so that invalidating the key meets it. A row that
    // somebody wrote since generation $8 was read is left to its reader, and so is an error that stands for a value, or
    // is that of the computation $10 that was waited for. A lease of the job $12 may be taken over.
    LeaseTake: "INSERT INTO {item} AS item (namespace, key, value, expires_at, generation, created_at, updated_at, \
        vacant, holder, lease_until, linked, job) VALUES ($1, $2, {json:'null'}, {time:0}, $3, $4, $4, TRUE, $5, $6, $9, $11) \
        ON CONFLICT (namespace, key) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until, \
        linked = item.linked OR excluded.linked, job = excluded.job \
        WHERE (item.holder IS NULL OR item.lease_until <= $4 OR item.holder = $7 OR item.job = $12) \
        AND (NOT {live:$4} OR item.generation = $8) \
        AND NOT COALESCE(CASE WHEN {live:$4} THEN item.retry_at ELSE item.error_until END > $4, FALSE) \
        AND NOT COALESCE(item.failed = $10, FALSE) RETURNING failures, linked";
    // What a process keeps in memory, and what tells how long it may.
    CacheKeepEach: concat!("SELECT ", small!(), ", item.generation, item.stale_at, item.cost, item.retry_at, item.refresh, \
        item.expires_at, item.linked, item.key FROM {item} AS item WHERE item.namespace = $1 AND item.key {listed:$2} AND {live:$3}");
    CacheWatch: "{watch_for:60}";
    // Why a lease was not to be had.
    LeaseState: "SELECT CASE WHEN {live:$3} THEN item.value END, item.holder, item.failed, item.last_error, \
        COALESCE(item.error_until > $3, FALSE) FROM {item} AS item WHERE item.namespace = $1 AND item.key = $2";
    LeaseRenew: "UPDATE {item} AS item SET lease_until = $4 \
        WHERE item.namespace = $1 AND item.key = $2 AND item.holder = $3";
    LeaseRelease: "UPDATE {item} AS item SET holder = NULL, lease_until = NULL \
        WHERE item.namespace = $1 AND item.key = $2 AND item.holder = $3 RETURNING failures{told}";
    LeaseFail: "UPDATE {item} AS item SET holder = NULL, lease_until = NULL, failed = $3, last_error = $4, \
        failures = item.failures + 1, retry_at = $5, error_until = $6 \
        WHERE item.namespace = $1 AND item.key = $2 AND item.holder = $3 RETURNING failures{told}";
    LeaseWriteBack: concat!("UPDATE {item} AS item SET value = $4, expires_at = $5, stale_at = $6, cost = $7, \
        generation = $8, created_at = CASE WHEN {live:$9} THEN item.created_at ELSE $9 END, \
        updated_at = CASE WHEN {live:$9} AND item.created_at > $9 THEN item.created_at ELSE $9 END, ",
        forget!(computed), ", linked = $10, made_by = $11 \
        WHERE item.namespace = $1 AND item.key = $2 AND item.holder = $3 RETURNING failures{told}");
    ScopeHold: "SELECT {hold:CAST($1 AS bigint)}";
    ScopeBusy: "SELECT COUNT(*) FROM {each:$1} AS e WHERE NOT ({is_free:CAST(e.value->>0 AS bigint)})";

    LinkAdd: "INSERT INTO {link} AS link (namespace, kind, name, key) \
        SELECT $1, e.value->>0, e.value->>1, e.value->>2 FROM {each:$2} AS e WHERE TRUE \
        ON CONFLICT (namespace, kind, name, key) DO NOTHING";
    // All links of the keys but those that are named.
    LinkKeep: "DELETE FROM {link} AS link WHERE link.namespace = $1 \
        AND link.key {among:SELECT e.value->>0 FROM {each:$2} AS e} AND NOT EXISTS (SELECT 1 FROM {each:$3} AS e \
        WHERE e.value->>0 = link.kind AND e.value->>1 = link.name AND e.value->>2 = link.key)";
    LinksOf: "SELECT link.kind, link.name FROM {link} AS link \
        WHERE link.namespace = $1 AND link.key = $2 ORDER BY link.kind, link.name";
    // Makes a row for each key, to be seen by those who write it and by those who compute it: one that others are built
    // from, or one that was invalidated.
    ItemNeed: "INSERT INTO {item} AS item (namespace, key, value, expires_at, generation, created_at, updated_at, \
        vacant, needed) SELECT $1, e.value->>0, {json:'null'}, {time:0}, $3, $4, $4, TRUE, TRUE \
        FROM {each:$2} AS e WHERE TRUE ON CONFLICT (namespace, key) DO UPDATE SET needed = TRUE WHERE NOT item.needed";
    ItemVacate: "INSERT INTO {item} AS item (namespace, key, value, expires_at, generation, created_at, updated_at, \
        vacant) SELECT $1, e.value->>0, {json:'null'}, {time:0}, $3, $4, $4, TRUE \
        FROM {each:$2} AS e WHERE TRUE ON CONFLICT (namespace, key) DO UPDATE SET holder = NULL, lease_until = NULL \
        WHERE item.holder IS NOT NULL";
    TagPage: "SELECT item.key, item.vacant, {live:$4} FROM {item} AS item WHERE item.namespace = $1 \
        AND item.key IN (SELECT link.key FROM {link} AS link WHERE link.namespace = $1 AND link.kind = 'tag' \
        AND link.name = $2 AND link.key > $3 ORDER BY link.key LIMIT $5) ORDER BY item.key {lock}";
    // What is stale already stays so since then; whoever computes it began too early.
    ItemStale: concat!("UPDATE {item} AS item SET \
        stale_at = CASE WHEN item.stale_at <= $3 THEN item.stale_at ELSE $3 END, \
        holder = NULL, lease_until = NULL, retry_at = NULL \
        WHERE item.namespace = $1 AND item.key {among:", built!(), "}");
    // In the order in which whoever deletes them holds them.
    ItemLock: "SELECT item.key FROM {item} AS item WHERE item.namespace = $1 \
        AND item.key {among:SELECT e.value->>0 FROM {each:$2} AS e} ORDER BY item.key {lock}";

    JobEnqueue: concat!(enqueue!(), "ON CONFLICT (name, unique_key) \
        WHERE unique_key IS NOT NULL AND status IN ('queued', 'running') \
        DO UPDATE SET unique_key = job.unique_key RETURNING id, name, unique_key{notify}");
    // Those that are there already are left as they are.
    JobAdd: concat!(enqueue!(), "ON CONFLICT (id) DO NOTHING RETURNING id{notify}");
    // With those that are begun, of which nobody else has to hear.
    JobAddBegun: concat!(enqueue!(begun), "ON CONFLICT (id) DO NOTHING RETURNING id, status = 'running'{notify_queued}");
    JobGet: concat!("SELECT ", job_columns!(), " FROM {job} WHERE id = $1");
    JobList: concat!("SELECT ", job_columns!(), " FROM {job} WHERE ($1 IS NULL OR status = $1) \
        AND ($2 IS NULL OR queue = $2) AND ($3 IS NULL OR name = $3) AND id < $4 ORDER BY id DESC LIMIT $5");
    JobCounts: "SELECT queue, name, status, COUNT(*), MIN(run_at) FROM {job} GROUP BY queue, name, status \
        ORDER BY queue, name, status";
    JobUnfinished: "SELECT COUNT(*) FROM {job} WHERE id = $1 AND status IN ('queued', 'running')";
    // A limit that is written out is one that PostgreSQL plans for.
    //
    // The statements on a batch check its rows again, in case somebody else had them first. `IS TRUE` keeps engines
    // from reading a partial index to its end for that, instead of finding the rows by id.
    JobMakeDue: "WITH batch AS MATERIALIZED (SELECT id AS batch_id FROM {job} \
        WHERE status = 'queued' AND NOT due AND run_at <= $1 ORDER BY run_at LIMIT 1000 {skip_locked}) \
        UPDATE {job} SET due = TRUE WHERE id {among:SELECT batch_id FROM batch} \
        AND (status = 'queued' AND NOT due) IS TRUE";
    // All that a worker looks for. When the next waiting job may start, without a queue; and the names of queues by one step
    // of the index each, however many jobs are ready: those with jobs that have no key and that this worker knows, and
    // those with jobs that have one. An EXISTS would be a join to PostgreSQL, which reads them all.
    JobLook: concat!("WITH RECURSIVE ready (queue) AS (\
        SELECT (SELECT job.queue FROM {job} AS job WHERE ", ready!(), " ORDER BY job.queue LIMIT 1) \
        UNION ALL SELECT (SELECT job.queue FROM {job} AS job WHERE ", ready!(), " AND job.queue > ready.queue \
        ORDER BY job.queue LIMIT 1) FROM ready WHERE ready.queue IS NOT NULL), \
        limited (queue) AS (\
        SELECT (SELECT job.queue FROM {job} AS job WHERE ", ready!(limited), " ORDER BY job.queue LIMIT 1) \
        UNION ALL SELECT (SELECT job.queue FROM {job} AS job WHERE ", ready!(limited), " AND job.queue > limited.queue \
        ORDER BY job.queue LIMIT 1) FROM limited WHERE limited.queue IS NOT NULL) \
        SELECT NULL, FALSE, (SELECT MIN(run_at) FROM {job} WHERE status = 'queued' AND NOT due) \
        UNION ALL SELECT ready.queue, FALSE, NULL FROM ready WHERE ready.queue IS NOT NULL AND ", paused!("ready.queue"),
        " IS NULL AND (SELECT job.id FROM {job} AS job WHERE job.queue = ready.queue AND ", ready!(), " AND {free:{claim} AS claim} AND ",
        known!("$1"), " ORDER BY job.priority DESC, job.run_at, job.id LIMIT 1) IS NOT NULL \
        UNION ALL SELECT limited.queue, TRUE, NULL FROM limited WHERE limited.queue IS NOT NULL AND ",
        paused!("limited.queue"), " IS NULL");
    JobFetch: concat!("WITH batch AS MATERIALIZED (SELECT {row:job} AS batch_row FROM {job} AS job \
        WHERE job.queue = $1 AND ", ready!(), " AND ", paused!("$1", "{share}"), " IS NULL AND ", current!("$1"),
        " AND {free:{claim} AS claim} AND ", known!("$2"),
        " ORDER BY job.priority DESC, job.run_at, job.id LIMIT $3 {skip_locked}) ", claim!("$4", "$5"));
    // Many by one row ($6), after `QueueClaim` and in the same transaction.
    JobFetchMany: fetch_many!("TRUE", "TRUE");
    // Those of one priority that come after a job: what was claimed of late is not passed by once more, in an index that keeps
    // it until nobody sees it any longer.
    JobFetchOn: fetch_many!(
        "job.priority = $8 AND (job.run_at, job.id) > ($9, $10)",
        "(claim.priority < $8 OR claim.priority = $8 AND (claim.run_at, claim.last) > ($9, $10))"
    );
    // Of jobs whose payloads `JobFetchMany` has left out.
    JobPayloads: "SELECT job.id, job.payload FROM {job} AS job WHERE job.id {among:SELECT {uuid:e.value->>0} FROM {each:$1} AS e}";
    // Jobs that are chosen already.
    JobClaim: concat!("WITH batch AS MATERIALIZED (SELECT {row:job} AS batch_row FROM {job} AS job \
        WHERE job.id {among:SELECT {uuid:e.value->>0} FROM {each:$1} AS e} \
        AND (job.status = 'queued' AND job.due) IS TRUE AND {free:{claim} AS claim} {skip_locked}) ", claim!("$2", "$3"));
    // Of a key, those that may run beside as many as are to run then.
    JobFetchKey: concat!("WITH batch AS MATERIALIZED (SELECT {row:job} AS batch_row FROM {job} AS job \
        WHERE job.queue = $1 AND job.limit_key = $3 AND ", ready!(limited), " AND job.max_running >= $4 AND ",
        known!("$2"), " ORDER BY job.priority DESC, job.run_at, job.id LIMIT $5 {skip_locked}) ", claim!("$6", "$7"));
    // The keys after $3 by one step of the index each, and the first job of each, however many jobs a key has. A join
    // would be one of the whole table to PostgreSQL before it has statistics.
    JobReadyKeys: concat!("WITH RECURSIVE keys (limit_key, passed) AS (\
        SELECT (SELECT job.limit_key FROM {job} AS job WHERE job.queue = $1 AND ", ready!(limited),
        " AND job.limit_key > $3 ORDER BY job.limit_key LIMIT 1), 1 \
        UNION ALL SELECT (SELECT job.limit_key FROM {job} AS job WHERE job.queue = $1 AND ", ready!(limited),
        " AND job.limit_key > keys.limit_key ORDER BY job.limit_key LIMIT 1), keys.passed + 1 FROM keys \
        WHERE keys.limit_key IS NOT NULL AND keys.passed < $4), \
        heads AS MATERIALIZED (SELECT keys.limit_key AS head_key, (SELECT job.id FROM {job} AS job \
        WHERE job.queue = $1 AND job.limit_key = keys.limit_key AND ", ready!(limited), " AND ", known!("$2"),
        " ORDER BY job.priority DESC, job.run_at, job.id LIMIT 1) AS head FROM keys WHERE keys.limit_key IS NOT NULL) \
        SELECT heads.head_key, heads.head, (SELECT job.max_running FROM {job} AS job WHERE job.id = heads.head), \
        (SELECT job.priority FROM {job} AS job WHERE job.id = heads.head), \
        (SELECT job.run_at FROM {job} AS job WHERE job.id = heads.head) FROM heads");
    JobReadyFirst: concat!("SELECT job.id, job.priority, job.run_at FROM {job} AS job WHERE job.queue = $1 AND ",
        ready!(), " AND {free:{claim} AS claim} AND ", known!("$2"), " ORDER BY job.priority DESC, job.run_at, job.id LIMIT $3");
    // As many rows as the fleet has slots, at the most.
    JobRunning: "SELECT job.limit_key, COUNT(*), MIN(job.max_running) FROM {job} AS job \
        WHERE job.status = 'running' AND job.queue = $1 GROUP BY job.limit_key";
    // The commonest outcome, with its columns read once: id, attempt, result, milliseconds of its beginning.
    JobDone: concat!("WITH e AS MATERIALIZED (SELECT {uuid:e.value->>0} AS id, CAST(e.value->>1 AS integer) AS attempt, \
        e.value->>2 AS result, {time:e.value->>3} AS started_at FROM {each:$1} AS e) \
        UPDATE {job} AS job SET status = 'done', due = FALSE, worker = $2, attempt = e.attempt, started_at = e.started_at, \
        result = {json:e.result}, error = NULL, finished_at = $3 \
        FROM e WHERE job.id {found:SELECT e.id FROM e} AND job.id = e.id AND ", runs!("e.attempt"));
    // Jobs whose attempts have the same number, result and beginning, as a rule the first, none and that of their claim.
    JobDoneSame: concat!("UPDATE {job} AS job SET status = 'done', due = FALSE, worker = $2, attempt = $4, started_at = $6, \
        result = {json:$5}, error = NULL, finished_at = $3 {of:$1} AND ", runs!("$4"));
    // A batch as `AttemptKeep` takes it.
    JobBegin: concat!("{postgres:", begun!(), begin!("{lock}"), "}");
    // Without those that somebody else holds.
    JobBeginFree: concat!("{postgres:", begun!(), begin!("{skip_locked}"), "}");
    // One row an attempt: id, attempt, status, milliseconds of run_at or null, result, error, progress.
    JobFinish: concat!("UPDATE {job} AS job SET status = ", ends!(status), ", due = FALSE, \
        run_at = CASE WHEN ", ends!(again), " THEN {time:e.value->>3} ELSE job.run_at END, \
        result = {json:e.value->>4}, error = e.value->>5, \
        progress_done = ", ends!(keep "COALESCE(CAST(e.value->>6 AS bigint), job.progress_done)" unless again), ", \
        progress_total = ", ends!(keep "COALESCE(CAST(e.value->>7 AS bigint), job.progress_total)" unless again), ", \
        worker = ", ends!(keep "job.worker" unless again), ", finished_at = ", ends!(keep "$3" unless again),
        " FROM {each:$1} AS e", fenced!());
    // The attempt is given back three times; then it counts, and a job that has spent them all ends.
    JobRelease: concat!("UPDATE {job} AS job SET worker = NULL, released = job.released + 1, \
        attempt = CASE WHEN ", ends!(given_back), " THEN job.attempt - 1 ELSE job.attempt END, \
        status = ", ends!(not released), ", due = ", ends!(released), ", \
        started_at = ", ends!(keep "job.started_at" unless released), ", \
        finished_at = ", ends!(keep "$3" unless released), ", \
        progress_done = ", ends!(keep "job.progress_done" unless released), ", \
        progress_total = ", ends!(keep "job.progress_total" unless released), ", \
        error = CASE WHEN ", ends!(released), " THEN job.error \
        ELSE 'its last attempt was interrupted by the end of its worker' END FROM {each:$1} AS e", fenced!(begun));
    // What was claimed and never begun.
    JobUnclaim: concat!("UPDATE {job} AS job SET worker = NULL, started_at = NULL, attempt = job.attempt - 1, \
        due = (job.cancelled_at IS NULL), \
        status = CASE WHEN job.cancelled_at IS NULL THEN 'queued' ELSE 'cancelled' END, \
        finished_at = CASE WHEN job.cancelled_at IS NULL THEN NULL ELSE $3 END \
        FROM {each:$1} AS e", fenced!(begun), " RETURNING id{notify}");
    // Of jobs that are about to be changed: their queues, and whether a statement sees what was committed when it begins.
    JobHold: "SELECT job.queue, {current} FROM {job} AS job WHERE job.id {among:SELECT {uuid:e.value->>0} FROM {each:$1} AS e} \
        ORDER BY job.id {lock}";
    // Of those that run by a claim of many, whoever has claimed them.
    ClaimBegin: concat!("{postgres:WITH e AS MATERIALIZED (SELECT claimed.id, claimed.attempt, claimed.worker, claimed.started_at \
        FROM (SELECT unnest(claim.jobs) AS id, unnest(claim.attempts) AS attempt, claim.worker, claim.started_at \
        FROM {claim} AS claim) AS claimed WHERE claimed.id {among:SELECT {uuid:e.value->>0} FROM {each:$1} AS e}), ",
        begin!("{lock}"), "}");
    // Of those whose worker fell silent, before they are rescued and in the same transaction.
    ClaimLose: concat!("{postgres:WITH gone AS (DELETE FROM {claim} AS claim WHERE claim.worker NOT IN \
        (SELECT worker.id FROM {worker} AS worker WHERE worker.heartbeat_at > $1) \
        RETURNING worker, started_at, jobs, attempts), \
        e AS MATERIALIZED (SELECT unnest(gone.jobs) AS id, unnest(gone.attempts) AS attempt, gone.worker, gone.started_at FROM gone), ",
        begin!("{lock}"), "}");
    // Those that run by a claim of many, as `JobUnended` picks those whose rows say so.
    ClaimUnended: "{postgres:SELECT job.id FROM {job} AS job WHERE $1 = 'running' \
        AND job.id {among:SELECT unnest(claim.jobs) FROM {claim} AS claim} AND (job.status = 'queued' AND job.due) IS TRUE \
        AND NOT ({free:{claim} AS claim}) AND ($2 IS NULL OR job.queue = $2) AND ($3 IS NULL OR job.name = $3)}";
    ClaimHeld: "{postgres:SELECT claim.id FROM {claim} AS claim WHERE claim.worker = $1}";
    ClaimShorten: "{postgres:UPDATE {claim} AS claim SET \
        jobs = ARRAY(SELECT {uuid:e.value->>0} FROM {each:$2} AS e), \
        attempts = ARRAY(SELECT CAST(e.value->>1 AS integer) FROM {each:$2} AS e) WHERE claim.id = $1}";
    // It waits for no disk: one that a crash brings back names jobs that have ended, and goes with its worker.
    ClaimEnd: "{postgres:DELETE FROM {claim} AS claim WHERE claim.id = $1 RETURNING set_config('synchronous_commit', 'off', TRUE)}";
    JobHeld: "SELECT id, attempt, started_at FROM {job} WHERE worker = $1 AND status = 'running'";
    // A job whose worker fell silent: its attempt counts, so that a job that kills its worker ends. The batch is of
    // those that `AttemptLose` has found, and holds until the end of the transaction.
    JobRescue: concat!("UPDATE {job} AS job SET status = ", ends!(not rescued), ", due = ", ends!(rescued), ", \
        finished_at = ", ends!(keep "$2" unless rescued), ", \
        progress_done = ", ends!(keep "job.progress_done" unless rescued), ", \
        progress_total = ", ends!(keep "job.progress_total" unless rescued), ", \
        error = $3, worker = NULL FROM {each:$1} AS e WHERE ", one_of!(),
        " AND (job.status = 'running') IS TRUE AND job.attempt = CAST(e.value->>1 AS integer)");
    JobProgress: concat!("UPDATE {job} AS job SET progress_done = CAST(e.value->>2 AS bigint), \
        progress_total = CAST(e.value->>3 AS bigint) FROM {each:$1} AS e", fenced!());
    // One that runs stays so until its attempt has ended: it holds its unique key as long.
    JobCancel: "UPDATE {job} AS job SET due = FALSE, cancelled_at = $2, \
        status = CASE WHEN job.status = 'queued' THEN 'cancelled' ELSE job.status END, \
        finished_at = CASE WHEN job.status = 'queued' THEN $2 ELSE job.finished_at END \
        WHERE job.id {among:SELECT {uuid:e.value->>0} FROM {each:$1} AS e} AND (job.status IN ('queued', 'running') AND job.cancelled_at IS NULL \
        AND ($3 IS NULL OR job.status = $3)) IS TRUE RETURNING status{notify:_control}";
    JobCancelling: "SELECT id, attempt FROM {job} WHERE worker = $1 AND status = 'running' AND cancelled_at IS NOT NULL";
    // Where no status is asked for, also one that waits for its next attempt. The attempt never goes back: a handler of
    // one that was cancelled may run still. An own job holds the key of a queued one, which is no obstacle.
    JobRetry: "UPDATE {job} AS job SET status = 'queued', due = TRUE, worker = NULL, released = 0, \
        run_at = CASE WHEN job.status = 'queued' AND job.run_at < $2 THEN job.run_at ELSE $2 END, \
        max_attempts = CASE WHEN job.attempt < job.max_attempts THEN job.max_attempts ELSE job.attempt + 1 END, \
        finished_at = NULL, cancelled_at = NULL, result = NULL, progress_done = NULL, progress_total = NULL \
        WHERE job.id {among:SELECT {uuid:e.value->>0} FROM {each:$1} AS e} AND (job.attempt < 32767 AND CASE WHEN $3 IS NULL \
        THEN job.status IN ('dead', 'cancelled') OR (job.status = 'queued' AND job.attempt > 0) \
        ELSE job.status = $3 END) IS TRUE AND (SELECT holder.id FROM {job} AS holder WHERE holder.name = job.name \
        AND holder.unique_key = job.unique_key AND holder.unique_key IS NOT NULL \
        AND holder.status IN ('queued', 'running') AND holder.id <> job.id LIMIT 1) IS NULL \
        RETURNING id{notify}";
    JobKeyHolder: "SELECT id FROM {job} WHERE name = $1 AND unique_key = $2 AND unique_key IS NOT NULL \
        AND status IN ('queued', 'running')";
    JobEnded: "SELECT id, CASE WHEN unique_key IS NULL THEN NULL ELSE name END, unique_key FROM {job} \
        WHERE status = $1 AND {ended} \
        AND ($2 IS NULL OR queue = $2) AND ($3 IS NULL OR name = $3)";
    // Each part by the index that holds it.
    JobUnended: concat!(unended!("queued", "due AND limit_key IS NULL"), " UNION ALL ",
        unended!("queued", "due AND limit_key IS NOT NULL"), " UNION ALL ", unended!("queued", "NOT due"), " UNION ALL ",
        unended!("running", "cancelled_at IS NULL"));
    // An attempt that did not end its job well, before its outcome is written and in the same transaction. Without an
    // error of its own it was interrupted; it has none at all where it is given back.
    AttemptKeep: concat!("INSERT INTO {attempt} (job, attempt, worker, started_at, ended_at, error) \
        SELECT job.id, job.attempt, job.worker, COALESCE(job.started_at, $3), $3, COALESCE(e.value->>5, CASE WHEN ",
        ends!(given_back), " THEN NULL ELSE 'it was interrupted by the end of its worker' END) \
        FROM {each:$1} AS e, {job} AS job", fenced!(begun), " {lock} ", kept!());
    // Those whose worker fell silent: kept, and told, to be rescued in the same transaction.
    AttemptLose: concat!("INSERT INTO {attempt} (job, attempt, worker, started_at, ended_at, error) \
        SELECT job.id, job.attempt, job.worker, COALESCE(job.started_at, $1), $1, $3 FROM {job} AS job \
        WHERE job.status = 'running' AND job.worker NOT IN \
        (SELECT worker.id FROM {worker} AS worker WHERE worker.heartbeat_at > $2) {lock} ", kept!(),
        " RETURNING job, attempt");
    AttemptList: "SELECT attempt, worker, started_at, ended_at, error FROM {attempt} WHERE job = $1 \
        ORDER BY ended_at, attempt";
    JobPrune: "WITH batch AS MATERIALIZED (SELECT id AS batch_id FROM {job} WHERE status = $1 AND {ended} \
        AND finished_at <= $2 \
        ORDER BY finished_at LIMIT $3 {skip_locked}) \
        DELETE FROM {job} WHERE id {among:SELECT batch_id FROM batch} \
        AND status = $1 AND finished_at <= $2 RETURNING id";
    AttemptPrune: "DELETE FROM {attempt} AS attempt \
        WHERE attempt.job {among:SELECT {uuid:e.value->>0} FROM {each:$1} AS e}";
    // When those ended that are too many, the newest first.
    JobBeyond: "SELECT finished_at FROM {job} WHERE status = $1 AND {ended} \
        ORDER BY finished_at DESC LIMIT $3 OFFSET $2";

    // Its row keeps off whoever else claims of the queue by its limits, until the transaction ends. Not its key: those
    // who claim without limits do not wait.
    QueueLock: "INSERT INTO {queue} AS queue (name) VALUES ($1) \
        ON CONFLICT (name) DO UPDATE SET starts = queue.starts RETURNING paused_at, starts";
    // Its key too, so that those who claim a few at a time wait, and those wait for whom this waits: each sees what the other
    // has claimed. Nothing where a worker would not; with whether nobody changes jobs of the queue, who then waits too.
    QueueClaim: "{postgres:INSERT INTO {queue} AS queue (name, claims) SELECT $1, 1 \
        WHERE (SELECT worker.id FROM {worker} AS worker WHERE NOT worker.batch_claims LIMIT 1) IS NULL \
        ON CONFLICT (name) DO UPDATE SET name = excluded.name, claims = queue.claims + 1 RETURNING paused_at, {is_free:$2}}";
    // Waits for claims of many, and keeps others off until the transaction ends. Fails where there were some since that began, in
    // one that does not see them.
    QueueSeen: "SELECT queue.name FROM {queue} AS queue WHERE queue.name {among:SELECT e.value->>0 FROM {each:$1} AS e} {share}";
    Savepoint: "SAVEPOINT larder";
    SavepointUndo: "ROLLBACK TO SAVEPOINT larder";
    SavepointEnd: "RELEASE SAVEPOINT larder";
    QueueGet: "SELECT paused_at, starts FROM {queue} WHERE name = $1";
    QueueStarted: "UPDATE {queue} SET starts = $2 WHERE name = $1";
    QueueAdd: "INSERT INTO {queue} (name) VALUES ($1) ON CONFLICT (name) DO NOTHING";
    // That it sets the key makes it wait for those who hold that in share.
    QueuePause: "INSERT INTO {queue} AS queue (name, paused_at) VALUES ($1, $2) \
        ON CONFLICT (name) DO UPDATE SET name = excluded.name, paused_at = excluded.paused_at \
        WHERE queue.paused_at IS NULL";
    QueueResume: "UPDATE {queue} SET paused_at = NULL WHERE name = $1 AND paused_at IS NOT NULL";
    QueueNotify: "SELECT queue{notify} FROM (SELECT CAST($1 AS text) AS queue) AS named";
    QueueList: "SELECT name, paused_at FROM {queue} ORDER BY name";
    // Of each kind by its own index, so that finished jobs are not read.
    QueueCounts: "SELECT queue, 'ready', COUNT(*) FROM {job} WHERE status = 'queued' AND due AND limit_key IS NULL GROUP BY queue \
        UNION ALL SELECT queue, 'ready', COUNT(*) FROM {job} \
        WHERE status = 'queued' AND due AND limit_key IS NOT NULL GROUP BY queue \
        UNION ALL SELECT queue, 'waiting', COUNT(*) FROM {job} WHERE status = 'queued' AND NOT due GROUP BY queue \
        UNION ALL SELECT queue, 'running', COUNT(*) FROM {job} WHERE status = 'running' GROUP BY queue";
    QueueForget: "DELETE FROM {queue} WHERE paused_at IS NULL AND starts IS NULL AND claims = 0";
    WorkerBeat: "INSERT INTO {worker} AS worker (id, host, process, version, names, started_at, heartbeat_at, batch_claims) \
        VALUES ($1, $2, $3, $4, $5, $6, $6, TRUE) ON CONFLICT (id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at";
    WorkerEnd: "DELETE FROM {worker} WHERE id = $1";
    WorkerForget: "DELETE FROM {worker} WHERE heartbeat_at <= $1 \
        AND id NOT IN (SELECT job.worker FROM {job} AS job WHERE job.status = 'running' AND job.worker IS NOT NULL)";
    WorkerList: "SELECT id, host, process, version, names, started_at, heartbeat_at FROM {worker} \
        ORDER BY started_at, id";

    // What was let go of ($7) starts from now when it is loaded again, as at the first sight.
    ScheduleSave: concat!(
        "INSERT INTO {schedule} AS schedule (name, definition, until, updated_at, seen_at) VALUES ($1, $2, $3, $3, $3) \
         ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, updated_at = excluded.updated_at, \
         seen_at = excluded.seen_at, until = CASE WHEN $4 OR schedule.seen_at = $7 THEN ", from_now!("excluded.until", "$6"),
        " ELSE schedule.until END WHERE CAST(schedule.definition AS text) = $5");
    ScheduleGet: concat!("SELECT ", schedule_columns!(), " FROM {schedule} WHERE name = $1");
    ScheduleList: concat!("SELECT ", schedule_columns!(), " FROM {schedule} ORDER BY name");
    // Compare and set: of all workers that see a tick, the one whose update counts enqueues its job.
    ScheduleAdvance: "UPDATE {schedule} SET until = $3, last_tick = COALESCE($4, last_tick), \
        last_job = COALESCE($5, last_job) WHERE name = $1 AND until = $2 AND paused_at IS NULL";
    SchedulePause: "INSERT INTO {schedule} AS schedule (name, definition, until, updated_at, paused_at) \
        VALUES ($1, 'null', $2, $2, $2) \
        ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at WHERE schedule.paused_at IS NULL";
    ScheduleResume: concat!(
        "UPDATE {schedule} AS schedule SET paused_at = NULL, until = ", from_now!("$2", "$3"),
        " WHERE name = $1 AND paused_at IS NOT NULL");
    // What somebody else holds is in use, and need not be waited for.
    ScheduleSeen: "WITH batch AS MATERIALIZED (SELECT schedule.name AS batch_name FROM {schedule} AS schedule, {each:$1} AS e \
        WHERE schedule.name = e.value->>0 AND CAST(schedule.definition AS text) = e.value->>1 \
        AND (schedule.seen_at IS NULL OR schedule.seen_at < $3) {skip_locked}) \
        UPDATE {schedule} SET seen_at = $2 WHERE name IN (SELECT batch_name FROM batch)";
    ScheduleLetGo: "UPDATE {schedule} SET seen_at = $3, updated_at = $4 WHERE name = $1 AND CAST(definition AS text) = $2";
    // A pause that waits for its entry to be loaded is kept.
    ScheduleForget: "DELETE FROM {schedule} WHERE name = $1 AND updated_at = $2 AND COALESCE(seen_at, updated_at) = $3 \
        AND (paused_at IS NULL OR CAST(definition AS text) <> 'null')";
    ScheduleRan: "UPDATE {schedule} SET last_job = $2 WHERE name = $1";

    Clock: "{clock}";
    Replan: "{replan}";
    Migrated: "{migrated}";
    MigrationLock: "{migration_lock}";
    SchemaCount: "{schema_count}";
    MigrationList: "SELECT version, name FROM {migration} ORDER BY version";
    MigrationRecord: "INSERT INTO {migration} (version, name, applied_at) VALUES ($1, $2, $3)";
}

/// The statements of one database, with its tables' names filled in.
#[derive(Debug)]
pub(crate) struct Statements {
    rendered: Vec<SqlStr>,
}

impl Statements {
    pub(crate) fn render(engine: Engine, schema: &str) -> Self {
        let rendered = TEMPLATES
            .iter()
            .map(|(_, template)| {
                let text: std::sync::Arc<str> = render(template, engine, schema).into();
                AssertSqlSafe(text).into_sql_str()
            })
            .collect();
        Self { rendered }
    }

    pub(crate) fn get(&self, statement: Sql) -> SqlStr {
        self.rendered[statement as usize].clone()
    }
}

/// A template with its tables, definitions and [`PAIRS`] filled in for one engine and schema. An argument may hold words
/// of its own.
pub(super) fn render(template: &str, engine: Engine, schema: &str) -> String {
    let mut text = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some(end) = closing(after) else {
            break;
        };
        text.push_str(before);
        text.push_str(&word(
            &render(&after[..end], engine, schema),
            engine,
            schema,
        ));
        rest = &after[end + 1..];
    }
    text.push_str(rest);
    text
}

/// Where the brace is closed that was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    text.bytes().position(|byte| {
        open += i32::from(byte == b'{') - i32::from(byte == b'}');
        open == 0
    })
}

fn word(token: &str, engine: Engine, schema: &str) -> String {
    let (name, argument) = token.split_once(':').unwrap_or((token, ""));
    if name == "live" {
        return format!("(item.expires_at IS NULL OR item.expires_at > {argument})");
    }
    if name == "schema" {
        return quoted(schema, '"');
    }
    // PostgreSQL's alone: a name in quotes, as functions and the conditions of triggers take it.
    let watch = || {
        let sequence = format!("{}.cached_item_watch", quoted(schema, '"'));
        quoted(&sequence, '\'')
    };
    if name == "watch" {
        return watch();
    }
    let table = match name {
        "item" => "cached_item",
        "link" => "cached_item_link",
        "job" => "job",
        "attempt" => "job_attempt",
        "queue" => "job_queue",
        "claim" => "job_claim",
        "worker" => "job_worker",
        "schedule" => "job_schedule",
        "migration" => "larder_migration",
        _ => "",
    };
    if !table.is_empty() {
        return match engine {
            Engine::Sqlite => table.to_owned(),
            Engine::Postgres => format!("{}.{table}", quoted(schema, '"')),
        };
    }
    let Some(pair) = PAIRS.iter().find(|pair| pair.name == name) else {
        unreachable!("a template names {{{token}}}, which is neither a table nor a pair")
    };
    let text = match engine {
        Engine::Sqlite => pair.sqlite,
        Engine::Postgres => pair.postgres,
    };
    text.replace('?', argument)
        .replace("@schema", &quoted(schema, '\''))
        .replace("@watch", &watch())
}

/// An identifier or a literal, quoted for SQL.
fn quoted(text: &str, quote: char) -> String {
    let doubled = text.replace(quote, &format!("{quote}{quote}"));
    format!("{quote}{doubled}{quote}")
}
