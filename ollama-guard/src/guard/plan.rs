//! From a request to what it changes: a pure function.
//!
//! The lists may be long and the request short: each list is gone through once, and is not copied.
//!
//! Long because the three requests ask the same lists the same questions.

mod ends;
mod names;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Display,
    sync::Arc,
};

use jiff::Timestamp;

use self::ends::{another_end, lasts};
use super::{Desired, GuardError, view, view_of_name};
use crate::{
    control::protocol::{AddRequest, Comment, Edit, EditReply, RemoveRequest, ReplaceRequest},
    policy::{
        Change, Commented, Effect, End, Limits, NameRule, Named, Origin, Prefix, Rule, Said,
        Subject,
    },
};

/// What a request comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What becomes of the stored rules.
    pub rules: Planned,
    /// What to tell the person. The generation is filled in later.
    pub reply: EditReply,
}

/// What becomes of the stored rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// They stay as they are.
    Same,
    /// Some change.
    Some(Change),
    /// These take their place.
    Whole {
        /// The rules.
        rules: Vec<Rule>,
        /// The names.
        names: Vec<NameRule>,
        /// Whether they decide otherwise, so that the kernel has to know.
        changes_policy: bool,
    },
}

/// What there is before a change.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    /// The configuration.
    pub(super) desired: &'a Desired,
    /// The rules that were added by command.
    pub(super) rules: &'a [Rule],
    /// And the names.
    pub(super) names: &'a [NameRule],
}

/// Plans a change of the stored rules beside the configured ones. New rules get `origin`.
pub(super) fn plan(
    edit: &Edit,
    before: Before<'_>,
    origin: &Arc<Origin>,
    now: Timestamp,
) -> Result<Plan, GuardError> {
    let limits = match edit {
        Edit::Add(AddRequest { limits, .. })
        | Edit::Remove(RemoveRequest { limits, .. })
        | Edit::Replace(ReplaceRequest { limits, .. }) => limits.as_ref(),
    };
    let limits = limits.and_then(|Limits { service, on }| Limits::new(service.clone(), on.clone()));
    let Before { desired, rules: stored, names: stored_names } = before;
    if !matches!(edit, Edit::Remove(_)) {
        check_service(desired, limits.as_deref())?;
    }
    let (configured, configured_names) = (&desired.rules[..], &desired.names[..]);
    let planner =
        Planner { configured, stored, configured_names, stored_names, origin, limits, now };
    match edit {
        Edit::Add(request) => planner.add(request),
        Edit::Remove(request) => planner.remove(request),
        Edit::Replace(request) => planner.replace(request),
    }
}

/// What a person is told who has left nobody in.
pub(super) const CLOSED: &str = "the allowlist is empty: nobody can reach the guarded ports";

struct Planner<'a> {
    configured: &'a [Rule],
    stored: &'a [Rule],
    configured_names: &'a [NameRule],
    stored_names: &'a [NameRule],
    origin: &'a Arc<Origin>,
    /// Where the rules are to hold that the request is about.
    limits: Option<Arc<Limits>>,
    now: Timestamp,
}

/// A rule for a service that there is not would never hold.
fn check_service(desired: &Desired, limits: Option<&Limits>) -> Result<(), GuardError> {
    let Some(name) = limits.and_then(|limits| limits.service.as_deref()) else { return Ok(()) };
    if desired.services.iter().any(|service| *service.name == *name) {
        return Ok(());
    }
    let names = desired.services.iter().map(|service| service.name.to_string()).collect();
    Err(GuardError::NoSuchService { name: name.to_owned(), names })
}

impl<'a> Planner<'a> {
    fn add(&self, request: &AddRequest) -> Result<Plan, GuardError> {
        let effect = request.effect;
        let subjects = parse(request.prefixes.iter().map(String::as_str), request.anyone)?;
        let asked: BTreeSet<Prefix> = subjects.iter().filter_map(prefix).collect();
        let end = self.end(request)?;
        // A rule that holds everywhere holds there, too.
        let configured = named(self.configured, effect, &asked, |rule| {
            (rule.limits.is_none() || rule.limits == self.limits) && lasts(rule.expires, end)
        });
        // Only the rule itself gets another end or comment, not one that holds elsewhere as well.
        let stored = named(self.stored, effect, &asked, |rule| rule.limits == self.limits);
        let closed = self.closed_anyway(effect, &asked);
        let comment = text(request.comment.as_ref());
        let mut reply = EditReply::default();
        let mut change = Change::default();
        let mut seen = BTreeSet::new();
        for subject in subjects {
            if !seen.insert(subject.clone()) {
                reply.warnings.push(given_twice(&subject));
                continue;
            }
            let prefix = match subject {
                Subject::Prefix(prefix) => prefix,
                Subject::Name(name) => {
                    self.add_name(name, end, request, &mut change, &mut reply);
                    continue;
                }
            };
            if let Some(rule) = configured.get(&prefix) {
                let written = rule.written();
                reply.warnings.push(format!("{prefix} is there already, from {written}"));
                reply.unchanged.push(prefix.to_string());
            } else if let Some(&rule) = stored.get(&prefix)
                && rule.expires != end
            {
                // It goes and comes, in one step, and says what it said.
                let comment = comment.clone().or_else(|| rule.comment.clone());
                change.remove.push(Named { prefix, effect, limits: rule.limits.clone() });
                change.add.push(Rule { comment, expires: end, ..rule.clone() });
                reply.changed.push(another_end(&prefix, rule.expires, end));
            } else if let Some(rule) = stored.get(&prefix) {
                if comment.is_some() && comment != rule.comment {
                    let (limits, comment) = (rule.limits.clone(), comment.clone());
                    change.comment.push(Commented { prefix, effect, limits, comment });
                    reply.warnings.push(format!("{prefix} has another comment now"));
                }
                reply.unchanged.push(prefix.to_string());
            } else {
                change.add.push(self.rule(effect, prefix, comment.clone(), end));
                reply.added.push(prefix.to_string());
                // A person who allows somebody wants to know that a deny rule stands against it.
                if let Some(deny) = closed.get(&prefix) {
                    let (covering, written) = (deny.prefix, deny.written());
                    reply.warnings.push(format!(
                        "{prefix} stays closed: the deny rule {covering} ({written}) covers it"
                    ));
                }
            }
        }
        self.check_names(&change.names_after(self.stored_names))?;
        let rules = if change == Change::default() { Planned::Same } else { Planned::Some(change) };
        Ok(Plan { rules, reply })
    }

