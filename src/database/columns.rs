//! The columns of a row as a tuple.

use futures::{Stream, TryStreamExt};
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Postgres, Row};

/// The columns of a row on PostgreSQL, where each has its type by the table's definition. sqlx asks for each value whether
/// its type would do, which takes it as long as all the rest.
pub(crate) trait Columns<'r>: Sized {
    fn of(row: &'r PgRow) -> Result<Self, sqlx::Error>;
}

/// The first columns of rows of either engine.
pub(crate) trait FirstColumns:
    for<'r> sqlx::FromRow<'r, SqliteRow> + for<'r> Columns<'r> + Send
{
}

impl<T> FirstColumns for T where T: for<'r> sqlx::FromRow<'r, SqliteRow> + for<'r> Columns<'r> + Send
{}

/// A row whose last column is a text that is never null.
pub(crate) trait KeyedRow: Send + Sync {
    fn key(&self) -> Result<&str, sqlx::Error>;
    fn first<T: FirstColumns>(&self) -> Result<T, sqlx::Error>;
}

impl KeyedRow for SqliteRow {
    fn key(&self) -> Result<&str, sqlx::Error> {
        self.try_get(self.len() - 1)
    }

    fn first<T: FirstColumns>(&self) -> Result<T, sqlx::Error> {
        T::from_row(self)
    }
}

impl KeyedRow for PgRow {
    fn key(&self) -> Result<&str, sqlx::Error> {
        self.try_get_unchecked(self.len() - 1)
    }

    fn first<T: FirstColumns>(&self) -> Result<T, sqlx::Error> {
        T::of(self)
    }
}

/// Hands on each row as it comes: its key, and what stands before that.
pub(crate) async fn each<R: KeyedRow, T: FirstColumns>(
    mut rows: impl Stream<Item = Result<R, sqlx::Error>> + Unpin,
    mut seen: impl FnMut(&str, T),
) -> Result<(), sqlx::Error> {
    while let Some(row) = rows.try_next().await? {
        seen(row.key()?, row.first()?);
    }
    Ok(())
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

columns!(A 0);
columns!(A 0, B 1);
columns!(A 0, B 1, C 2);
columns!(A 0, B 1, C 2, D 3);
columns!(A 0, B 1, C 2, D 3, E 4);
columns!(A 0, B 1, C 2, D 3, E 4, F 5);
columns!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
columns!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
columns!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
