//! `larder schedule next` and `check`: the instants that a cron expression names. They open no database.

use std::io::{IsTerminal, stdout};

use anstyle::Style;
use chrono::{DateTime, Datelike, Utc};

use super::settings_of;
use crate::cli::args::instant as parse_instant;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{List, Output, instant};
use crate::schedule::Cron;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Next {
    /// The schedule's name
    name: String,
    #[command(flatten)]
    range: Range,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Check {
    /// The cron expression, in quotes: five fields, or six with the seconds first
    #[arg(value_name = "EXPR")]
    expression: String,
    /// The IANA timezone that it is read in
    #[arg(long, value_name = "TZ", default_value = "UTC")]
    timezone: String,
    #[command(flatten)]
    range: Range,
}

#[derive(Debug, clap::Args)]
struct Range {
    /// How many instants to print
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        allow_hyphen_values = true
    )]
    count: u32,
    /// Those after this instant, such as 2026-11-22T13:00:00+01:00 [default: now]
    #[arg(long, value_name = "T", value_parser = parse_instant, allow_hyphen_values = true)]
    from: Option<DateTime<Utc>>,
}

impl Next {
    pub(super) fn run(&self, settings: &Settings, out: &mut Output) -> Result<Answer, Failure> {
        let of = settings_of(&self.name, settings)?;
        self.range.print(&cron(&of.cron, &of.timezone)?, out)
    }
}

impl Check {
    pub(in crate::cli) fn run(&self, out: &mut Output) -> Result<Answer, Failure> {
        self.range
            .print(&cron(&self.expression, &self.timezone)?, out)
    }
}

fn cron(expression: &str, timezone: &str) -> Result<Cron, Failure> {
    Cron::parse_in(expression, timezone).map_err(|error| Failure::error(error.to_string()))
}

impl Range {
    /// The instants in UTC; on a terminal, people also see what clocks of the timezone show.
    fn print(&self, cron: &Cron, out: &mut Output) -> Result<Answer, Failure> {
        let zone = cron.timezone();
        let local = stdout().is_terminal() && zone != chrono_tz::UTC;
        let dim = Style::new().dimmed();
        let mut at = self.from.unwrap_or_else(Utc::now);
        let mut list = List::new(out);
        for _ in 0..self.count {
            // RFC 3339 has no later year than 9999.
            let Some(tick) = cron.next_after(at).filter(|tick| tick.year() <= 9999) else {
                break;
            };
            let mut line = instant(tick);
            if local {
                let shown = tick.with_timezone(&zone).format("%a %F %T %Z");
                line = format!("{line}  {}", list.styled(dim, shown));
            }
            list.push(&instant(tick), line)?;
            at = tick;
        }
        list.end()?;
        Ok(Answer::Yes)
    }
}
