//! Rules that end: an edit that nobody asks for.
//!
//! What has ended leaves the list of rules first, then the kernel. Both are tried whatever becomes of the other,
//! and again until they are done: a full disk or a kernel that refuses must not let anybody in for longer.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Guard, GuardError,
    ends::{Key, Moment, key, name_key},
    naming::derive,
    statements::{not_said, statements},
};
use crate::{
    config::StoreError,
    dataplane::PolicySink,
    policy::{NameRule, Origin, Rule, Said},
};

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What has ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// The rules.
    pub rules: Vec<Rule>,
    /// The names.
    pub names: Vec<NameRule>,
    /// What could not be done, and will be tried again.
    pub troubles: Vec<GuardError>,
}

/// What is still to be done about rules that have ended.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    /// On disk they are still there.
    store: bool,
    /// In the kernel they may be.
    kernel: bool,
    /// When it was tried last, since the start of the machine.
    tried: Duration,
}

impl Unfinished {
    const fn is_anything(&self) -> bool {
        self.store || self.kernel
    }
}

impl<S: PolicySink> Guard<S> {
    /// Whether the clock has to be looked at from time to time.
    #[must_use]
    pub fn awaits_something(&self) -> bool {
        !self.ends.is_empty()
            || self.unfinished.is_anything()
            || self.trial.is_some()
            || self.book.may_lapse()
    }

    /// Whether something that has ended is not gone everywhere.
    #[must_use]
    pub const fn has_unfinished(&self) -> bool {
        self.unfinished.is_anything()
    }

    /// Takes note of what could not be written down about entries of the configuration that have ended: it
    /// is tried again, and is no reason to do without the rest.
    pub(super) fn note_unwritten(&mut self, outcome: Result<(), StoreError>) {
        if let Err(error) = outcome {
            tracing::error!("which entries have ended can't be written down: {error}");
            self.unfinished.store = true;
        }
    }

    /// Takes note that the kernel does not have what it should.
    pub(super) const fn note_kernel_behind(&mut self) {
        self.unfinished.kernel = true;
    }

    /// Ends what has come to its end, as one edit. Before the first policy that is a matter of the rules
    /// alone.
    pub fn end_due(&mut self, now: &Moment) -> Ended {
        let mut ended = Ended::default();
        let due: BTreeSet<Key> = self.ends.due(now).into_iter().collect();
        if !due.is_empty() {
            self.end(&due, now, &mut ended);
        } else if self.unfinished.is_anything() && now.boot >= self.unfinished.tried + AGAIN {
            self.finish(now, &mut ended);
        }
        ended
    }

    fn end(&mut self, due: &BTreeSet<Key>, now: &Moment, ended: &mut Ended) {
        let is_due = |rule: &Rule| key(rule).is_some_and(|key| due.contains(&key));
        let is_name_due = |rule: &NameRule| name_key(rule).is_some_and(|key| due.contains(&key));
        ended.rules = self.written().filter(|rule| is_due(rule)).cloned().collect();
        ended.names = self.name_rules().filter(|rule| is_name_due(rule)).cloned().collect();
        let in_force = (ended.rules.len(), ended.names.len());
        for rule in self.rules_before().filter(|rule| is_due(rule)) {
            if !ended.rules.iter().any(|other| other.said() == rule.said()) {
                ended.rules.push(rule.clone());
            }
        }
        for rule in self.names_before().filter(|rule| is_name_due(rule)) {
            if !ended.names.iter().any(|other| other.said() == rule.said()) {
                ended.names.push(rule.clone());
            }
        }
        self.unfinished.tried = now.boot;
        let is_of_file = |origin: &Origin| !matches!(origin, Origin::Cli { .. });
        let remembered = self.store.remember_ended(
            ended.rules.iter().filter(|rule| is_of_file(&rule.origin)),
            ended.names.iter().filter(|rule| is_of_file(&rule.origin)),
        );
        let removed = self.store.end(is_due, is_name_due);
        self.unfinished.store |= remembered.is_err() || removed.is_err();
        let failed = [remembered, removed].into_iter().filter_map(Result::err);
        ended.troubles.extend(failed.map(GuardError::from));
        self.desired.rules.retain(|rule| !is_due(rule));
        self.desired.names.retain(|rule| !is_name_due(rule));
        self.forget_before(is_due, is_name_due);
        self.follow_ends(now);
        self.book.keep(&self.wanted().names);
        let derived = derive(self.name_rules(), &self.book);
        let derived = std::mem::replace(&mut self.derived, derived);
        let (rules, names) = (&ended.rules[..in_force.0], &ended.names[..in_force.1]);
        let gone: Vec<_> = rules.iter().chain(&derived).map(Rule::said).collect();
        let tells_doors_apart = rules.iter().any(Rule::is_for_some_doors)
            || names.iter().any(NameRule::is_for_some_doors);
        if let Err(error) = self.leave_kernel(gone, tells_doors_apart) {
            self.unfinished.kernel = true;
            ended.troubles.push(error);
        }
        // Should it fail, it is made anew once it is back.
        ended.troubles.extend(self.renew_before().err());
    }

    /// Takes out of the kernel what no other rule says as well. `tells_doors_apart`: doors may be told apart in
    /// another way then, or not at all.
    fn leave_kernel(
        &mut self,
        gone: Vec<Said<'_>>,
        tells_doors_apart: bool,
    ) -> Result<(), GuardError> {
        if self.generation == 0 {
            // It is not in the kernel yet, and is made from the rules that are left.
            self.compiled = None;
            return Ok(());
        }
        if tells_doors_apart {
            // After a failure it is made from the rules that are left, and not what was there before.
            self.compiled = None;
            let compiled = self.compile(&self.desired, self.scope, self.beside())?;
            self.swap(compiled.image())?;
            self.compiled = Some(compiled);
            return Ok(());
        }
        let compiled = self.compiled()?;
        let layout = compiled.layout();
        let gone = not_said(layout, statements(layout, gone), self.all());
        if gone.is_empty() {
            self.compiled = Some(compiled);
            return Ok(());
        }
        let compiled = compiled.edited(&[], &gone)?;
        self.swap(compiled.image())?;
        self.compiled = Some(compiled);
        Ok(())
    }

    fn finish(&mut self, now: &Moment, ended: &mut Ended) {
        self.unfinished.tried = now.boot;
        if self.unfinished.kernel {
            match self.apply() {
                Ok(()) => self.unfinished.kernel = false,
                Err(error) => ended.troubles.push(error),
            }
        }
        if self.unfinished.store {
            match self.store.catch_up() {
                Ok(()) => self.unfinished.store = false,
                Err(error) => ended.troubles.push(error.into()),
            }
        }
    }
}
