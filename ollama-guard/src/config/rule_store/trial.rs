//! Lists that are not for good yet.
//!
//! During a trial changes are made here and not on disk: whatever becomes of this process and of the machine,
//! the next start finds what was there before.

use super::{Lists, RuleStore, StoreError, Undo};
use crate::policy::{NameRule, Rule};

impl RuleStore {
    /// From here on changes are made here only.
    pub fn begin_trial(&mut self) {
        if self.kept.is_none() {
            self.kept = Some(self.lists());
        }
    }

    /// The rules that the disk has: those that come back.
    #[must_use]
    pub fn kept(&self) -> &[Rule] {
        self.kept.as_ref().map_or(&self.rules, |kept| &kept.rules)
    }

    /// The names that the disk has: those that come back.
    #[must_use]
    pub fn kept_names(&self) -> &[NameRule] {
        self.kept.as_ref().map_or(&self.names, |kept| &kept.names)
    }

    /// Ends a trial: everything is as it was.
    pub fn revert_trial(&mut self) {
        if let Some(Lists { rules, names }) = self.kept.take() {
            (self.rules, self.names) = (rules, names);
        }
    }

    /// Ends a trial: what was on trial is written down. Returns what takes that back.
    ///
    /// # Errors
    ///
    /// The trial goes on.
    pub fn confirm_trial(&mut self) -> Result<Undo, StoreError> {
        let Some(kept) = self.kept.take() else { return Ok(Undo::Whole(self.lists())) };
        let tried = self.take_place(kept.rules, kept.names);
        let written = self.write_whole(&tried.rules, &tried.names);
        let kept = self.take_place(tried.rules, tried.names);
        match written {
            Ok(()) => Ok(Undo::Whole(kept)),
            Err(error) => {
                self.kept = Some(kept);
                Err(error)
            }
        }
    }

    /// Does something to what the disk has.
    pub(super) fn with_kept<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let Some(kept) = self.kept.take() else { return work(self) };
        let tried = self.take_place(kept.rules, kept.names);
        let outcome = work(self);
        self.kept = Some(self.take_place(tried.rules, tried.names));
        outcome
    }

    fn lists(&self) -> Lists {
        Lists { rules: self.rules.clone(), names: self.names.clone() }
    }
}
