//! Which records of the fleet nobody has any more, told without anybody's clock: by whether they change while this worker
//! watches them.

use std::collections::HashMap;
use std::time::Duration;

use super::record::ScheduleState;
use crate::clock::Timestamp;

/// Whoever has an entry says so each minute; one that nobody speaks of for this long has no taker.
const SILENCE: Duration = Duration::from_secs(600);
/// Where the last who had it let go of it, others have spoken by then.
const SILENCE_AFTER_LETTING_GO: Duration = Duration::from_secs(150);

/// When each record last changed, as far as this worker saw, since its start.
#[derive(Default)]
pub(super) struct Watched {
    changed: HashMap<String, ((Timestamp, Timestamp), Duration)>,
}

impl Watched {
    /// Takes down what the records are at `elapsed`, and tells which of them have had no sign of life for too long.
    pub(super) fn silent(
        &mut self,
        states: Vec<ScheduleState>,
        elapsed: Duration,
    ) -> Vec<ScheduleState> {
        let mut before = std::mem::take(&mut self.changed);
        let mut silent = Vec::new();
        for state in states {
            let sign = state.sign_of_life();
            let since = match before.remove(&state.name) {
                Some((last, since)) if last == sign => since,
                _ => elapsed,
            };
            self.changed.insert(state.name.clone(), (sign, since));
            let patience = if state.is_let_go() {
                SILENCE_AFTER_LETTING_GO
            } else {
                SILENCE
            };
            if elapsed.saturating_sub(since) >= patience {
                silent.push(state);
            }
        }
        silent
    }
}
