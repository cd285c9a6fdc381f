//! What the worker reads by the thousand, and writes: rows, their columns, and lists of ids.

use std::cell::RefCell;
use std::sync::Arc;

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlResult, ToSqlOutput, ValueRef};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgRow, PgTypeInfo, PgValueRef};
use sqlx::sqlite::{SqliteArgumentsBuffer, SqliteRow, SqliteTypeInfo, SqliteValueRef};
use sqlx::{Decode, Encode, Postgres, Sqlite, Type};
use uuid::Uuid;

use super::columns::Columns;
use super::types::{Id, JsonText};

/// A text that is the same in most rows of an answer, which then have it together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommonText(pub(crate) Arc<str>);

thread_local! {
    static LAST_TEXT: RefCell<Arc<str>> = RefCell::new(Arc::from(""));
}

impl CommonText {
    pub(super) fn of(text: &str) -> Self {
        LAST_TEXT.with_borrow_mut(|last| {
            if **last != *text {
                *last = Arc::from(text);
            }
            Self(last.clone())
        })
    }
}

impl Type<Sqlite> for CommonText {
    fn type_info() -> SqliteTypeInfo {
        <String as Type<Sqlite>>::type_info()
    }
    fn compatible(ty: &SqliteTypeInfo) -> bool {
        <String as Type<Sqlite>>::compatible(ty)
    }
}

impl<'r> Decode<'r, Sqlite> for CommonText {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        <&str as Decode<Sqlite>>::decode(value).map(Self::of)
    }
}

impl FromSql for CommonText {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str().map(Self::of)
    }
}

impl<'r> Decode<'r, Postgres> for CommonText {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        value.as_str().map(Self::of)
    }
}

/// A row, or none where it does not decode: it is passed over, and those beside it are read.
#[derive(Debug)]
pub(crate) struct Readable<T>(Option<T>);

impl<'r, T: sqlx::FromRow<'r, SqliteRow>> sqlx::FromRow<'r, SqliteRow> for Readable<T> {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self(T::from_row(row).ok()))
    }
}

impl<'r, T: Columns<'r>> sqlx::FromRow<'r, PgRow> for Readable<T> {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self(T::of(row).ok()))
    }
}

/// Those of `rows` that decode.
pub(crate) fn readable<T>(rows: Vec<Readable<T>>) -> Vec<T> {
    rows.into_iter().filter_map(|row| row.0).collect()
}

/// A list of ids: an array on PostgreSQL, JSON on SQLite.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(feature = "worker"),
    allow(dead_code, reason = "it is the worker's alone")
)]
pub(crate) struct Ids(pub(crate) Vec<Id>);

impl Ids {
    fn to_json(&self) -> String {
        Id::array_of(self.0.iter().copied()).0
    }
}

impl Type<Sqlite> for Ids {
    fn type_info() -> SqliteTypeInfo {
        <String as Type<Sqlite>>::type_info()
    }
}

impl Encode<'_, Sqlite> for Ids {
    fn encode_by_ref(&self, buffer: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Sqlite>::encode(self.to_json(), buffer)
    }
}

impl ToSql for Ids {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.to_json().into())
    }
}

impl Type<Postgres> for Ids {
    fn type_info() -> PgTypeInfo {
        <Vec<Uuid> as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Ids {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let ids: Vec<Uuid> = self.0.iter().map(|id| id.0).collect();
        Encode::<Postgres>::encode_by_ref(&ids, buffer)
    }
}

impl Id {
    /// As it is displayed.
    pub(crate) fn text(self) -> String {
        let mut buffer = Uuid::encode_buffer();
        self.0.hyphenated().encode_lower(&mut buffer).to_owned()
    }

    /// The JSON array of `ids`. serde would look for what is to be escaped in each.
    fn array_of(ids: impl ExactSizeIterator<Item = Self>) -> JsonText {
        let mut json = String::with_capacity(2 + 39 * ids.len());
        json.push('[');
        for (place, id) in ids.enumerate() {
            let mut buffer = Uuid::encode_buffer();
            json.push_str(if place == 0 { "\"" } else { ",\"" });
            json.push_str(id.0.hyphenated().encode_lower(&mut buffer));
            json.push('"');
        }
        json.push(']');
        JsonText(json)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_follow_each_other_and_are_the_same_are_one() {
        let texts = ["one", "one", "other", "one"].map(CommonText::of);
        assert_eq!(
            texts.clone().map(|text| text.0.to_string()),
            ["one", "one", "other", "one"]
        );
        assert!(Arc::ptr_eq(&texts[0].0, &texts[1].0));
        assert!(
            !Arc::ptr_eq(&texts[0].0, &texts[3].0),
            "none is kept for good"
        );
    }

    #[test]
    fn ids_are_written_as_they_are_displayed_and_as_serde_does() {
        let ids: Vec<_> = (0..3).map(|_| Id(Uuid::now_v7())).collect();
        assert_eq!(ids[0].text(), ids[0].to_string());
        for count in 0..=ids.len() {
            let some = &ids[..count];
            let array = Id::array_of(some.iter().copied());
            assert_eq!(array.0, serde_json::to_string(some).unwrap());
            assert_eq!(array.0.len(), if count == 0 { 2 } else { 1 + 39 * count });
        }
    }
}
