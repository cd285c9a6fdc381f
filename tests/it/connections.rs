//! Opening databases: what is refused, what waits, and what is never told.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use futures::FutureExt;
use larder::clock::Clock;
use larder::database::{Database, DatabaseOptions, Tx, redact_url};
use larder::{Cache, Error, Expiration};
use sqlx::{Connection, PgConnection, PgPool, SqliteConnection};

use crate::support::both_engines;

const NEVER: Expiration = Expiration::Never;

/// A server that takes connections and never says a word.
fn silent_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "postgres://app:s3cret@127.0.0.1:{}/app",
        listener.local_addr().unwrap().port()
    );
    (listener, url)
}

/// A port that nobody listens to.
fn refused_url() -> String {
    let (listener, url) = silent_server();
    drop(listener);
    url
}

/// Asks for many items at once while its runtime drops it.
struct AsksAtTheEnd(Cache);

impl Drop for AsksAtTheEnd {
    fn drop(&mut self) {
        let keys: Vec<_> = (0..256).map(|n| n.to_string()).collect();
        let gets = keys.iter().map(|key| self.0.get::<i32>(key));
        let _ = futures::future::join_all(gets).now_or_never();
    }
}

both_engines! {
    async fn a_runtime_that_ends_while_somebody_reads_does_end_and_holds_up_no_other(db) {
        let cache = db.cache().await;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (began, begins) = tokio::sync::oneshot::channel();
        let asks = AsksAtTheEnd(cache.clone());
        runtime.spawn(async move {
            let _asks = asks;
            began.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        begins.await.unwrap();
        let (ended, ends) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            drop(runtime);
            ended.send(())
        });
        let deadline = Duration::from_secs(30);
        tokio::time::timeout(deadline, ends).await.expect("it does not end").unwrap();
        let get = tokio::time::timeout(deadline, cache.get::<i32>("key"));
        assert_eq!(get.await.expect("nobody is answered").unwrap(), None);
    }

    async fn a_call_that_gets_no_connection_ends_in_time_with_a_transient_error(db) {
        let timeout = Duration::from_millis(300);
        let database =
            db.options().max_connections(1).acquire_timeout(timeout).busy_timeout(timeout).connect().await.unwrap();
        let cache = Cache::new(database);
        let transaction = cache.database().begin().await.unwrap();
        let started = Instant::now();
        let errors = [
            cache.set("key", &1).await.unwrap_err(),
            cache.increment("key", 1, NEVER).await.unwrap_err(),
            cache.clear_expired().await.unwrap_err(),
            cache.database().begin().await.unwrap_err(),
        ];
        assert!(started.elapsed() < timeout * 12);
        for error in errors {
            assert!(error.is_transient(), "{error}");
            assert!(error.to_string().contains("acquire_timeout"), "{error}");
        }
        transaction.rollback().await.unwrap();
        cache.set("key", &1).await.unwrap();
    }

    async fn a_closed_database_is_a_transient_error(db) {
        let cache = db.cache().await;
        cache.database().close().await;
        assert!(cache.get::<i64>("key").await.unwrap_err().is_transient());
        assert!(cache.set("key", &1).await.unwrap_err().is_transient());
    }

    async fn the_clock_is_the_databases(db) {
        let database = db.options().clock(Clock::system()).connect().await.unwrap();
        // The test's database is on this machine, and so is its clock.
        assert!(database.clock().offset_millis().abs() < 100, "{}", database.clock().offset_millis());
        let apart = chrono::DateTime::<chrono::Utc>::from(database.clock().now()) - chrono::Utc::now();
        assert!(apart.abs() < chrono::TimeDelta::seconds(1), "{apart}");
    }

    async fn the_search_path_of_a_connection_does_not_matter(db) {
        // SQLite knows no schemas.
        if db.is_sqlite() {
            return;
        }
        let cache = db.cache().await;
        let mut connection = PgConnection::connect(&db.url).await.unwrap();
        for path in ["''", "pg_catalog", "nowhere"] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET search_path TO {path}"))).execute(&mut connection).await.unwrap();
            cache.set_in(&mut connection, "key", &path, NEVER).await.unwrap();
            cache.set_many_in(&mut connection, [("many", &path)], NEVER).await.unwrap();
            cache.increment_in(&mut connection, "counter", 1, NEVER).await.unwrap();
            assert_eq!(cache.keys_in(&mut connection, "").await.unwrap(), ["counter", "key", "many"]);
            assert_eq!(cache.clear_all_in(&mut connection).await.unwrap(), 3);
        }
        db.execute("CREATE TABLE {}other (id INTEGER)").await;
        assert_eq!(db.number("SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'public' AND tablename = 'cached_item'").await, 0);
    }

    async fn no_statement_is_prepared_by_name_where_that_is_switched_off(db) {
        // SQLite's statements live in the process; there is no pooler between.
        if db.is_sqlite() {
            return;
        }
        for prepared in [true, false] {
            let database = db.options().prepared(prepared).max_connections(1).connect().await.unwrap();
            let cache = Cache::new(database);
            let mut transaction = cache.database().begin().await.unwrap();
            let named = async |tx: Tx<'_>| -> i64 {
                let Tx::Postgres(connection) = tx else { unreachable!() };
                sqlx::query_scalar("SELECT COUNT(*) FROM pg_prepared_statements WHERE name <> ''")
                    .persistent(false)
                    .fetch_one(connection)
                    .await
                    .unwrap()
            };
            use_everything(&cache, Tx::from(&mut transaction)).await;
            assert_eq!(named(Tx::from(&mut transaction)).await > 0, prepared);
            transaction.commit().await.unwrap();
            // Nor on a connection of the application's own, which caches statements for itself.
            let pool = PgPool::connect(&db.url).await.unwrap();
            let mut own = pool.begin().await.unwrap();
            use_everything(&cache, Tx::from(&mut own)).await;
            assert_eq!(named(Tx::from(&mut own)).await > 0, prepared);
        }
    }

    async fn nothing_of_a_session_outlives_an_operation(db) {
        // What a pooler in transaction mode does not keep together: settings, locks, listeners, temporary tables.
        if db.is_sqlite() {
            return;
        }
        let database = db.options().prepared(false).max_connections(1).connect().await.unwrap();
        let cache = Cache::new(database);
        let mut transaction = cache.database().begin().await.unwrap();
        use_everything(&cache, Tx::from(&mut transaction)).await;
        let Tx::Postgres(connection) = Tx::from(&mut transaction) else { unreachable!() };
        let (settings, locks): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM pg_settings WHERE source = 'session'), \
             (SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
        )
        .persistent(false)
        .fetch_one(connection)
        .await
        .unwrap();
        assert_eq!((settings, locks), (0, 0));
    }
}

