// PostgreSQL's alone: SQLite reads on the caller's thread.

use std::str::FromStr;

use super::*;
use crate::clock::Timestamp;
use crate::database::columns::KeyedRow;
use crate::database::connect::password_of;
use crate::database::{Database, DatabaseOptions, Id, JsonText};

fn url() -> String {
    std::env::var("LARDER_TEST_POSTGRES_URL").expect("LARDER_TEST_POSTGRES_URL names no PostgreSQL")
}

fn options(rest: &str) -> PgConnectOptions {
    PgConnectOptions::from_str(&format!("postgres://user:word@{rest}")).unwrap()
}

async fn pool() -> PgPool {
    PgPool::connect(&url()).await.unwrap()
}

async fn pipelines(change: impl FnOnce(&mut Pipelines)) -> Arc<Pipelines> {
    let mut pipelines = Pipelines::beside(&pool().await, password_of(&url()));
    change(&mut pipelines);
    Arc::new(pipelines)
}

fn open(pipelines: &Arc<Pipelines>) {
    use sqlx::SqlSafeStr;
    pipelines.open("SELECT host(inet_server_addr())".into_sql_str());
}

/// Waits until the state is so.
async fn becomes(pipelines: &Pipelines, is_so: impl Fn(&State) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so(&pipelines.state()) {
        assert!(Instant::now() < deadline, "{:?}", pipelines.state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn opened(pipelines: &Arc<Pipelines>) -> Arc<Pipeline> {
    assert!(pipelines.get().is_none());
    open(pipelines);
    becomes(pipelines, |state| matches!(state, State::Open(..))).await;
    pipelines.get().unwrap()
}

fn is_waiting(state: &State) -> bool {
    matches!(state, State::NotBefore(_))
}

#[test]
fn it_has_a_connection_of_its_own_only_where_nothing_is_to_be_encrypted() {
    let share = |rest: &str| Pipelines::share(&options(rest), true, 10);
    for here in [
        "localhost/app",
        "127.0.0.1:5433/app",
        "[::1]/app",
        "%2Ftmp/app",
        "db.internal/app?host=/tmp",
    ] {
        assert_eq!(share(here), 1, "{here}");
        let demands = format!(
            "{here}{}sslmode=",
            if here.contains('?') { '&' } else { '?' }
        );
        for (mode, share_of_it) in [
            ("disable", 1),
            ("allow", 1),
            ("require", 0),
            ("verify-ca", 0),
            ("verify-full", 0),
        ] {
            assert_eq!(
                share(&format!("{demands}{mode}")),
                share_of_it,
                "{here} {mode}"
            );
        }
    }
    for there in [
        "db.internal/app",
        "10.1.2.3/app",
        "db.internal/app?sslmode=allow",
    ] {
        assert_eq!(share(there), 0, "{there}");
    }
    assert_eq!(share("db.internal/app?sslmode=disable"), 1);
    let local = options("localhost/app");
    assert_eq!(
        Pipelines::share(&local, false, 10),
        0,
        "it names statements"
    );
    assert_eq!(Pipelines::share(&local, true, 4), 1);
    assert_eq!(Pipelines::share(&local, true, 3), 0);
}

#[test]
fn a_password_is_found_where_it_is_written() {
    let password = |url: &str| password_of(url);
    let word = Some("p@ss/word".to_owned());
    assert_eq!(password("postgres://user:p%40ss%2Fword@host/app"), word);
    assert_eq!(
        password("postgres://user:p%40ss%2Fword@host/app?sslmode=disable&odd=1"),
        word
    );
    assert_eq!(
        password("postgres://user@host/app?password=p%40ss/word"),
        word
    );
}

#[tokio::test]
async fn one_that_is_refused_is_not_asked_for_again_at_once() {
    let pipelines = pipelines(|pipelines| {
        pipelines.to.as_mut().unwrap().dbname("there is none");
    })
    .await;
    open(&pipelines);
    becomes(&pipelines, is_waiting).await;
    open(&pipelines);
    assert!(is_waiting(&pipelines.state()));
    assert!(pipelines.get().is_none());
}

#[tokio::test]
async fn what_the_network_refuses_is_not_refused_for_long_and_what_the_server_does_is() {
    let refused = |change: fn(&mut Config) -> &mut Config| async move {
        let mut to = config(&pool().await.connect_options(), password_of(&url()));
        let error = change(&mut to).connect(NoTls).await.err().unwrap();
        is_refusal(&error)
    };
    assert!(refused(|to| to.dbname("there is none")).await);
    assert!(refused(|to| to.user("nobody there").password("wrong")).await);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut to = Config::new();
    to.host("127.0.0.1")
        .user("nobody")
        .ssl_mode(tokio_postgres::config::SslMode::Disable);
    to.port(closed.local_addr().unwrap().port());
    drop(closed);
    assert!(!is_refusal(&to.connect(NoTls).await.err().unwrap()));
}

#[tokio::test]
async fn one_that_is_given_up_is_followed_by_another_after_a_while() {
    let pipelines = pipelines(|_| ()).await;
    opened(&pipelines).await.lost.store(true, Ordering::Relaxed);
    assert!(pipelines.get().is_none());
    assert!(is_waiting(&pipelines.state()));
    open(&pipelines);
    assert!(is_waiting(&pipelines.state()), "not at once");
    *pipelines.state() = State::NotBefore(Instant::now());
    opened(&pipelines).await;
}

#[tokio::test]
async fn one_that_nobody_uses_is_closed_and_one_that_is_used_when_it_is_old() {
    let short = Duration::from_millis(20);
    let idle = pipelines(|pipelines| pipelines.idle = short).await;
    opened(&idle).await;
    becomes(&idle, is_waiting).await;
    let aged = pipelines(|pipelines| pipelines.lifetime = short * 10).await;
    let pipeline = opened(&aged).await;
    while !is_waiting(&aged.state()) {
        pipeline.used.store(true, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
    assert!(!pipeline.is_lost(), "who uses it has its answer first");
    let answer = pipeline.client.query_one("SELECT 1", &[]).await;
    assert_eq!(answer.unwrap().get::<_, i32>(0), 1);
}

#[tokio::test]
async fn another_runtime_does_not_use_it() {
    let pipelines = pipelines(|_| ()).await;
    let pipeline = opened(&pipelines).await;
    let other = pipelines.clone();
    let elsewhere = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async { other.get().is_some() })
    });
    assert!(!elsewhere.join().unwrap());
    assert!(Arc::ptr_eq(&pipelines.get().unwrap(), &pipeline));
}

#[tokio::test]
async fn none_is_opened_once_it_is_closed() {
    let pipelines = pipelines(|_| ()).await;
    drop(opened(&pipelines).await);
    pipelines.close().await;
    open(&pipelines);
    assert!(pipelines.get().is_none());
    assert!(matches!(*pipelines.state(), State::Ended));
}

#[test]
fn one_whose_runtime_ends_while_it_is_opened_is_opened_by_another() {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap()
    };
    let first = runtime();
    let pipelines = first.block_on(async {
        // The pool's connections end with this runtime.
        let pipelines = pipelines(|pipelines| pipelines.ask = None).await;
        open(&pipelines);
        pipelines
    });
    drop(first);
    assert!(is_waiting(&pipelines.state()));
    *pipelines.state() = State::None;
    runtime().block_on(async {
        opened(&pipelines).await;
    });
}

/// Opens one when its runtime drops it.
struct OpensAtTheEnd(Arc<Pipelines>);

impl Drop for OpensAtTheEnd {
    fn drop(&mut self) {
        open(&self.0);
    }
}

#[test]
fn a_runtime_that_ends_while_somebody_has_one_opened_does_end() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let pipelines = runtime.block_on(pipelines(|_| ()));
    let (began, begins) = tokio::sync::oneshot::channel();
    let opens = OpensAtTheEnd(pipelines.clone());
    runtime.spawn(async move {
        let _opens = opens;
        began.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    runtime.block_on(begins).unwrap();
    let (ended, ends) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(runtime);
        ended.send(())
    });
    ends.recv_timeout(Duration::from_secs(30))
        .expect("it does not end");
    assert!(is_waiting(&pipelines.state()));
}

