//! Rules that host names come to: the addresses that a name has at present, under its effect, and where the rule
//! about the name holds.
//!
//! They stand beside the rules of the configuration and those that were added by command, and are made anew
//! whenever a name or an answer changes. An answer that changes something is one edit, with its own generation.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    Beside, Guard, GuardError, Moment,
    book::{Book, Difference},
    statements::{not_said, statements},
};
use crate::{
    config::{AnswerStore, LastAnswer},
    control::protocol::NameView,
    dataplane::PolicySink,
    names::{Found, Wanted},
    policy::{HostName, NameRule, Origin, Prefix, Rule, Said, proposal::Resolved},
};

/// How often it is written down that the answers are the same, and not older than they are.
const KEEP: Duration = Duration::from_secs(1800);

/// What came of an answer.
#[derive(Debug, Default)]
pub struct Moved {
    /// Names with other addresses than before.
    pub(super) differences: Vec<Difference>,
    /// Why they could not be put in force.
    pub(super) trouble: Option<GuardError>,
}

/// The rules that names come to.
pub(super) fn derive<'r>(rules: impl Iterator<Item = &'r NameRule>, book: &Book) -> Vec<Rule> {
    let mut seen = HashSet::new();
    let mut derived = Vec::new();
    for NameRule { name, effect, limits, comment, origin, expires } in rules {
        let comment: Arc<str> = match comment {
            Some(comment) => format!("name {name}: {comment}").into(),
            None => format!("name {name}").into(),
        };
        for prefix in prefixes(name, book) {
            // Two names may have the same address.
            if seen.insert((prefix, *effect, limits.clone())) {
                derived.push(Rule {
                    prefix,
                    effect: *effect,
                    limits: limits.clone(),
                    comment: Some(Arc::clone(&comment)),
                    origin: Arc::clone(origin),
                    expires: *expires,
                });
            }
        }
    }
    derived
}

/// The addresses that a name has at present.
fn prefixes(name: &HostName, book: &Book) -> impl Iterator<Item = Prefix> {
    let addresses = book.get(name).into_iter().flat_map(|known| &known.addresses);
    // What is no prefix of a rule was screened out before.
    addresses.filter_map(|address| Prefix::try_from(IpNet::from(*address)).ok())
}

/// What rules say more, and what less, than others.
pub(super) fn difference<'r>(new: &'r [Rule], old: &'r [Rule]) -> [Vec<Said<'r>>; 2] {
    let of = |rules: &'r [Rule]| rules.iter().map(Rule::said).collect::<BTreeSet<_>>();
    let (new, old) = (of(new), of(old));
    let only = |one: &BTreeSet<Said<'r>>, other| one.difference(other).copied().collect();
    [only(&new, &old), only(&old, &new)]
}

impl<S: PolicySink> Guard<S> {
    /// Every rule about a name.
    pub fn name_rules(&self) -> impl Iterator<Item = &NameRule> {
        self.desired.names.iter().chain(self.store.names())
    }

    /// The same, each with the addresses that its name has at present.
    #[must_use]
    pub fn resolved(&self) -> Vec<Resolved> {
        let resolved = |rule: &NameRule| {
            let addresses = prefixes(&rule.name, &self.book).collect();
            Resolved { rule: rule.clone(), addresses }
        };
        self.name_rules().map(resolved).collect()
    }

