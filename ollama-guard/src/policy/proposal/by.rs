//! Who says something about a source: a rule, or a rule about a host name that has its address.

use std::collections::BTreeMap;

use super::{Entry, Group};
use crate::policy::{Effect, End, HostName, Limits, NameRule, Origin, Prefix, Rule};

/// A rule about a host name, and the addresses that the name has at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The rule.
    pub rule: NameRule,
    /// The addresses.
    pub addresses: Vec<Prefix>,
}

/// A rule of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By<'a> {
    Rule(&'a Rule),
    Name(&'a NameRule),
}

/// Whom it is about, in the order of a list: prefixes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whom<'a> {
    Prefix(Prefix),
    Name(&'a HostName),
}

/// What tells the entries of rules apart.
pub(super) type Place<'a> = (Group, Whom<'a>, Option<&'a Limits>);

/// All rules, each once.
pub(super) fn all<'a>(
    rules: &'a [Rule],
    names: &'a [Resolved],
) -> impl Iterator<Item = By<'a>> + use<'a> {
    rules.iter().map(By::Rule).chain(names.iter().map(|one| By::Name(&one.rule)))
}

/// The rules that `allow replace` would take away.
pub(super) fn kept<'a>(rules: &'a [Rule], names: &'a [Resolved]) -> BTreeMap<Place<'a>, Entry> {
    all(rules, names)
        .filter(|rule| rule.is_told_by_command())
        .map(|rule| (rule.group(), rule))
        .filter(|(group, _)| matches!(group, Group::Kept | Group::Limited))
        .map(|(group, rule)| (rule.place(group), Entry::of_rule(group, rule)))
        .collect()
}

impl<'a> By<'a> {
    pub(super) fn place(self, group: Group) -> Place<'a> {
        (group, self.whom(), self.limits())
    }

    pub(super) const fn whom(self) -> Whom<'a> {
        match self {
            Self::Rule(rule) => Whom::Prefix(rule.prefix),
            Self::Name(rule) => Whom::Name(&rule.name),
        }
    }

    pub(super) const fn effect(self) -> Effect {
        match self {
            Self::Rule(rule) => rule.effect,
            Self::Name(rule) => rule.effect,
        }
    }

    pub(super) fn limits(self) -> Option<&'a Limits> {
        match self {
            Self::Rule(rule) => rule.limits.as_deref(),
            Self::Name(rule) => rule.limits.as_deref(),
        }
    }

    pub(super) fn comment(self) -> Option<&'a str> {
        match self {
            Self::Rule(rule) => rule.comment.as_deref(),
            Self::Name(rule) => rule.comment.as_deref(),
        }
    }

    pub(super) const fn expires(self) -> Option<End> {
        match self {
            Self::Rule(rule) => rule.expires,
            Self::Name(rule) => rule.expires,
        }
    }

    fn origin(self) -> &'a Origin {
        match self {
            Self::Rule(rule) => &rule.origin,
            Self::Name(rule) => &rule.origin,
        }
    }

    /// Where it stands.
    pub(super) fn written(self) -> String {
        self.origin().written(self.effect())
    }

    pub(super) fn is_told_by_command(self) -> bool {
        matches!(self.origin(), Origin::Cli { .. })
    }

    /// Where sources belong that it decides about.
    pub(super) fn group(self) -> Group {
        match self.effect() {
            Effect::Deny => Group::Denied,
            Effect::Allow if self.limits().is_some() => Group::Limited,
            Effect::Allow if self.is_told_by_command() => Group::Kept,
            Effect::Allow => Group::Allowed,
        }
    }
}

impl Whom<'_> {
    /// As a list has it.
    pub(super) fn written(self) -> String {
        match self {
            Self::Prefix(prefix) => prefix.to_string(),
            Self::Name(name) => name.written(),
        }
    }
}
