//! The calls of a cache that gather.

mod reads;
mod writes;

use std::sync::Arc;

pub(super) use reads::{Columns, Deadline, Read, Value};
pub(super) use writes::Write;

pub(super) use crate::gather::Place;
use crate::gather::{By, Call, Gather, LARGE, MANY};

/// What all clones of a cache have under way.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) gets: Arc<Gather<Read<Value>>>,
    pub(super) deadlines: Arc<Gather<Read<Deadline>>>,
    pub(super) fresh: Arc<Gather<Read<super::hit::Fresh>>>,
    pub(super) hits: Arc<Gather<Read<super::hit::Memoized>>>,
    pub(super) kept: Arc<Gather<Read<super::memory::Kept>>>,
    pub(super) writes: Arc<Gather<Write>>,
}
