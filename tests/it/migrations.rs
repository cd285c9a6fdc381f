//! Laying and upgrading the tables.

use larder::database::SchemaPolicy;
use larder::{Cache, Queue, Worker};

use crate::support::{TestDatabase, both_engines, upgraded};
use crate::work::{give_back, job, once, probe};

/// Everything that the database's catalogue says of larder's schema.
async fn catalogue(db: &TestDatabase) -> Vec<String> {
    if db.is_sqlite() {
        return db.texts("SELECT type || ' ' || name || ' ' || tbl_name || ' ' || COALESCE(sql, '') FROM sqlite_schema ORDER BY 1").await;
    }
    let schema = db.schema.replace('\'', "''");
    let columns = format!(
        "SELECT table_name || ' ' || column_name || ' ' || ordinal_position || ' ' || data_type || ' ' || is_nullable || ' ' \
         || COALESCE(column_default, '') || ' ' || COALESCE(collation_name, '') \
         FROM information_schema.columns WHERE table_schema = '{schema}' ORDER BY 1"
    );
    let indexes =
        format!("SELECT indexdef FROM pg_indexes WHERE schemaname = '{schema}' ORDER BY 1");
    let constraints = format!(
        "SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(c.oid) FROM pg_constraint AS c \
         JOIN pg_namespace AS n ON n.oid = connamespace WHERE nspname = '{schema}' ORDER BY 1"
    );
    let options = format!(
        "SELECT relname || ' ' || array_to_string(reloptions, ',') FROM pg_class JOIN pg_namespace AS n \
         ON n.oid = relnamespace WHERE nspname = '{schema}' AND reloptions IS NOT NULL ORDER BY 1"
    );
    let mut all = Vec::new();
    for sql in [columns, indexes, constraints, options] {
        all.extend(
            db.texts(&sql)
                .await
                .into_iter()
                .map(|text| text.replace(&db.schema.replace('"', "\"\""), "SCHEMA")),
        );
    }
    all
}

/// Makes the schema for tables of the application's own.
async fn make_schema(db: &TestDatabase) {
    if !db.is_sqlite() {
        db.execute(&format!(
            "CREATE SCHEMA \"{}\"",
            db.schema.replace('"', "\"\"")
        ))
        .await;
    } else {
        std::fs::File::create(db.file()).unwrap();
    }
}

