//! The one form of both filters' rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ollama_guard_common::Protocol;

use super::PortSet;

/// Chains and rules of one or several filters. A chain's name is unique: it has the filter and the
/// table in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Ruleset {
    /// Chains that packets enter from outside, before it is decided where they go.
    pub(super) entrances: BTreeSet<String>,
    pub(super) rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) chain: String,
    /// For people.
    pub(super) place: String,
    /// The destination ports that it is for.
    pub(super) ports: PortSet,
    /// The protocol that it is for; `None` for all.
    pub(super) protocol: Option<Protocol>,
    pub(super) action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Goes on in this chain.
    Jump(String),
    /// Sends packets elsewhere; `to_ports` is `None` for the same port.
    Translate { to: Option<String>, to_ports: Option<PortSet> },
    /// Gives packets another source.
    Source { to: Option<IpAddr>, out: Option<String>, ports: Option<PortSet> },
}

type Way = (Option<Protocol>, PortSet);

impl Ruleset {
    /// Puts another listing beside this one.
    pub(super) fn add(&mut self, other: Self) {
        self.entrances.extend(other.entrances);
        self.rules.extend(other.rules);
    }

    /// The packets from outside that can get to a rule, by protocol and destination port.
    pub(super) fn ways_to(&self, rule: &Rule) -> Vec<Way> {
        let mut jumps: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
        for one in &self.rules {
            if let Action::Jump(target) = &one.action {
                jumps.entry(target).or_default().push(one);
            }
        }
        let mut ways = Vec::new();
        self.climb(&jumps, rule, (None, PortSet::all()), &mut Vec::new(), &mut ways);
        ways
    }

    /// From a rule up to the entrances. `passed` are the chains below: the kernel refuses circles,
    /// and nobody should hang in a forged listing.
    fn climb<'a>(
        &'a self,
        jumps: &BTreeMap<&str, Vec<&'a Rule>>,
        rule: &'a Rule,
        below: Way,
        passed: &mut Vec<&'a str>,
        ways: &mut Vec<Way>,
    ) {
        let protocol = match (rule.protocol, below.0) {
            (Some(one), Some(two)) if one != two => return,
            (one, two) => one.or(two),
        };
        let ports = rule.ports.intersection(&below.1);
        if ports.is_empty() || passed.contains(&rule.chain.as_str()) || ways.len() >= MOST_WAYS {
            return;
        }
        if self.entrances.contains(&rule.chain) {
            ways.push((protocol, ports));
            return;
        }
        passed.push(&rule.chain);
        for caller in jumps.get(rule.chain.as_str()).into_iter().flatten() {
            self.climb(jumps, caller, (protocol, ports.clone()), passed, ways);
        }
        passed.pop();
    }
}

/// Ways to one rule that are followed: more is no listing of a kernel's.
const MOST_WAYS: usize = 1000;
