//! Batches as the rows of a JSON array, which is how they travel to either engine.

use std::collections::BTreeMap;

use serde::Serialize;

use super::limits::check_key;
use crate::clock::Timestamp;
use crate::database::JsonText;
use crate::error::{Error, Result};

/// Items, and bytes of them, in one statement of a batch.
const CHUNK_ITEMS: usize = 5_000;
const CHUNK_BYTES: usize = 8 * 1024 * 1024;

/// Keys as the rows of a JSON array, each once.
pub(super) fn rows_of_keys(keys: impl IntoIterator<Item = impl AsRef<str>>) -> Result<JsonText> {
    let mut unique = std::collections::BTreeSet::new();
    for key in keys {
        check_key(key.as_ref())?;
        unique.insert([key.as_ref().to_owned()]);
    }
    to_rows(&unique)
}

/// Items that expire `at` an instant, as the rows of JSON arrays, each array of a size that a statement takes with ease.
/// A value travels as a string: SQLite would rewrite a bare one.
pub(super) fn chunks(
    texts: BTreeMap<String, String>,
    at: Option<Timestamp>,
) -> Result<Vec<JsonText>> {
    let at = at.map(Timestamp::as_millis);
    let (mut chunks, mut rows, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (key, text) in texts {
        bytes += key.len() + text.len();
        rows.push((key, text, at));
        if rows.len() >= CHUNK_ITEMS || bytes >= CHUNK_BYTES {
            chunks.push(to_rows(&rows)?);
            (rows, bytes) = (Vec::new(), 0);
        }
    }
    if !rows.is_empty() {
        chunks.push(to_rows(&rows)?);
    }
    Ok(chunks)
}

pub(super) fn to_rows(rows: &impl Serialize) -> Result<JsonText> {
    serde_json::to_string(rows)
        .map(JsonText)
        .map_err(|error| Error::invalid(format!("a batch does not serialise: {error}")))
}
