//! The protocol of leases and invalidation, checked over every order of its steps.
//!
//! Two processes compute a key from a row of the application's, of which the value is the version that they read. A
//! transaction writes the next version and invalidates the key. The steps are those of the statements, each of which is
//! atomic: a row that an open transaction wrote or deleted makes others wait, as it does on PostgreSQL. On SQLite nobody
//! else writes while a transaction is open, so that its runs are among these.

use stateright::{Checker, Model, Property};

const PROCESSES: usize = 2;
const INVALIDATIONS: u8 = 2;
const LEASES: u8 = 4;

/// What the protocol leaves out, to see that the check finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Whoever has computed writes, whatever became of its lease.
    WritesBackUnasked,
    /// A lease that was taken over is as good as the one that took it.
    LeaseWithoutFence,
    /// Computing begins while a transaction that cleared a range is open.
    BeginsUnasked,
    /// Deleting a key that is absent leaves nothing for others to wait for.
    DeletesNothing,
    /// A set leaves the lease of whoever computes.
    SetKeepsLease,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Row {
    /// The version that the value was computed from; none where it is vacant or has expired.
    value: Option<u8>,
    holder: Option<u8>,
    lease_passed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Process {
    Idle,
    /// It has the lease, and has not read the application's row yet.
    Leased(u8),
    /// It computes from this version.
    Computing {
        lease: u8,
        version: u8,
    },
    Crashed,
}

/// A transaction that has written the application's next version, and invalidated the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Transaction {
    /// Whether it holds the key's row: one that it deleted or made.
    holds_row: bool,
    /// Whether it cleared a range, and holds that.
    holds_range: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// The application's row, as committed.
    version: u8,
    row: Option<Row>,
    processes: [Process; PROCESSES],
    transaction: Option<Transaction>,
    leases: u8,
    /// A user's own set of the newest value, and whether it happened.
    set: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Take(usize),
    Begin(usize),
    WriteBack(usize),
    Crash(usize),
    PassLease,
    Expire,
    Purge,
    Set,
    Delete,
    ClearRange,
    Commit,
    RollBack,
}

struct Protocol(Fault);

impl State {
    /// Whether the key's row can be written by somebody other than the transaction.
    fn row_is_free(&self) -> bool {
        !self.transaction.is_some_and(|open| open.holds_row)
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            version: 0,
            row: None,
            processes: [Process::Idle; PROCESSES],
            transaction: None,
            leases: 0,
            set: false,
        }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Action>) {
        for process in 0..PROCESSES {
            actions.extend([
                Action::Take(process),
                Action::Begin(process),
                Action::WriteBack(process),
                Action::Crash(process),
            ]);
        }
        actions.extend([
            Action::PassLease,
            Action::Expire,
            Action::Purge,
            Action::Set,
            Action::Delete,
            Action::ClearRange,
            Action::Commit,
            Action::RollBack,
        ]);
    }

    /// `None` where the step waits or cannot be.
    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Take(process) => {
                // Of a row that is there, to refresh it, or one that is not.
                let held = |row: &Row| row.holder.is_some() && !row.lease_passed;
                let free = !last.row.as_ref().is_some_and(held);
                if last.processes[process] != Process::Idle
                    || !free
                    || !last.row_is_free()
                    || last.leases == LEASES
                {
                    return None;
                }
                state.leases += 1;
                let lease = if self.0 == Fault::LeaseWithoutFence {
                    1
                } else {
                    state.leases
                };
                let row = state.row.get_or_insert_default();
                (row.holder, row.lease_passed) = (Some(lease), false);
                state.processes[process] = Process::Leased(lease);
            }
            Action::Begin(process) => {
                let Process::Leased(lease) = last.processes[process] else {
                    return None;
                };
                let held = last.transaction.is_some_and(|open| open.holds_range);
                if held && self.0 != Fault::BeginsUnasked {
                    return None;
                }
                state.processes[process] = Process::Computing {
                    lease,
                    version: last.version,
                };
            }
            Action::WriteBack(process) => {
                let Process::Computing { lease, version } = last.processes[process] else {
                    return None;
                };
                if !last.row_is_free() {
                    return None;
                }
                let holds = last
                    .row
                    .as_ref()
                    .is_some_and(|row| row.holder == Some(lease));
                if holds || self.0 == Fault::WritesBackUnasked {
                    state.row = Some(Row {
                        value: Some(version),
                        ..Row::default()
                    });
                }
                state.processes[process] = Process::Idle;
            }
            Action::Crash(process) => {
                if matches!(last.processes[process], Process::Idle | Process::Crashed) {
                    return None;
                }
                state.processes[process] = Process::Crashed;
            }
            Action::PassLease => state.row.as_mut()?.lease_passed = true,
            Action::Expire => {
                if !last.row_is_free() {
                    return None;
                }
                state.row.as_mut()?.value = None;
            }
            Action::Purge => {
                let row = last.row.as_ref()?;
                let computed = row.holder.is_some() && !row.lease_passed;
                if row.value.is_some() || computed || !last.row_is_free() {
                    return None;
                }
                state.row = None;
            }
            Action::Set => {
                if last.set || !last.row_is_free() || last.transaction.is_some() {
                    return None;
                }
                let holder = last.row.as_ref().and_then(|row| row.holder);
                state.set = true;
                // It tells of a change that was no transaction's: nobody may have read it before.
                state.version += 1;
                state.row = Some(Row {
                    value: Some(state.version),
                    holder: holder.filter(|_| self.0 == Fault::SetKeepsLease),
                    lease_passed: false,
                });
            }
            Action::Delete | Action::ClearRange => {
                if last.transaction.is_some() || last.version >= INVALIDATIONS {
                    return None;
                }
                let is_range = action == Action::ClearRange;
                let vacates = !is_range && self.0 != Fault::DeletesNothing;
                state.transaction = Some(Transaction {
                    holds_row: last.row.is_some() || vacates,
                    holds_range: is_range,
                });
            }
            Action::Commit => {
                let open = state.transaction.take()?;
                state.version += 1;
                if open.holds_row {
                    state.row = None;
                }
            }
            Action::RollBack => {
                state.transaction.take()?;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "no value older than the last invalidation is readable",
                |_, state: &State| {
                    let value = state.row.as_ref().and_then(|row| row.value);
                    value.is_none_or(|value| value == state.version)
                },
            ),
            Property::sometimes(
                "a value is computed of the newest version",
                |_, state: &State| {
                    state.version == INVALIDATIONS
                        && !state.set
                        && state
                            .row
                            .as_ref()
                            .is_some_and(|row| row.value == Some(state.version))
                },
            ),
            Property::sometimes(
                "what a crashed process left is taken over",
                |_, state: &State| {
                    state.processes.contains(&Process::Crashed)
                        && state.row.as_ref().is_some_and(|row| row.value.is_some())
                },
            ),
        ]
    }
}

const SAFE: &str = "no value older than the last invalidation is readable";

#[test]
fn no_value_older_than_the_last_invalidation_is_ever_readable() {
    let checker = Protocol(Fault::None).checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(
        checker.unique_state_count() > 1_000,
        "{}",
        checker.unique_state_count()
    );
}

#[test]
fn each_part_of_the_protocol_is_needed() {
    for fault in [
        Fault::WritesBackUnasked,
        Fault::LeaseWithoutFence,
        Fault::BeginsUnasked,
        Fault::DeletesNothing,
        Fault::SetKeepsLease,
    ] {
        let checker = Protocol(fault).checker().spawn_bfs().join();
        assert!(
            checker.discovery(SAFE).is_some(),
            "{fault:?} goes unnoticed"
        );
    }
}
