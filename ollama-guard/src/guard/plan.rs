//! From a request to the rules that there would be: a pure function.

use std::collections::{BTreeMap, BTreeSet};

use super::{GuardError, view};
use crate::{
    control::protocol::{AddRequest, Comment, Edit, EditReply, RemoveRequest, ReplaceRequest},
    policy::{Effect, Origin, Prefix, Rule},
};

/// What a change comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The stored rules that there would be.
    pub rules: Vec<Rule>,
    /// Whether they differ from those there are, if only by a comment.
    pub changes_rules: bool,
    /// Whether they decide otherwise, so that the kernel has to know.
    pub changes_policy: bool,
    /// What to tell the person. The generation is filled in later.
    pub reply: EditReply,
}

/// Plans a change of the `stored` rules beside the `configured` ones. New rules get `origin`.
pub(super) fn plan(
    edit: &Edit,
    configured: &[Rule],
    stored: &[Rule],
    origin: &Origin,
) -> Result<Plan, GuardError> {
    let planner = Planner { configured, stored, origin };
    let mut plan = match edit {
        Edit::Add(request) => planner.add(request),
        Edit::Remove(request) => planner.remove(request),
        Edit::Replace(request) => planner.replace(request),
    }?;
    let remaining = configured.iter().chain(&plan.rules);
    if plan.changes_policy && !remaining.clone().any(|rule| rule.effect == Effect::Allow) {
        let closed = "the allowlist is empty: nobody can reach the guarded ports";
        plan.reply.warnings.push(closed.into());
    }
    Ok(plan)
}

struct Planner<'a> {
    configured: &'a [Rule],
    stored: &'a [Rule],
    origin: &'a Origin,
}

