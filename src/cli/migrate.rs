//! `larder migrate`.

use serde::Serialize;

use super::failure::{Answer, Failure};
use super::output::{List, Output};
use super::{Context, database};
use crate::database::{Database, DatabaseOptions, MigrationStatus, SchemaPolicy};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print every migration, and whether the database has it
    #[arg(long, conflicts_with = "dry_run")]
    status: bool,
    /// Print the SQL that would run, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    version: i64,
    name: &'a str,
    applied: bool,
}

impl Args {
    pub(super) fn run(self, context: &mut Context) -> Result<Answer, Failure> {
        let (loaded, out) = (&context.loaded, &mut context.out);
        let mut options = database::options(loaded)
            .max_connections(1)
            .schema_policy(SchemaPolicy::Ignore);
        if (self.status || self.dry_run) && options.would_create_file() {
            // Opening a file that is not there makes it. An empty database needs the same.
            options = DatabaseOptions::new("sqlite::memory:").schema_policy(SchemaPolicy::Ignore);
        }
        database::run(options, loaded, async |database| {
            if self.status {
                return list(&database.migrations().await?, out, |migration| {
                    let state = if migration.applied {
                        "applied"
                    } else {
                        "pending"
                    };
                    format!("{:04} {} {state}", migration.version, migration.name)
                });
            }
            if self.dry_run {
                let sql = database.pending_sql().await?;
                if out.is_json() {
                    out.json(&sql)?;
                } else if sql.is_empty() {
                    out.line("-- There is nothing to migrate.")?;
                } else {
                    out.raw(sql.as_bytes())?;
                }
                return Ok(Answer::Yes);
            }
            migrate(database, out).await
        })
    }
}

async fn migrate(database: &Database, out: &mut Output) -> Result<Answer, Failure> {
    let applied = database.migrate().await?;
    if applied.is_empty() && !out.is_json() {
        out.line("There is nothing to migrate.")?;
        return Ok(Answer::Yes);
    }
    list(&applied, out, |migration| {
        format!("Applied {:04} {}.", migration.version, migration.name)
    })
}

fn list(
    migrations: &[MigrationStatus],
    out: &mut Output,
    line: impl Fn(&MigrationStatus) -> String,
) -> Result<Answer, Failure> {
    let mut list = List::new(out);
    for migration in migrations {
        let shown = Shown {
            version: migration.version,
            name: &migration.name,
            applied: migration.applied,
        };
        list.push(&shown, line(migration))?;
    }
    list.end()?;
    Ok(Answer::Yes)
}