    /// The names that are to be looked up: during a trial also those that come back.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let rules = self.name_rules().chain(self.names_before());
        Wanted { names: rules.map(|rule| rule.name.clone()).collect() }
    }

    /// What to say of names that are not among those before: nobody is asked for what is not done yet.
    pub(super) fn tell_of_new(&self, names: &[NameRule], before: &[NameRule]) -> Vec<String> {
        let is_new = |rule: &&NameRule| !before.iter().any(|other| other.said() == rule.said());
        let new: BTreeSet<_> = names.iter().filter(is_new).map(|rule| &rule.name).collect();
        let told = new.into_iter().map(|name| match self.book.get(name) {
            Some(known) if known.resolved.is_some() => {
                let addresses: Vec<_> = known.addresses.iter().map(ToString::to_string).collect();
                match addresses.is_empty() {
                    true => format!("{} has no address at present", name.written()),
                    false => format!("{} is {} at present", name.written(), addresses.join(", ")),
                }
            }
            _ => format!(
                "{} is looked up once it is in force, and not before: its addresses are not counted here",
                name.written()
            ),
        });
        told.collect()
    }

    /// Begins with the addresses that names had before, and keeps those to come. Before the first policy.
    ///
    /// # Errors
    ///
    /// If there is no room for them beside the rules: then names have none until they are looked up.
    pub fn know_answers(
        &mut self,
        store: AnswerStore,
        last: Vec<LastAnswer>,
        now: &Moment,
    ) -> Result<(), GuardError> {
        self.answers = Some(store);
        self.book = Book::from_last(last, now);
        self.book.keep(&self.wanted().names);
        let derived = derive(self.name_rules(), &self.book);
        if derived.is_empty() {
            // Long lists take their time.
            return Ok(());
        }
        match self.compile(&self.desired, self.scope, Beside { derived: &derived, ..self.beside() })
        {
            Ok(compiled) => {
                self.compiled = Some(compiled);
                self.derived = derived;
                Ok(())
            }
            Err(error) => {
                self.book = Book::default();
                self.book.keep(&self.wanted().names);
                Err(error.into())
            }
        }
    }

    /// Takes note of what came of looking a name up, and puts in force what that changes.
    pub fn hear(&mut self, found: Found, now: &Moment) -> Moved {
        let differences: Vec<_> = self.book.learn(found, now).into_iter().collect();
        if differences.is_empty() && now.boot >= self.answers_kept + KEEP {
            self.keep_answers(now);
        }
        self.follow_names(differences, now)
    }

    /// Does without addresses that had no new answer for too long.
    pub fn lapse_names(&mut self, now: &Moment) -> Moved {
        let differences = self.book.lapse(now);
        self.follow_names(differences, now)
    }

    /// For the next start, which begins with what the files have: what is on trial is not kept.
    pub(super) fn keep_answers(&mut self, now: &Moment) {
        self.answers_kept = now.boot;
        let mut last = self.book.to_last();
        if self.trial.is_some() {
            let names: BTreeSet<_> = self.names_before().map(|rule| &rule.name).collect();
            last.retain(|answer| names.contains(&answer.name));
        }
        let kept = self.answers.as_ref().map(|store| store.keep(last));
        if let Some(Err(error)) = kept {
            tracing::warn!("the addresses of names are not kept for the next start: {error}");
        }
    }

    fn follow_names(&mut self, differences: Vec<Difference>, now: &Moment) -> Moved {
        if differences.is_empty() {
            return Moved::default();
        }
        let derived = derive(self.name_rules(), &self.book);
        // First what comes back after a trial: an answer is in force in both policies or in none.
        let comes_back =
            self.names_before().any(|rule| differences.iter().any(|one| one.name == rule.name));
        let renewed = if comes_back { self.renew_before() } else { Ok(()) };
        match renewed.and_then(|()| self.put_derived(derived)) {
            Ok(()) => {
                self.keep_answers(now);
                Moved { differences, trouble: None }
            }
            Err(error) => {
                let text = error.to_string();
                for difference in &differences {
                    self.book.unlearn(difference, text.clone());
                }
                self.distrust_before();
                Moved { differences: Vec::new(), trouble: Some(error) }
            }
        }
    }

    fn put_derived(&mut self, derived: Vec<Rule>) -> Result<(), GuardError> {
        let compiled = self.compiled()?;
        let layout = compiled.layout();
        let [come, go] = difference(&derived, &self.derived);
        let added = not_said(layout, statements(layout, come), self.all());
        let removed = statements(layout, go);
        let removed = not_said(layout, removed, self.written().chain(&derived));
        // Where the doors are told apart does not depend on addresses.
        let compiled = match added.is_empty() && removed.is_empty() {
            true => compiled,
            false => {
                let compiled = compiled.edited(&added, &removed)?;
                self.swap(compiled.image())?;
                compiled
            }
        };
        self.compiled = Some(compiled);
        self.derived = derived;
        Ok(())
    }

    /// Every name as it is shown.
    #[must_use]
    pub fn name_views(&self) -> Vec<NameView> {
        self.name_rules().map(|rule| self.name_view(rule)).collect()
    }

    fn name_view(&self, rule: &NameRule) -> NameView {
        let known = self.book.get(&rule.name).cloned().unwrap_or_default();
        NameView {
            name: rule.name.written(),
            effect: rule.effect,
            limits: rule.limits.as_deref().cloned(),
            comment: rule.comment.as_deref().map(str::to_owned),
            origin: rule.written(),
            removable: matches!(*rule.origin, Origin::Cli { .. }),
            expires: rule.expires,
            addresses: known.addresses.into_iter().collect(),
            resolved: known.resolved,
            next: known.next,
            error: known.error,
        }
    }
}