#[tokio::test]
async fn one_that_many_use_is_given_to_no_more() {
    let pipelines = pipelines(|_| ()).await;
    let mut users = vec![opened(&pipelines).await];
    while users.len() < 100
        && let Some(user) = pipelines.get()
    {
        users.push(user);
    }
    assert_eq!(users.len(), MOST_USERS);
    users.pop();
    assert!(pipelines.get().is_some());
}

#[tokio::test]
async fn there_is_none_to_a_server_that_says_that_it_is_elsewhere() {
    use sqlx::SqlSafeStr;
    let pipelines = pipelines(|_| ()).await;
    assert!(pipelines.ask.is_some());
    pipelines.open("SELECT '10.1.2.3'".into_sql_str());
    becomes(&pipelines, |state| matches!(state, State::Ended)).await;
    let disabled = options("localhost/app?sslmode=disable");
    assert!(!is_doubtful(&disabled), "nobody asks for more than that");
    assert!(!is_doubtful(&options("%2Ftmp/app")));
}

/// A database in a schema of its own.
async fn database() -> (Database, String) {
    let schema = format!("test {}", uuid::Uuid::now_v7().simple());
    let database = DatabaseOptions::new(&url()).schema(&schema).connect();
    (database.await.unwrap(), schema)
}

#[tokio::test]
async fn rows_are_read_as_those_of_the_pool_are() {
    type Columns = (
        Option<JsonText>,
        i64,
        Option<Timestamp>,
        Option<i64>,
        Option<Timestamp>,
        Option<Id>,
        Option<Timestamp>,
        bool,
    );
    let text = "SELECT '{\"a\" : 1}'::json, -7::bigint, timestamptz '2026-01-02 03:04:05.678Z', NULL::bigint, \
                'infinity'::timestamptz, uuid '01900000-0000-7000-8000-000000000001', NULL::timestamptz, TRUE, 'key' \
                UNION ALL SELECT NULL, 7, '-infinity', 1, NULL, NULL, '1970-01-01', FALSE, 'other'";
    let mut piped = Vec::new();
    let pipelines = pipelines(|_| ()).await;
    let pipeline = opened(&pipelines).await;
    let statement = pipeline.client.prepare(text).await.unwrap();
    let seen = |key: &str, row: Columns| piped.push((key.to_owned(), row));
    pipeline.rows(&statement, &[], seen).await.unwrap();
    let pooled = sqlx::query(text).fetch_all(&pool().await).await.unwrap();
    let pooled: Vec<(String, Columns)> = pooled
        .iter()
        .map(|row| (row.key().unwrap().to_owned(), row.first().unwrap()))
        .collect();
    assert_eq!(piped, pooled);
    assert_eq!(piped.len(), 2);
}

