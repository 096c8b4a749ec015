//! The single writer: owns the rules, their generation and the way into the kernel.
//!
//! One request, one answer, in the order of arrival. A change is planned as a value, compiled,
//! stored, and only then put in force; whatever fails on the way leaves rules, file and kernel as
//! they were. A rule that this room has reported as in force is in the state directory and in the
//! kernel.
//!
//! Not here: who may ask (control), and what the packets do (dataplane).

#![forbid(unsafe_code)]

mod actor;
mod error;
mod plan;
mod reconfigure;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use jiff::Timestamp;
use ollama_guard_common::{Mode, Scope};

use crate::{
    config::{RuleStore, Undo},
    control::protocol::{Edit, EditReply, RuleList, RuleView, Terms},
    dataplane::{Dataplane, DataplaneError, Found, PolicySink},
    policy::{
        Change, CompileError, Compiled, Digest, Digests, MapImage, Origin, Policy, Port, Rule,
    },
};

pub use actor::{Asked, Handle, Reconfigured, Stopped, spawn};
pub use error::GuardError;
pub use plan::{Plan, Planned};

/// What the configuration demands.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Whose packets are decided on.
    pub scope: Scope,
    /// The guarded ports.
    pub ports: BTreeSet<Port>,
    /// The rules of the configuration file, the environment and the command line.
    pub rules: Vec<Rule>,
    /// Different prefixes that the kernel's table must have room for.
    pub capacity: u32,
}

/// The rules in force and the way to change them.
pub struct Guard<S> {
    sink: S,
    desired: Desired,
    store: RuleStore,
    /// The desired scope, or everybody's packets while this host's addresses are not known.
    scope: Scope,
    /// What all the rules come to. `None` after an edit that failed: then it is made from them.
    compiled: Option<Compiled>,
    generation: u64,
    /// The fingerprint of the policy that was put in force last.
    digest: Digest,
}

