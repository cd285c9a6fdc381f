//! What there is of an item that a job computes, and how others wait for it.

use super::waits::Pauses;
use super::{Cache, Memo, nested};
use crate::database::{Id, Sql, Tx, query};
use crate::error::Result;

/// A live item as a caller sees it.
pub(crate) struct Remembered {
    pub(crate) value: String,
    pub(crate) is_stale: bool,
    /// Whether it is stale, or by chance is to be refreshed already.
    pub(crate) wants_refresh: bool,
    pub(crate) generation: i64,
    /// The job that was enqueued to refresh it.
    pub(crate) refresh: Option<Id>,
}

impl Cache {
    /// The live item of `memo`, fresh or stale.
    pub(crate) async fn remembered(&self, memo: &Memo) -> Result<Option<Remembered>> {
        let now = self.now();
        let hit = self.hit(&memo.key).await?;
        Ok(hit.map(|hit| Remembered {
            is_stale: hit.is_stale(now),
            wants_refresh: hit.wants_refresh(now, memo.plan.early),
            generation: hit.generation,
            refresh: hit.refresh,
            value: hit.value,
        }))
    }

    /// Says on the item that `job` refreshes it, and returns whether it is still of this generation. It stays so while
    /// the transaction is open.
    pub(crate) async fn say_refresh_in(
        &self,
        tx: &mut Tx<'_>,
        key: &str,
        generation: i64,
        job: Id,
    ) -> Result<bool> {
        let said = query!(
            self.place.database,
            tx,
            execute,
            Sql::MemoRefresh,
            &*self.place.namespace,
            key,
            generation,
            job,
            self.now()
        )?;
        Ok(said > 0)
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
