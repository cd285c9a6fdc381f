//! Calls that go out in one statement, and who waits for their answers.

use std::ops::Range;

use tokio::time::Instant;

use super::{Asker, Call, Told, Waiting};
use crate::error::{Error, Result};

pub(super) struct Together<C: Call> {
    /// Of ordered calls those of one key stand side by side, in their order.
    calls: Vec<C>,
    /// None has been told.
    askers: Vec<Option<Asker<C>>>,
    /// Those that met a lock.
    blocked: Vec<Range<usize>>,
    /// When the first of them did.
    pub(super) blocked_since: Option<Instant>,
}

impl<C: Call> Default for Together<C> {
    fn default() -> Self {
        Self {
            calls: Vec::new(),
            askers: Vec::new(),
            blocked: Vec::new(),
            blocked_since: None,
        }
    }
}

impl<C: Call> Together<C> {
    pub(super) fn of(mut waiting: Vec<Waiting<C>>) -> Self {
        if C::ORDERED {
            waiting.sort_by(|a, b| a.call.key().cmp(b.call.key()));
        }
        let pairs = waiting.into_iter();
        let (calls, askers) = pairs.map(|one| (one.call, Some(one.asker))).unzip();
        Self {
            calls,
            askers,
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub(super) fn calls(&self) -> &[C] {
        &self.calls
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.calls.iter().map(Call::key)
    }

    pub(super) fn bytes(&self) -> usize {
        self.calls.iter().map(Call::bytes).sum()
    }

    /// Those who have not been told, and have not gone.
    pub(super) fn into_waiting(self) -> impl DoubleEndedIterator<Item = Waiting<C>> {
        let pairs = self.calls.into_iter().zip(self.askers);
        pairs
            .filter_map(|(call, asker)| asker.map(|asker| Waiting { call, asker }))
            .filter(|waiting| !waiting.asker.tell.is_closed())
    }

    /// The calls of `part`, and what answers each by its place among them.
    pub(super) fn asked(&mut self, part: Range<usize>) -> (&[C], impl FnMut(usize, C::Answer)) {
        let askers = &mut self.askers[part.clone()];
        (&self.calls[part], |at, answer| {
            tell(&mut askers[at], Ok(answer))
        })
    }

    /// Whether somebody waits for an answer.
    pub(super) fn is_asked_for(&self) -> bool {
        let mut askers = self.askers.iter().flatten();
        askers.any(|asker| !asker.tell.is_closed())
    }

    pub(super) fn refuse_all(&mut self, error: &Error) {
        self.blocked.clear();
        self.refuse(0..self.calls.len(), error);
    }

    pub(super) fn refuse(&mut self, part: Range<usize>, error: &Error) {
        for asker in &mut self.askers[part] {
            tell(asker, Err(error.clone()));
        }
    }

    /// Where to part what was refused, so that what is good of it passes. Calls of one key are parted only where one of
    /// them may be at fault.
    pub(super) fn middle(&self, part: &Range<usize>, error: &Error) -> Option<usize> {
        let middle = part.start + part.len() / 2;
        let of_one = part.len() > 1 && error.is_of_its_contents();
        if !C::ORDERED {
            let reads_one = part.len() > 1 && error.is_of_its_answer();
            return (of_one || reads_one).then_some(middle);
        }
        if !error.is_of_its_contents() && !error.is_conflict() {
            return None;
        }
        let differs = |at: &usize| self.calls[*at].key() != self.calls[at - 1].key();
        (middle.max(part.start + 1)..part.end)
            .find(differs)
            .or_else(|| (part.start + 1..middle).rev().find(differs))
            .or(of_one.then_some(middle))
    }

    /// Calls of one key met a lock, and those of `rest` that are of the key too and come after them wait with them.
    pub(super) fn block(&mut self, mut part: Range<usize>, rest: &mut Vec<Range<usize>>) {
        let key = self.calls[part.start].key();
        while let Some(next) = rest.pop_if(|next| self.calls[next.start].key() == key) {
            part.end = next.end;
        }
        self.blocked_since.get_or_insert_with(Instant::now);
        self.blocked.push(part);
    }

    /// Calls of one key, all of them, wait for a lock.
    pub(super) fn block_all(&mut self) {
        self.block(0..self.calls.len(), &mut Vec::new());
    }

    /// Takes out what met a lock, by key.
    pub(super) fn take_blocked(&mut self) -> Vec<Self> {
        // From the end, so that what stands before stays in its place.
        let blocked = std::mem::take(&mut self.blocked);
        let mut taken: Vec<Self> = blocked
            .into_iter()
            .rev()
            .map(|part| Self {
                calls: self.calls.drain(part.clone()).collect(),
                askers: self.askers.drain(part).collect(),
                blocked: Vec::new(),
                blocked_since: self.blocked_since,
            })
            .collect();
        taken.reverse();
        taken
    }
}

fn tell<C: Call>(asker: &mut Option<Asker<C>>, answer: Result<C::Answer>) {
    if let Some(asker) = asker.take() {
        // Whoever asked may be gone.
        let _ = asker.tell.send(Told::Answer(answer));
    }
}
