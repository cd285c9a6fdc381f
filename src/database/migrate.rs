//! The tables: a history of their own, beside any that the application keeps in the same database.

use sqlx::AssertSqlSafe;

use super::sql::{self, Engine, Sql};
use super::{Database, Tx, query};
use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// What to do about the tables when a database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaPolicy {
    /// Lay them in a database that has none; refuse one that is older or newer.
    CreateIfEmpty,
    /// Lay them, or upgrade an older database; refuse a newer one.
    Upgrade,
    /// Take the database as it is.
    Ignore,
}

/// A migration, and whether the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its number; they are applied in this order.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
}

struct Migration {
    version: i64,
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal $file:literal;)*) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sqlite: include_str!(concat!("../../migrations/sqlite/", $file)),
            postgres: include_str!(concat!("../../migrations/postgres/", $file)),
        }),*]
    };
}

const MIGRATIONS: &[Migration] = migrations! {
    0 "larder_migration" "0000_larder_migration.sql";
    1 "cached_item" "0001_cached_item.sql";
    2 "job" "0002_job.sql";
    3 "schedule" "0003_schedule.sql";
    4 "job_control" "0004_job_control.sql";
    5 "memoize" "0005_memoize.sql";
    6 "rewarm" "0006_rewarm.sql";
    7 "memory" "0007_memory.sql";
    8 "storage" "0008_storage.sql";
    9 "batch_claim" "0009_batch_claim.sql";
    10 "fill" "0010_fill.sql";
};

impl Migration {
    fn text(&self, engine: Engine, schema: &str) -> String {
        let template = match engine {
            Engine::Sqlite => self.sqlite,
            Engine::Postgres => self.postgres,
        };
        sql::render(template, engine, schema)
    }

    /// The row of history that this migration leaves, as text, for those who run it by hand.
    fn record(&self, engine: Engine, schema: &str, now: Timestamp) -> String {
        let template = format!(
            "INSERT INTO {{migration}} (version, name, applied_at) VALUES ({}, '{}', {{time:{}}});",
            self.version,
            self.name,
            now.as_millis()
        );
        sql::render(&template, engine, schema)
    }
}

