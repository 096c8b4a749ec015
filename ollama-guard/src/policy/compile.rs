//! From rules to the content of the kernel's maps.
//!
//! The program's table answers by longest match, the meaning of the rules is not: a deny rule wins over any
//! allow rule, however specific. So allow and deny and nesting are resolved here, into what is said
//! about each prefix by all the rules that cover it, and that is built into the tries that the program
//! walks ([`RuleTable`]).

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use ollama_guard_common::{
    Mode, Scope,
    abi::{RULE_BLOCK_WORDS, RuleSet, port_bit, port_word, rule_blocks},
};
use thiserror::Error;

use super::{Effect, Port, Prefix, RuleTable, trie::Said};

/// What is to be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Whose packets are decided on.
    pub scope: Scope,
    /// The guarded ports.
    pub ports: BTreeSet<Port>,
    /// What the rules say, in any order.
    pub rules: Vec<(Prefix, Effect)>,
    /// Different prefixes, of both families together, that there is to be room for.
    pub capacity: u32,
}

/// A policy as the kernel's maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapImage {
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Whose packets are decided on.
    pub scope: Scope,
    /// The words that are not 0, each with its position within the slot (see [`port_word`]), by
    /// position.
    pub port_words: Vec<(u32, u64)>,
    /// One bit for each protocol with a guarded port, at `Protocol::index`.
    pub protocols: u32,
    /// The number of guarded ports.
    pub ports: u32,
    /// Different prefixes in the rules: IPv4 and IPv6.
    pub prefixes: (u32, u32),
    /// What the rules say, in the form that the program reads.
    pub rules: RuleTable,
    /// Different prefixes, of both families together, that there is room for.
    pub capacity: u32,
}

/// Why a policy cannot be put into the maps.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompileError {
    /// More prefixes than there is room for.
    #[error(
        "{count} prefixes do not fit into a capacity of {capacity}: raise `capacity` in the \
         configuration or `--capacity` to at least {count}, or use larger networks"
    )]
    TooManyPrefixes {
        /// Different prefixes of both families.
        count: usize,
        /// Prefixes that fit.
        capacity: u32,
    },
    /// Prefixes that lie so that they take more room than others.
    #[error(
        "the rules take {needed} KiB as a table, and a capacity of {capacity} has {room} KiB: \
         raise `capacity` in the configuration or `--capacity` to at least {enough}, or use larger \
         networks"
    )]
    TableTooLarge {
        /// KiB of the table.
        needed: u64,
        /// KiB that there are.
        room: u64,
        /// Prefixes that there is room for.
        capacity: u32,
        /// A capacity that has enough room.
        enough: u32,
    },
    /// A guard of nothing is a mistake.
    #[error(
        "no port is guarded: name one in the configuration, as in ports = [\"11434/tcp\"], or \
         with `--port 11434`"
    )]
    NoPorts,
}

/// Compiles a policy. A function of its input alone; the order of the rules does not matter.
///
/// # Errors
///
/// If nothing is guarded, or if there is no room for the rules.
pub fn compile(policy: &Policy) -> Result<MapImage, CompileError> {
    let mut written = policy.rules.clone();
    written.sort_unstable();
    written.dedup();
    compile_sorted(policy, &written)
}

/// As [`compile`], of what the rules say, sorted and each once, instead of [`Policy::rules`].
pub(super) fn compile_sorted(
    policy: &Policy,
    written: &[(Prefix, Effect)],
) -> Result<MapImage, CompileError> {
    if policy.ports.is_empty() {
        return Err(CompileError::NoPorts);
    }
    let capacity = policy.capacity;
    let Resolved { v4, v6, prefixes } = resolve(written, None);
    check_count(prefixes, capacity)?;
    let rules = RuleTable::build(&SETS, &v4, &v6);
    fits(rules.words.len(), capacity)?;
    Ok(MapImage {
        mode: policy.mode,
        scope: policy.scope,
        port_words: port_words(&policy.ports),
        protocols: policy.ports.iter().fold(0, |bits, port| bits | 1 << port.protocol.index()),
        // At most 65,535 for each of a handful of protocols.
        ports: policy.ports.len() as u32,
        prefixes,
        rules,
        capacity,
    })
}

