//! Changes on trial: in force for a while, and for good only if somebody says so.
//!
//! Whoever closes a port may close it to themselves. So a change can be tried out: the kernel has the policy
//! before beside the new one, with the moment at which it comes back, and needs nobody for that. Until then the
//! files have what was there before, so that a daemon that starts, or a machine, begins with that.
//!
//! Meanwhile nothing else is changed by anybody's wish. What must not wait, such as a rule that ends or a name that
//! has other addresses, is changed in both policies.

use std::time::Duration;

use jiff::Timestamp;
use ollama_guard_common::Scope;

use super::{Beside, Desired, Guard, GuardError, Moment, naming::derive};
use crate::{
    boot_clock,
    config::MAX_CONFIRM,
    dataplane::{DataplaneError, PolicySink, TrialEnd},
    policy::{Digest, Digests, MapImage, NameRule, Rule},
};

/// A change that somebody wants to try out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// For how long.
    pub time: Duration,
    /// What it is, in words.
    pub what: String,
    /// Who wants it.
    pub by: String,
}

/// A trial, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnTrial {
    /// Which one it is of this process.
    pub number: u64,
    /// What is tried out.
    pub what: String,
    /// By whom.
    pub by: String,
    /// Until when, by the wall clock as it was at the beginning.
    pub until: Timestamp,
}

/// A trial.
#[derive(Debug)]
pub(super) struct Trial {
    told: OnTrial,
    /// Until when, since the start of the machine; and the same by the kernel's clock, in nanoseconds.
    until: Duration,
    until_ns: u64,
    /// Whether the kernel knows of it.
    has_begun: bool,
    before: Before,
}

/// What comes back. The stored rules and names are the store's, and what names come to is in the book.
#[derive(Debug)]
struct Before {
    desired: Desired,
    scope: Scope,
    generation: u64,
    digest: Digest,
    /// Whether the kernel's copy is not what it should be any more: then it is made anew once it is back.
    is_stale: bool,
}

impl<S: PolicySink> Guard<S> {
    /// What is on trial.
    #[must_use]
    pub fn on_trial(&self) -> Option<&OnTrial> {
        self.trial.as_ref().map(|trial| &trial.told)
    }

    /// Makes a change on trial. If it comes to nothing in the kernel, or fails, there is no trial.
    pub fn attempt<T>(
        &mut self,
        attempt: &Attempt,
        now: &Moment,
        change: impl FnOnce(&mut Self) -> Result<T, GuardError>,
    ) -> Result<T, GuardError> {
        self.refuse_on_trial(now)?;
        let Attempt { time, what, by } = attempt;
        if *time < Duration::from_secs(1) || *time > MAX_CONFIRM {
            return Err(GuardError::TrialTime);
        }
        let until = now.wall.checked_add(*time).unwrap_or(Timestamp::MAX);
        // Every kernel that runs the guard has this clock.
        let clock = boot_clock::now().unwrap_or_default();
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.trials += 1;
        self.trial = Some(Trial {
            told: OnTrial { number: self.trials, what: what.clone(), by: by.clone(), until },
            until: now.boot + *time,
            until_ns: clock.saturating_add(nanoseconds),
            has_begun: false,
            before: Before {
                desired: self.desired.clone(),
                scope: self.scope,
                generation: self.generation,
                digest: self.digest,
                is_stale: false,
            },
        });
        self.store.begin_trial();
        let outcome = change(self);
        if self.is_trying() { self.do_without_trial(outcome, now) } else { outcome }
    }

