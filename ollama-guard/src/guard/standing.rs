//! What `status` shows of the guard, at hand without asking its thread, which may be busy.

use std::collections::VecDeque;

use crate::{
    control::protocol::{LateEnd, NameView, TrialView},
    dataplane::TrialEnd,
};

/// Rules that ended late and are remembered.
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
    /// How the last one ended.
    pub trial_end: Option<TrialEnd>,
}

impl Standing {
    /// Remembers a rule that ended late.
    pub(super) fn remember(&mut self, late: LateEnd) {
        if self.ended_late.len() == KEPT {
            self.ended_late.pop_front();
        }
        self.ended_late.push_back(late);
    }
}