impl Planner<'_> {
    fn add(&self, request: &AddRequest) -> Result<Plan, GuardError> {
        let prefixes = parse(&request.prefixes, request.anyone)?;
        let mut rules = self.stored.to_vec();
        let mut reply = EditReply::default();
        let mut changes_rules = false;
        let mut seen = BTreeSet::new();
        let positions = positions(&rules, request.effect);
        for prefix in prefixes {
            if !seen.insert(prefix) {
                reply.warnings.push(given_twice(prefix));
            } else if let Some(rule) = find(self.configured, request.effect, prefix) {
                let written = rule.written();
                reply.warnings.push(format!("{prefix} is there already, from {written}"));
                reply.unchanged.push(prefix.to_string());
            } else if let Some(&position) = positions.get(&prefix) {
                let comment = text(request.comment.as_ref());
                if comment.is_some() && comment != rules[position].comment {
                    rules[position].comment = comment;
                    changes_rules = true;
                    reply.warnings.push(format!("{prefix} has another comment now"));
                }
                reply.unchanged.push(prefix.to_string());
            } else {
                rules.push(self.rule(request.effect, prefix, request.comment.as_ref()));
                reply.added.push(prefix.to_string());
                changes_rules = true;
                if request.effect == Effect::Allow {
                    reply.warnings.extend(self.closed_anyway(prefix));
                }
            }
        }
        let changes_policy = !reply.added.is_empty();
        Ok(Plan { rules, changes_rules, changes_policy, reply })
    }

    fn remove(&self, request: &RemoveRequest) -> Result<Plan, GuardError> {
        let prefixes: BTreeSet<Prefix> = parse(&request.prefixes, true)?.into_iter().collect();
        let stored = positions(self.stored, request.effect);
        for &prefix in &prefixes {
            if stored.contains_key(&prefix) {
                continue;
            }
            let (effect, text) = (request.effect.to_string(), prefix.to_string());
            return Err(match find(self.configured, request.effect, prefix) {
                Some(rule) => {
                    GuardError::Configured { effect, prefix: text, origin: rule.written() }
                }
                None => GuardError::NoSuchRule { effect, prefix: text },
            });
        }
        let goes = |rule: &&Rule| rule.effect == request.effect && prefixes.contains(&rule.prefix);
        let rules: Vec<Rule> = self.stored.iter().filter(|rule| !goes(rule)).cloned().collect();
        let mut reply = EditReply::default();
        for prefix in prefixes {
            reply.removed.push(prefix.to_string());
            let covering = self
                .configured
                .iter()
                .chain(&rules)
                .find(|rule| rule.effect == request.effect && rule.prefix.covers(&prefix));
            if let Some(rule) = covering {
                let (effect, written) = (rule.effect, rule.written());
                reply.warnings.push(format!(
                    "{prefix} is still covered by the {effect} rule {} ({written})",
                    rule.prefix
                ));
            }
        }
        Ok(Plan { rules, changes_rules: true, changes_policy: true, reply })
    }

    fn replace(&self, request: &ReplaceRequest) -> Result<Plan, GuardError> {
        let texts: Vec<String> = request.rules.iter().map(|rule| rule.prefix.clone()).collect();
        let prefixes = parse(&texts, request.anyone)?;
        let old = positions(self.stored, request.effect);
        let configured: BTreeSet<Prefix> =
            positions(self.configured, request.effect).into_keys().collect();
        let mut reply = EditReply::default();
        let mut rules: Vec<Rule> =
            self.stored.iter().filter(|rule| rule.effect != request.effect).cloned().collect();
        let mut seen = BTreeSet::new();
        for (prefix, new) in prefixes.into_iter().zip(&request.rules) {
            if !seen.insert(prefix) {
                reply.warnings.push(given_twice(prefix));
                continue;
            }
            if configured.contains(&prefix) {
                reply.unchanged.push(prefix.to_string());
                continue;
            }
            // A rule that stays keeps who added it and when.
            let mut rule = match old.get(&prefix) {
                Some(&position) => {
                    reply.unchanged.push(prefix.to_string());
                    self.stored[position].clone()
                }
                None => {
                    reply.added.push(prefix.to_string());
                    self.rule(request.effect, prefix, None)
                }
            };
            rule.comment = text(new.comment.as_ref());
            rules.push(rule);
        }
        let gone = old.keys().filter(|prefix| !seen.contains(prefix));
        reply.removed = gone.map(Prefix::to_string).collect();
        let kept = self.configured.iter().filter(|rule| rule.effect == request.effect);
        reply.kept = kept.map(view).collect();
        let changes_rules = rules != self.stored;
        let changes_policy = !reply.added.is_empty() || !reply.removed.is_empty();
        Ok(Plan { rules, changes_rules, changes_policy, reply })
    }

    fn rule(&self, effect: Effect, prefix: Prefix, comment: Option<&Comment>) -> Rule {
        Rule { prefix, effect, comment: text(comment), origin: self.origin.clone() }
    }

    /// A person who allows somebody wants to know that a deny rule stands against it.
    fn closed_anyway(&self, prefix: Prefix) -> Option<String> {
        let deny = self
            .configured
            .iter()
            .chain(self.stored)
            .find(|rule| rule.effect == Effect::Deny && rule.prefix.covers(&prefix))?;
        let (covering, written) = (deny.prefix, deny.written());
        Some(format!("{prefix} stays closed: the deny rule {covering} ({written}) covers it"))
    }
}

fn parse(texts: &[String], anyone: bool) -> Result<Vec<Prefix>, GuardError> {
    let mut prefixes = Vec::with_capacity(texts.len());
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

fn positions(rules: &[Rule], effect: Effect) -> BTreeMap<Prefix, usize> {
    let numbered = rules.iter().enumerate();
    numbered.filter(|(_, rule)| rule.effect == effect).map(|(n, rule)| (rule.prefix, n)).collect()
}

fn find(rules: &[Rule], effect: Effect, prefix: Prefix) -> Option<&Rule> {
    rules.iter().find(|rule| rule.effect == effect && rule.prefix == prefix)
}

fn given_twice(prefix: Prefix) -> String {
    format!("{prefix} is given more than once")
}

fn text(comment: Option<&Comment>) -> Option<String> {
    comment.map(|comment| comment.as_str().to_owned())
}
