//! A few rules more or less, and how to take that back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Effect, HostName, Limits, NameRule, NameSaid, Prefix, Rule, Said};

/// A change of the rules that were added by command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// New rules, which go to the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<Rule>,
    /// Rules that go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<Named>,
    /// Rules that get another comment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comment: Vec<Commented>,
    /// New names, which go to the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_names: Vec<NameRule>,
    /// Names that go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_names: Vec<NamedHost>,
}

/// A name by what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedHost {
    /// The name.
    pub name: HostName,
    /// What happens to its addresses.
    pub effect: Effect,
    /// Where that holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Arc<Limits>>,
}

/// A rule by what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Whom it covers.
    pub prefix: Prefix,
    /// What it does.
    pub effect: Effect,
    /// Where it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Arc<Limits>>,
}

/// Another comment of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commented {
    /// Whom the rule covers.
    pub prefix: Prefix,
    /// What it does.
    pub effect: Effect,
    /// Where it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Arc<Limits>>,
    /// The comment; none takes away the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Arc<str>>,
}

impl NamedHost {
    /// The one that says what this rule says.
    #[must_use]
    pub fn of(rule: &NameRule) -> Self {
        let NameRule { name, effect, limits, .. } = rule;
        Self { name: name.clone(), effect: *effect, limits: limits.clone() }
    }

    /// What the rule says.
    #[must_use]
    pub fn said(&self) -> NameSaid<'_> {
        (&self.name, self.effect, self.limits.as_deref())
    }
}

impl Named {
    /// What the rule says.
    #[must_use]
    pub fn said(&self) -> Said<'_> {
        (self.prefix, self.effect, self.limits.as_deref())
    }
}

impl Commented {
    /// What the rule says.
    #[must_use]
    pub fn said(&self) -> Said<'_> {
        (self.prefix, self.effect, self.limits.as_deref())
    }
}

/// What takes a change back that was carried out.
#[derive(Debug)]
pub struct Reversal {
    added: usize,
    /// With their positions, from the first on.
    removed: Vec<(usize, Rule)>,
    comments: Vec<(usize, Option<Arc<str>>)>,
    /// As they were; there are few. `None` if they did not change.
    names: Option<Vec<NameRule>>,
}

impl Change {
    /// What the rules say more, and what less, after it. A rule that goes and comes says what it said: it only
    /// gets another end.
    #[must_use]
    pub fn difference(&self) -> [Vec<Said<'_>>; 2] {
        let added: BTreeSet<_> = self.add.iter().map(Rule::said).collect();
        let removed: BTreeSet<_> = self.remove.iter().map(Named::said).collect();
        let only = |one: &BTreeSet<_>, other| one.difference(other).copied().collect();
        [only(&added, &removed), only(&removed, &added)]
    }

    /// The same for names.
    #[must_use]
    pub fn name_difference(&self) -> [Vec<NameSaid<'_>>; 2] {
        let added: BTreeSet<_> = self.add_names.iter().map(NameRule::said).collect();
        let removed: BTreeSet<_> = self.remove_names.iter().map(NamedHost::said).collect();
        let only = |one: &BTreeSet<_>, other| one.difference(other).copied().collect();
        [only(&added, &removed), only(&removed, &added)]
    }

    /// Whether it is about names, too.
    #[must_use]
    pub fn has_names(&self) -> bool {
        !(self.add_names.is_empty() && self.remove_names.is_empty())
    }

    /// The names after it.
    #[must_use]
    pub fn names_after(&self, names: &[NameRule]) -> Vec<NameRule> {
        let goes = |rule: &NameRule| self.remove_names.iter().any(|one| one.said() == rule.said());
        let stay = names.iter().filter(|rule| !goes(rule));
        stay.chain(&self.add_names).cloned().collect()
    }

    /// Changes the rules. Names of rules that are not there are passed over.
    pub fn carry_out(self, rules: &mut Vec<Rule>, names: &mut Vec<NameRule>) -> Reversal {
        let after = self.has_names().then(|| self.names_after(names));
        let names = after.map(|after| std::mem::replace(names, after));
        let Self { add, remove, comment, .. } = self;
        let mut comments = Vec::new();
        if !comment.is_empty() {
            let new: BTreeMap<Said<'_>, &Option<Arc<str>>> =
                comment.iter().map(|one| (one.said(), &one.comment)).collect();
            for (position, rule) in rules.iter_mut().enumerate() {
                if let Some(&comment) = new.get(&rule.said()) {
                    let before = std::mem::replace(&mut rule.comment, comment.clone());
                    comments.push((position, before));
                }
            }
        }
        let mut removed = Vec::new();
        if !remove.is_empty() {
            let gone: BTreeSet<Said<'_>> = remove.iter().map(Named::said).collect();
            let mut position = 0;
            rules.retain(|rule| {
                let goes = gone.contains(&rule.said());
                if goes {
                    removed.push((position, rule.clone()));
                }
                position += 1;
                !goes
            });
        }
        let added = add.len();
        rules.extend(add);
        Reversal { added, removed, comments, names }
    }
}

