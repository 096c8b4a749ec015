//! The rules, to be asked about many sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{By, Resolved};
use crate::policy::{Effect, Family, Prefix, Rule};

/// Finds the rule behind an answer, as [`crate::policy::deciding_rule`] does, without looking at each.
///
/// Who is proposed is to get in everywhere: so an allow rule counts that holds everywhere, and a deny rule
/// wherever it holds.
pub(super) struct RuleIndex<'a> {
    allow: Effects<'a>,
    limited: Effects<'a>,
    deny: Effects<'a>,
}

/// The rules of one effect.
#[derive(Default)]
struct Effects<'a> {
    by_prefix: BTreeMap<Prefix, By<'a>>,
    /// The lengths that there are.
    lengths: BTreeSet<(Family, u8)>,
}

impl<'a> RuleIndex<'a> {
    pub(super) fn new(rules: &'a [Rule], names: &'a [Resolved]) -> Self {
        let [mut allow, mut limited, mut deny] = [(); 3].map(|()| Effects::default());
        let mut add = |prefix: Prefix, by: By<'a>| {
            let effects = match (by.effect(), by.limits()) {
                (Effect::Allow, None) => &mut allow,
                (Effect::Allow, Some(_)) => &mut limited,
                (Effect::Deny, _) => &mut deny,
            };
            effects.by_prefix.entry(prefix).or_insert(by);
            effects.lengths.insert((prefix.family(), prefix.length()));
        };
        rules.iter().for_each(|rule| add(rule.prefix, By::Rule(rule)));
        for Resolved { rule, addresses } in names {
            addresses.iter().for_each(|address| add(*address, By::Name(rule)));
        }
        Self { allow, limited, deny }
    }

    /// The rule that decides about a source.
    pub(super) fn deciding(&self, source: IpAddr) -> Option<By<'a>> {
        self.deny.most_specific(source).or_else(|| self.allow.most_specific(source))
    }

    /// The rule that lets a source in at some services or interfaces, if none decides everywhere.
    pub(super) fn limited(&self, source: IpAddr) -> Option<By<'a>> {
        self.limited.most_specific(source)
    }

    /// Whether a deny rule is about some of a network.
    pub(super) fn denies_within(&self, net: &IpNet) -> bool {
        let Ok(prefix) = Prefix::try_from(*net) else { return true };
        // A prefix stands before everything within it, and what is not stands elsewhere.
        let within = self.deny.by_prefix.range(prefix..).next();
        within.is_some_and(|(found, _)| prefix.covers(found))
            || self.deny.most_specific(net.network()).is_some()
    }
}

impl<'a> Effects<'a> {
    fn most_specific(&self, source: IpAddr) -> Option<By<'a>> {
        let family = Family::from(source);
        let lengths = self.lengths.range((family, 0)..=(family, u8::MAX)).rev();
        lengths
            .filter_map(|&(_, length)| IpNet::new(source, length).ok())
            .find_map(|net| self.by_prefix.get(&Prefix::try_from(net.trunc()).ok()?).copied())
    }
}
