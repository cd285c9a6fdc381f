//! Why a command gave no result.

/// Why a command gave no result: it could not be started, failed, ran too long, or wrote what cannot be a result.
///
/// Its message names the command and what came of it, with the end of what it wrote to standard error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    message: String,
}

impl CommandError {
    pub(super) fn new(name: &str, what: impl std::fmt::Display, stderr: &str) -> Self {
        let mut message = format!("command {name:?} {what}");
        if !stderr.is_empty() {
            message.push_str("; its stderr: ");
            message.push_str(stderr);
        }
        Self { message }
    }
}
