//! Why a URL was not fetched.

use std::fmt;
use std::time::Duration;

/// Why a URL was not fetched. It shows no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError {
    message: String,
    remedy: Remedy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// None: the same would come of it.
    None,
    /// To try again, perhaps after so long.
    Again(Option<Duration>),
    /// The same, and what was fetched before may be given meanwhile (RFC 5861).
    AgainOrStale(Option<Duration>),
}

impl FetchError {
    pub(super) fn last(message: impl Into<String>) -> Self {
        Self::new(message, Remedy::None)
    }

    pub(super) fn passing(message: impl Into<String>, after: Option<Duration>) -> Self {
        Self::new(message, Remedy::Again(after))
    }

    /// Nothing came, or the server said that something is wrong with itself.
    pub(super) fn failing(message: impl Into<String>, after: Option<Duration>) -> Self {
        Self::new(message, Remedy::AgainOrStale(after))
    }

    fn new(message: impl Into<String>, remedy: Remedy) -> Self {
        Self {
            message: message.into(),
            remedy,
        }
    }

    /// Whether the same would come of another try.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.remedy == Remedy::None
    }

    /// How long the server asked to wait before another try, at most a day.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.remedy {
            Remedy::None => None,
            Remedy::Again(after) | Remedy::AgainOrStale(after) => after,
        }
    }

    pub(super) fn allows_stale(&self) -> bool {
        matches!(self.remedy, Remedy::AgainOrStale(_))
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for FetchError {}
