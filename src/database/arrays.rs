//! Columns that come as arrays, many jobs in one row: PostgreSQL's alone.

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::sqlite::{SqliteTypeInfo, SqliteValueRef};
use sqlx::{Decode, Postgres, Sqlite, Type};

use super::element::Element;

/// A column of many rows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Column<T>(pub(crate) Vec<T>);

/// Takes the next `length` bytes, a number where they are four.
fn take<'b>(bytes: &mut &'b [u8], length: usize) -> Result<&'b [u8], BoxDynError> {
    let (taken, rest) = bytes
        .split_at_checked(length)
        .ok_or("an array breaks off")?;
    *bytes = rest;
    Ok(taken)
}

fn number(bytes: &mut &[u8]) -> Result<i32, BoxDynError> {
    Ok(i32::from_be_bytes(take(bytes, 4)?.try_into()?))
}

impl<T: Element> Column<T> {
    /// As `array_send` of PostgreSQL writes it: how many dimensions, flags, type, then of each dimension its length and its
    /// lowest index, and of each element its length and its bytes.
    fn read(mut bytes: &[u8]) -> Result<Self, BoxDynError> {
        let dimensions = number(&mut bytes)?;
        take(&mut bytes, 8)?;
        if dimensions == 0 {
            return Ok(Self(Vec::new()));
        }
        if dimensions != 1 {
            return Err("an array of more than one dimension".into());
        }
        let count = usize::try_from(number(&mut bytes)?)?;
        take(&mut bytes, 4)?;
        // No element has less than its length: a count that cannot be is not made room for.
        let mut elements = Vec::with_capacity(count.min(bytes.len() / 4));
        for _ in 0..count {
            let length = usize::try_from(number(&mut bytes)?).ok();
            let element = length.map(|length| take(&mut bytes, length)).transpose()?;
            elements.push(T::of(element)?);
        }
        Ok(Self(elements))
    }
}

impl<T> Type<Postgres> for Column<T> {
    fn type_info() -> PgTypeInfo {
        <Vec<String> as Type<Postgres>>::type_info()
    }
    /// Whoever reads one has written the statement.
    fn compatible(_: &PgTypeInfo) -> bool {
        true
    }
}

impl<'r, T: Element> Decode<'r, Postgres> for Column<T> {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Self::read(value.as_bytes()?),
            PgValueFormat::Text => Err("an array as text".into()),
        }
    }
}

impl<T> Type<Sqlite> for Column<T> {
    fn type_info() -> SqliteTypeInfo {
        <String as Type<Sqlite>>::type_info()
    }
}

impl<'r, T> Decode<'r, Sqlite> for Column<T> {
    fn decode(_: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        Err("SQLite has no arrays".into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::database::{Id, RowText};

    /// An array of `elements` as PostgreSQL sends it.
    fn sent(elements: &[Option<&[u8]>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [1, 0, 25, i32::try_from(elements.len()).unwrap(), 1] {
            bytes.extend(i32::to_be_bytes(number));
        }
        for element in elements {
            let length = element.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap());
            bytes.extend(length.to_be_bytes());
            bytes.extend(element.unwrap_or_default());
        }
        bytes
    }

    #[test]
    fn each_element_is_read_and_text_that_is_none_harms_no_other() {
        let texts = sent(&[Some(b"one"), None, Some(b""), Some(b"\xff")]);
        let column = Column::<Option<RowText>>::read(&texts).unwrap();
        let text = |text: &str| Some(RowText::Text(text.to_owned()));
        let broken = Some(RowText::Broken("\u{fffd}".to_owned()));
        assert_eq!(column.0, [text("one"), None, text(""), broken]);
        let numbers = sent(&[Some(&7i32.to_be_bytes()), Some(&(-1i32).to_be_bytes())]);
        assert_eq!(Column::<i32>::read(&numbers).unwrap().0, [7, -1]);
        let none = [0; 12];
        assert!(Column::<i32>::read(&none).unwrap().0.is_empty());
        let id = Id(Uuid::now_v7());
        let ids = sent(&[Some(id.0.as_bytes())]);
        assert_eq!(Column::<Id>::read(&ids).unwrap().0, [id]);
    }

    #[test]
    fn what_is_no_array_is_refused_wherever_it_breaks_off() {
        let whole = sent(&[Some(&7i32.to_be_bytes()), Some(&8i32.to_be_bytes())]);
        for length in 0..whole.len() {
            assert!(Column::<i32>::read(&whole[..length]).is_err(), "{length}");
        }
        let mut many = whole.clone();
        many[12..16].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(Column::<i32>::read(&many).is_err());
        assert!(Column::<i32>::read(&sent(&[None])).is_err());
        let mut square = whole;
        square[3] = 2;
        assert!(Column::<i32>::read(&square).is_err());
    }
}