async fn use_everything(cache: &Cache, mut tx: Tx<'_>) {
    macro_rules! tx {
        () => {
            match &mut tx {
                Tx::Sqlite(connection) => Tx::Sqlite(connection),
                Tx::Postgres(connection) => Tx::Postgres(connection),
            }
        };
    }
    cache.set_in(tx!(), "key", &1, 60).await.unwrap();
    cache.get_in::<i64>(tx!(), "key").await.unwrap();
    cache.touch_in(tx!(), "key", 60).await.unwrap();
    cache.increment_in(tx!(), "key", 1, 60).await.unwrap();
    cache
        .set_many_in(tx!(), [("many", 1)], NEVER)
        .await
        .unwrap();
    cache.get_many_in::<i64>(tx!(), ["many"]).await.unwrap();
    cache.keys_in(tx!(), "").await.unwrap();
    cache.clear_expired_in(tx!()).await.unwrap();
    cache.stats_in(tx!()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_is_a_transient_error_in_time() {
    let (_listener, silent) = silent_server();
    for url in [refused_url(), silent] {
        let started = Instant::now();
        let options = DatabaseOptions::new(&url).acquire_timeout(Duration::from_millis(500));
        let error = options.connect().await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{url}: {:?}",
            started.elapsed()
        );
    }
}

#[tokio::test]
async fn no_error_tells_the_password() {
    let port = refused_url().rsplit_once(':').unwrap().1.to_owned();
    let real = std::env::var("LARDER_TEST_POSTGRES_URL").unwrap();
    let address = real.rsplit_once('@').unwrap().1;
    let urls = [
        format!("postgres://app:s3cret@127.0.0.1:{port}"),
        format!("postgres://nobody:s3cret@{address}"),
        "postgres://app:s3cret@no-such-host.invalid/app".to_owned(),
        "postgres://app:s3cret@127.0.0.1:99999/app".to_owned(),
        "postgres://app:s3cret@127.0.0.1:port/app".to_owned(),
        "postgres://app:s3cret@[::1/app".to_owned(),
        "postgres://app:s3cret@/app?sslmode=nonsense".to_owned(),
        "postgres://app@127.0.0.1:1/app?password=s3cret".to_owned(),
        "postgres://app@127.0.0.1:x/app?password=s3cret".to_owned(),
        "postgres://app:s3cret%@127.0.0.1:1/app".to_owned(),
        "postgres://app:s3cret/x@127.0.0.1:1/app".to_owned(),
        "postgres://app:s3cret#x@127.0.0.1:1/app".to_owned(),
        "postgres:app:s3cret@127.0.0.1/app".to_owned(),
        "postgres//app:s3cret@127.0.0.1/app".to_owned(),
        "mysql://app:s3cret@127.0.0.1/app".to_owned(),
        "app:s3cret@127.0.0.1/app".to_owned(),
        " postgres://app:s3cret@127.0.0.1/app".to_owned(),
        "s3cret".to_owned(),
        "sqlite:app:s3cret@127.0.0.1/app?mode=nonsense".to_owned(),
    ];
    for url in urls {
        let options = DatabaseOptions::new(&url).acquire_timeout(Duration::from_millis(300));
        let shown = format!("{options:?}");
        assert!(
            !shown.contains("s3cret") || url.starts_with("sqlite:"),
            "{shown}"
        );
        let error = options.connect().await.unwrap_err();
        let mut texts = vec![error.to_string(), format!("{error:?}"), redact_url(&url)];
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            texts.extend([cause.to_string(), format!("{cause:?}")]);
            source = cause.source();
        }
        for text in texts {
            assert!(
                !text.contains("s3cret") || url.starts_with("sqlite:"),
                "{url}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn a_url_that_is_none_is_an_error_that_says_what_to_write() {
    for url in [
        "",
        "larder.db",
        "mysql://host/db",
        "postgres:",
        "postgres",
        "postgres://host:port/db",
        "sqlite",
        "sqlite::memory:?mode=x",
    ] {
        let error = Database::connect(url).await.unwrap_err();
        assert!(
            error.is_invalid() && !error.is_transient(),
            "{url}: {error}"
        );
        assert!(!error.to_string().contains('\n'));
    }
}

#[tokio::test]
async fn memory_is_one_database_for_all_clones() {
    let cache = Cache::connect("sqlite::memory:").await.unwrap();
    let other = cache.clone();
    let tasks = (0..16).map(|_| {
        let cache = cache.clone();
        tokio::spawn(async move { cache.increment("key", 1, NEVER).await.unwrap() })
    });
    futures::future::try_join_all(tasks).await.unwrap();
    assert_eq!(other.get::<i64>("key").await.unwrap(), Some(16));
    let apart = Cache::connect("sqlite::memory:").await.unwrap();
    assert_eq!(apart.get::<i64>("key").await.unwrap(), None);
}

/// SQLite's own: there is no file and no lock of a whole database elsewhere.
mod sqlite_file {
    use super::*;

    async fn locked_by_another(file: &str) -> SqliteConnection {
        let mut other = SqliteConnection::connect(file).await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE; CREATE TABLE other (id INTEGER)")
            .execute(&mut other)
            .await
            .unwrap();
        other
    }

    #[tokio::test]
    async fn a_lock_longer_than_the_busy_timeout_is_a_transient_error_and_a_shorter_one_is_waited_for()
     {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        let open = async |timeout: u64| -> Cache {
            Cache::new(
                DatabaseOptions::new(&url)
                    .busy_timeout(Duration::from_millis(timeout))
                    .connect()
                    .await
                    .unwrap(),
            )
        };
        let (hasty, patient) = (open(200).await, open(10_000).await);
        let mut other = locked_by_another(&url).await;
        let errors: [Error; 3] = [
            hasty.set("key", &1).await.unwrap_err(),
            hasty.set_many([("key", 1)], NEVER).await.unwrap_err(),
            hasty.clear_all().await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.is_transient(), "{error}");
        }
        assert_eq!(
            hasty.get::<i64>("key").await.unwrap(),
            None,
            "readers do not wait"
        );
        let waiting = tokio::spawn(async move { patient.increment("key", 1, NEVER).await });
        // It tries while the lock is held; the hasty one's timeout gives it the time to.
        assert!(hasty.set("key", &1).await.unwrap_err().is_transient());
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 1);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_new_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::connect(&format!(
            "sqlite://{}",
            directory.path().join("test.db").display()
        ))
        .await
        .unwrap();
        cache.set("key", &1).await.unwrap();
        let mut files = 0;
        for file in std::fs::read_dir(directory.path()).unwrap() {
            assert_eq!(
                file.unwrap().metadata().unwrap().permissions().mode() & 0o777,
                0o600
            );
            files += 1;
        }
        assert!(files >= 2, "the write-ahead log is one of them");
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_or_has_no_folder_is_a_clear_error() {
        let directory = tempfile::tempdir().unwrap();
        let missing = format!("sqlite://{}/missing/test.db", directory.path().display());
        let error = Database::connect(&missing).await.unwrap_err();
        assert!(
            error.is_invalid() && error.to_string().contains("missing/test.db"),
            "{error}"
        );
        let text = directory.path().join("text.db");
        std::fs::write(
            &text,
            "this is no database, however long it may be ".repeat(100),
        )
        .unwrap();
        let error = Database::connect(&format!("sqlite://{}", text.display()))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("text.db") && !error.is_transient(),
            "{error}"
        );
        assert!(
            std::fs::read_to_string(&text)
                .unwrap()
                .starts_with("this is no database")
        );
    }

    #[tokio::test]
    async fn a_url_that_creates_nothing_leaves_nothing_where_there_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.db");
        for mode in ["ro", "rw"] {
            let url = format!("sqlite://{}?mode={mode}", file.display());
            let error = Database::connect(&url).await.unwrap_err();
            assert!(error.to_string().contains("test.db"), "{error}");
            assert!(!file.exists(), "{mode}");
        }
        Database::connect(&format!("sqlite://{}?mode=rwc", file.display()))
            .await
            .unwrap();
        assert!(file.exists());
    }

    #[tokio::test]
    async fn the_journal_is_a_write_ahead_log() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        let database = Database::connect(&url).await.unwrap();
        let mut transaction = database.begin().await.unwrap();
        let Tx::Sqlite(connection) = Tx::from(&mut transaction) else {
            unreachable!()
        };
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        let timeout: i64 = sqlx::query_scalar("PRAGMA busy_timeout")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!((mode.as_str(), synchronous, timeout), ("wal", 1, 10_000));
    }
}
