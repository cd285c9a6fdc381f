//! `larder schedule pause` and `resume`.

use super::unknown;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::List;
use crate::cli::{Context, database};
use crate::schedule::ScheduleState;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The schedules' names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Args {
    /// Whether any of them was in the other state before.
    pub(super) fn run(self, context: &mut Context, pause: bool) -> Result<Answer, Failure> {
        let settings = &context.loaded.settings;
        let out = &mut context.out;
        database::with(&context.loaded, async |database| {
            // Also those that other workers have, and this machine's file has not.
            let states = ScheduleState::all(database).await?;
            let known = states.iter().map(|state| state.name.as_str());
            let mut known: Vec<_> = known
                .chain(settings.schedule.keys().map(String::as_str))
                .collect();
            known.sort_unstable();
            known.dedup();
            if let Some(name) = self
                .names
                .iter()
                .find(|name| !known.contains(&name.as_str()))
            {
                return Err(unknown(name, known).into());
            }
            let mut any = false;
            let mut list = List::new(out);
            for name in &self.names {
                let changed = if pause {
                    ScheduleState::pause(database, name).await?
                } else {
                    ScheduleState::resume(database, name).await?
                };
                if changed {
                    any = true;
                    list.push(name, name)?;
                }
            }
            list.end()?;
            Ok(any.into())
        })
    }
}
