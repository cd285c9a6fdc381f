//! `larder config show`. It opens no database.

use clap::Subcommand;

use super::Context;
use super::failure::{Answer, Failure};
use super::output::one_line;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the settings in effect as a larder.toml, without passwords
    Show,
}

impl Command {
    pub(super) fn run(self, context: &mut Context) -> Result<Answer, Failure> {
        let Self::Show = self;
        let (loaded, out) = (&context.loaded, &mut context.out);
        if out.is_json() {
            out.json(&loaded.settings)?;
            return Ok(Answer::Yes);
        }
        let file = match &loaded.file {
            Some(file) => one_line(&file.display().to_string()),
            None => "none".to_owned(),
        };
        out.line(format_args!("# The settings file: {file}"))?;
        out.line(format_args!(
            "# The database's URL comes from: {}",
            one_line(&loaded.database_url_from)
        ))?;
        out.raw(loaded.settings.to_toml().as_bytes())?;
        Ok(Answer::Yes)
    }
}
