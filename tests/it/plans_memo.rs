//! How the engines carry out the statements of memoization among many items and links: by their indexes.

use crate::plans_queue::{plan, plan_of, planned};
use crate::support::{TestDatabase, both_engines};

const ID: (&str, &str) = ("uuid", "019aabcd-0000-7000-8000-000000000000");
const NOW: (&str, &str) = ("timestamptz", "2026-11-22T12:00:00Z");
const ROOT: (&str, &str) = ("text", "");
const KEY: (&str, &str) = ("text", "key 7");
const KEYS: (&str, &str) = ("json", r#"[["key 7"],["key 8"]]"#);
const LIST: (&str, &str) = ("text[]", "{key 7,key 8}");
const LINKS: (&str, &str) = ("json", r#"[["tag","tag 7","key 7"]]"#);
const NUMBER: (&str, &str) = ("bigint", "7");
const YES: (&str, &str) = ("boolean", "true");
const JSON: (&str, &str) = ("json", "1");

/// A statement, and its arguments with their PostgreSQL types.
type Statement = (&'static str, &'static [(&'static str, &'static str)]);

/// Reads of the keys that were gathered.
const GATHERED: [Statement; 5] = [
    ("CacheGetEach", &[ROOT, LIST, NOW]),
    ("CacheDeadlineEach", &[ROOT, LIST, NOW]),
    ("CacheKeepEach", &[ROOT, LIST, NOW]),
    ("MemoFreshEach", &[ROOT, LIST, NOW]),
    ("MemoReadEach", &[ROOT, LIST, NOW]),
];

const STATEMENTS: [Statement; 24] = [
    ("MemoRead", &[ROOT, KEY, NOW]),
    ("MemoRefresh", &[ROOT, KEY, NUMBER, ID, NOW]),
    ("MemoMade", &[ROOT, KEYS, NOW]),
    (
        "LeaseTake",
        &[ROOT, KEY, NUMBER, NOW, ID, NOW, ID, NUMBER, YES, ID, ID, ID],
    ),
    ("LeaseState", &[ROOT, KEY, NOW]),
    ("LeaseRenew", &[ROOT, KEY, ID, NOW]),
    ("LeaseRelease", &[ROOT, KEY, ID]),
    ("LeaseFail", &[ROOT, KEY, ID, ("text", "no luck"), NOW, NOW]),
    (
        "LeaseWriteBack",
        &[
            ROOT, KEY, ID, JSON, NOW, NOW, NUMBER, NUMBER, NOW, YES, JSON,
        ],
    ),
    ("LinkAdd", &[ROOT, LINKS]),
    ("LinkKeep", &[ROOT, KEYS, LINKS]),
    ("LinksOf", &[ROOT, KEY]),
    ("ItemNeed", &[ROOT, KEYS, NUMBER, NOW]),
    ("ItemVacate", &[ROOT, KEYS, NUMBER, NOW]),
    ("ItemLock", &[ROOT, KEYS]),
    ("ItemStale", &[ROOT, KEYS, NOW]),
    (
        "TagPage",
        &[
            ROOT,
            ("text", "tag 7"),
            ("text", ""),
            NOW,
            ("bigint", "1000"),
        ],
    ),
    ("CacheRead", &[ROOT, KEY, NOW]),
    ("CacheDeleteMany", &[ROOT, KEYS]),
    ("CacheDeleteEach", &[ROOT, KEYS, ("text", "20ms")]),
    ("CacheGetMany", &[ROOT, KEYS, NOW]),
    ("CachePurge", &[NOW, ("bigint", "100"), NOW, ROOT]),
    (
        "CachePurgeNamespace",
        &[NOW, ("bigint", "100"), ("text", ""), NOW],
    ),
    ("CachePurgeVacant", &[NOW, ("bigint", "100")]),
];

/// Keeps PostgreSQL from gathering statistics while a test says what there is of them.
async fn keep_statistics(db: &TestDatabase) {
    if !db.is_sqlite() {
        for table in ["cached_item", "cached_item_link"] {
            db.execute(&format!(
                "ALTER TABLE {{}}{table} SET (autovacuum_enabled = FALSE)"
            ))
            .await;
        }
    }
}

/// So many items, each with a tag that ten share and built from the one before; one of a hundred is vacant.
async fn fill(db: &TestDatabase, count: u32) {
    let (series, time) = if db.is_sqlite() {
        (
            format!(
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT {count}) "
            ),
            "1795348800000",
        )
    } else {
        (
            format!("WITH n AS (SELECT generate_series(1, {count}) AS n) "),
            "TIMESTAMPTZ '2026-11-22T12:00:00Z'",
        )
    };
    db.execute(&format!(
        "{series} INSERT INTO {{}}cached_item (namespace, key, value, generation, created_at, updated_at, expires_at, vacant, linked, needed, made_by) \
         SELECT '', 'key ' || CAST(n AS text), '1', n, {time}, {time}, {time}, n % 100 = 0, TRUE, TRUE, '1' FROM n"
    ))
    .await;
    for (kind, name) in [
        ("tag", "'tag ' || CAST(n / 10 AS text)"),
        ("key", "'key ' || CAST(n - 1 AS text)"),
    ] {
        db.execute(&format!(
            "{series} INSERT INTO {{}}cached_item_link (namespace, kind, name, key) SELECT '', '{kind}', {name}, 'key ' || CAST(n AS text) FROM n"
        ))
        .await;
    }
}

/// Whether a step looks up a namespace, or all tags or dependencies of one, and nothing less.
fn reads_a_namespace(step: &str) -> bool {
    let condition = if step.starts_with("SEARCH ") {
        step
    } else {
        step.strip_prefix("Index Cond: ").unwrap_or_default()
    };
    let rest = condition
        .replace("namespace", "")
        .replace("cached_item_link_key", "");
    condition.contains("namespace") && !rest.contains("key") && !rest.contains("name")
}

/// A step that reads a table, an index or a namespace from one end to the other.
fn reads_all(name: &str, plan: &[String]) -> Option<String> {
    // Vacant rows are few, and have an index of their own.
    let vacant = |step: &str| name == "CachePurgeVacant" && step.contains("cached_item_vacant");
    let steps = plan.iter().enumerate().map(|(at, step)| {
        let next = plan.get(at + 1).map_or("", String::as_str);
        (step.trim().trim_start_matches("->").trim(), next.trim())
    });
    steps
        .filter(|(step, next)| {
            let sqlite = step.starts_with("SCAN item") || step.starts_with("SCAN link");
            let whole = step.starts_with("Seq Scan on cached_item");
            let unbound =
                step.contains("Scan using cached_item") && !next.starts_with("Index Cond:");
            (sqlite || whole || unbound || reads_a_namespace(step)) && !vacant(step)
        })
        .map(|(step, _)| step.to_owned())
        .next()
}

/// What a trigger asks about the items that were built from one that goes.
fn cascade(db: &TestDatabase) -> String {
    let migration = if db.is_sqlite() {
        include_str!("../../migrations/sqlite/0006_rewarm.sql")
    } else {
        include_str!("../../migrations/postgres/0005_memoize.sql")
    };
    let end = "SELECT built.key FROM built WHERE built.key <> OLD.key";
    let (before, _) = migration.split_once(end).unwrap();
    let (_, recursion) = before.rsplit_once("WITH RECURSIVE").unwrap();
    let query = format!("WITH RECURSIVE{recursion}{end}");
    query
        .replace("OLD.namespace", "$1")
        .replace("OLD.key", "$2")
}

both_engines! {
    async fn memoization_reads_by_its_indexes_among_many_items(db) {
        drop(db.open().await);
        keep_statistics(db).await;
        fill(db, 100_000).await;
        for analyzed in [false, true] {
            if analyzed {
                db.analyze().await;
            }
            for (name, arguments) in STATEMENTS.into_iter().chain(GATHERED) {
                let plan = plan(db, name, arguments).await;
                assert_eq!(reads_all(name, &plan), None, "{name}, analyzed: {analyzed}\n{}", plan.join("\n"));
                assert!(db.is_sqlite() || plan.iter().any(|step| step.contains("cached_item")), "{name}: {plan:?}");
            }
            let plan = plan_of(db, &cascade(db), &[ROOT, KEY]).await;
            assert_eq!(reads_all("a trigger", &plan), None, "analyzed: {analyzed}\n{}", plan.join("\n"));
        }
    }

    // SQLite has no plans of that kind: a statement is planned when it is prepared, whatever its arguments.
    async fn reads_of_few_keys_are_not_planned_each_time(db) {
        if db.is_sqlite() {
            return;
        }
        drop(db.open().await);
        fill(db, 10_000).await;
        db.analyze().await;
        for keys in ["{key 7}", "{key 7,key 8,key 9,key 10,key 11,key 12,key 13,key 14}"] {
            for (name, _) in GATHERED {
                let plans = planned(db, name, &[ROOT, ("text[]", keys), NOW], 20).await;
                assert_eq!(plans, 5, "{name}, {keys}: the first five, as of each statement");
            }
        }
    }
}
