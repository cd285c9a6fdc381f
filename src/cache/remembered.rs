//! What there is of an item that a job computes, and how others wait for it.

use super::waits::Pauses;
use super::{Cache, nested};
use crate::error::Result;

/// A live item as a caller sees it.
pub(crate) struct Remembered {
    pub(crate) value: String,
    pub(crate) is_stale: bool,
}

impl Cache {
    /// The live item of `key`, fresh or stale.
    pub(crate) async fn remembered(&self, key: &str) -> Result<Option<Remembered>> {
        let now = self.now();
        let hit = self.hit(key).await?;
        Ok(hit.map(|hit| Remembered {
            is_stale: hit.is_stale(now),
            value: hit.value,
        }))
    }

    /// The pauses between the looks of one who waits for an item that somebody else computes.
    pub(crate) fn pauses_for(&self, key: &str) -> Pauses {
        self.pauses(key)
    }

    /// Refuses an item that the running task computes already: it would wait for itself.
    pub(crate) fn refuse_nested(&self, key: &str) -> Result<()> {
        nested::check(self, key)
    }
}