/// The sets that there are with one service: nobody, those who may, those who may not.
const SETS: [RuleSet; 3] = [RuleSet::NONE, RuleSet::ALLOWED, RuleSet::DENIED];
const ALLOWED: u32 = 1;
const DENIED: u32 = 2;

/// What all the rules say, prefix by prefix.
pub(super) struct Resolved {
    /// By address and length, without those of which the network around them says the same.
    pub(super) v4: Vec<Said<u32>>,
    pub(super) v6: Vec<Said<u128>>,
    /// Different prefixes in the rules.
    prefixes: (u32, u32),
}

/// What all the rules say about one prefix, once for each prefix that makes a difference. `written`
/// is sorted, and each stands there once; `outer` is the set of all their addresses by what stands
/// around them.
///
/// Sorted, a network stands before everything within it, so the networks around a prefix are
/// always the ones on a stack: each prefix is pushed and popped once.
pub(super) fn resolve(written: &[(Prefix, Effect)], outer: Option<u32>) -> Resolved {
    let mut resolved = Resolved { v4: Vec::new(), v6: Vec::new(), prefixes: (0, 0) };
    let mut around: Vec<(Prefix, u32)> = Vec::new();
    for same_prefix in written.chunk_by(|(a, _), (b, _)| a == b) {
        let prefix = same_prefix[0].0;
        while around.last().is_some_and(|(network, _)| !network.covers(&prefix)) {
            around.pop();
        }
        let outer = around.last().map_or(outer, |&(_, set)| Some(set));
        // Without a deny rule, the prefix stands here because of an allow rule.
        let denied =
            outer == Some(DENIED) || same_prefix.iter().any(|&(_, effect)| effect == Effect::Deny);
        let set = if denied { DENIED } else { ALLOWED };
        around.push((prefix, set));
        let says_the_same = outer == Some(set);
        let length = u32::from(prefix.length());
        match prefix.net() {
            IpNet::V4(net) => {
                resolved.prefixes.0 += 1;
                if !says_the_same {
                    resolved.v4.push(Said { address: net.addr().into(), length, set });
                }
            }
            IpNet::V6(net) => {
                resolved.prefixes.1 += 1;
                if !says_the_same {
                    resolved.v6.push(Said { address: net.addr().into(), length, set });
                }
            }
        }
    }
    resolved
}

/// What the rules say about the addresses of a network: those around it, as a set, and those within
/// it, itself included. `written` is sorted, and each stands there once.
pub(super) fn within(
    written: &[(Prefix, Effect)],
    network: IpNet,
) -> (Option<u32>, &[(Prefix, Effect)]) {
    let has = |net: IpNet, effect| {
        let key = |&(prefix, effect): &(Prefix, Effect)| (prefix.net(), effect);
        written.binary_search_by_key(&(net, effect), key).is_ok()
    };
    let above = std::iter::successors(network.supernet(), IpNet::supernet);
    let mut outer = None;
    for net in above {
        if has(net, Effect::Deny) {
            outer = Some(DENIED);
            break;
        }
        if outer.is_none() && has(net, Effect::Allow) {
            outer = Some(ALLOWED);
        }
    }
    let first = written.partition_point(|(prefix, _)| prefix.net() < network);
    let count = written[first..].partition_point(|(prefix, _)| network.contains(&prefix.net()));
    (outer, &written[first..first + count])
}

/// Whether so many IPv4 and IPv6 prefixes are not more than there is room for.
pub(super) fn check_count(prefixes: (u32, u32), capacity: u32) -> Result<(), CompileError> {
    let count = (prefixes.0 + prefixes.1) as usize;
    // usize has at least 32 bits wherever this runs.
    if count > capacity as usize {
        return Err(CompileError::TooManyPrefixes { count, capacity });
    }
    Ok(())
}

