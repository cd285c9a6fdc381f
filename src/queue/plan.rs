//! Which jobs of a queue may be claimed within the limits of their keys, and in which order. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::JobId;
use crate::clock::Timestamp;

/// Where a job stands in its queue: the smallest is the most urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Urgency {
    order: (Reverse<i16>, Timestamp, JobId),
}

impl Urgency {
    pub(crate) fn new(priority: i16, run_at: Timestamp, id: JobId) -> Self {
        Self {
            order: (Reverse(priority), run_at, id),
        }
    }

    fn id(self) -> JobId {
        self.order.2
    }
}

/// The most urgent of a key's jobs.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) urgency: Urgency,
    pub(crate) key: String,
    pub(crate) max_running: i32,
}

/// What runs of a queue over the fleet.
#[derive(Debug, Default)]
pub(crate) struct Running {
    total: i64,
    /// How many of each key, and the least that one of them allows.
    by_key: HashMap<String, (i64, i32)>,
}

impl Running {
    /// Of the count of each key, and of those without one.
    pub(crate) fn new(rows: impl IntoIterator<Item = (Option<String>, i64, Option<i32>)>) -> Self {
        let mut running = Self::default();
        for (key, count, least) in rows {
            running.total += count;
            if let Some(key) = key {
                running
                    .by_key
                    .insert(key, (count, least.unwrap_or(i32::MAX)));
            }
        }
        running
    }

    pub(crate) fn total(&self) -> i64 {
        self.total
    }

    fn of(&self, key: &str) -> i64 {
        self.by_key.get(key).map_or(0, |(count, _)| *count)
    }

    /// How many more of this job's key may run, by what it says itself and by what those say that run.
    pub(crate) fn room(&self, head: &Head) -> i64 {
        let (count, least) = self.by_key.get(&head.key).copied().unwrap_or((0, i32::MAX));
        (i64::from(head.max_running.min(least)) - count).max(0)
    }
}

/// What to claim.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    /// So many of the most urgent without a key.
    pub(crate) plain: usize,
    /// The first of their keys.
    pub(crate) heads: Vec<JobId>,
    /// And what else there is room for of these keys.
    pub(crate) further: Vec<Further>,
    /// Something is ready that a limit holds back.
    pub(crate) held_back: bool,
}

/// More jobs of a key than its first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Further {
    pub(crate) key: String,
    pub(crate) count: i64,
    /// How many of the key run when all of these do: none may be claimed that allows fewer.
    pub(crate) running_then: i64,
}

