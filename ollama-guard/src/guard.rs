//! The single writer: owns the rules, their generation and the way into the kernel.
//!
//! One request, one answer, in the order of arrival. A change is planned as a value, compiled,
//! stored, and only then put in force; whatever fails on the way leaves rules, file and kernel as
//! they were. A rule that this room has reported as in force is in the state directory and in the
//! kernel.
//!
//! Nor is it known here where a policy comes from: a source is whoever hands over whole ones, each as a
//! [`Desired`], one after the other. Today that is the daemon's reader of files; something that watches an
//! object of a cluster's would do as it does.
//!
//! Not here: who may ask (control), and what the packets do (dataplane).
//!
//! Long because a change is one sequence, from the request to the kernel.

#![forbid(unsafe_code)]

mod actor;
mod book;
mod edit;
mod ends;
mod error;
mod expire;
mod host;
mod learning;
mod mend;
mod naming;
mod plan;
mod preview;
mod reconfigure;
mod shut_out;
mod standing;
mod statements;
mod trial;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ollama_guard_common::{Mode, Scope};

use self::{book::Book, ends::Ends, expire::Unfinished, trial::Trial};
use crate::{
    config::{AnswerStore, RuleStore},
    control::protocol::{RuleList, RuleView, ServiceTerms, Terms},
    dataplane::{DataplaneError, PolicySink},
    policy::{
        CompileError, Compiled, Digest, Digests, Effect, Layout, MapImage, NameRule, Origin,
        Policy, Port, Rule, Service,
    },
};

pub use actor::{Asked, Handle, Reconfigured, Stopped, spawn};
pub use ends::Moment;
pub use error::GuardError;
pub use expire::Ended;
pub use learning::Begun;
pub use naming::Moved;
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
    /// The names of the same sources.
    pub names: Vec<NameRule>,
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
    /// Trials so far.
    trials: u64,
    book: Book,
    /// What the names come to at present.
    derived: Vec<Rule>,
    answers: Option<AnswerStore>,
    /// When they were written down last, since the start of the machine.
    answers_kept: Duration,
}

/// What is compiled beside a configuration.
#[derive(Clone, Copy, Default)]
struct Beside<'a> {
    /// The rules that were added by command.
    rules: &'a [Rule],
    /// And the names.
    names: &'a [NameRule],
    /// What all names come to at present, also those of the configuration.
    derived: &'a [Rule],
}

impl<S: PolicySink> Guard<S> {
    /// Checks that what is configured and stored compiles. Nothing is in force yet.
    pub fn new(sink: S, mut desired: Desired, mut store: RuleStore) -> Result<Self, GuardError> {
        let forgotten = store.forget_ended_but(desired.rules.iter(), desired.names.iter());
        desired.rules.retain(|rule| !store.has_ended(rule));
        desired.names.retain(|rule| !store.has_name_ended(rule));
        let scope = desired.scope;
        let mut guard = Self {
            sink,
            desired,
            store,
            scope,
            doors: BTreeMap::new(),
            compiled: None,
            generation: 0,
            digest: Digest::new(),
            ends: Ends::default(),
            unfinished: Unfinished::default(),
            trial: None,
            trials: 0,
            book: Book::default(),
            derived: Vec::new(),
            answers: None,
            answers_kept: Duration::ZERO,
        };
        guard.compiled = Some(guard.compile(&guard.desired, scope, guard.beside())?);
        guard.book.keep(&guard.wanted().names);
        guard.follow_ends(&Moment::now());
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
            None => self.compile(&self.desired, self.scope, self.beside()),
        }
    }

    /// Compiles what a configuration and what stands beside it come to, at the doors that there are.
    fn compile(
        &self,
        desired: &Desired,
        scope: Scope,
        beside: Beside<'_>,
    ) -> Result<Compiled, CompileError> {
        compile(desired, scope, beside, &self.doors, &self.sink.services())
    }

    /// What stands beside the configuration.
    fn beside(&self) -> Beside<'_> {
        let (rules, names) = (self.store.rules(), self.store.names());
        Beside { rules, names, derived: &self.derived }
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
        let mut rules: Vec<_> = self.written().map(view).collect();
        // They go with their name, and not one by one.
        rules.extend(self.derived.iter().map(|rule| RuleView { removable: false, ..view(rule) }));
        let terms = self.compiled.as_ref().map(|compiled| self.terms(compiled.layout()));
        let names = self.name_views();
        RuleList { generation: self.generation, rules, names, terms }
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

    /// Every rule, also those that names come to.
    pub fn all(&self) -> impl Iterator<Item = &Rule> {
        self.written().chain(&self.derived)
    }

    /// Every rule that somebody wrote.
    pub fn written(&self) -> impl Iterator<Item = &Rule> {
        self.desired.rules.iter().chain(self.store.rules())
    }

    /// Whether there is nobody who is to be let in, be it by a name that has no address at present.
    pub fn is_closed(&self) -> bool {
        lets_in_nobody(self.written(), self.name_rules())
    }

    /// The way into the kernel.
    pub const fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// The way into the kernel, without the rules.
    pub fn into_sink(self) -> S {
        self.sink
    }
}

/// Whether there is nobody who is to be let in.
fn lets_in_nobody<'r>(
    rules: impl Iterator<Item = &'r Rule>,
    names: impl Iterator<Item = &'r NameRule>,
) -> bool {
    let mut effects = rules.map(|rule| rule.effect).chain(names.map(|rule| rule.effect));
    !effects.any(|effect| effect == Effect::Allow)
}

/// Whether a configuration compiles, beside no stored rules and at no interface.
///
/// # Errors
///
/// If it does not.
pub fn check(desired: &Desired) -> Result<(), CompileError> {
    compile(desired, desired.scope, Beside::default(), &BTreeMap::new(), &[]).map(drop)
}

/// Compiles what a configuration and what stands beside it come to at these doors, after a policy with these
/// services.
fn compile(
    desired: &Desired,
    scope: Scope,
    beside: Beside<'_>,
    doors: &BTreeMap<u32, String>,
    before: &[(u8, String)],
) -> Result<Compiled, CompileError> {
    let all = || desired.rules.iter().chain(beside.rules).chain(beside.derived);
    // Of names whether they have an address or not: so no answer of a name server tells doors apart in another
    // way, and what would not fit is refused when it is added.
    let names = desired.names.iter().chain(beside.names).filter_map(|rule| rule.limits.as_deref());
    let limits = all().filter_map(|rule| rule.limits.as_deref()).chain(names);
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

/// The same for a rule about a name.
#[must_use]
pub fn view_of_name(rule: &NameRule) -> RuleView {
    RuleView {
        prefix: rule.name.written(),
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
