//! Warnings: rules that are correct and probably not meant.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    mem,
};

use jiff::Timestamp;

use crate::policy::{Effect, End, Family, NameRule, Rule};

/// The most warnings of one kind. A list that was generated can earn thousands.
const MOST: usize = 20;

/// The rules with each prefix and effect once, the first of those that last the longest; a warning for every
/// other one.
pub(super) fn without_repetitions(rules: Vec<Rule>, warnings: &mut Vec<String>) -> Vec<Rule> {
    let mut first = BTreeMap::new();
    let mut kept: Vec<Rule> = Vec::with_capacity(rules.len());
    let mut repeated = Vec::new();
    for rule in rules {
        match first.entry((rule.prefix, rule.effect, rule.limits.clone())) {
            Entry::Vacant(entry) => {
                entry.insert(kept.len());
                kept.push(rule);
            }
            Entry::Occupied(entry) => {
                let first = &mut kept[*entry.get()];
                let rule = match lasts_longer(rule.expires, first.expires) {
                    true => mem::replace(first, rule),
                    false => rule,
                };
                let what = format!("{}: {} {}", rule.written(), rule.effect, rule.prefix);
                repeated.push(repetition(&what, rule.expires == first.expires, &first.written()));
            }
        }
    }
    push_few(repeated, "repeated rules", warnings);
    kept
}

/// The same for names.
pub(super) fn names_without_repetitions(
    names: Vec<NameRule>,
    warnings: &mut Vec<String>,
) -> Vec<NameRule> {
    let mut first = BTreeMap::new();
    let mut kept: Vec<NameRule> = Vec::with_capacity(names.len());
    let mut repeated = Vec::new();
    for rule in names {
        match first.entry((rule.name.clone(), rule.effect, rule.limits.clone())) {
            Entry::Vacant(entry) => {
                entry.insert(kept.len());
                kept.push(rule);
            }
            Entry::Occupied(entry) => {
                let first = &mut kept[*entry.get()];
                let rule = match lasts_longer(rule.expires, first.expires) {
                    true => mem::replace(first, rule),
                    false => rule,
                };
                let what = format!("{}: {} {}", rule.written(), rule.effect, rule.name.written());
                repeated.push(repetition(&what, rule.expires == first.expires, &first.written()));
            }
        }
    }
    push_few(repeated, "repeated names", warnings);
    kept
}

/// What there is to say about an entry that stands elsewhere, too.
fn repetition(what: &str, lasts_as_long: bool, first: &str) -> String {
    if lasts_as_long {
        format!("{what} stands already at {first}: one of the two is enough")
    } else {
        format!("{what} stands also at {first}, and lasts longer there")
    }
}

/// Whether what has the one end ends later than what has the other.
fn lasts_longer(one: Option<End>, other: Option<End>) -> bool {
    match (one, other) {
        (None, other) => other.is_some(),
        (Some(_), None) => false,
        (Some(one), Some(other)) => one > other,
    }
}

/// What there is to say about entries that have ended. They are no longer in force.
pub(super) fn ended(rules: &[Rule], names: &[NameRule], now: Timestamp) -> Vec<String> {
    let mut messages = Vec::new();
    let ended = |rule: &Rule| rule.expires.filter(|end| end.has_passed(now));
    messages.extend(rules.iter().filter_map(|rule| {
        let end = ended(rule)?;
        let (written, effect, prefix) = (rule.written(), rule.effect, rule.prefix);
        Some(format!("{written}: {effect} {prefix} has ended at {end}: take it out"))
    }));
    messages.extend(names.iter().filter_map(|rule| {
        let end = rule.expires.filter(|end| end.has_passed(now))?;
        let (written, effect, name) = (rule.written(), rule.effect, rule.name.written());
        Some(format!("{written}: {effect} {name} has ended at {end}: take it out"))
    }));
    let mut few = Vec::new();
    push_few(messages, "entries that have ended", &mut few);
    few
}

/// Warns about what the rules, taken together, do.
pub(super) fn warn(rules: &[Rule], warnings: &mut Vec<String>) {
    push_few(without_effect(rules), "allow rules without effect", warnings);
    push_few(wide(rules), "wide rules", warnings);
}

