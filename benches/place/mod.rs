//! Where a benchmark is measured: a database of its own, with as many rows as it wants, gone when it ends.
#![allow(dead_code, unused_imports)] // No benchmark uses all of it.

mod fill;

use std::path::PathBuf;
use std::time::Duration;

use larder::database::{Database, DatabaseOptions, Engine};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

pub(crate) use fill::{Items, Jobs};

/// That of the command `larder`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An SQLite file, or a schema of the PostgreSQL server that `LARDER_TEST_POSTGRES_URL` names.
pub(crate) struct Place {
    pub(crate) engine: Engine,
    pub(crate) url: String,
    pub(crate) schema: String,
    _directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new(engine: Engine) -> Self {
        let folder = std::env::var_os("BENCH_FOLDER")
            .map_or(PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        let directory = tempfile::tempdir_in(folder).unwrap();
        let url = match engine {
            Engine::Sqlite => format!("sqlite://{}", directory.path().join("bench.db").display()),
            Engine::Postgres => std::env::var("LARDER_TEST_POSTGRES_URL").unwrap(),
        };
        Self {
            engine,
            url,
            schema: format!("bench {}", uuid::Uuid::now_v7().simple()),
            _directory: directory,
        }
    }

    pub(crate) async fn connect(&self) -> Database {
        connect(&self.url, &self.schema).await
    }

    /// `{}` is the schema's prefix.
    pub(crate) async fn execute(&self, sql: &str) {
        match self.engine {
            Engine::Sqlite => {
                let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
                let sql = AssertSqlSafe(sql.replace("{}", ""));
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Engine::Postgres => {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                let sql = AssertSqlSafe(sql.replace("{}", &format!("\"{}\".", self.schema)));
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }

    /// Nothing is left of it on the server.
    pub(crate) async fn clear(&self) {
        if self.engine == Engine::Postgres {
            self.execute(&format!("DROP SCHEMA \"{}\" CASCADE", self.schema))
                .await;
        }
    }

    pub(crate) async fn end(self) {
        self.clear().await;
    }
}

pub(crate) async fn connect(url: &str, schema: &str) -> Database {
    let options = DatabaseOptions::new(url).schema(schema);
    options.connect().await.unwrap()
}

/// `sqlite` or `postgres`.
pub(crate) fn engine(name: &str) -> Engine {
    match name {
        "sqlite" => Engine::Sqlite,
        "postgres" => Engine::Postgres,
        _ => panic!("no engine {name}: sqlite or postgres"),
    }
}

/// Where a caller goes next; the same for every run.
pub(crate) fn scatter(seed: u64) -> u64 {
    let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 20
}

/// What calls took, in microseconds, as members of a JSON object.
pub(crate) fn spread(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1e3;
    format!(
        "\"median\": {:.2}, \"p99\": {:.2}, \"longest\": {:.2}",
        at(0.5),
        at(0.99),
        at(1.0)
    )
}

/// The arguments that come after `--figures`, if that is what the benchmark was called for.
pub(crate) fn figures() -> Option<Vec<String>> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--figures");
    arguments.next()?;
    Some(arguments.collect())
}
