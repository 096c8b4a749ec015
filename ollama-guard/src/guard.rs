//! The single writer: owns the rules, their generation and the way into the kernel.
//!
//! One request, one answer, in the order of arrival. A change is planned as a value, compiled,
//! stored, and only then put in force; whatever fails on the way leaves rules, file and kernel as
//! they were. A rule that this room has reported as in force is in the state directory and in the
//! kernel.
//!
//! Not here: who may ask (control), and what the packets do (dataplane).
//!
//! Long because a change is one sequence, from the request to the kernel.

#![forbid(unsafe_code)]

mod actor;
mod ends;
mod error;
mod expire;
mod host;
mod learning;
mod mend;
mod plan;
mod preview;
mod reconfigure;
mod shut_out;
mod standing;
mod trial;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ollama_guard_common::{Mode, Scope};

use self::{ends::Ends, expire::Unfinished, trial::Trial};
use crate::{
    config::{RuleStore, Undo},
    control::protocol::{Edit, EditReply, RuleList, RuleView, ServiceTerms, Terms},
    dataplane::{DataplaneError, PolicySink},
    policy::{
        Change, CompileError, Compiled, Digest, Digests, Layout, MapImage, Named, Origin, Policy,
        Port, Rule, Service, Statement,
    },
};

pub use actor::{Asked, Handle, Reconfigured, Stopped, spawn};
pub use ends::Moment;
pub use error::GuardError;
pub use expire::Ended;
pub use learning::Begun;
pub use plan::{Plan, Planned};
pub use standing::Standing;
pub use trial::{Attempt, OnTrial};

/// What the configuration demands.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Whose packets are decided on.
    pub scope: Scope,
    /// What is guarded.
    pub services: Vec<Service>,
    /// The rules of the configuration file, the environment and the command line.
    pub rules: Vec<Rule>,
    /// Different prefixes that the kernel's table must have room for.
    pub capacity: u32,
}

impl Desired {
    /// Every guarded port.
    fn ports(&self) -> BTreeSet<Port> {
        self.services.iter().flat_map(|service| &service.ports).copied().collect()
    }
}

/// The rules in force and the way to change them.
pub struct Guard<S> {
    sink: S,
    desired: Desired,
    store: RuleStore,
    /// The desired scope, or everybody's packets while this host's addresses are not known.
    scope: Scope,
    /// The interfaces that are guarded, by index, for rules that hold at some only.
    doors: BTreeMap<u32, String>,
    /// What all the rules come to. `None` after an edit that failed: then it is made from them.
    compiled: Option<Compiled>,
    generation: u64,
    /// The fingerprint of the policy that was put in force last.
    digest: Digest,
    ends: Ends,
    unfinished: Unfinished,
    /// A change that is not for good yet.
    trial: Option<Trial>,
}

impl<S: PolicySink> Guard<S> {
    /// Checks that what is configured and stored compiles. Nothing is in force yet.
    pub fn new(sink: S, mut desired: Desired, mut store: RuleStore) -> Result<Self, GuardError> {
        let forgotten = store.forget_ended_but(desired.rules.iter());
        desired.rules.retain(|rule| !store.has_ended(rule));
        let scope = desired.scope;
        let mut ends = Ends::default();
        ends.follow(desired.rules.iter().chain(store.rules()), &Moment::now());
        let mut guard = Self {
            sink,
            desired,
            store,
            scope,
            doors: BTreeMap::new(),
            compiled: None,
            generation: 0,
            digest: Digest::new(),
            ends,
            unfinished: Unfinished::default(),
            trial: None,
        };
        guard.compiled = Some(guard.compile(&guard.desired, scope, guard.store.rules())?);
        guard.note_unwritten(forgotten);
        Ok(guard)
    }

    /// Puts what is configured and stored in force.
    pub fn apply(&mut self) -> Result<(), GuardError> {
        let mut compiled = self.compiled()?;
        compiled.set_scope(self.scope);
        let swapped = self.swap(compiled.image());
        self.compiled = Some(compiled);
        Ok(swapped?)
    }

    /// Takes what all the rules come to.
    fn compiled(&mut self) -> Result<Compiled, CompileError> {
        match self.compiled.take() {
            Some(compiled) => Ok(compiled),
            None => self.compile(&self.desired, self.scope, self.store.rules()),
        }
    }

    /// Compiles what a configuration and the stored rules come to, at the doors that there are.
    fn compile(
        &self,
        desired: &Desired,
        scope: Scope,
        stored: &[Rule],
    ) -> Result<Compiled, CompileError> {
        compile(desired, scope, stored, &self.doors, &self.sink.services())
    }

    fn swap(&mut self, image: &MapImage) -> Result<(), DataplaneError> {
        let digests = Digests::of(image);
        self.generation = self.swap_in(image, &digests)?;
        self.digest = digests.whole;
        Ok(())
    }

    /// Every rule, with where it comes from.
    #[must_use]
    pub fn rules(&self) -> RuleList {
        let rules = self.all().map(view).collect();
        let terms = self.compiled.as_ref().map(|compiled| self.terms(compiled.layout()));
        RuleList { generation: self.generation, rules, terms }
    }

    /// What a policy holds beside its rules.
    fn terms(&self, layout: &Layout) -> Terms {
        let service = |(number, service): (u8, &Service)| ServiceTerms {
            number,
            name: service.name.to_string(),
            mode: service.mode.name().into(),
            ports: service.ports.iter().map(ToString::to_string).collect(),
        };
        Terms {
            scope: self.scope.name().into(),
            services: layout.services().map(service).collect(),
            doors: self.doors.clone(),
        }
    }

