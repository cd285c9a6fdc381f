//! Values from the bytes that PostgreSQL sends for them, in an array or in a row of a [pipeline](super::pipeline).

use sqlx::error::BoxDynError;
use uuid::Uuid;

#[cfg(feature = "worker")]
use super::rows::CommonText;
#[cfg(feature = "worker")]
use super::types::RowText;
use super::types::{Id, JsonText, read_timestamp};
use crate::clock::Timestamp;

/// Read from its bytes, as its type sends them; without any where it is null.
pub(crate) trait Element: Sized {
    fn of(bytes: Option<&[u8]>) -> Result<Self, BoxDynError>;
}

impl Element for Id {
    fn of(bytes: Option<&[u8]>) -> Result<Self, BoxDynError> {
        Ok(Self(Uuid::from_slice(some(bytes)?)?))
    }
}

impl Element for bool {
    fn of(bytes: Option<&[u8]>) -> Result<Self, BoxDynError> {
        Ok(some(bytes)? == [1])
    }
}

impl Element for i64 {
    fn of(bytes: Option<&[u8]>) -> Result<Self, BoxDynError> {
        Ok(Self::from_be_bytes(some(bytes)?.try_into()?))
    }
}

impl Element for Timestamp {
    fn of(bytes: Option<&[u8]>) -> Result<Self, BoxDynError> {
        read_timestamp(some(bytes)?)
    }
}

impl Element for JsonText {
    fn of(bytes: Option<&[u8]>) -> Result<Self, BoxDynError> {
        Ok(Self(std::str::from_utf8(some(bytes)?)?.to_owned()))
    }
}

#[cfg(feature = "worker")]
impl Element for i32 {
    fn of(bytes: Option<&[u8]>) -> Result<Self, BoxDynError> {
        Ok(Self::from_be_bytes(some(bytes)?.try_into()?))
    }
}

#[cfg(feature = "worker")]
impl Element for CommonText {
    fn of(bytes: Option<&[u8]>) -> Result<Self, BoxDynError> {
        Ok(Self::of(std::str::from_utf8(some(bytes)?)?))
    }
}

#[cfg(feature = "worker")]
impl Element for RowText {
    fn of(bytes: Option<&[u8]>) -> Result<Self, BoxDynError> {
        Ok(Self::of(some(bytes)?))
    }
}

impl<T: Element> Element for Option<T> {
    fn of(bytes: Option<&[u8]>) -> Result<Self, BoxDynError> {
        bytes.map(|bytes| T::of(Some(bytes))).transpose()
    }
}

fn some(bytes: Option<&[u8]>) -> Result<&[u8], BoxDynError> {
    bytes.ok_or_else(|| "a null where there is none".into())
}