/// Whether a table of so many words fits where there is to be room for so many prefixes.
pub(super) fn fits(words: usize, capacity: u32) -> Result<(), CompileError> {
    let bytes = words as u64 * 8;
    let room = |capacity| u64::from(rule_blocks(capacity)) * u64::from(RULE_BLOCK_WORDS) * 8;
    if bytes <= room(capacity) {
        return Ok(());
    }
    let (mut short, mut enough) = (capacity, u32::MAX);
    while enough - short > 1 {
        let middle = short + (enough - short) / 2;
        if room(middle) < bytes { short = middle } else { enough = middle }
    }
    let (needed, room) = (bytes.div_ceil(1024), room(capacity) / 1024);
    Err(CompileError::TableTooLarge { needed, room, capacity, enough })
}

fn port_words(ports: &BTreeSet<Port>) -> Vec<(u32, u64)> {
    let mut words = BTreeMap::new();
    for port in ports {
        // The words of a slot are a few thousand.
        let word = port_word(port.protocol, port.number) as u32;
        *words.entry(word).or_insert(0) |= port_bit(port.number);
    }
    words.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[(Effect, &str)]) -> Policy {
        let rule = |&(effect, text): &(Effect, &str)| (text.parse().unwrap(), effect);
        Policy {
            mode: Mode::Enforce,
            scope: Scope::All,
            ports: BTreeSet::from([Port::OLLAMA]),
            rules: rules.iter().map(rule).collect(),
            capacity: 4,
        }
    }

    #[test]
    fn a_deny_rule_reaches_everything_within_it() {
        use Effect::{Allow, Deny};
        let rules = [
            (Allow, "10.1.2.3"),
            (Deny, "10.1.0.0/16"),
            (Allow, "10.0.0.0/8"),
            (Allow, "10.0.0.0/8"),
            (Allow, "10.2.0.0/16"),
            (Allow, "2001:db8::/32"),
            (Deny, "2001:db8::/32"),
        ];
        let mut written = policy(&rules).rules;
        written.sort_unstable();
        written.dedup();
        let resolved = resolve(&written, None);
        // 10.1.2.3 is denied like everything around it, 10.2.0.0/16 allowed like everything around.
        let v4 = [
            Said { address: 0x0a00_0000, length: 8, set: ALLOWED },
            Said { address: 0x0a01_0000, length: 16, set: DENIED },
        ];
        assert_eq!(resolved.v4, v4);
        assert_eq!(resolved.v6, [Said { address: 0x2001_0db8 << 96, length: 32, set: DENIED }]);
        assert_eq!(resolved.prefixes, (4, 1));
    }

    #[test]
    fn ports_share_words_and_are_counted() {
        let mut policy = policy(&[]);
        policy.ports = ["11434", "11435", "1", "11434/udp"].map(|p| p.parse().unwrap()).into();
        let image = compile(&policy).unwrap();
        assert_eq!(image.port_words, [(0, 2), (178, 0b11 << 42), (1024 + 178, 1 << 42)]);
        assert_eq!((image.ports, image.protocols), (4, 0b11));
    }

    #[test]
    fn an_empty_allowlist_is_a_policy_but_no_port_is_not() {
        assert!(compile(&policy(&[])).unwrap().rules == RuleTable::build(&SETS, &[], &[]));
        let nothing = Policy { ports: BTreeSet::new(), ..policy(&[]) };
        assert_eq!(compile(&nothing), Err(CompileError::NoPorts));
    }

    #[test]
    fn one_prefix_too_many_names_the_limit_and_how_to_raise_it() {
        let texts: Vec<String> = (1..=5)
            .map(|n| if n < 3 { format!("2001:db8::{n}") } else { format!("192.0.2.{n}") })
            .collect();
        let mut rules: Vec<_> = texts.iter().map(|text| (Effect::Allow, text.as_str())).collect();
        assert!(compile(&policy(&rules[..3])).is_ok());
        assert!(compile(&policy(&rules[..4])).is_ok());
        rules.push((Effect::Deny, "2001:db8::1"));
        let error = compile(&policy(&rules)).unwrap_err();
        assert_eq!(error, CompileError::TooManyPrefixes { count: 5, capacity: 4 });
        assert!(error.to_string().contains("`--capacity` to at least 5"), "{error}");
    }
}