    /// The policy that is to be in force, and its number. `None` after an edit that failed.
    #[must_use]
    pub fn meant(&self) -> Option<(u64, MapImage)> {
        let compiled = self.compiled.as_ref()?;
        Some((self.generation, compiled.image().clone()))
    }

    /// The number of the policy in force.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether verdicts are carried out, of some service at least.
    pub fn mode(&self) -> Mode {
        let is_observed = |service: &Service| service.mode == Mode::Observe;
        if self.desired.services.iter().all(is_observed) { Mode::Observe } else { Mode::Enforce }
    }

    /// Every rule, as it is kept.
    pub fn all(&self) -> impl Iterator<Item = &Rule> {
        self.desired.rules.iter().chain(self.store.rules())
    }

    /// The way into the kernel.
    pub const fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// The way into the kernel, without the rules.
    pub fn into_sink(self) -> S {
        self.sink
    }

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
        let Plan { rules, mut reply } =
            plan::plan(edit, &self.desired, self.store.rules(), &origin, now.wall)?;
        let has_ends = !self.ends.is_empty() || rules.has_ends();
        let changes_policy = match rules {
            Planned::Same => false,
            Planned::Some(change) => self.change(change)?,
            Planned::Whole { rules, changes_policy } => self.replace(rules, changes_policy)?,
        };
        if has_ends {
            self.follow_ends(now);
        }
        if changes_policy {
            plan::warn_if_closed(self.all(), &mut reply);
            reply.warnings.extend(self.shut_out());
        }
        reply.generation = self.generation;
        Ok(reply)
    }

    /// Changes some rules. Returns whether the kernel had to know.
    fn change(&mut self, change: Change) -> Result<bool, GuardError> {
        if change.difference().iter().all(Vec::is_empty) {
            self.store.change(change)?;
            return Ok(false);
        }
        let compiled = self.edited(&change)?;
        let undo = self.store.change(change)?;
        self.put_in_force(compiled, undo)?;
        Ok(true)
    }

    /// What all the rules come to after a change.
    fn edited(&mut self, change: &Change) -> Result<Compiled, CompileError> {
        let is_for_some_doors =
            |named: &Named| named.limits.as_ref().is_some_and(|limits| !limits.on.is_empty());
        if change.add.iter().any(Rule::is_for_some_doors)
            || change.remove.iter().any(is_for_some_doors)
        {
            // Other doors may be told apart then.
            let mut rules = self.store.rules().to_vec();
            change.clone().carry_out(&mut rules);
            return self.compile(&self.desired, self.scope, &rules);
        }
        let compiled = self.compiled()?;
        let layout = compiled.layout();
        let added: Vec<Statement> =
            change.add.iter().filter_map(|rule| layout.statement(rule)).collect();
        let goes = |rule: &Rule| change.remove.iter().any(|named| named.said() == rule.said());
        let removed: BTreeSet<Statement> = change
            .remove
            .iter()
            .filter_map(|named| {
                let pairs = layout.pairs(named.effect, named.limits.as_deref());
                let Named { prefix, effect, .. } = *named;
                (pairs != 0).then_some(Statement { prefix, effect, pairs })
            })
            .collect();
        // What another rule says as well goes on being said.
        let stays = self.desired.rules.iter().chain(self.store.rules().iter().filter(|r| !goes(r)));
        let about = |rule: &&Rule| change.remove.iter().any(|named| named.prefix == rule.prefix);
        let still: BTreeSet<Statement> =
            stays.filter(about).filter_map(|rule| layout.statement(rule)).collect();
        let stays = still.iter().chain(&added).collect::<BTreeSet<_>>();
        let removed: Vec<Statement> =
            removed.iter().filter(|one| !stays.contains(one)).copied().collect();
        compiled.edited(&added, &removed)
    }

    /// Puts other rules in the place of the stored ones. Returns whether the kernel had to know.
    fn replace(&mut self, rules: Vec<Rule>, changes_policy: bool) -> Result<bool, GuardError> {
        if !changes_policy {
            self.store.replace(rules)?;
            return Ok(false);
        }
        let compiled = self.compile(&self.desired, self.scope, &rules)?;
        let undo = self.store.replace(rules)?;
        // Not two of them at a time, of long lists.
        self.compiled = None;
        self.put_in_force(compiled, undo)?;
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

/// Whether a configuration compiles, beside no stored rules and at no interface.
///
/// # Errors
///
/// If it does not.
pub fn check(desired: &Desired) -> Result<(), CompileError> {
    compile(desired, desired.scope, &[], &BTreeMap::new(), &[]).map(drop)
}

/// Compiles what a configuration and the stored rules come to at these doors, after a policy with these
/// services.
fn compile(
    desired: &Desired,
    scope: Scope,
    stored: &[Rule],
    doors: &BTreeMap<u32, String>,
    before: &[(u8, String)],
) -> Result<Compiled, CompileError> {
    let all = || desired.rules.iter().chain(stored);
    let limits = all().filter_map(|rule| rule.limits.as_deref());
    let layout = Layout::new(desired.services.clone(), before, limits, doors)?;
    let rules = all().filter_map(|rule| layout.statement(rule)).collect();
    Compiled::new(Policy { scope, layout, rules, capacity: desired.capacity })
}

/// A rule as it is shown to a person.
#[must_use]
pub fn view(rule: &Rule) -> RuleView {
    RuleView {
        prefix: rule.prefix.to_string(),
        effect: rule.effect,
        limits: rule.limits.as_deref().cloned(),
        comment: rule.comment.as_deref().map(str::to_owned),
        origin: rule.written(),
        removable: matches!(*rule.origin, Origin::Cli { .. }),
        expires: rule.expires,
    }
}

#[cfg(test)]
mod tests;