/// Allow rules that lie within a deny rule. Elsewhere the more specific rule often wins; here it
/// never does.
fn without_effect(rules: &[Rule]) -> Vec<String> {
    let mut sorted: Vec<&Rule> = rules.iter().collect();
    // Sorted, a network stands before everything within it; of the same prefix, deny first.
    sorted.sort_by_key(|rule| (rule.prefix, rule.effect == Effect::Allow));
    // Networks within the last deny rule lie within it or outside of it altogether: one is enough.
    // Only of those that hold everywhere: another one leaves something.
    let mut denied: Option<&Rule> = None;
    let mut messages = Vec::new();
    for rule in sorted {
        let around = denied.filter(|deny| deny.prefix.covers(&rule.prefix));
        match (rule.effect, around) {
            (Effect::Deny, None) if rule.limits.is_none() => denied = Some(rule),
            (Effect::Allow, Some(deny)) => messages.push(format!(
                "{}: allow {} has no effect, because deny wins and {} denies {}",
                rule.written(),
                rule.prefix,
                deny.written(),
                deny.prefix
            )),
            _ => {}
        }
    }
    messages
}

/// Allow rules that let in what nobody can know everybody of.
fn wide(rules: &[Rule]) -> Vec<String> {
    let is_wide = |rule: &&Rule| {
        let least = match rule.prefix.family() {
            Family::V4 => 8,
            Family::V6 => 16,
        };
        rule.effect == Effect::Allow && rule.prefix.length() < least
    };
    let message = |rule: &Rule| {
        let whom = if rule.prefix.is_everyone() { "everyone" } else { "a large part of the world" };
        let family = rule.prefix.family();
        format!("{}: allow {} lets {whom} in over {family}", rule.written(), rule.prefix)
    };
    rules.iter().filter(is_wide).map(message).collect()
}

fn push_few(mut messages: Vec<String>, what: &str, warnings: &mut Vec<String>) {
    let more = messages.len().saturating_sub(MOST);
    messages.truncate(MOST);
    warnings.append(&mut messages);
    if more > 0 {
        warnings.push(format!("... and {more} more {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Origin;

    fn rule(effect: Effect, text: &str, line: usize) -> Rule {
        let origin = Origin::File { path: std::path::Path::new("/c").into(), line }.into();
        let (limits, comment, expires) = (None, None, None);
        Rule { prefix: text.parse().unwrap(), effect, limits, comment, origin, expires }
    }

    fn warnings(rules: Vec<Rule>) -> Vec<String> {
        let mut warnings = Vec::new();
        let rules = without_repetitions(rules, &mut warnings);
        warn(&rules, &mut warnings);
        warnings
    }

    #[test]
    fn what_is_probably_not_meant_is_said() {
        use Effect::{Allow, Deny};
        let warnings = warnings(vec![
            rule(Allow, "10.0.0.0/8", 1),
            rule(Allow, "10.0.0.0/8", 2),
            rule(Deny, "10.1.0.0/16", 3),
            rule(Deny, "10.1.2.0/24", 4),
            rule(Allow, "10.1.3.0/24", 5),
            rule(Allow, "192.0.2.1", 6),
            rule(Deny, "192.0.2.1", 7),
            rule(Allow, "2000::/3", 8),
            rule(Deny, "0.0.0.0/7", 9),
        ]);
        assert_eq!(
            warnings,
            [
                "/c line 2: allow 10.0.0.0/8 stands already at /c line 1: one of the two is enough",
                "/c line 5: allow 10.1.3.0/24 has no effect, because deny wins and /c line 3 \
                 denies 10.1.0.0/16",
                "/c line 6: allow 192.0.2.1 has no effect, because deny wins and /c line 7 denies \
                 192.0.2.1",
                "/c line 8: allow 2000::/3 lets a large part of the world in over IPv6",
            ]
        );
    }

    #[test]
    fn thousands_of_warnings_are_counted_instead() {
        let rules = (0..1000).map(|line| rule(Effect::Allow, "192.0.2.1", line)).collect();
        let warnings = warnings(rules);
        assert_eq!(warnings.len(), MOST + 1);
        assert_eq!(warnings[MOST], "... and 979 more repeated rules");
    }
}
