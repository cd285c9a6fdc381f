//! What the parts of larder above the database keep with it, for all of this process who have a handle of it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Database;

/// One value of each type.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl Database {
    /// The one `T` of its clones and of those with connections of their own, made for who asks first.
    pub(crate) fn shared<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let mut values = self
            .inner
            .shared
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let value = values
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Arc::<T>::default());
        let Ok(value) = Arc::clone(value).downcast() else {
            unreachable!("a value is kept by its type")
        };
        value
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // It takes no part in either engine.
    #[tokio::test]
    async fn clones_and_those_with_connections_of_their_own_share_and_others_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        let database = Database::connect(&url).await.unwrap();
        let value = database.shared::<Mutex<i32>>();
        assert!(Arc::ptr_eq(&value, &database.clone().shared()));
        assert!(Arc::ptr_eq(&value, &database.apart(1).shared()));
        let other = Database::connect(&url).await.unwrap();
        assert!(!Arc::ptr_eq(&value, &other.shared()));
        *database.shared::<Mutex<i64>>().lock().unwrap() = 1;
        assert_eq!(*value.lock().unwrap(), 0, "another type is another value");
    }
}
