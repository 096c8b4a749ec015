//! A list that is not for good yet.
//!
//! During a trial changes are made here and not on disk: whatever becomes of this process and of the machine,
//! the next start finds the list that was there before.

use super::{RuleStore, StoreError, Undo};
use crate::policy::Rule;

impl RuleStore {
    /// From here on changes are made here only.
    pub fn begin_trial(&mut self) {
        if self.kept.is_none() {
            self.kept = Some(self.rules.clone());
        }
    }

    /// The rules that the disk has: those that come back.
    #[must_use]
    pub fn kept(&self) -> &[Rule] {
        self.kept.as_deref().unwrap_or(&self.rules)
    }

    /// Ends a trial: the rules are as they were.
    pub fn revert_trial(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.rules = kept;
        }
    }

    /// Ends a trial: the rules are written down. Returns what takes that back.
    ///
    /// # Errors
    ///
    /// The trial goes on.
    pub fn confirm_trial(&mut self) -> Result<Undo, StoreError> {
        let Some(kept) = self.kept.take() else { return Ok(Undo::Whole(self.rules.clone())) };
        let tried = std::mem::replace(&mut self.rules, kept);
        match self.write_whole(&tried) {
            Ok(()) => Ok(Undo::Whole(std::mem::replace(&mut self.rules, tried))),
            Err(error) => {
                self.kept = Some(std::mem::replace(&mut self.rules, tried));
                Err(error)
            }
        }
    }

    /// Does something to the rules that the disk has.
    pub(super) fn with_kept<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let Some(kept) = self.kept.take() else { return work(self) };
        let tried = std::mem::replace(&mut self.rules, kept);
        let outcome = work(self);
        self.kept = Some(std::mem::replace(&mut self.rules, tried));
        outcome
    }
}
