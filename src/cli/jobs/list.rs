//! `larder jobs list`: page by page, however many there are.

use anstyle::{AnsiColor, Style};

use crate::cli::args::name;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{List, Output, instant};
use crate::cli::table::{Cell, Table};
use crate::queue::{JobFilter, JobRecord, JobStatus, Queue};

/// Jobs read at once.
const PAGE: u32 = 500;
/// Characters of an error that a row shows.
const ERROR: usize = 60;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Of this status alone: queued, running, done, dead or cancelled
    #[arg(long, value_name = "S")]
    status: Option<JobStatus>,
    /// Of this queue alone
    #[arg(long, value_name = "Q", value_parser = name)]
    queue: Option<String>,
    /// Of this name alone
    #[arg(long, value_name = "N", value_parser = name)]
    name: Option<String>,
    /// At most so many; 0 is all
    #[arg(
        long,
        value_name = "N",
        default_value_t = 50,
        allow_hyphen_values = true
    )]
    limit: u32,
}

impl Args {
    pub(super) async fn run(self, queue: &Queue, out: &mut Output) -> Result<Answer, Failure> {
        let mut filter = JobFilter {
            status: self.status,
            queue: self.queue,
            name: self.name,
            ..JobFilter::default()
        };
        let mut left = if self.limit == 0 {
            u32::MAX
        } else {
            self.limit
        };
        let mut table = Table::new([
            "ID", "STATUS", "NAME", "QUEUE", "PRIORITY", "ATTEMPT", "RUN_AT", "ERROR",
        ]);
        if out.is_json() {
            let mut list = List::new(out);
            while let Some(page) = next_page(queue, &mut filter, &mut left).await? {
                for job in &page {
                    list.push(job, "")?;
                }
            }
            list.end()?;
            return Ok(Answer::Yes);
        }
        while let Some(page) = next_page(queue, &mut filter, &mut left).await? {
            for job in &page {
                table.row(row(job));
            }
            table.print(out)?;
        }
        table.print(out)?;
        Ok(Answer::Yes)
    }
}

/// The next page of what is `left` to list, or `None` after the last.
async fn next_page(
    queue: &Queue,
    filter: &mut JobFilter,
    left: &mut u32,
) -> Result<Option<Vec<JobRecord>>, Failure> {
    filter.limit = PAGE.min(*left);
    if filter.limit == 0 {
        return Ok(None);
    }
    let page = queue.list(filter).await?;
    let read = u32::try_from(page.len()).unwrap_or(u32::MAX);
    *left = if read < filter.limit {
        0
    } else if *left == u32::MAX {
        u32::MAX
    } else {
        *left - read
    };
    filter.before = page.last().map(|job| job.id);
    Ok((!page.is_empty()).then_some(page))
}

fn row(job: &JobRecord) -> [Cell; 8] {
    let error = job.error.as_deref().unwrap_or("-");
    let error = match error.char_indices().nth(ERROR) {
        Some((end, _)) => format!("{}…", &error[..end]),
        None => error.to_owned(),
    };
    [
        Cell::new(job.id),
        Cell::styled(job.status, style_of(job.status)),
        Cell::new(&job.name),
        Cell::new(&job.queue),
        Cell::new(job.priority),
        Cell::new(format!("{}/{}", job.attempt, job.max_attempts)),
        Cell::new(instant(job.run_at)),
        Cell::new(error),
    ]
}

/// How a status looks on a terminal.
pub(in crate::cli) fn style_of(status: JobStatus) -> Style {
    let colour = match status {
        JobStatus::Queued => return Style::new(),
        JobStatus::Running => AnsiColor::Cyan,
        JobStatus::Done => AnsiColor::Green,
        JobStatus::Dead => AnsiColor::Red,
        JobStatus::Cancelled => AnsiColor::Yellow,
    };
    Style::new().fg_color(Some(colour.into()))
}
