//! Which jobs `larder jobs retry` and `larder jobs cancel` take: by id, or all that fit.

use crate::cli::args::name;
use crate::cli::failure::Failure;
use crate::queue::{JobId, JobSelection, JobStatus};

#[derive(Debug, clap::Args)]
pub(super) struct Select {
    /// By id
    #[arg(value_name = "ID", conflicts_with_all = ["queue", "name"])]
    ids: Vec<JobId>,
    /// Of this queue alone
    #[arg(long, value_name = "Q", value_parser = name)]
    queue: Option<String>,
    /// Of this name alone
    #[arg(long, value_name = "N", value_parser = name)]
    name: Option<String>,
}

/// What was asked for.
pub(super) enum Selected {
    Ids(Vec<JobId>),
    All(JobSelection),
}

impl Select {
    /// These jobs; an error where nothing says which. `command` and `example` are for its message.
    pub(super) fn of(
        self,
        status: Option<JobStatus>,
        command: &str,
        example: &str,
    ) -> Result<Selected, Failure> {
        let mut ids = self.ids;
        if !ids.is_empty() {
            ids.sort_unstable();
            ids.dedup();
            return Ok(Selected::Ids(ids));
        }
        let selection = JobSelection {
            status,
            queue: self.queue,
            name: self.name,
        };
        if selection == JobSelection::default() {
            return Err(Failure::error(format!(
                "jobs {command} needs to know which: give ids, or --status {example}, --queue Q or --name N for all such jobs"
            )));
        }
        Ok(Selected::All(selection))
    }
}
