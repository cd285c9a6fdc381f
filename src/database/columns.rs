//! The columns of a row as a tuple.

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Postgres, Row};

/// A row of a statement whose columns have the types that it is read as.
#[derive(Debug)]
pub(crate) struct Known<T>(pub(crate) T);

impl<'r, T: sqlx::FromRow<'r, SqliteRow>> sqlx::FromRow<'r, SqliteRow> for Known<T> {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        T::from_row(row).map(Self)
    }
}

impl<'r, T: Columns<'r>> sqlx::FromRow<'r, PgRow> for Known<T> {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        T::of(row).map(Self)
    }
}

/// The columns of a row on PostgreSQL, where each has its type by the table's definition. sqlx asks for each value whether
/// its type would do, which takes it as long as all the rest.
pub(super) trait Columns<'r>: Sized {
    fn of(row: &'r PgRow) -> Result<Self, sqlx::Error>;
}

macro_rules! columns {
    ($($Column:ident $index:literal),+) => {
        impl<'r, $($Column: Decode<'r, Postgres>),+> Columns<'r> for ($($Column,)+) {
            fn of(row: &'r PgRow) -> Result<Self, sqlx::Error> {
                Ok(($(row.try_get_unchecked::<$Column, _>($index)?,)+))
            }
        }
    };
}

columns!(A 0, B 1);
columns!(A 0, B 1, C 2);
columns!(A 0, B 1, C 2, D 3);
columns!(A 0, B 1, C 2, D 3, E 4);
columns!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
columns!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
columns!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
