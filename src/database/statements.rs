//! Every statement is one that both engines take.

use sqlx::postgres::PgTypeInfo;
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use super::sql::{Engine, PAIRS, TEMPLATES, render};
use super::{Database, DatabaseOptions, Tx};

#[test]
fn the_engines_part_in_thirty_one_words() {
    assert_eq!(
        PAIRS.len(),
        31,
        "a divergence is a pair, and a pair has a reason: see its comment"
    );
    for pair in &PAIRS {
        assert_ne!(pair.sqlite, pair.postgres, "{} is no divergence", pair.name);
        assert_eq!(
            PAIRS.iter().filter(|other| other.name == pair.name).count(),
            1
        );
        let word = format!("{{{}", pair.name);
        assert!(
            TEMPLATES
                .iter()
                .any(|(_, template)| template.contains(&word)),
            "nothing uses {}",
            pair.name
        );
    }
}

#[test]
fn every_word_of_a_template_is_known_and_every_table_is_qualified() {
    for (name, template) in TEMPLATES {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let text = render(template, engine, "My \"schema\"");
            assert!(!text.contains(['{', '}', '@']), "{name}: {text}");
            // A `?` would be a word's argument that was not filled in.
            assert!(!text.contains('?'), "{name}: {text}");
            if engine == Engine::Sqlite {
                assert!(!text.contains("schema\""), "{name}: {text}");
                continue;
            }
            for table in [
                "cached_item",
                "job_attempt",
                "job_worker",
                "job_schedule",
                "larder_migration",
            ] {
                for (at, _) in text.match_indices(table) {
                    let before = &text[..at];
                    assert!(
                        before.ends_with("\"My \"\"schema\"\"\".")
                            || before.ends_with("tablename = '"),
                        "{name}: {text}"
                    );
                }
            }
        }
    }
}

#[test]
fn no_name_of_a_schema_breaks_out_of_its_quotes() {
    let text = render("{schema} {item}", Engine::Postgres, "a\"b; --");
    assert_eq!(text, r#""a""b; --" "a""b; --".cached_item"#);
    assert!(render("{schema_count}", Engine::Postgres, "a'b?").ends_with("= 'a''b?'"));
}

/// What a statement's own text does not tell PostgreSQL, and its bindings do: the type of a parameter that is first
/// asked whether it is null, or first seen as one end of a CASE.
fn types(name: &str) -> Vec<PgTypeInfo> {
    let names: &[&'static str] = match name {
        "JobList" | "JobEnded" | "JobUnended" | "ClaimUnended" => &["text", "text", "text"],
        "JobDone" | "JobFinish" | "JobRelease" | "JobUnclaim" | "AttemptKeep" => {
            &["json", "uuid", "timestamptz"]
        }
        "JobDoneSame" => &[
            "uuid[]",
            "uuid",
            "timestamptz",
            "int4",
            "json",
            "timestamptz",
        ],
        "JobFetchOn" => &[
            "text",
            "json",
            "int8",
            "uuid",
            "timestamptz",
            "uuid",
            "int8",
            "int2",
            "timestamptz",
            "uuid",
        ],
        "JobFetchMany" => &[
            "text",
            "json",
            "int8",
            "uuid",
            "timestamptz",
            "uuid",
            "int8",
        ],
        "JobRescue" | "JobCancel" | "JobRetry" => &["json", "timestamptz", "text"],
        "AttemptLose" => &["timestamptz", "timestamptz", "text"],
        _ => &[],
    };
    names
        .iter()
        .map(|name| PgTypeInfo::with_name(name))
        .collect()
}

async fn prepare_every_statement(database: &Database) {
    let mut transaction = database.begin().await.unwrap();
    for (name, template) in TEMPLATES {
        let statement = AssertSqlSafe(render(template, database.engine(), &database.inner.schema))
            .into_sql_str();
        let prepared = match Tx::from(&mut transaction) {
            Tx::Sqlite(connection) => connection.prepare(statement).await.map(drop),
            Tx::Postgres(connection) => connection
                .prepare_with(statement, &types(name))
                .await
                .map(drop),
        };
        assert!(prepared.is_ok(), "{name}: {prepared:?}");
    }
}

#[tokio::test]
async fn sqlite_takes_every_statement() {
    let database = Database::connect("sqlite::memory:").await.unwrap();
    prepare_every_statement(&database).await;
}

#[tokio::test]
async fn postgres_takes_every_statement() {
    let url = std::env::var("LARDER_TEST_POSTGRES_URL")
        .expect("LARDER_TEST_POSTGRES_URL names no PostgreSQL");
    let schema = format!("test {}", uuid::Uuid::now_v7().simple());
    let database = DatabaseOptions::new(&url)
        .schema(&schema)
        .connect()
        .await
        .unwrap();
    let outcome = tokio::spawn({
        let database = database.clone();
        async move { prepare_every_statement(&database).await }
    })
    .await;
    let mut transaction = database.begin().await.unwrap();
    let Tx::Postgres(connection) = Tx::from(&mut transaction) else {
        unreachable!()
    };
    let drop_schema = AssertSqlSafe(format!("DROP SCHEMA \"{schema}\" CASCADE"));
    sqlx::query(drop_schema).execute(connection).await.unwrap();
    transaction.commit().await.unwrap();
    outcome.unwrap();
}
