//! From a request to what it changes: a pure function.
//!
//! The lists may be long and the request short: each list is gone through once, and is not copied.
//!
//! Long because the three requests ask the same lists the same questions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use super::{Desired, GuardError, view};
use crate::{
    control::protocol::{AddRequest, Comment, Edit, EditReply, RemoveRequest, ReplaceRequest},
    policy::{Change, Commented, Effect, End, Limits, Named, Origin, Prefix, Rule, Said},
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
        /// Whether they decide otherwise, so that the kernel has to know.
        changes_policy: bool,
    },
}

/// Plans a change of the `stored` rules beside the `configured` ones. New rules get `origin`.
pub(super) fn plan(
    edit: &Edit,
    desired: &Desired,
    stored: &[Rule],
    origin: &Arc<Origin>,
    now: Timestamp,
) -> Result<Plan, GuardError> {
    let limits = match edit {
        Edit::Add(AddRequest { limits, .. })
        | Edit::Remove(RemoveRequest { limits, .. })
        | Edit::Replace(ReplaceRequest { limits, .. }) => limits.as_ref(),
    };
    let limits = limits.and_then(|Limits { service, on }| Limits::new(service.clone(), on.clone()));
    if !matches!(edit, Edit::Remove(_)) {
        check_service(desired, limits.as_deref())?;
    }
    let planner = Planner { configured: &desired.rules, stored, origin, limits, now };
    match edit {
        Edit::Add(request) => planner.add(request),
        Edit::Remove(request) => planner.remove(request),
        Edit::Replace(request) => planner.replace(request),
    }
}

/// What a person is told who has left nobody in.
pub(super) fn warn_if_closed<'a>(rules: impl Iterator<Item = &'a Rule>, reply: &mut EditReply) {
    if lets_nobody_in(rules) {
        reply.warnings.push(CLOSED.into());
    }
}

/// What is to be said of rules that let nobody in.
pub(super) const CLOSED: &str = "the allowlist is empty: nobody can reach the guarded ports";

pub(super) fn lets_nobody_in<'a>(mut rules: impl Iterator<Item = &'a Rule>) -> bool {
    !rules.any(|rule| rule.effect == Effect::Allow)
}

struct Planner<'a> {
    configured: &'a [Rule],
    stored: &'a [Rule],
    origin: &'a Arc<Origin>,
    /// Where the rules are to hold that the request is about.
    limits: Option<Arc<Limits>>,
    now: Timestamp,
}

impl Planned {
    /// Whether rules with an end come.
    pub(super) fn has_ends(&self) -> bool {
        let (Self::Some(Change { add: rules, .. }) | Self::Whole { rules, .. }) = self else {
            return false;
        };
        rules.iter().any(|rule| rule.expires.is_some())
    }
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
        let prefixes = parse(request.prefixes.iter().map(String::as_str), request.anyone)?;
        let asked: BTreeSet<Prefix> = prefixes.iter().copied().collect();
        let end = self.end(request)?;
        // A rule that holds everywhere holds there, too.
        let configured = named(self.configured, effect, &asked, |rule| {
            (rule.limits.is_none() || rule.limits == self.limits) && lasts(rule, end)
        });
        // Only the rule itself gets another end or comment, not one that holds elsewhere as well.
        let stored = named(self.stored, effect, &asked, |rule| rule.limits == self.limits);
        let closed = self.closed_anyway(effect, &asked);
        let comment = text(request.comment.as_ref());
        let mut reply = EditReply::default();
        let mut change = Change::default();
        let mut seen = BTreeSet::new();
        for prefix in prefixes {
            if !seen.insert(prefix) {
                reply.warnings.push(given_twice(prefix));
            } else if let Some(rule) = configured.get(&prefix) {
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
                reply.changed.push(another_end(rule, end));
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
        let rules = if change == Change::default() { Planned::Same } else { Planned::Some(change) };
        Ok(Plan { rules, reply })
    }

    fn remove(&self, request: &RemoveRequest) -> Result<Plan, GuardError> {
        let effect = request.effect;
        let prefixes: BTreeSet<Prefix> =
            parse(request.prefixes.iter().map(String::as_str), true)?.into_iter().collect();
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
        let change = Change { remove: going.map(named).collect(), ..Change::default() };
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
        let prefixes = parse(texts, request.anyone)?;
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
        let mut rules: Vec<Rule> = Vec::with_capacity(prefixes.len());
        rules.extend(others.cloned());
        let mut seen = HashSet::with_capacity(prefixes.len());
        for (prefix, new) in prefixes.into_iter().zip(&request.rules) {
            if !seen.insert(prefix) {
                reply.warnings.push(given_twice(prefix));
                continue;
            }
            if let Some(end) = new.expires.filter(|end| end.has_passed(self.now)) {
                reply.warnings.push(format!("{prefix} has ended at {end}: it is left out"));
                continue;
            }
            let said = (prefix, effect, self.limits.as_deref());
            if configured.get(&prefix).is_some_and(|rule| lasts(rule, new.expires)) {
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
                        reply.changed.push(another_end(rule, new.expires));
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
        let kept = self.configured.iter().filter(of_effect);
        reply.kept = kept.map(view).collect();
        let changes_policy = !reply.added.is_empty() || !reply.removed.is_empty();
        if rules == self.stored {
            return Ok(Plan { rules: Planned::Same, reply });
        }
        Ok(Plan { rules: Planned::Whole { rules, changes_policy }, reply })
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

    /// When what is added ends.
    fn end(&self, request: &AddRequest) -> Result<Option<End>, GuardError> {
        match (request.expires, request.for_seconds) {
            (None, None) => Ok(None),
            (Some(end), None) => Ok(Some(end.ahead_of(self.now)?)),
            (None, Some(seconds)) => Ok(Some(End::after(self.now, Duration::from_secs(seconds))?)),
            (Some(_), Some(_)) => Err(GuardError::TwoEnds),
        }
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
) -> Result<Vec<Prefix>, GuardError> {
    let mut prefixes = Vec::with_capacity(texts.size_hint().0);
    let mut problems = Vec::new();
    for text in texts {
        match text.parse::<Prefix>() {
            Ok(prefix) if prefix.is_everyone() && !anyone => {
                return Err(GuardError::Everyone { prefix: prefix.to_string() });
            }
            Ok(prefix) => prefixes.push(prefix),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if problems.is_empty() { Ok(prefixes) } else { Err(GuardError::Prefixes(problems)) }
}

/// Whether a rule lasts as long as one with this end.
fn lasts(rule: &Rule, end: Option<End>) -> bool {
    match (rule.expires, end) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(rule), Some(end)) => rule >= end,
    }
}

/// What is said about a rule that gets another end.
fn another_end(rule: &Rule, end: Option<End>) -> String {
    let prefix = rule.prefix;
    match (rule.expires, end) {
        (Some(before), Some(end)) => format!("{prefix} ends at {end} now, and not at {before}"),
        (None, Some(end)) => format!("{prefix} ends at {end} now, and had no end"),
        (Some(before), None) => format!("{prefix} has no end any more, and had one at {before}"),
        (None, None) => format!("{prefix} has no end"),
    }
}

fn given_twice(prefix: Prefix) -> String {
    format!("{prefix} is given more than once")
}

fn text(comment: Option<&Comment>) -> Option<Arc<str>> {
    comment.map(|comment| Arc::from(comment.as_str()))
}
