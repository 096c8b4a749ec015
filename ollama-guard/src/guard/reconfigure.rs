//! Another configuration for a guard that runs.

use ollama_guard_common::Scope;

use super::{Desired, Guard, GuardError, Moment, plan, shut_out::shut_out};
use crate::{dataplane::PolicySink, policy::Rule};

impl<S: PolicySink> Guard<S> {
    /// Whether another configuration would be taken: whether its rules and the stored ones fit. Returns what
    /// to say of those who would be shut out, and whether it shuts out anybody who is let in now.
    pub fn would_take(&self, desired: &Desired) -> Result<(Vec<String>, bool), GuardError> {
        let capacity = self.desired.capacity;
        let desired = &Desired { capacity, ..desired.clone() };
        let compiled = self.compile(desired, self.scope, self.store.rules())?;
        let mut warnings = shut_out(compiled.image(), &desired.ports());
        let mut closes = !warnings.is_empty();
        if plan::lets_nobody_in(desired.rules.iter().chain(self.store.rules())) {
            warnings.push(plan::CLOSED.into());
            closes |= !plan::lets_nobody_in(self.all());
        }
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
        if scope == self.scope && says_the_same(&desired, &self.desired) {
            self.desired = desired;
            self.follow_ends(now);
            return Ok(false);
        }
        let compiled = self.compile(&desired, scope, self.store.rules())?;
        // Not two of them at a time, of long lists. After a failure it is made from the rules.
        self.compiled = None;
        self.swap(compiled.image())?;
        self.compiled = Some(compiled);
        self.desired = desired;
        self.scope = scope;
        self.follow_ends(now);
        Ok(true)
    }

    /// Leaves out what has ended, for good.
    fn leave_out_ended(&mut self, desired: &mut Desired, now: &Moment) {
        let has_passed = |rule: &&Rule| rule.expires.is_some_and(|end| end.has_passed(now.wall));
        let remembered = self.store.remember_ended(desired.rules.iter().filter(has_passed));
        self.note_unwritten(remembered);
        let forgotten = self.store.forget_ended_but(desired.rules.iter());
        self.note_unwritten(forgotten);
        desired.rules.retain(|rule| !self.store.has_ended(rule));
    }
}

/// Whether two configurations come to the same policy. Of another order it is not known.
fn says_the_same(one: &Desired, other: &Desired) -> bool {
    one.services == other.services
        && one.rules.iter().map(Rule::said).eq(other.rules.iter().map(Rule::said))
}
