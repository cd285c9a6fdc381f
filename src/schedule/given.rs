//! What a worker was given to schedule.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::ScheduleEntry;

/// The entries that a worker was given: some for good, and some that may change while it works.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    pub(crate) fixed: Vec<ScheduleEntry>,
    pub(crate) changing: Option<watch::Receiver<Vec<ScheduleEntry>>>,
}

impl Schedules {
    pub(super) fn current(&mut self) -> Vec<ScheduleEntry> {
        let changing = self
            .changing
            .as_mut()
            .map(|changing| changing.borrow_and_update().clone());
        // Of two of one name, the last counts.
        let by_name: BTreeMap<_, _> = self
            .fixed
            .iter()
            .cloned()
            .chain(changing.unwrap_or_default())
            .map(|entry| (entry.name.clone(), entry))
            .collect();
        by_name.into_values().collect()
    }

    pub(super) fn has_changed(&self) -> bool {
        let changing = self.changing.as_ref();
        changing.is_some_and(|changing| changing.has_changed().unwrap_or(false))
    }
}
