//! A change that somebody asks for, from the plan to the kernel.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Beside, Guard, GuardError, Moment, Plan, Planned,
    naming::{derive, difference},
    plan,
    statements::{not_said, statements},
};
use crate::{
    config::Undo,
    control::protocol::{Edit, EditReply},
    dataplane::PolicySink,
    policy::{Change, CompileError, Compiled, Limits, NameRule, Origin, Rule, Said},
};

impl<S: PolicySink> Guard<S> {
    /// Carries out a change, whole or not at all. `by` is who asked, for the rules' origin.
    pub fn edit(&mut self, edit: &Edit, by: &str, now: &Moment) -> Result<EditReply, GuardError> {
        self.refuse_on_trial(now)?;
        self.make_edit(edit, by, now)
    }

    /// The same, also as part of a trial.
    pub(crate) fn make_edit(
        &mut self,
        edit: &Edit,
        by: &str,
        now: &Moment,
    ) -> Result<EditReply, GuardError> {
        let origin = Arc::new(Origin::Cli { by: by.to_owned(), at: now.wall });
        let (rules, names) = (self.store.rules(), self.store.names());
        let before = plan::Before { desired: &self.desired, rules, names };
        let Plan { rules, mut reply } = plan::plan(edit, before, &origin, now.wall)?;
        let has_ends = !self.ends.is_empty() || rules.has_ends();
        let changes_policy = match rules {
            Planned::Same => false,
            Planned::Some(change) => self.change(change)?,
            Planned::Whole { rules, names, changes_policy } => {
                self.replace(rules, names, changes_policy)?
            }
        };
        if has_ends {
            self.follow_ends(now);
        }
        self.book.keep(&self.wanted().names);
        if changes_policy {
            if self.is_closed() {
                reply.warnings.push(plan::CLOSED.into());
            }
            reply.warnings.extend(self.shut_out());
        }
        reply.generation = self.generation;
        Ok(reply)
    }

    /// Changes some rules. Returns whether the kernel had to know.
    fn change(&mut self, change: Change) -> Result<bool, GuardError> {
        let derived = if change.has_names() {
            let names = change.names_after(self.store.names());
            derive(self.desired.names.iter().chain(&names), &self.book)
        } else {
            self.derived.clone()
        };
        let says_the_same = change.difference().iter().all(Vec::is_empty)
            && difference(&derived, &self.derived).iter().all(Vec::is_empty);
        // A name that has no address yet gets one during the trial, and goes with it.
        let is_tried = self.is_trying() && !change.name_difference().iter().all(Vec::is_empty);
        if says_the_same && !tells_doors_apart(&change) && !is_tried {
            self.store.change(change)?;
            self.derived = derived;
            return Ok(false);
        }
        let compiled = self.edited(&change, &derived)?;
        let undo = self.store.change(change)?;
        self.put_in_force(compiled, undo)?;
        self.derived = derived;
        Ok(true)
    }

    /// What all the rules come to after a change, with what the names come to then.
    fn edited(&mut self, change: &Change, derived: &[Rule]) -> Result<Compiled, CompileError> {
        if tells_doors_apart(change) {
            let (mut rules, mut names) = (self.store.rules().to_vec(), self.store.names().to_vec());
            change.clone().carry_out(&mut rules, &mut names);
            let beside = Beside { rules: &rules, names: &names, derived };
            return self.compile(&self.desired, self.scope, beside);
        }
        let compiled = self.compiled()?;
        let layout = compiled.layout();
        let [come, go] = change.difference();
        let [more, less] = difference(derived, &self.derived);
        let added = statements(layout, come.into_iter().chain(more));
        let mut removed = statements(layout, go.iter().chain(&less).copied());
        removed.retain(|one| !added.contains(one));
        let (go, less): (BTreeSet<Said<'_>>, BTreeSet<Said<'_>>) =
            (go.into_iter().collect(), less.into_iter().collect());
        // What another rule says as well goes on being said.
        let stored = self.store.rules().iter().filter(|rule| !go.contains(&rule.said()));
        let named = self.derived.iter().filter(|rule| !less.contains(&rule.said()));
        let stay = self.desired.rules.iter().chain(stored).chain(named);
        let removed = not_said(layout, removed, stay);
        let added: Vec<_> = added.into_iter().collect();
        compiled.edited(&added, &removed)
    }

    /// Puts other rules in the place of the stored ones. Returns whether the kernel had to know.
    fn replace(
        &mut self,
        rules: Vec<Rule>,
        names: Vec<NameRule>,
        changes_policy: bool,
    ) -> Result<bool, GuardError> {
        let derived = derive(self.desired.names.iter().chain(&names), &self.book);
        let derives_the_same = difference(&derived, &self.derived).iter().all(Vec::is_empty);
        if !changes_policy && derives_the_same {
            self.store.replace_all(rules, names)?;
            self.derived = derived;
            return Ok(false);
        }
        let beside = Beside { rules: &rules, names: &names, derived: &derived };
        let compiled = self.compile(&self.desired, self.scope, beside)?;
        let undo = self.store.replace_all(rules, names)?;
        // Not two of them at a time, of long lists.
        self.compiled = None;
        self.put_in_force(compiled, undo)?;
        self.derived = derived;
        Ok(true)
    }

    fn put_in_force(&mut self, compiled: Compiled, undo: Undo) -> Result<(), GuardError> {
        if let Err(error) = self.swap(compiled.image()) {
            // The kernel still has the old policy, so the file must have it too.
            if let Err(undo) = self.store.undo(undo) {
                tracing::error!(error = %undo, "the stored rules are ahead of the kernel's");
            }
            return Err(error.into());
        }
        self.compiled = Some(compiled);
        Ok(())
    }
}

/// Whether doors may be told apart in another way after a change, or not at all.
fn tells_doors_apart(change: &Change) -> bool {
    let is_for_some_doors = |limits: Option<&Limits>| limits.is_some_and(Limits::is_for_some_doors);
    change.difference().iter().flatten().any(|&(.., limits)| is_for_some_doors(limits))
        || change.name_difference().iter().flatten().any(|&(.., limits)| is_for_some_doors(limits))
}