    fn remove(&self, request: &RemoveRequest) -> Result<Plan, GuardError> {
        let effect = request.effect;
        let subjects = parse(request.prefixes.iter().map(String::as_str), true)?;
        let prefixes: BTreeSet<Prefix> = subjects.iter().filter_map(prefix).collect();
        let meant = |rule: &Rule| self.limits.is_none() || rule.limits == self.limits;
        let stored = named(self.stored, effect, &prefixes, meant);
        if let Some(prefix) = prefixes.iter().find(|prefix| !stored.contains_key(prefix)) {
            let (effect, text) = (effect.to_string(), prefix.to_string());
            let asked = BTreeSet::from([*prefix]);
            return Err(match named(self.configured, request.effect, &asked, meant).get(prefix) {
                Some(rule) => {
                    GuardError::Configured { effect, prefix: text, origin: rule.written() }
                }
                None => GuardError::NoSuchRule { effect, prefix: text },
            });
        }
        let goes = |rule: &Rule| prefixes.contains(&rule.prefix) && meant(rule);
        let remaining = self.stored.iter().filter(|rule| !goes(rule));
        let of_effect = |rule: &&Rule| rule.effect == effect;
        let covering =
            covering(self.configured.iter().chain(remaining).filter(of_effect), &prefixes);
        let mut reply = EditReply::default();
        let going = self.stored.iter().filter(|rule| rule.effect == effect && goes(rule));
        let named =
            |rule: &Rule| Named { prefix: rule.prefix, effect, limits: rule.limits.clone() };
        let mut change = Change { remove: going.map(named).collect(), ..Change::default() };
        for subject in subjects.into_iter().collect::<BTreeSet<_>>() {
            if let Subject::Name(name) = subject {
                self.remove_name(&name, effect, &mut change, &mut reply)?;
            }
        }
        for prefix in &prefixes {
            reply.removed.push(prefix.to_string());
            if let Some(rule) = covering.get(prefix) {
                let (effect, written) = (rule.effect, rule.written());
                reply.warnings.push(format!(
                    "{prefix} is still covered by the {effect} rule {} ({written})",
                    rule.prefix
                ));
            }
        }
        Ok(Plan { rules: Planned::Some(change), reply })
    }