impl Claims {
    /// Of a queue in which no job has a key.
    pub(crate) fn plain(any: bool, room: usize) -> Self {
        Self {
            plain: if any { room } else { 0 },
            held_back: any && room == 0,
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.plain == 0 && self.heads.is_empty()
    }
}

/// The most urgent go first, with a key or without, one of each key; what room is then left goes round the keys.
pub(crate) fn plan(room: usize, plain: &[Urgency], heads: Vec<Head>, running: &Running) -> Claims {
    let mut claims = Claims::default();
    let mut candidates: Vec<(Urgency, Option<Head>)> = plain
        .iter()
        .map(|urgency| (*urgency, None))
        .chain(heads.into_iter().map(|head| (head.urgency, Some(head))))
        .collect();
    candidates.sort_by_key(|(urgency, _)| *urgency);
    let mut left = room;
    // The keys whose first job is claimed, with what room each has besides, and what it is given of that.
    let mut chosen: Vec<(Head, i64, i64)> = Vec::new();
    for (urgency, head) in candidates {
        let key_room = head.as_ref().map_or(1, |head| running.room(head));
        if left == 0 || key_room == 0 {
            claims.held_back = true;
            continue;
        }
        left -= 1;
        match head {
            None => claims.plain += 1,
            Some(head) => {
                claims.heads.push(urgency.id());
                chosen.push((head, key_room - 1, 0));
            }
        }
    }
    while left > 0 && chosen.iter().any(|(_, room, given)| given < room) {
        for (_, room, given) in &mut chosen {
            if left > 0 && *given < *room {
                *given += 1;
                left -= 1;
            }
        }
    }
    claims.further = chosen
        .into_iter()
        .filter(|(_, _, given)| *given > 0)
        .map(|(head, _, given)| Further {
            running_then: running.of(&head.key) + 1 + given,
            key: head.key,
            count: given,
        })
        .collect();
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urgency(number: u128, priority: i16) -> Urgency {
        let noon = Timestamp::from_millis(1_795_348_800_000);
        Urgency::new(
            priority,
            noon.unwrap_or_else(|_| unreachable!()),
            id(number),
        )
    }

    fn id(number: u128) -> JobId {
        crate::database::Id(uuid::Uuid::from_u128(number))
    }

    fn head(key: &str, max_running: i32, urgency: Urgency) -> Head {
        Head {
            urgency,
            key: key.to_owned(),
            max_running,
        }
    }

    fn running(rows: &[(&str, i64, i32)]) -> Running {
        Running::new(
            rows.iter()
                .map(|(key, count, least)| (Some((*key).to_owned()), *count, Some(*least))),
        )
    }

    #[test]
    fn the_most_urgent_go_first_with_a_key_or_without() {
        let plain = [urgency(1, 5), urgency(2, 0)];
        let heads = vec![
            head("a", 1, urgency(3, 9)),
            head("b", 1, urgency(4, 1)),
            head("c", 1, urgency(5, -1)),
        ];
        let claims = plan(3, &plain, heads, &Running::default());
        assert_eq!((claims.plain, claims.heads), (1, vec![id(3), id(4)]));
        assert!(claims.further.is_empty() && claims.held_back);
    }

    #[test]
    fn a_full_key_is_passed_over_and_what_is_left_goes_round_the_others() {
        let heads = vec![
            head("full", 2, urgency(1, 9)),
            head("wide", 9, urgency(2, 5)),
            head("two", 2, urgency(3, 0)),
        ];
        let claims = plan(6, &[], heads, &running(&[("full", 2, 2), ("wide", 1, 9)]));
        assert_eq!(claims.heads, [id(2), id(3)]);
        let further = |key: &str, count, running_then| Further {
            key: key.to_owned(),
            count,
            running_then,
        };
        assert_eq!(
            claims.further,
            [further("wide", 3, 5), further("two", 1, 2)]
        );
        assert!(claims.held_back);
    }

    #[test]
    fn the_least_that_a_running_job_allows_holds_for_its_key() {
        let heads = || vec![head("a", 5, urgency(1, 0))];
        assert!(plan(4, &[], heads(), &running(&[("a", 1, 1)])).is_empty());
        let claims = plan(4, &[], heads(), &running(&[("a", 1, 3)]));
        assert_eq!(
            (
                claims.heads.len(),
                claims.further[0].count,
                claims.further[0].running_then
            ),
            (1, 1, 3)
        );
        // A job that allows fewer than run waits, and nothing of its key goes before it.
        assert!(
            plan(
                4,
                &[],
                vec![head("a", 1, urgency(1, 0))],
                &running(&[("a", 1, 3)])
            )
            .is_empty()
        );
    }

    #[test]
    fn without_room_nothing_is_claimed_and_that_is_said() {
        let claims = plan(
            0,
            &[],
            vec![head("a", 1, urgency(1, 0))],
            &Running::default(),
        );
        assert!(claims.is_empty() && claims.held_back);
        assert!(Claims::plain(true, 0).held_back && !Claims::plain(false, 0).held_back);
        assert_eq!(Claims::plain(true, 3).plain, 3);
        assert!(
            !plan(
                1,
                &[],
                vec![head("a", 1, urgency(1, 0))],
                &Running::default()
            )
            .held_back
        );
    }
}