impl<S: PolicySink> Guard<S> {
    /// Checks that what is configured and stored compiles. Nothing is in force yet.
    pub fn new(sink: S, desired: Desired, store: RuleStore) -> Result<Self, GuardError> {
        let scope = desired.scope;
        let compiled = Some(Compiled::new(policy(&desired, scope, store.rules()))?);
        Ok(Self { sink, desired, store, scope, compiled, generation: 0, digest: Digest::new() })
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
            None => Compiled::new(policy(&self.desired, self.scope, self.store.rules())),
        }
    }

    fn swap(&mut self, image: &MapImage) -> Result<(), DataplaneError> {
        let digests = Digests::of(image);
        self.generation = self.sink.swap(image, &digests)?;
        self.digest = digests.whole;
        Ok(())
    }

    /// Every rule, with where it comes from.
    #[must_use]
    pub fn rules(&self) -> RuleList {
        let rules = self.all().map(view).collect();
        let terms = Terms {
            mode: self.desired.mode.name().into(),
            scope: self.scope.name().into(),
            ports: self.desired.ports.iter().map(ToString::to_string).collect(),
        };
        RuleList { generation: self.generation, rules, terms: Some(terms) }
    }

    /// The number of the policy in force.
    pub const fn generation(&self) -> u64 {
        self.generation
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
    pub fn edit(&mut self, edit: &Edit, by: &str, at: Timestamp) -> Result<EditReply, GuardError> {
        let origin = Arc::new(Origin::Cli { by: by.to_owned(), at });
        let Plan { rules, mut reply } =
            plan::plan(edit, &self.desired.rules, self.store.rules(), &origin)?;
        let changes_policy = match rules {
            Planned::Same => false,
            Planned::Some(change) => self.change(change)?,
            Planned::Whole { rules, changes_policy } => self.replace(rules, changes_policy)?,
        };
        if changes_policy {
            plan::warn_if_closed(self.all(), &mut reply);
        }
        reply.generation = self.generation;
        Ok(reply)
    }

    /// Changes some rules. Returns whether the kernel had to know.
    fn change(&mut self, change: Change) -> Result<bool, GuardError> {
        if !change.changes_policy() {
            self.store.change(change)?;
            return Ok(false);
        }
        let added: Vec<_> = change.add.iter().map(Rule::said).collect();
        // What the configuration says as well goes on being said.
        let removed: Vec<_> = change
            .remove
            .iter()
            .map(|named| (named.prefix, named.effect))
            .filter(|said| !self.desired.rules.iter().any(|rule| rule.said() == *said))
            .collect();
        let compiled = self.compiled()?.edited(&added, &removed)?;
        let undo = self.store.change(change)?;
        self.put_in_force(compiled, undo)?;
        Ok(true)
    }

    /// Puts other rules in the place of the stored ones. Returns whether the kernel had to know.
    fn replace(&mut self, rules: Vec<Rule>, changes_policy: bool) -> Result<bool, GuardError> {
        if !changes_policy {
            self.store.replace(rules)?;
            return Ok(false);
        }
        let compiled = Compiled::new(policy(&self.desired, self.scope, &rules))?;
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

impl Guard<Dataplane> {
    /// Takes note of this host's own addresses, if only packets for these are to be decided on.
    /// `own` is `None` if they are not known. While they are not, or are too many, everybody's
    /// packets are decided on; the error says so.
    ///
    /// Before the first policy nothing but the note is taken.
    pub fn know_addresses(&mut self, own: Option<&BTreeSet<IpAddr>>) -> Result<(), GuardError> {
        if self.desired.scope == Scope::All {
            return Ok(());
        }
        let outcome = match own {
            None => Err(GuardError::AddressesUnknown),
            Some(own) => match self.sink.know_addresses(own) {
                Ok(true) => Ok(()),
                Ok(false) => Err(GuardError::TooManyAddresses { count: own.len() }),
                Err(error) => Err(error.into()),
            },
        };
        let scope = if outcome.is_ok() { Scope::Local } else { Scope::All };
        let before = std::mem::replace(&mut self.scope, scope);
        if before != scope && self.generation > 0 {
            // Should it fail, the kernel goes on with what it has, and the next call tries again.
            self.apply().inspect_err(|_| self.scope = before)?;
        }
        outcome
    }

    /// Reads the policy in force back from the kernel. If it is not the one that was put there, it
    /// is put there again. Returns what was wrong.
    pub fn mend_policy(&mut self) -> Result<Option<String>, GuardError> {
        let Some(problem) = self.policy_problem()? else {
            return Ok(None);
        };
        self.sink.distrust_policy();
        self.apply()?;
        Ok(Some(format!("{problem}: put in force again, as generation {}", self.generation)))
    }

    fn policy_problem(&self) -> Result<Option<String>, DataplaneError> {
        let in_force = self.sink.policy_in_force()?;
        let mine = self.generation;
        let problem = match in_force.found {
            // Nobody but this thread changes policies.
            Found::Unsteady => "the policy in force changes all the time".into(),
            _ if in_force.generation != mine => {
                format!("generation {} is in force instead of {mine}", in_force.generation)
            }
            Found::OtherTables => "the tables of rules in force are not the pinned ones".into(),
            Found::Digest(found) if found != self.digest.number() => {
                format!("ports or rules of generation {mine} were changed by somebody else")
            }
            Found::Digest(found) if found != in_force.written => {
                format!("the fingerprint of generation {mine} was changed by somebody else")
            }
            Found::Digest(_) => return Ok(None),
        };
        Ok(Some(problem))
    }
}

fn policy(desired: &Desired, scope: Scope, stored: &[Rule]) -> Policy {
    Policy {
        mode: desired.mode,
        scope,
        ports: desired.ports.clone(),
        rules: desired.rules.iter().chain(stored).map(Rule::said).collect(),
        capacity: desired.capacity,
    }
}

/// A rule as it is shown to a person.
#[must_use]
pub fn view(rule: &Rule) -> RuleView {
    RuleView {
        prefix: rule.prefix.to_string(),
        effect: rule.effect,
        comment: rule.comment.as_deref().map(str::to_owned),
        origin: rule.written(),
        removable: matches!(*rule.origin, Origin::Cli { .. }),
    }
}

#[cfg(test)]
mod tests;
