//! From rules to the content of the kernel's maps.
//!
//! The kernel answers by longest match, the meaning of the rules is not: a deny rule wins over any
//! allow rule, however specific. So each prefix of any rule becomes one entry that already knows
//! what all the rules covering it say together.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use ollama_guard_common::{
    Mode, Scope,
    abi::{port_bit, port_word, standing},
};
use thiserror::Error;

use super::{Effect, Family, Port, Prefix, Rule};

/// What is to be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Whose packets are decided on.
    pub scope: Scope,
    /// The guarded ports.
    pub ports: BTreeSet<Port>,
    /// The rules, in any order.
    pub rules: Vec<Rule>,
    /// Prefixes that each family's map can hold.
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
    /// The IPv4 entries, by address and length.
    pub v4: Vec<Entry4>,
    /// The IPv6 entries, by address and length.
    pub v6: Vec<Entry6>,
    /// Prefixes that each family's map can hold.
    pub capacity: u32,
}

/// One prefix of a map that is answered by longest match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<A> {
    /// The number of leading bits that count.
    pub length: u8,
    /// The address in network byte order, without host bits.
    pub address: A,
    /// One of [`standing`].
    pub standing: u32,
}

/// An entry of the IPv4 map.
pub type Entry4 = Entry<[u8; 4]>;
/// An entry of the IPv6 map.
pub type Entry6 = Entry<[u8; 16]>;

/// Why a policy cannot be put into the maps.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompileError {
    /// More prefixes than a map can hold.
    #[error(
        "{count} {family} prefixes do not fit into a capacity of {capacity}: raise `capacity` in \
         the configuration or `--capacity` to at least {count}, or use larger networks"
    )]
    TooManyPrefixes {
        /// The family.
        family: Family,
        /// Different prefixes of this family.
        count: usize,
        /// Prefixes that fit.
        capacity: u32,
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
/// If nothing is guarded, or if there are more different prefixes of a family than fit.
pub fn compile(policy: &Policy) -> Result<MapImage, CompileError> {
    if policy.ports.is_empty() {
        return Err(CompileError::NoPorts);
    }
    let (v4, v6) = resolve(&policy.rules);
    fits(Family::V4, v4.len(), policy.capacity)?;
    fits(Family::V6, v6.len(), policy.capacity)?;
    Ok(MapImage {
        mode: policy.mode,
        scope: policy.scope,
        port_words: port_words(&policy.ports),
        protocols: policy.ports.iter().fold(0, |bits, port| bits | 1 << port.protocol.index()),
        // At most 65,535 for each of a handful of protocols.
        ports: policy.ports.len() as u32,
        v4,
        v6,
        capacity: policy.capacity,
    })
}

/// What all the rules say about one prefix, once for each prefix.
///
/// Sorted, a network stands before everything within it, so the networks around a prefix are
/// always the ones on a stack: each prefix is pushed and popped once.
fn resolve(rules: &[Rule]) -> (Vec<Entry4>, Vec<Entry6>) {
    let mut said: Vec<(Prefix, Effect)> = rules.iter().map(|r| (r.prefix, r.effect)).collect();
    said.sort_unstable();
    said.dedup();
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    let mut around: Vec<(Prefix, bool)> = Vec::new();
    for same_prefix in said.chunk_by(|(a, _), (b, _)| a == b) {
        let prefix = same_prefix[0].0;
        while around.last().is_some_and(|(network, _)| !network.covers(&prefix)) {
            around.pop();
        }
        let denied = around.last().is_some_and(|&(_, denied)| denied)
            || same_prefix.iter().any(|&(_, effect)| effect == Effect::Deny);
        around.push((prefix, denied));
        // Without a deny rule, the prefix stands here because of an allow rule.
        let standing = if denied { standing::DENIED } else { standing::ALLOWED };
        let length = prefix.length();
        match prefix.net() {
            IpNet::V4(net) => v4.push(Entry { length, address: net.addr().octets(), standing }),
            IpNet::V6(net) => v6.push(Entry { length, address: net.addr().octets(), standing }),
        }
    }
    (v4, v6)
}

fn fits(family: Family, count: usize, capacity: u32) -> Result<(), CompileError> {
    // usize has at least 32 bits wherever this runs.
    if count <= capacity as usize {
        Ok(())
    } else {
        Err(CompileError::TooManyPrefixes { family, count, capacity })
    }
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
    use crate::policy::Origin;

    fn policy(rules: &[(Effect, &str)]) -> Policy {
        let rule = |&(effect, text): &(Effect, &str)| Rule {
            prefix: text.parse().unwrap(),
            effect,
            comment: None,
            origin: Origin::Flag,
        };
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
        use standing::{ALLOWED, DENIED};
        let image = compile(&policy(&[
            (Allow, "10.1.2.3"),
            (Deny, "10.1.0.0/16"),
            (Allow, "10.0.0.0/8"),
            (Allow, "10.0.0.0/8"),
            (Allow, "10.2.0.0/16"),
            (Allow, "2001:db8::/32"),
            (Deny, "2001:db8::/32"),
        ]))
        .unwrap();
        assert_eq!(
            image.v4,
            [
                Entry { length: 8, address: [10, 0, 0, 0], standing: ALLOWED },
                Entry { length: 16, address: [10, 1, 0, 0], standing: DENIED },
                Entry { length: 32, address: [10, 1, 2, 3], standing: DENIED },
                Entry { length: 16, address: [10, 2, 0, 0], standing: ALLOWED },
            ]
        );
        let [entry] = image.v6[..] else { panic!("{:?}", image.v6) };
        assert_eq!((entry.length, entry.standing), (32, DENIED));
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
        assert!(compile(&policy(&[])).unwrap().v4.is_empty());
        let nothing = Policy { ports: BTreeSet::new(), ..policy(&[]) };
        assert_eq!(compile(&nothing), Err(CompileError::NoPorts));
    }

    #[test]
    fn one_prefix_too_many_names_the_limit_and_how_to_raise_it() {
        let texts: Vec<String> = (1..=5).map(|n| format!("2001:db8::{n}")).collect();
        let mut rules: Vec<_> = texts.iter().map(|text| (Effect::Allow, text.as_str())).collect();
        assert!(compile(&policy(&rules[..3])).is_ok());
        assert!(compile(&policy(&rules[..4])).is_ok());
        rules.push((Effect::Deny, "2001:db8::1"));
        let error = compile(&policy(&rules)).unwrap_err();
        assert_eq!(
            error,
            CompileError::TooManyPrefixes { family: Family::V6, count: 5, capacity: 4 }
        );
        assert!(error.to_string().contains("`--capacity` to at least 5"), "{error}");
    }
}
