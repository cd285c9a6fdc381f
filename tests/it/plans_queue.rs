//! How the engines carry out the queue's statements among many rows: by its indexes, whatever else is in the table.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, SqliteConnection};

use crate::support::{TestDatabase, both_engines};

/// The statements themselves, which the crate keeps to itself.
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/database/sql.rs"]
mod templates;

use templates::{Engine, TEMPLATES, render};

const ID: &str = "019aabcd-0000-7000-8000-000000000000";
const NOW: (&str, &str) = ("timestamptz", "2026-11-22T12:00:00Z");
const KNOWN: (&str, &str) = ("json", r#"[["known"]]"#);
const ENDED: (&str, &str) = (
    "json",
    r#"[["019aabcd-0000-7000-8000-000000000000",1,"done",null,"1",null,1,2]]"#,
);
const IDS: (&str, &str) = ("json", r#"[["019aabcd-0000-7000-8000-000000000000"]]"#);
const PICKED: [(&str, &str); 3] = [("text", "dead"), ("text", "default"), ("text", "known")];

/// A statement, its arguments with their PostgreSQL types, and the indexes that it may use.
type Statement = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
);

const PRIMARY: &str = "primary key";
/// No index: rows that the statement itself has found.
const ROW: &str = "row";
/// The primary key of the attempts that are kept.
const ATTEMPTS: &str = "attempts' primary key";

const STATEMENTS: [Statement; 39] = [
    (
        "JobFetch",
        &[
            ("text", "default"),
            KNOWN,
            ("bigint", "16"),
            ("uuid", ID),
            NOW,
        ],
        &["job_ready", ROW],
    ),
    (
        "JobLook",
        &[KNOWN],
        &["job_ready", "job_ready_limited", "job_waiting"],
    ),
    (
        "JobReadyKeys",
        &[("text", "default"), KNOWN, ("text", ""), ("bigint", "256")],
        &["job_ready_limited", PRIMARY],
    ),
    (
        "JobReadyFirst",
        &[("text", "default"), KNOWN, ("bigint", "16")],
        &["job_ready"],
    ),
    ("JobRunning", &[("text", "default")], &["job_running"]),
    (
        "JobClaim",
        &[
            ("json", r#"[["019aabcd-0000-7000-8000-000000000000"]]"#),
            ("uuid", ID),
            NOW,
        ],
        &[PRIMARY, ROW],
    ),
    (
        "JobFetchKey",
        &[
            ("text", "default"),
            KNOWN,
            ("text", "key 7"),
            ("bigint", "2"),
            ("bigint", "1"),
            ("uuid", ID),
            NOW,
        ],
        &["job_ready_limited", ROW],
    ),
    ("JobMakeDue", &[NOW], &["job_waiting", PRIMARY]),
    ("JobDone", &[ENDED, ("uuid", ID), NOW], &[PRIMARY]),
    (
        "JobDoneSame",
        &[
            ("uuid[]", "{019aabcd-0000-7000-8000-000000000000}"),
            ("uuid", ID),
            NOW,
            ("integer", "1"),
            ("json", "null"),
            NOW,
        ],
        &[PRIMARY],
    ),
    ("JobFinish", &[ENDED, ("uuid", ID), NOW], &[PRIMARY]),
    ("JobRelease", &[ENDED, ("uuid", ID), NOW], &[PRIMARY]),
    ("JobUnclaim", &[ENDED, ("uuid", ID), NOW], &[PRIMARY]),
    ("JobHeld", &[("uuid", ID)], &["job_running"]),
    ("JobRescue", &[ENDED, NOW, ("text", "silent")], &[PRIMARY]),
    ("JobProgress", &[ENDED, ("uuid", ID)], &[PRIMARY]),
    (
        "JobFetchMany",
        &[
            ("text", "default"),
            KNOWN,
            ("bigint", "2000"),
            ("uuid", ID),
            NOW,
            ("uuid", ID),
            ("bigint", "16777216"),
        ],
        &["job_ready"],
    ),
    (
        "JobFetchOn",
        &[
            ("text", "default"),
            KNOWN,
            ("bigint", "2000"),
            ("uuid", ID),
            NOW,
            ("uuid", ID),
            ("bigint", "16777216"),
            ("smallint", "0"),
            NOW,
            ("uuid", ID),
        ],
        &["job_ready"],
    ),
    ("JobPayloads", &[IDS], &[PRIMARY]),
    ("JobHold", &[IDS], &[PRIMARY]),
    ("JobBegin", &[ENDED, ("uuid", ID)], &[PRIMARY]),
    ("JobBeginFree", &[ENDED, ("uuid", ID)], &[PRIMARY]),
    ("ClaimBegin", &[IDS], &[PRIMARY]),
    ("ClaimLose", &[NOW], &[PRIMARY]),
    (
        "ClaimUnended",
        &[("text", "running"), ("text", "default"), ("text", "known")],
        &[PRIMARY],
    ),
    ("JobCancel", &[ENDED, NOW, ("text", "queued")], &[PRIMARY]),
    ("JobCancelling", &[("uuid", ID)], &["job_cancelling"]),
    (
        "JobRetry",
        &[ENDED, NOW, ("text", "dead")],
        &["job_unique_key", PRIMARY],
    ),
    (
        "JobKeyHolder",
        &[("text", "known"), ("text", "memo:7")],
        &["job_unique_key"],
    ),
    ("JobEnded", &PICKED, &["job_finished"]),
    ("AttemptKeep", &[ENDED, ("uuid", ID), NOW], &[PRIMARY]),
    (
        "AttemptLose",
        &[NOW, NOW, ("text", "silent")],
        &["job_running"],
    ),
    (
        "JobPrune",
        &[("text", "done"), NOW, ("bigint", "1000")],
        &["job_finished", PRIMARY],
    ),
    (
        "JobBeyond",
        &[("text", "done"), ("bigint", "1000"), ("bigint", "1")],
        &["job_finished"],
    ),
    (
        "AttemptPrune",
        &[("json", r#"[["019aabcd-0000-7000-8000-000000000000"]]"#)],
        &[ATTEMPTS],
    ),
    ("JobGet", &[("uuid", ID)], &[PRIMARY]),
    ("JobUnfinished", &[("uuid", ID)], &[PRIMARY]),
    ("AttemptList", &[("uuid", ID)], &[ATTEMPTS]),
    ("WorkerForget", &[NOW], &["job_running"]),
];

/// Reads every job that has not ended: by the indexes, unless these are most of the table.
const READS_ALL: [Statement; 1] = [(
    "JobUnended",
    &PICKED,
    &[
        "job_ready",
        "job_ready_limited",
        "job_waiting",
        "job_running",
    ],
)];
/// Whether a step names this index, and not one whose name only begins so.
fn names(step: &str, index: &str) -> bool {
    step.match_indices(index)
        .any(|(at, _)| !step[at + index.len()..].starts_with('_'))
}

/// Whether a step of a plan reads the job table otherwise than by an index that it may use, or sorts its rows.
fn strays(name: &str, step: &str, next: &str, indexes: &[&str], analyzed: bool) -> bool {
    let step = step.trim().trim_start_matches("->").trim();
    // A hash holds all of one side, however little of it is asked for: nothing but a batch, or its rows by their ids.
    let by_id = indexes.iter().all(|index| [PRIMARY, ROW].contains(index));
    if step.contains("TEMP B-TREE") && !step.ends_with("FOR GROUP BY")
        || step.starts_with("Hash ") && !by_id
    {
        return true;
    }
    // Without a condition an index is read from end to end.
    if step.contains("using job_pkey") && !next.trim().starts_with("Index Cond: (id = ") {
        return true;
    }
    // Rows that are found by their ids, and are locked in the order of these. Before there are statistics PostgreSQL expects a
    // handful of rows elsewhere too, and sorts them.
    let by_ids = [
        "JobHold",
        "JobBegin",
        "JobBeginFree",
        "ClaimBegin",
        "ClaimLose",
    ];
    let few = by_ids.contains(&name)
        || !analyzed && ["JobMakeDue", "JobPrune", "AttemptList"].contains(&name);
    // As many rows as the fleet has slots; and those of one status, while they are few.
    let sorts = few || name == "JobRunning" || name == "JobBeyond";
    if let Some(keys) = step.strip_prefix("Sort Key: ") {
        return !keys.starts_with("batch.") && !sorts;
    }
    if step.contains("job_queue") {
        return false;
    }
    // The generic plan is one for the commonest status. PostgreSQL keeps to those for the status that is asked for.
    if name == "JobEnded" && step.starts_with("Seq Scan on job") {
        return false;
    }
    let reads_job = step.starts_with("SCAN job")
        || step.starts_with("SEARCH job")
        || step.contains("Scan on job ")
        || step.contains("Scan on job_attempt ")
        || step.starts_with("SCAN attempt")
        || step.starts_with("SEARCH attempt")
        || step.contains("Scan using job_");
    if !reads_job || step.starts_with("Bitmap Heap Scan") || step.starts_with("SCAN job_worker") {
        return false;
    }
    !indexes.iter().any(|index| match *index {
        ATTEMPTS => step.contains("PRIMARY KEY (job=?)") || step.contains("job_attempt_pkey"),
        ROW => {
            step.contains("INTEGER PRIMARY KEY (rowid=?)") || step.starts_with("Tid Scan on job")
        }
        PRIMARY => step.contains("sqlite_autoindex_job_1 (id=?)") || step.contains("job_pkey"),
        // By the name alone it would read all jobs of that name.
        "job_unique_key" => {
            names(step, "job_unique_key")
                && (!step.starts_with("SEARCH ") || step.contains("unique_key=?"))
        }
        index => names(step, index),
    })
}

/// So many jobs that are done, as many that wait for their time, ready ones and a few that run.
async fn fill(db: &TestDatabase, many: u32, ready: u32) {
    let (series, id, now, yes, no) = if db.is_sqlite() {
        (
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT COUNT) ",
            "printf('019aabcd-PART-7000-8000-%012d', n)",
            "1795348800000",
            "1",
            "0",
        )
    } else {
        (
            "WITH n AS (SELECT generate_series(1, COUNT) AS n) ",
            "CAST('019aabcd-PART-7000-8000-' || lpad(CAST(n AS text), 12, '0') AS uuid)",
            "TIMESTAMPTZ '2026-11-22T12:00:00Z'",
            "TRUE",
            "FALSE",
        )
    };
    let worker = if db.is_sqlite() {
        "'019aabcd-0000-7000-8000-000000000000'"
    } else {
        "CAST('019aabcd-0000-7000-8000-000000000000' AS uuid)"
    };
    let key = "'key ' || CAST(n % 50 AS text)";
    let memo = "'memo:' || CAST(n AS text)";
    for (part, count, status, due, worker, key, unique_key) in [
        ("0001", many, "done", no, worker, "NULL", memo),
        ("0002", many, "queued", no, "NULL", "NULL", memo),
        ("0003", ready, "queued", yes, "NULL", "NULL", "NULL"),
        ("0004", 50, "running", no, worker, key, "NULL"),
        ("0005", ready, "queued", yes, "NULL", key, "NULL"),
    ] {
        let finished = if status == "done" { now } else { "NULL" };
        db.execute(&format!(
            "{} INSERT INTO {{}}job (id, name, queue, status, due, priority, max_attempts, run_at, created_at, finished_at, worker, limit_key, max_running, unique_key, payload) \
             SELECT {}, 'known', 'default', '{status}', {due}, 0, 20, {now}, {now}, {finished}, {worker}, {key}, 1, {unique_key}, '1' FROM n",
            series.replace("COUNT", &count.to_string()),
            id.replace("PART", part),
        ))
        .await;
    }
    // Every job that is done was tried before.
    db.execute(
        "INSERT INTO {}job_attempt (job, attempt, worker, started_at, ended_at, error) \
         SELECT id, 1, worker, created_at, created_at, 'failed' FROM {}job WHERE status = 'done'",
    )
    .await;
}

/// The plan of a statement, a step a line.
pub(crate) async fn plan(db: &TestDatabase, name: &str, arguments: &[(&str, &str)]) -> Vec<String> {
    let (_, template) = TEMPLATES.iter().find(|(known, _)| *known == name).unwrap();
    plan_of(db, template, arguments).await
}

/// The plan of a template.
pub(crate) async fn plan_of(
    db: &TestDatabase,
    template: &str,
    arguments: &[(&str, &str)],
) -> Vec<String> {
    if db.is_sqlite() {
        let mut connection = SqliteConnection::connect(&db.url).await.unwrap();
        let sql = format!(
            "EXPLAIN QUERY PLAN {}",
            render(template, Engine::Sqlite, "main")
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        return rows.iter().map(|row| row.get(3)).collect();
    }
    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    let sql = render(template, Engine::Postgres, &db.schema);
    let types: Vec<_> = arguments.iter().map(|(kind, _)| *kind).collect();
    let values: Vec<_> = arguments
        .iter()
        .map(|(_, value)| format!("'{value}'"))
        .collect();
    let list = |items: Vec<String>| {
        if items.is_empty() {
            String::new()
        } else {
            format!("({})", items.join(", "))
        }
    };
    let (types, values) = (
        list(types.into_iter().map(String::from).collect()),
        list(values),
    );
    // As whoever claims many has them.
    let settings = if template.contains("gathered") {
        "SET enable_sort = off; SET enable_bitmapscan = off; "
    } else {
        ""
    };
    let mut plans = Vec::new();
    // A connection's first plans are made for their arguments, later ones for any.
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let script = format!(
            "SET plan_cache_mode = {mode}; {settings}DEALLOCATE ALL; PREPARE statement {types} AS {sql}"
        );
        connection
            .execute(sqlx::raw_sql(AssertSqlSafe(script)))
            .await
            .unwrap();
        let explain = format!("EXPLAIN EXECUTE statement {values}");
        let rows = connection
            .fetch_all(sqlx::raw_sql(AssertSqlSafe(explain)))
            .await
            .unwrap();
        plans.extend(rows.iter().map(|row| row.get::<String, _>(0)));
    }
    plans
}

/// For how many of so many executions of a statement by one connection PostgreSQL made a plan.
pub(crate) async fn planned(
    db: &TestDatabase,
    name: &str,
    arguments: &[(&str, &str)],
    times: usize,
) -> i64 {
    let (_, template) = TEMPLATES.iter().find(|(known, _)| *known == name).unwrap();
    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    let types: Vec<_> = arguments.iter().map(|(kind, _)| *kind).collect();
    let values: Vec<_> = arguments
        .iter()
        .map(|(_, value)| format!("'{value}'"))
        .collect();
    let execute = format!("EXECUTE statement ({});", values.join(", "));
    let script = format!(
        "PREPARE statement ({}) AS {}; {}",
        types.join(", "),
        render(template, Engine::Postgres, &db.schema),
        execute.repeat(times)
    );
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(script)))
        .await
        .unwrap();
    let plans = "SELECT custom_plans FROM pg_prepared_statements WHERE name = 'statement'";
    sqlx::query_scalar(plans)
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

/// Carries out one of the finisher's statements as it stands.
pub(crate) async fn carry_out(db: &TestDatabase, name: &str, batch: &str, worker: uuid::Uuid) {
    let (_, template) = TEMPLATES.iter().find(|(known, _)| *known == name).unwrap();
    if db.is_sqlite() {
        let mut connection = SqliteConnection::connect(&db.url).await.unwrap();
        sqlx::query(AssertSqlSafe(render(template, Engine::Sqlite, "main")))
            .bind(batch)
            .bind(worker.to_string())
            .bind(1_795_348_800_000_i64)
            .execute(&mut connection)
            .await
            .unwrap();
        return;
    }
    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    let script = format!(
        "PREPARE statement (json, uuid, timestamptz) AS {}; EXECUTE statement ('{batch}', '{worker}', '{}')",
        render(template, Engine::Postgres, &db.schema),
        NOW.1
    );
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(script)))
        .await
        .unwrap();
}

