//! Rules that end: an edit that nobody asks for.
//!
//! What has ended leaves the list of rules first, then the kernel. Both are tried whatever becomes of the other,
//! and again until they are done: a full disk or a kernel that refuses must not let anybody in for longer.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Guard, GuardError,
    ends::{Key, Moment, key},
};
use crate::{
    config::StoreError,
    dataplane::PolicySink,
    policy::{Origin, Prefix, Rule, Statement},
};

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What has ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// The rules.
    pub rules: Vec<Rule>,
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
        !self.ends.is_empty() || self.unfinished.is_anything() || self.trial.is_some()
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
        ended.rules = self.all().filter(|rule| is_due(rule)).cloned().collect();
        let in_force = ended.rules.len();
        for rule in self.rules_before().filter(|rule| is_due(rule)) {
            if !ended.rules.iter().any(|other| other.said() == rule.said()) {
                ended.rules.push(rule.clone());
            }
        }
        self.unfinished.tried = now.boot;
        let of_files =
            ended.rules.iter().filter(|rule| !matches!(*rule.origin, Origin::Cli { .. }));
        let remembered = self.store.remember_ended(of_files);
        let removed = self.store.end(is_due);
        self.unfinished.store |= remembered.is_err() || removed.is_err();
        let failed = [remembered, removed].into_iter().filter_map(Result::err);
        ended.troubles.extend(failed.map(GuardError::from));
        self.desired.rules.retain(|rule| !is_due(rule));
        self.forget_before(is_due);
        self.follow_ends(now);
        if let Err(error) = self.leave_kernel(&ended.rules[..in_force]) {
            self.unfinished.kernel = true;
            ended.troubles.push(error);
        }
        // Should it fail, it is made anew once it is back.
        ended.troubles.extend(self.renew_before().err());
    }

    /// Takes out of the kernel what no other rule says as well.
    fn leave_kernel(&mut self, ended: &[Rule]) -> Result<(), GuardError> {
        if self.generation == 0 {
            // It is not in the kernel yet, and is made from the rules that are left.
            self.compiled = None;
            return Ok(());
        }
        if ended.iter().any(Rule::is_for_some_doors) {
            // The doors may be told apart in another way then, or not at all.
            let compiled = self.compile(&self.desired, self.scope, self.store.rules())?;
            self.swap(compiled.image())?;
            self.compiled = Some(compiled);
            return Ok(());
        }
        let compiled = self.compiled()?;
        let layout = compiled.layout();
        let statements = |rules: &mut dyn Iterator<Item = &Rule>| -> BTreeSet<Statement> {
            rules.filter_map(|rule| layout.statement(rule)).collect()
        };
        let prefixes: BTreeSet<Prefix> = ended.iter().map(|rule| rule.prefix).collect();
        let still = statements(&mut self.all().filter(|rule| prefixes.contains(&rule.prefix)));
        let gone = statements(&mut ended.iter());
        let gone: Vec<Statement> = gone.difference(&still).copied().collect();
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