impl Database {
    /// Every migration, and whether this database has it; also those of a newer larder.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn migrations(&self) -> Result<Vec<MigrationStatus>> {
        let mut connection = self.read().await?;
        let applied = self.applied(&mut connection.tx()).await?;
        let mut status: Vec<_> = MIGRATIONS
            .iter()
            .map(|migration| MigrationStatus {
                version: migration.version,
                name: migration.name.to_owned(),
                applied: applied
                    .iter()
                    .any(|(version, _)| *version == migration.version),
            })
            .collect();
        let newest = latest();
        status.extend(
            applied
                .into_iter()
                .filter(|(version, _)| *version > newest)
                .map(|(version, name)| MigrationStatus {
                    version,
                    name,
                    applied: true,
                }),
        );
        Ok(status)
    }

    /// The SQL that [`Database::migrate`] would run; empty where there is nothing to do.
    ///
    /// # Errors
    /// Where the database fails, or is newer than this version of larder.
    pub async fn pending_sql(&self) -> Result<String> {
        let mut connection = self.read().await?;
        let applied = self.applied(&mut connection.tx()).await?;
        self.refuse_newer(&applied)?;
        let (engine, schema) = (self.engine(), self.inner.schema.as_str());
        let mut text = String::new();
        for migration in MIGRATIONS
            .iter()
            .filter(|migration| !has(&applied, migration))
        {
            text.push_str(&format!("-- {:04} {}\n", migration.version, migration.name));
            text.push_str(&migration.text(engine, schema));
            text.push_str(&migration.record(engine, schema, self.clock().now()));
            text.push_str("\n\n");
        }
        if !self.has_schema(&mut connection.tx()).await? {
            text.insert_str(0, &format!("{}\n\n", self.create_schema_sql()));
        }
        Ok(text)
    }

    /// Brings the tables up to this version of larder, in one transaction, and returns what it applied. Processes
    /// that call it together wait for one another.
    ///
    /// # Errors
    /// Where the database fails, is newer than this version of larder, or holds a table of the same name that is not
    /// larder's. Nothing is then changed.
    pub async fn migrate(&self) -> Result<Vec<MigrationStatus>> {
        let mut transaction = self.begin().await?;
        let mut tx = Tx::from(&mut transaction);
        query!(self, tx, execute, Sql::MigrationLock)?;
        let applied = self.applied(&mut tx).await?;
        self.refuse_newer(&applied)?;
        let (engine, schema) = (self.engine(), self.inner.schema.as_str());
        if !self.has_schema(&mut tx).await? {
            run(&mut tx, self.create_schema_sql()).await?;
        }
        let mut done = Vec::new();
        for migration in MIGRATIONS
            .iter()
            .filter(|migration| !has(&applied, migration))
        {
            run(&mut tx, migration.text(engine, schema)).await.map_err(|error| {
                if error.to_string().contains("already exists") {
                    return Error::schema_mismatch(format!(
                        "migration {:04} {} cannot lay its tables ({error}): choose another schema or file for larder",
                        migration.version, migration.name
                    ));
                }
                error
            })?;
            let now = self.clock().now();
            query!(
                self,
                tx,
                execute,
                Sql::MigrationRecord,
                migration.version,
                migration.name,
                now
            )?;
            done.push(MigrationStatus {
                version: migration.version,
                name: migration.name.to_owned(),
                applied: true,
            });
        }
        transaction.commit().await?;
        Ok(done)
    }

    /// Carries out `policy`.
    pub(super) async fn apply(&self, policy: SchemaPolicy) -> Result<()> {
        if policy == SchemaPolicy::Ignore {
            return Ok(());
        }
        let applied = {
            let mut connection = self.read().await?;
            self.applied(&mut connection.tx()).await?
        };
        self.refuse_newer(&applied)?;
        if MIGRATIONS.iter().all(|migration| has(&applied, migration)) {
            return Ok(());
        }
        if policy == SchemaPolicy::CreateIfEmpty && !applied.is_empty() {
            return Err(Error::schema_mismatch(format!(
                "the database's tables are of version {} and this larder's of version {}: run `larder migrate`",
                newest(&applied),
                latest()
            )));
        }
        self.migrate().await.map(drop)
    }

    async fn applied(&self, tx: &mut Tx<'_>) -> Result<Vec<(i64, String)>> {
        let (tables,): (i64,) = query!(self, tx, fetch_one, Sql::Migrated)?;
        if tables == 0 {
            return Ok(Vec::new());
        }
        query!(self, tx, fetch_all, Sql::MigrationList)
    }

    fn refuse_newer(&self, applied: &[(i64, String)]) -> Result<()> {
        if newest(applied) <= latest() {
            return Ok(());
        }
        Err(Error::schema_mismatch(format!(
            "the database's tables are of version {}, newer than this larder's {}: use a newer larder",
            newest(applied),
            latest()
        )))
    }

    /// Asked first, since making a schema that is there already asks for a right that the role may not have.
    async fn has_schema(&self, tx: &mut Tx<'_>) -> Result<bool> {
        let (schemas,): (i64,) = query!(self, tx, fetch_one, Sql::SchemaCount)?;
        Ok(schemas > 0)
    }

    fn create_schema_sql(&self) -> String {
        sql::render("CREATE SCHEMA {schema};", self.engine(), &self.inner.schema)
    }
}

async fn run(tx: &mut Tx<'_>, text: String) -> Result<()> {
    let script = sqlx::raw_sql(AssertSqlSafe(text));
    match tx {
        Tx::Sqlite(connection) => script.execute(&mut **connection).await.map(drop)?,
        Tx::Postgres(connection) => script.execute(&mut **connection).await.map(drop)?,
    }
    Ok(())
}

fn has(applied: &[(i64, String)], migration: &Migration) -> bool {
    applied
        .iter()
        .any(|(version, _)| *version == migration.version)
}

fn newest(applied: &[(i64, String)]) -> i64 {
    applied
        .iter()
        .map(|(version, _)| *version)
        .max()
        .unwrap_or(-1)
}

fn latest() -> i64 {
    MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}