    /// Whether a change is being made on trial, and the kernel does not know of it yet.
    pub(super) fn is_trying(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| !trial.has_begun)
    }

    /// Comments and ends need no trial: they are made for good. What failed is as it was.
    fn do_without_trial<T>(
        &mut self,
        outcome: Result<T, GuardError>,
        now: &Moment,
    ) -> Result<T, GuardError> {
        let trial = self.trial.take();
        let outcome = outcome.and_then(|done| {
            self.store.confirm_trial()?;
            Ok(done)
        });
        if let (Err(_), Some(trial)) = (&outcome, trial) {
            self.store.revert_trial();
            self.desired = trial.before.desired;
            self.derived = derive(self.name_rules(), &self.book);
            self.follow_ends(now);
        }
        self.book.keep(&self.wanted().names);
        outcome
    }

    /// Refuses a change while another one is on trial.
    pub(super) fn refuse_on_trial(&self, now: &Moment) -> Result<(), GuardError> {
        match &self.trial {
            Some(trial) if trial.has_begun => {
                let OnTrial { what, by, .. } = trial.told.clone();
                let left = trial.until.saturating_sub(now.boot).as_secs();
                Err(GuardError::OnTrial { what, by, left })
            }
            _ => Ok(()),
        }
    }

    /// Puts an image in force: on trial, if there is one.
    pub(super) fn swap_in(
        &mut self,
        image: &MapImage,
        digests: &Digests,
    ) -> Result<u64, DataplaneError> {
        match &mut self.trial {
            Some(trial) => {
                let generation = self.sink.try_out(image, digests, trial.until_ns)?;
                trial.has_begun = true;
                Ok(generation)
            }
            None => self.sink.swap(image, digests),
        }
    }

    /// Makes what is on trial stay.
    pub fn confirm(&mut self, now: &Moment) -> Result<OnTrial, GuardError> {
        let Some(trial) = self.trial.as_ref().filter(|trial| now.boot < trial.until) else {
            return Err(GuardError::NothingOnTrial);
        };
        let told = trial.told.clone();
        let undo = self.store.confirm_trial()?;
        match self.sink.settle(TrialEnd::Confirmed) {
            Ok(generation) if generation == self.generation => {
                self.trial = None;
                self.book.keep(&self.wanted().names);
                if self.name_rules().next().is_some() {
                    self.keep_answers(now);
                }
                Ok(told)
            }
            outcome => {
                // Too late by a moment, or not possible: then the list on the disk is the old one, too.
                if let Err(undo) = self.store.undo(undo) {
                    tracing::error!(error = %undo, "the stored rules are ahead of the kernel's");
                }
                self.revert()?;
                Err(outcome.err().map_or(GuardError::NothingOnTrial, GuardError::from))
            }
        }
    }

    /// Goes back to what was before, now. Returns what was on trial.
    pub fn revert(&mut self) -> Result<OnTrial, GuardError> {
        let Some(trial) = self.trial.take() else { return Err(GuardError::NothingOnTrial) };
        let Before { desired, scope, generation, digest, is_stale } = trial.before;
        let settled = self.sink.settle(TrialEnd::Reverted);
        self.store.revert_trial();
        (self.desired, self.scope, self.digest) = (desired, scope, digest);
        self.compiled = None;
        let is_back = settled.as_ref().is_ok_and(|found| *found == generation);
        self.generation = generation;
        self.follow_ends(&Moment::now());
        self.book.keep(&self.wanted().names);
        self.derived = derive(self.name_rules(), &self.book);
        if !is_back || is_stale {
            // Should it fail, it is tried again.
            self.apply().inspect_err(|_| self.note_kernel_behind())?;
        }
        Ok(trial.told)
    }

    /// Goes back if the time is over.
    pub fn revert_due(&mut self, now: &Moment) -> Option<Result<OnTrial, GuardError>> {
        let is_due = self.trial.as_ref().is_some_and(|trial| now.boot >= trial.until);
        is_due.then(|| self.revert())
    }

    /// Whether the kernel has gone back to what was before, by its clock.
    pub(super) fn is_trial_over(&self) -> bool {
        let is_over = |trial: &Trial| boot_clock::now().is_ok_and(|now| now >= trial.until_ns);
        self.trial.as_ref().is_some_and(is_over)
    }

    /// Changes what comes back after a trial, too: for what must not wait.
    pub(super) fn renew_before(&mut self) -> Result<(), GuardError> {
        let Some(Trial { has_begun: true, before, .. }) = &self.trial else { return Ok(()) };
        let scope = match (before.desired.scope, self.desired.scope) {
            (Scope::All, _) => Scope::All,
            (Scope::Local, Scope::Local) => self.scope,
            // The addresses are not followed at the moment.
            (Scope::Local, Scope::All) => before.scope,
        };
        let names = self.store.kept_names();
        let derived = derive(before.desired.names.iter().chain(names), &self.book);
        let beside = Beside { rules: self.store.kept(), names, derived: &derived };
        let renewed = self.compile(&before.desired, scope, beside);
        let renewed = renewed.map_err(GuardError::from).and_then(|compiled| {
            let digests = Digests::of(compiled.image());
            let generation = self.sink.swap_before(compiled.image(), &digests)?;
            Ok((generation, digests.whole))
        });
        let Some(Trial { before, .. }) = &mut self.trial else { return Ok(()) };
        match renewed {
            Ok((generation, digest)) => {
                (before.scope, before.generation, before.digest) = (scope, generation, digest);
                before.is_stale = false;
                Ok(())
            }
            Err(error) => {
                before.is_stale = true;
                Err(error)
            }
        }
    }

    /// The rules that come back.
    pub(super) fn rules_before(&self) -> impl Iterator<Item = &Rule> {
        let before = self.trial.iter().map(|trial| &trial.before.desired.rules);
        before.flat_map(|rules| rules.iter().chain(self.store.kept()))
    }

    /// The rules about names that come back.
    pub(super) fn names_before(&self) -> impl Iterator<Item = &NameRule> {
        let before = self.trial.iter().map(|trial| &trial.before.desired.names);
        before.flat_map(|names| names.iter().chain(self.store.kept_names()))
    }

    /// What comes back is put in force anew then: it may not be what it should.
    pub(super) const fn distrust_before(&mut self) {
        if let Some(trial) = &mut self.trial {
            trial.before.is_stale = true;
        }
    }

    /// Takes note of when rules end, also those that are only in what comes back.
    pub(super) fn follow_ends(&mut self, now: &Moment) {
        let mut ends = std::mem::take(&mut self.ends);
        let rules = self.written().chain(self.rules_before());
        ends.follow(rules, self.name_rules().chain(self.names_before()), now);
        self.ends = ends;
    }

    /// Takes what has ended out of the configuration that comes back.
    pub(super) fn forget_before(
        &mut self,
        has_ended: impl Fn(&Rule) -> bool,
        has_name_ended: impl Fn(&NameRule) -> bool,
    ) {
        if let Some(trial) = &mut self.trial {
            trial.before.desired.rules.retain(|rule| !has_ended(rule));
            trial.before.desired.names.retain(|rule| !has_name_ended(rule));
        }
    }
}