both_engines! {
    async fn an_empty_database_gets_its_tables_and_a_laid_one_stays_as_it_is(db) {
        let first = db.open().await;
        let laid = catalogue(db).await;
        assert!(laid.iter().any(|line| line.contains("cached_item")));
        let status = first.migrations().await.unwrap();
        assert!(status.iter().all(|migration| migration.applied));
        assert!(first.migrate().await.unwrap().is_empty());
        assert_eq!(first.pending_sql().await.unwrap(), "");
        Cache::new(first).set("key", &1).await.unwrap();
        assert_eq!(db.cache().await.get::<i64>("key").await.unwrap(), Some(1));
        upgraded(db).await;
        assert_eq!(catalogue(db).await, laid);
        let rows = db.number("SELECT COUNT(*) FROM {}larder_migration").await;
        assert_eq!(rows, i64::try_from(status.len()).unwrap());
    }

    async fn the_applications_tables_and_history_live_beside(db) {
        make_schema(db).await;
        db.execute("CREATE TABLE {}_sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL)").await;
        db.execute("INSERT INTO {}_sqlx_migrations VALUES (7, 'the application''s own')").await;
        db.execute("CREATE TABLE {}account (id INTEGER)").await;
        let cache = db.cache().await;
        cache.set("key", &1).await.unwrap();
        assert_eq!(db.number("SELECT MAX(version) FROM {}_sqlx_migrations").await, 7);
        assert_eq!(db.number("SELECT COUNT(*) FROM {}account").await, 0);
    }

    async fn the_pending_sql_run_by_hand_lays_the_same_tables(db) {
        let ignoring = async || db.options().schema_policy(SchemaPolicy::Ignore).connect().await.unwrap();
        let database = ignoring().await;
        assert!(database.migrations().await.unwrap().iter().all(|migration| !migration.applied));
        let before = catalogue(db).await;
        let pending = database.pending_sql().await.unwrap();
        assert_eq!(catalogue(db).await, before, "asking changes nothing");
        db.execute(&pending.replace("{}", "{ }")).await;
        let by_hand = catalogue(db).await;
        assert!(database.migrations().await.unwrap().iter().all(|migration| migration.applied));
        assert_eq!(database.pending_sql().await.unwrap(), "");
        db.cache().await.set("key", &1).await.unwrap();
        assert_eq!(catalogue(db).await, by_hand, "larder finds nothing left to do");

        let other = if db.is_sqlite() { TestDatabase::sqlite().await } else { TestDatabase::postgres().await };
        other.open().await.close().await;
        assert_eq!(by_hand, catalogue(&other).await);
        other.end().await;
    }

    async fn older_tables_are_upgraded_where_that_is_asked_for_and_refused_otherwise(db) {
        let empty = db.options().schema_policy(SchemaPolicy::Ignore).connect().await.unwrap();
        let pending = empty.pending_sql().await.unwrap();
        let (tables, _) = pending.split_once("-- 0003 ").unwrap();
        db.execute(tables).await;
        let older = catalogue(db).await;
        let error = db.options().connect().await.unwrap_err();
        assert!(error.is_schema_mismatch() && !error.is_transient());
        assert!(error.to_string().contains("version 2") && error.to_string().contains("larder migrate"), "{error}");
        assert_eq!(catalogue(db).await, older);
        let database = upgraded(db).await;
        assert!(database.migrations().await.unwrap().iter().all(|migration| migration.applied));
        let upgraded = catalogue(db).await;

        let other = if db.is_sqlite() { TestDatabase::sqlite().await } else { TestDatabase::postgres().await };
        other.open().await.close().await;
        assert_eq!(upgraded, catalogue(&other).await);
        other.end().await;
    }

    async fn what_is_long_is_compressed_by_lz4(db) {
        let database = db.open().await;
        let words: Vec<_> = (0..2_000).map(|n| format!("word {n}")).collect();
        Cache::new(database.clone()).set("key", &words).await.unwrap();
        let queue = Queue::new(database);
        let id = queue.enqueue(&probe(serde_json::json!(words))).await.unwrap().id;
        let worker = Worker::new(db.open().await).options(once()).register(give_back);
        worker.run_until(std::future::pending()).await.unwrap();
        // SQLite compresses nothing, and has no such function: there the values are whole, and that is all.
        if !db.is_sqlite() {
            let methods = "SELECT pg_column_compression(value) FROM {}cached_item UNION ALL \
                SELECT pg_column_compression(payload) || ' ' || pg_column_compression(result) FROM {}job";
            assert_eq!(db.texts(methods).await, ["lz4", "lz4 lz4"]);
        }
        assert_eq!(db.cache().await.get::<Vec<String>>("key").await.unwrap().unwrap(), words);
        assert_eq!(job(&queue, id).await.result.unwrap().get(), serde_json::to_string(&words).unwrap());
    }

    async fn newer_tables_are_refused_by_name(db) {
        let database = db.open().await;
        let applied_at = if db.is_sqlite() { "0" } else { "now()" };
        db.execute(&format!("INSERT INTO {{}}larder_migration VALUES (99, 'from_the_future', {applied_at})")).await;
        let errors = [
            db.options().connect().await.unwrap_err(),
            db.options().schema_policy(SchemaPolicy::Upgrade).connect().await.unwrap_err(),
            database.migrate().await.unwrap_err(),
            database.pending_sql().await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.is_schema_mismatch());
            let message = error.to_string();
            assert!(message.contains("99") && message.contains("newer larder"), "{message}");
        }
        let status = database.migrations().await.unwrap();
        assert_eq!(status.last().unwrap().name, "from_the_future");
        assert!(status.last().unwrap().applied);
    }

    async fn a_table_that_is_not_larders_is_in_the_way_and_stays(db) {
        make_schema(db).await;
        db.execute("CREATE TABLE {}job (mine BIGINT)").await;
        db.execute("INSERT INTO {}job VALUES (1)").await;
        let before = catalogue(db).await;
        for policy in [SchemaPolicy::CreateIfEmpty, SchemaPolicy::Upgrade] {
            let error = db.options().schema_policy(policy).connect().await.unwrap_err();
            assert!(error.is_schema_mismatch() && !error.is_transient(), "{error}");
            let message = error.to_string();
            assert!(message.contains("job") && message.contains("already exists") && !message.contains('\n'), "{message}");
            assert!(message.contains("another schema or file"), "{message}");
        }
        assert_eq!(catalogue(db).await, before, "nothing was changed");
        assert_eq!(db.number("SELECT mine FROM {}job").await, 1);
    }

    async fn a_role_that_may_not_lay_tables_is_told_so(db) {
        // SQLite has no roles.
        if db.is_sqlite() {
            return;
        }
        make_schema(db).await;
        let role = format!("larder_test_{}", uuid::Uuid::now_v7().simple());
        db.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'test'")).await;
        let mut url = url::Url::parse(&db.url).unwrap();
        url.set_username(&role).unwrap();
        url.set_password(Some("test")).unwrap();
        let error = larder::database::DatabaseOptions::new(url.as_str()).schema(&db.schema).connect().await.unwrap_err();
        db.execute(&format!("DROP ROLE {role}")).await;
        assert!(error.to_string().contains("permission denied"), "{error}");
        assert!(!error.is_transient());
    }
}
