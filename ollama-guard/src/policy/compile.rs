//! From rules to the content of the kernel's maps.
//!
//! The program's table answers by longest match, the meaning of the rules is not: a deny rule wins over any
//! allow rule, however specific. So allow and deny and nesting are resolved here, into what is said
//! about each prefix by all the rules that cover it, and that is built into the tries that the program
//! walks ([`RuleTable`]).

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;
use ollama_guard_common::{
    Scope,
    abi::{MAX_PAIRS, MAX_SERVICES, RULE_BLOCK_WORDS, RuleSet, port_place, rule_blocks},
    trie::MAX_SETS,
};
use thiserror::Error;

use super::{
    Effect, Inside, Layout, MapImage, Prefix, RuleTable, ServiceImage, Statement, trie::Said,
};

/// What is to be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whose packets are decided on.
    pub scope: Scope,
    /// What is guarded, and the bits for it.
    pub layout: Layout,
    /// What the rules say, in any order.
    pub rules: Vec<Statement>,
    /// Different prefixes, of both families together, that there is to be room for.
    pub capacity: u32,
}

impl Policy {
    /// Of one service and rules that hold everywhere; everybody's packets are decided on.
    ///
    /// # Errors
    ///
    /// If the service has no ports.
    pub fn plain(
        service: super::Service,
        rules: impl IntoIterator<Item = (Prefix, Effect)>,
        capacity: u32,
    ) -> Result<Self, CompileError> {
        let layout = Layout::of(vec![service])?;
        let rules = rules.into_iter().map(|(prefix, effect)| Statement::plain(prefix, effect));
        Ok(Self { scope: Scope::All, layout, rules: rules.collect(), capacity })
    }
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
    /// More services than there are numbers for.
    #[error("{count} services are more than {MAX_SERVICES}: put some under one name")]
    TooManyServices {
        /// Services.
        count: usize,
    },
    /// More pairs of a service and a class of doors than a rule set has bits.
    #[error(
        "{services} services at {classes} kinds of interfaces, as the rules' `on` tell them apart, are \
         more than the {MAX_PAIRS} pairs that a rule can tell apart: use fewer services, or the same \
         `on` for more rules"
    )]
    TooManyPairs {
        /// Services.
        services: usize,
        /// Kinds of interfaces that rules tell apart.
        classes: usize,
    },
    /// More different sets of pairs than the table has numbers for.
    #[error(
        "the rules put sources into more than {most} different sets of services and interfaces: use \
         fewer combinations",
        most = MAX_SETS
    )]
    TooManySets,
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
    compile_with(policy, &written).map(|(image, _)| image)
}

/// As [`compile`], of what the rules say, sorted and each once, instead of [`Policy::rules`]; with the
/// sets that the table knows.
pub(super) fn compile_with(
    policy: &Policy,
    written: &[Statement],
) -> Result<(MapImage, Sets), CompileError> {
    let Policy { scope, ref layout, capacity, .. } = *policy;
    let mut sets = Sets::new(layout);
    let Resolved { v4, v6, prefixes } = resolve(written, RuleSet::NONE, &mut sets);
    check_count(prefixes, capacity)?;
    if sets.list.len() > MAX_SETS {
        return Err(CompileError::TooManySets);
    }
    let rules = RuleTable::build(&sets.list, &v4, &v6);
    fits(rules.words.len(), capacity)?;
    let (doubted, mode) = layout.doubted();
    let all = layout.ports();
    let image = MapImage {
        mode,
        scope,
        services: layout.services().map(|(number, one)| (number, ServiceImage::of(one))).collect(),
        ports: ports(layout),
        protocols: all.iter().fold(0, |bits, port| bits | 1 << port.protocol.index()),
        is_apart: layout.is_apart(),
        doubted,
        stride: layout.stride(),
        doors: layout.doors().filter(|(_, shift)| *shift != 0).collect(),
        prefixes,
        rules,
        capacity,
    };
    Ok((image, sets))
}

/// The sets that sources are in, by number. The first one is that of strangers.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    list: Vec<RuleSet>,
    numbers: HashMap<RuleSet, u32>,
    inside: Option<Inside>,
}

impl Sets {
    /// With those that nearly every table has, so that an edit seldom needs a new one.
    fn new(layout: &Layout) -> Self {
        let everywhere = layout.pairs(Effect::Deny, None);
        let mut sets = Self { list: Vec::new(), numbers: HashMap::new(), inside: layout.inside() };
        sets.number(RuleSet::NONE);
        sets.number(RuleSet { reach: everywhere, denied: 0 });
        sets.number(RuleSet { reach: 0, denied: everywhere });
        sets
    }

    /// The number of a set, of what the rules say.
    pub(super) fn number(&mut self, set: RuleSet) -> u32 {
        let set = self.in_force(set);
        *self.numbers.entry(set).or_insert_with(|| {
            self.list.push(set);
            // A few at most: each is a different combination of rules.
            self.list.len() as u32 - 1
        })
    }

    /// What comes of what the rules say.
    fn in_force(&self, set: RuleSet) -> RuleSet {
        self.inside.as_ref().map_or(set, |inside| inside.conclude(set))
    }