    fn replace(&self, request: &ReplaceRequest) -> Result<Plan, GuardError> {
        let effect = request.effect;
        let texts = request.rules.iter().map(|rule| rule.prefix.as_str());
        let subjects = parse(texts, request.anyone)?;
        let meant = |rule: &Rule| self.limits.is_none() || rule.limits == self.limits;
        let of_effect = |rule: &&Rule| rule.effect == effect && meant(rule);
        let mut old: HashMap<Said<'_>, &Rule> =
            self.stored.iter().filter(of_effect).map(|rule| (rule.said(), rule)).collect();
        // A rule that holds everywhere holds there, too.
        let says_it = |rule: &&Rule| rule.limits.is_none() || rule.limits == self.limits;
        let configured: HashMap<Prefix, &Rule> = self
            .configured
            .iter()
            .filter(of_effect)
            .filter(says_it)
            .map(|rule| (rule.prefix, rule))
            .collect();
        let mut reply = EditReply::default();
        let others = self.stored.iter().filter(|rule| rule.effect != effect || !meant(rule));
        let mut rules: Vec<Rule> = Vec::with_capacity(subjects.len());
        rules.extend(others.cloned());
        let mut seen = HashSet::with_capacity(subjects.len());
        for (subject, new) in subjects.iter().zip(&request.rules) {
            let Some(prefix) = prefix(subject) else { continue };
            if !seen.insert(prefix) {
                reply.warnings.push(given_twice(&prefix));
                continue;
            }
            if let Some(end) = new.expires.filter(|end| end.has_passed(self.now)) {
                reply.warnings.push(format!("{prefix} has ended at {end}: it is left out"));
                continue;
            }
            let said = (prefix, effect, self.limits.as_deref());
            if configured.get(&prefix).is_some_and(|rule| lasts(rule.expires, new.expires)) {
                old.remove(&said);
                reply.unchanged.push(prefix.to_string());
                continue;
            }
            // A rule that stays keeps who added it and when.
            let comment = text(new.comment.as_ref());
            rules.push(match old.remove(&said) {
                Some(rule) => {
                    if rule.expires == new.expires {
                        reply.unchanged.push(prefix.to_string());
                    } else {
                        reply.changed.push(another_end(&prefix, rule.expires, new.expires));
                    }
                    Rule { comment, expires: new.expires, ..rule.clone() }
                }
                None => {
                    reply.added.push(prefix.to_string());
                    self.rule(effect, prefix, comment, new.expires)
                }
            });
        }
        let gone: BTreeSet<&Prefix> = old.keys().map(|(prefix, ..)| prefix).collect();
        reply.removed = gone.into_iter().map(Prefix::to_string).collect();
        let names = self.replace_names(request, &subjects, &mut reply);
        self.check_names(&names)?;
        let kept = self.configured.iter().filter(of_effect);
        reply.kept = kept.map(view).collect();
        let of_effect = |rule: &&NameRule| rule.effect == effect && self.is_meant(rule);
        let kept = self.configured_names.iter().filter(of_effect);
        reply.kept.extend(kept.map(view_of_name));
        let changes_policy = !reply.added.is_empty() || !reply.removed.is_empty();
        if rules == self.stored && names == self.stored_names {
            return Ok(Plan { rules: Planned::Same, reply });
        }
        Ok(Plan { rules: Planned::Whole { rules, names, changes_policy }, reply })
    }

    fn rule(
        &self,
        effect: Effect,
        prefix: Prefix,
        comment: Option<Arc<str>>,
        expires: Option<End>,
    ) -> Rule {
        let (limits, origin) = (self.limits.clone(), Arc::clone(self.origin));
        Rule { prefix, effect, limits, comment, origin, expires }
    }

    /// Of prefixes that are to be allowed, those that a deny rule stands against.
    fn closed_anyway(
        &self,
        effect: Effect,
        asked: &BTreeSet<Prefix>,
    ) -> BTreeMap<Prefix, &'a Rule> {
        if effect == Effect::Deny {
            return BTreeMap::new();
        }
        let all = self.configured.iter().chain(self.stored);
        covering(all.filter(|rule| rule.effect == Effect::Deny), asked)
    }
}

/// The rules of an effect that are about exactly these prefixes.
fn named<'r>(
    rules: &'r [Rule],
    effect: Effect,
    asked: &BTreeSet<Prefix>,
    meant: impl Fn(&Rule) -> bool,
) -> BTreeMap<Prefix, &'r Rule> {
    let of_effect = |rule: &&Rule| rule.effect == effect && asked.contains(&rule.prefix);
    let found = rules.iter().filter(of_effect).filter(|rule| meant(rule));
    let mut named = BTreeMap::new();
    for rule in found {
        named.entry(rule.prefix).or_insert(rule);
    }
    named
}

/// For each of these prefixes the first rule that covers it.
fn covering<'r>(
    rules: impl Iterator<Item = &'r Rule>,
    asked: &BTreeSet<Prefix>,
) -> BTreeMap<Prefix, &'r Rule> {
    let mut covering = BTreeMap::new();
    for rule in rules {
        // A network stands before everything within it.
        let within = asked.range(rule.prefix..).take_while(|one| rule.prefix.covers(one));
        for prefix in within {
            covering.entry(*prefix).or_insert(rule);
        }
    }
    covering
}

fn parse<'t>(
    texts: impl Iterator<Item = &'t str>,
    anyone: bool,
) -> Result<Vec<Subject>, GuardError> {
    let mut subjects = Vec::with_capacity(texts.size_hint().0);
    let mut problems = Vec::new();
    for text in texts {
        match text.parse::<Subject>() {
            Ok(Subject::Prefix(prefix)) if prefix.is_everyone() && !anyone => {
                return Err(GuardError::Everyone { prefix: prefix.to_string() });
            }
            Ok(subject) => subjects.push(subject),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if problems.is_empty() { Ok(subjects) } else { Err(GuardError::Prefixes(problems)) }
}

fn given_twice(subject: &dyn Display) -> String {
    format!("{subject} is given more than once")
}

fn prefix(subject: &Subject) -> Option<Prefix> {
    match subject {
        Subject::Prefix(prefix) => Some(*prefix),
        Subject::Name(_) => None,
    }
}

fn text(comment: Option<&Comment>) -> Option<Arc<str>> {
    comment.map(|comment| Arc::from(comment.as_str()))
}