/// What is read of an item that is not there.
async fn reads(pipeline: &Pipeline, database: &Database, statement: Sql) -> bool {
    let seen = |_: &str, _: (i64,)| unreachable!("there is no such item");
    let asked = ("no namespace", &["no key"][..], database.clock().now());
    pipeline.each(database, statement, asked, seen).await
}

#[tokio::test]
async fn a_statement_that_is_refused_is_no_reason_to_close_it_and_a_server_that_ends_is() {
    let (database, schema) = database().await;
    let pipelines = pipelines(|_| ()).await;
    let pipeline = opened(&pipelines).await;
    assert!(reads(&pipeline, &database, Sql::CacheGetEach).await);
    let role = |statement| pipeline.client.batch_execute(statement);
    role("SET ROLE pg_monitor").await.unwrap();
    let refused = !reads(&pipeline, &database, Sql::CacheGetEach).await;
    assert!(refused && !pipeline.is_lost());
    role("RESET ROLE").await.unwrap();
    assert!(reads(&pipeline, &database, Sql::CacheGetEach).await);
    let own = pipeline.client.query_one("SELECT pg_backend_pid()", &[]);
    let own: i32 = own.await.unwrap().get(0);
    let ended = sqlx::query("SELECT pg_terminate_backend($1, 10000)").bind(own);
    ended.execute(&pool().await).await.unwrap();
    assert!(!reads(&pipeline, &database, Sql::CacheGetEach).await);
    assert!(pipeline.is_lost());
    let drop_schema = format!("DROP SCHEMA \"{schema}\" CASCADE");
    let dropped = sqlx::raw_sql(sqlx::AssertSqlSafe(drop_schema));
    dropped.execute(&pool().await).await.unwrap();
}
