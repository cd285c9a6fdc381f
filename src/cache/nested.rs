//! The keys that the running task computes, so that none of them waits for itself.

use std::sync::Arc;

use super::Cache;
use crate::error::{Error, Result};

tokio::task_local! {
    static COMPUTING: Arc<Computing>;
}

/// A key that is being computed, and the one whose computation asked for it.
struct Computing {
    database: usize,
    namespace: Arc<str>,
    key: String,
    outer: Option<Arc<Computing>>,
}

/// Runs the computation of `key`.
pub(super) async fn scope<T>(cache: &Cache, key: &str, computation: impl Future<Output = T>) -> T {
    let computing = Computing {
        database: cache.place.database.identity(),
        namespace: cache.place.namespace.clone(),
        key: key.to_owned(),
        outer: COMPUTING.try_with(Arc::clone).ok(),
    };
    COMPUTING.scope(Arc::new(computing), computation).await
}

/// Refuses a key that the running task computes already: it would wait for itself.
pub(super) fn check(cache: &Cache, key: &str) -> Result<()> {
    let mut outer = COMPUTING.try_with(Arc::clone).ok();
    while let Some(computing) = outer {
        let same = computing.database == cache.place.database.identity()
            && computing.namespace == cache.place.namespace
            && computing.key == key;
        if same {
            return Err(Error::invalid(format!(
                "the computation of key {key:?} asks for the key itself: compute it without, or under another key"
            )));
        }
        outer = computing.outer.clone();
    }
    Ok(())
}
