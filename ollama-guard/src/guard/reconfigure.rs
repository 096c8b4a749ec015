//! Another configuration for a guard that runs.

use std::collections::BTreeSet;

use ollama_guard_common::Scope;

use super::{
    Beside, Desired, Guard, GuardError, Moment, lets_in_nobody,
    naming::{derive, difference},
    plan,
    shut_out::shut_out,
};
use crate::{
    config::MAX_NAMES,
    dataplane::PolicySink,
    policy::{End, NameRule, Rule},
};

impl<S: PolicySink> Guard<S> {
    /// Whether another configuration would be taken: whether its rules and the stored ones fit. Returns what
    /// to say of its new names and of those who would be shut out, and whether it shuts out anybody who is let in
    /// now.
    pub fn would_take(&self, desired: &Desired) -> Result<(Vec<String>, bool), GuardError> {
        let capacity = self.desired.capacity;
        let desired = &Desired { capacity, ..desired.clone() };
        self.check_names(desired)?;
        let names = || desired.names.iter().chain(self.store.names());
        let derived = derive(names(), &self.book);
        let beside = Beside { derived: &derived, ..self.beside() };
        let compiled = self.compile(desired, self.scope, beside)?;
        let mut warnings = shut_out(compiled.image(), &desired.ports());
        let mut closes = !warnings.is_empty();
        if lets_in_nobody(desired.rules.iter().chain(self.store.rules()), names()) {
            warnings.push(plan::CLOSED.into());
            closes |= !self.is_closed();
        }
        warnings.extend(self.tell_of_new(&desired.names, &self.desired.names));
        Ok((warnings, closes))
    }

    /// Puts another configuration in force, beside the stored rules, whole or not at all. The
    /// capacity stays that of the start. Returns whether the kernel had to know.
    pub fn reconfigure(&mut self, desired: Desired, now: &Moment) -> Result<bool, GuardError> {
        self.refuse_on_trial(now)?;
        self.make_reconfiguration(desired, now)
    }

    /// The same, also as part of a trial.
    pub(crate) fn make_reconfiguration(
        &mut self,
        desired: Desired,
        now: &Moment,
    ) -> Result<bool, GuardError> {
        let mut desired = Desired { capacity: self.desired.capacity, ..desired };
        self.leave_out_ended(&mut desired, now);
        let scope = match (desired.scope, self.desired.scope) {
            (Scope::All, _) => Scope::All,
            (Scope::Local, Scope::Local) => self.scope,
            // Everybody's packets are decided on until this host's addresses are known.
            (Scope::Local, Scope::All) => Scope::All,
        };
        self.check_names(&desired)?;
        let derived = derive(desired.names.iter().chain(self.store.names()), &self.book);
        let derives_the_same = difference(&derived, &self.derived).iter().all(Vec::is_empty);
        // A name that has no address yet gets one during the trial, and goes with it.
        let is_tried = self.is_trying() && !has_the_same_names(&desired, &self.desired);
        if scope == self.scope
            && says_the_same(&desired, &self.desired)
            && derives_the_same
            && !is_tried
        {
            self.desired = desired;
            self.derived = derived;
            self.book.keep(&self.wanted().names);
            self.follow_ends(now);
            return Ok(false);
        }
        let beside = Beside { derived: &derived, ..self.beside() };
        let compiled = self.compile(&desired, scope, beside)?;
        // Not two of them at a time, of long lists. After a failure it is made from the rules.
        self.compiled = None;
        self.swap(compiled.image())?;
        self.compiled = Some(compiled);
        self.desired = desired;
        self.scope = scope;
        self.derived = derived;
        self.book.keep(&self.wanted().names);
        self.follow_ends(now);
        Ok(true)
    }

    fn check_names(&self, desired: &Desired) -> Result<(), GuardError> {
        let names = desired.names.iter().chain(self.store.names());
        let count = names.map(|rule| &rule.name).collect::<BTreeSet<_>>().len();
        if count > MAX_NAMES { Err(GuardError::TooManyNames { count }) } else { Ok(()) }
    }

    /// Leaves out what has ended, for good.
    fn leave_out_ended(&mut self, desired: &mut Desired, now: &Moment) {
        let has_passed = |end: Option<End>| end.is_some_and(|end| end.has_passed(now.wall));
        let remembered = self.store.remember_ended(
            desired.rules.iter().filter(|rule| has_passed(rule.expires)),
            desired.names.iter().filter(|rule| has_passed(rule.expires)),
        );
        self.note_unwritten(remembered);
        // What is on trial may go, and what has ended in what then comes back stays ended.
        if self.trial.is_none() {
            let forgotten = self.store.forget_ended_but(desired.rules.iter(), desired.names.iter());
            self.note_unwritten(forgotten);
        }
        desired.rules.retain(|rule| !self.store.has_ended(rule));
        desired.names.retain(|rule| !self.store.has_name_ended(rule));
    }
}

fn has_the_same_names(one: &Desired, other: &Desired) -> bool {
    one.names.iter().map(NameRule::said).eq(other.names.iter().map(NameRule::said))
}

/// Whether two configurations come to the same policy. Of another order it is not known.
fn says_the_same(one: &Desired, other: &Desired) -> bool {
    fn of_some_doors(names: &[NameRule]) -> impl Iterator<Item = &NameRule> {
        names.iter().filter(|rule| rule.is_for_some_doors())
    }
    // What names come to is asked elsewhere, but the doors are told apart already.
    let (mine, others) = (of_some_doors(&one.names), of_some_doors(&other.names));
    one.services == other.services
        && one.rules.iter().map(Rule::said).eq(other.rules.iter().map(Rule::said))
        && mine.map(NameRule::said).eq(others.map(NameRule::said))
}