impl Reversal {
    /// Makes the rules what they were before the change, which was the last one.
    pub fn undo(self, rules: &mut Vec<Rule>, names: &mut Vec<NameRule>) {
        let Self { added, removed, comments, names: before } = self;
        if let Some(before) = before {
            *names = before;
        }
        rules.truncate(rules.len().saturating_sub(added));
        if !removed.is_empty() {
            let mut all = Vec::with_capacity(rules.len() + removed.len());
            let mut rest = rules.drain(..);
            for (position, rule) in removed {
                all.extend(rest.by_ref().take(position - all.len()));
                all.push(rule);
            }
            all.extend(rest);
            *rules = all;
        }
        for (position, comment) in comments {
            rules[position].comment = comment;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Origin;

    fn rule(text: &str, effect: Effect) -> Rule {
        let prefix = text.parse().unwrap();
        let origin = Origin::Flag.into();
        Rule { prefix, effect, limits: None, comment: None, origin, expires: None }
    }

    fn name_rule(text: &str, effect: Effect) -> NameRule {
        let (name, origin) = (text.parse().unwrap(), Origin::Flag.into());
        NameRule { name, effect, limits: None, comment: None, origin, expires: None }
    }

    fn named(text: &str, effect: Effect) -> Named {
        Named { prefix: text.parse().unwrap(), effect, limits: None }
    }

    #[test]
    fn what_is_carried_out_can_be_taken_back() {
        use Effect::{Allow, Deny};
        let before: Vec<Rule> = [("10.0.0.1", Allow), ("10.0.0.2", Allow), ("10.0.0.1", Deny)]
            .into_iter()
            .chain([("10.0.0.3", Allow), ("10.0.0.4", Allow)])
            .map(|(text, effect)| rule(text, effect))
            .collect();
        let (prefix, comment) = ("10.0.0.3".parse().unwrap(), Some(Arc::from("the printer")));
        let change = Change {
            add: vec![rule("10.0.0.9", Allow)],
            remove: vec![named("10.0.0.1", Allow), named("10.0.0.4", Allow), named("::9", Deny)],
            comment: vec![Commented {
                prefix,
                effect: Allow,
                limits: None,
                comment: comment.clone(),
            }],
            add_names: vec![name_rule("b.example", Deny)],
            remove_names: vec![NamedHost::of(&name_rule("a.example", Allow))],
        };
        let limited = NameRule {
            limits: Limits::new(Some("webui".into()), Vec::new()),
            ..name_rule("a.example", Allow)
        };
        let names_before =
            vec![name_rule("a.example", Allow), name_rule("a.example", Deny), limited.clone()];
        let mut names = names_before.clone();
        let mut rules = before.clone();
        let reversal = change.carry_out(&mut rules, &mut names);
        assert_eq!(names, [name_rule("a.example", Deny), limited, name_rule("b.example", Deny)]);
        let said: Vec<String> =
            rules.iter().map(|rule| format!("{} {}", rule.effect, rule.prefix)).collect();
        assert_eq!(said, ["allow 10.0.0.2", "deny 10.0.0.1", "allow 10.0.0.3", "allow 10.0.0.9"]);
        assert_eq!(rules[2].comment, comment);
        reversal.undo(&mut rules, &mut names);
        assert_eq!((rules, names), (before, names_before));
    }

    #[test]
    fn a_rule_that_goes_and_comes_says_what_it_said() {
        use Effect::{Allow, Deny};
        let change = Change {
            add: vec![rule("10.0.0.1", Allow), rule("10.0.0.2", Allow)],
            remove: vec![named("10.0.0.1", Allow), named("10.0.0.2", Deny)],
            add_names: vec![name_rule("a.example", Allow), name_rule("b.example", Allow)],
            remove_names: vec![NamedHost::of(&name_rule("a.example", Allow))],
            ..Change::default()
        };
        let said = |effect| vec![("10.0.0.2".parse().unwrap(), effect, None)];
        assert_eq!(change.difference(), [said(Allow), said(Deny)]);
        assert_eq!(change.name_difference(), [vec![name_rule("b.example", Allow).said()], vec![]]);
    }
}
