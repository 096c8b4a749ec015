//! What `status` shows of the guard, at hand without asking its thread, which may be busy.

use std::collections::VecDeque;

use crate::{
    control::protocol::{LateEnd, NameView, TrialView},
    dataplane::TrialEnd,
};

/// Rules that ended late and are remembered, and ends of trials.
const KEPT: usize = 16;

/// What there is to say about the guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The last rules that ended late, the latest last.
    pub ended_late: VecDeque<LateEnd>,
    /// The host names, and what is known about each.
    pub names: Vec<NameView>,
    /// What could not be done, and is tried again.
    pub troubles: Vec<String>,
    /// What is on trial.
    pub trial: Option<TrialView>,
    /// Its number.
    pub trial_number: Option<u64>,
    /// How the last ones ended, by number, the latest last: more than one may end between two looks.
    pub trial_ends: VecDeque<(u64, TrialEnd)>,
}

impl Standing {
    /// How a trial ended. `None` while it goes on, or if it is long ago.
    #[must_use]
    pub fn end_of(&self, number: u64) -> Option<TrialEnd> {
        self.trial_ends.iter().find(|(one, _)| *one == number).map(|(_, end)| *end)
    }

    /// Remembers a rule that ended late.
    pub(super) fn remember(&mut self, late: LateEnd) {
        push(&mut self.ended_late, late);
    }

    /// Remembers how a trial ended.
    pub(super) fn remember_trial(&mut self, number: u64, end: TrialEnd) {
        push(&mut self.trial_ends, (number, end));
    }
}

fn push<T>(last: &mut VecDeque<T>, one: T) {
    if last.len() == KEPT {
        last.pop_front();
    }
    last.push_back(one);
}