async fn keep_to_the_indexes(statements: &[Statement], db: &TestDatabase, analyzed: bool) {
    for (name, arguments, indexes) in statements {
        let (_, template) = TEMPLATES.iter().find(|(known, _)| known == name).unwrap();
        if db.is_sqlite() && template.starts_with("{postgres:") {
            continue;
        }
        let plan = plan(db, name, arguments).await;
        let next = plan.iter().skip(1).map(String::as_str).chain([""]);
        let stray = plan
            .iter()
            .zip(next)
            .find(|(step, next)| strays(name, step, next, indexes, analyzed));
        let told = plan.join("\n");
        assert_eq!(stray, None, "{name}, analyzed: {analyzed}\n{told}");
        for index in indexes
            .iter()
            .filter(|index| ![PRIMARY, ROW, ATTEMPTS].contains(index))
        {
            assert!(
                plan.iter().any(|step| names(step, index)),
                "{name} leaves {index} alone\n{told}"
            );
        }
    }
}

both_engines! {
    async fn the_queue_reads_by_its_indexes_among_many_rows(db) {
        drop(db.open().await);
        fill(db, 100_000, 5_000).await;
        keep_to_the_indexes(&STATEMENTS, db, false).await;
        db.analyze().await;
        keep_to_the_indexes(&STATEMENTS, db, true).await;
        keep_to_the_indexes(&READS_ALL, db, true).await;
    }

    // An idle queue's table: vacuumed when all of its jobs were gone, and filled since.
    async fn the_queue_reads_by_its_indexes_though_the_statistics_call_it_empty(db) {
        drop(db.open().await);
        fill(db, 100, 5_000).await;
        db.execute("DELETE FROM {}job").await;
        db.execute("DELETE FROM {}job_attempt").await;
        if db.is_sqlite() {
            db.analyze().await;
        } else {
            // As it is where somebody enqueues meanwhile.
            db.execute("VACUUM (TRUNCATE off, ANALYZE) {}job").await;
            db.execute("VACUUM (TRUNCATE off, ANALYZE) {}job_attempt").await;
        }
        fill(db, 5_000, 20_000).await;
        keep_to_the_indexes(&STATEMENTS, db, false).await;
    }

    // A smaller table is where PostgreSQL is tempted to read it all.
    async fn the_queue_reads_by_its_indexes_among_some_thousand_rows(db) {
        drop(db.open().await);
        fill(db, 2_000, 20_000).await;
        db.analyze().await;
        keep_to_the_indexes(&STATEMENTS, db, true).await;
    }
}
