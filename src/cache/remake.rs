//! What made the items that are about to be invalidated, so that they can be made anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Cache;
use super::rows::rows_of_keys;
use crate::database::{Id, JsonText, Sql, Tx, query};
use crate::error::Result;

/// The job that made a value, as it is to be enqueued again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MadeBy {
    pub(crate) name: String,
    pub(crate) queue: String,
    pub(crate) max_attempts: Option<u16>,
    /// Its JSON as a string, so that it stays byte for byte.
    pub(crate) payload: String,
}

impl MadeBy {
    #[cfg(feature = "worker")]
    pub(super) fn to_json(&self) -> Result<JsonText> {
        serde_json::to_string(self)
            .map(JsonText)
            .map_err(|error| crate::Error::invalid(format!("a job does not serialise: {error}")))
    }
}

/// An item that a job made.
#[derive(Debug)]
pub(crate) struct Remake {
    pub(crate) made_by: MadeBy,
    /// Microseconds.
    pub(crate) cost: i64,
    pub(crate) generation: i64,
    /// The job that computes its next value now.
    pub(crate) computing: Option<Id>,
}

/// By their keys.
pub(crate) type Remakes = BTreeMap<String, Remake>;

impl Cache {
    /// Adds those of the live items of `keys`, and of what was built from them, that jobs made.
    pub(super) async fn remakes_in(
        &self,
        tx: &mut Tx<'_>,
        keys: &JsonText,
        remakes: &mut Remakes,
    ) -> Result<()> {
        type Row = (String, JsonText, Option<i64>, i64, Option<Id>);
        let rows: Vec<Row> = query!(
            self.place.database,
            tx,
            fetch_all,
            Sql::MemoMade,
            &*self.place.namespace,
            keys,
            self.now()
        )?;
        for (key, made_by, cost, generation, computing) in rows {
            let made_by = match serde_json::from_str(&made_by.0) {
                Ok(made_by) => made_by,
                // What somebody else wrote there keeps nobody from invalidating.
                Err(error) => {
                    tracing::warn!(%key, %error, "the job that made an item cannot be read, and is not enqueued again");
                    continue;
                }
            };
            let remake = Remake {
                made_by,
                cost: cost.unwrap_or(0),
                generation,
                computing,
            };
            remakes.insert(key, remake);
        }
        Ok(())
    }

    /// [`Cache::delete_many_in`], and what made the items that go.
    pub(crate) async fn delete_remade_in(
        &self,
        tx: &mut Tx<'_>,
        keys: &[String],
    ) -> Result<(u64, Remakes)> {
        let rows = rows_of_keys(keys)?;
        // What is written between the look and the deletion would go unseen.
        let _: Vec<(String,)> = query!(
            self.place.database,
            tx,
            fetch_all,
            Sql::ItemLock,
            &*self.place.namespace,
            &rows
        )?;
        let mut remakes = Remakes::new();
        self.remakes_in(tx, &rows, &mut remakes).await?;
        let deleted = self.delete_many_in(tx.reborrow(), keys).await?;
        Ok((deleted, remakes))
    }
}