    /// How many there are.
    pub(super) const fn count(&self) -> usize {
        self.list.len()
    }
}

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
pub(super) fn resolve(written: &[Statement], outer: RuleSet, sets: &mut Sets) -> Resolved {
    let mut resolved = Resolved { v4: Vec::new(), v6: Vec::new(), prefixes: (0, 0) };
    let mut around: Vec<(Prefix, RuleSet)> = Vec::new();
    for same_prefix in written.chunk_by(|a, b| a.prefix == b.prefix) {
        let prefix = same_prefix[0].prefix;
        while around.last().is_some_and(|(network, _)| !network.covers(&prefix)) {
            around.pop();
        }
        let outer = around.last().map_or(outer, |&(_, set)| set);
        let set = same_prefix.iter().fold(outer, with);
        around.push((prefix, set));
        let says_the_same = outer == set || sets.in_force(outer) == sets.in_force(set);
        let length = u32::from(prefix.length());
        match prefix.net() {
            IpNet::V4(net) => {
                resolved.prefixes.0 += 1;
                if !says_the_same {
                    let set = sets.number(set);
                    resolved.v4.push(Said { address: net.addr().into(), length, set });
                }
            }
            IpNet::V6(net) => {
                resolved.prefixes.1 += 1;
                if !says_the_same {
                    let set = sets.number(set);
                    resolved.v6.push(Said { address: net.addr().into(), length, set });
                }
            }
        }
    }
    resolved
}

/// A set of sources about which one thing more is said.
fn with(set: RuleSet, said: &Statement) -> RuleSet {
    match said.effect {
        Effect::Allow => RuleSet { reach: set.reach | said.pairs & !set.denied, ..set },
        Effect::Deny => RuleSet { reach: set.reach & !said.pairs, denied: set.denied | said.pairs },
    }
}

/// What the rules say about the addresses of a network: those around it, as a set, and those within
/// it, itself included. `written` is sorted, and each stands there once.
pub(super) fn within(written: &[Statement], network: IpNet) -> (RuleSet, &[Statement]) {
    let about = |net: IpNet| {
        let first = written.partition_point(|said| said.prefix.net() < net);
        written[first..].iter().take_while(move |said| said.prefix.net() == net)
    };
    let above = std::iter::successors(network.supernet(), IpNet::supernet);
    // In any order: what is denied is denied by any of them.
    let outer = above.flat_map(about).fold(RuleSet::NONE, with);
    let first = written.partition_point(|said| said.prefix.net() < network);
    let count = written[first..].partition_point(|said| network.contains(&said.prefix.net()));
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

fn ports(layout: &Layout) -> Vec<(u32, u8)> {
    let of = |(number, service): (u8, &super::Service)| {
        // The places of a slot are some hundred thousand.
        let place =
            move |port: &super::Port| (port_place(port.protocol, port.number) as u32, number);
        service.ports.iter().map(place).collect::<Vec<_>>()
    };
    layout.services().flat_map(of).collect::<BTreeMap<_, _>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use ollama_guard_common::Mode;

    use super::*;
    use crate::policy::{Port, Service};

    fn policy(rules: &[(Effect, &str)]) -> Policy {
        of_ports(&["11434"], rules)
    }

    fn of_ports(ports: &[&str], rules: &[(Effect, &str)]) -> Policy {
        let rule = |&(effect, text): &(Effect, &str)| (text.parse().unwrap(), effect);
        let ports = ports.iter().map(|text| text.parse().unwrap());
        let service = Service::ollama(Mode::Enforce, ports);
        Policy::plain(service, rules.iter().map(rule), 4).unwrap()
    }

    const ALLOWED: u32 = 1;
    const DENIED: u32 = 2;

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
        let layout = policy(&[]).layout;
        let resolved = resolve(&written, RuleSet::NONE, &mut Sets::new(&layout));
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
    fn ports_have_their_places_and_protocols() {
        let image = compile(&of_ports(&["11434", "11435", "1", "11434/udp"], &[])).unwrap();
        assert_eq!(image.ports, [(1, 0), (11_434, 0), (11_435, 0), (65_536 + 11_434, 0)]);
        assert_eq!(image.protocols, 0b11);
    }

    #[test]
    fn a_set_has_a_bit_for_each_service() {
        let web = Service {
            name: "web".into(),
            ..Service::ollama(Mode::Observe, ["80".parse().unwrap()])
        };
        let layout = Layout::of(vec![Service::ollama(Mode::Enforce, [Port::OLLAMA]), web]).unwrap();
        let said =
            |effect, text: &str, pairs| Statement { prefix: text.parse().unwrap(), effect, pairs };
        let rules = vec![
            said(Effect::Allow, "10.0.0.0/8", 0b01),
            said(Effect::Allow, "10.1.0.0/16", 0b10),
            said(Effect::Deny, "10.1.1.0/24", 0b01),
            said(Effect::Allow, "10.1.1.1", 0b11),
        ];
        let image = compile(&Policy { scope: Scope::All, layout, rules, capacity: 10 }).unwrap();
        let sets = ["10.2.0.1", "10.1.2.1", "10.1.1.1", "11.0.0.1"].map(|source| {
            let RuleSet { reach, denied } = image.rules.find(source.parse().unwrap()).unwrap();
            (reach, denied)
        });
        assert_eq!(sets, [(0b01, 0), (0b11, 0), (0b10, 0b01), (0, 0)]);
        assert_eq!((image.doubted, image.mode), (0b01, Mode::Enforce));
        assert_eq!(image.ports, [(80, 1), (11_434, 0)]);
    }

    #[test]
    fn an_empty_allowlist_is_a_policy_but_no_port_is_not() {
        let sets = [RuleSet::NONE, RuleSet::ALLOWED, RuleSet::DENIED];
        assert!(compile(&policy(&[])).unwrap().rules == RuleTable::build(&sets, &[], &[]));
        let nothing = Service::ollama(Mode::Enforce, []);
        assert_eq!(Policy::plain(nothing, [], 4), Err(CompileError::NoPorts));
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
