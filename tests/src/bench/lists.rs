//! Lists of rules, and sources that are in them or not. The same ones for the same seed.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ollama_guard_common::bench::{SOURCES, Source};
use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};

/// What the rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Single addresses without any order: the worst that a list can be.
    Hosts,
    /// Networks of all lengths: IPv4 /16 to /32, IPv6 /32 to /128, within each other by chance.
    Prefixes,
}

impl Kind {
    /// In a table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Prefixes => "prefixes",
        }
    }
}

/// Numbers by chance, the same ones each time.
fn rng(seed: u8) -> TestRng {
    TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32])
}

/// Where rules and strangers are: an eighth of the IPv4 addresses, what one registry gives out of IPv6.
/// Wide enough that no list of networks covers it all, and there are strangers left.
/// Both in one place, as a list of customers and a botnet are; else the first bits tell them apart.
const BASE4: u32 = 0x4000_0000;
const BITS4: u32 = 29;
const BASE6: u128 = 0x2a00 << 112;
const BITS6: u32 = 116;

fn address4(rng: &mut TestRng) -> u32 {
    BASE4 | rng.next_u32() >> (32 - BITS4)
}

fn address6(rng: &mut TestRng) -> u128 {
    BASE6 | (u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())) >> (128 - BITS6)
}

/// So many different IPv4 rules.
#[must_use]
pub fn v4(kind: Kind, count: usize) -> Vec<Ipv4Net> {
    let mut rng = rng(4);
    let mut nets = HashSet::with_capacity(count);
    while nets.len() < count {
        let address = Ipv4Addr::from(address4(&mut rng));
        let length = match kind {
            Kind::Hosts => 32,
            // Long ones are more, as there are more of them.
            Kind::Prefixes => 32 - (rng.next_u32() % 17).min(rng.next_u32() % 17) as u8,
        };
        nets.extend(Ipv4Net::new(address, length).ok().map(|net| net.trunc()));
    }
    let mut nets: Vec<_> = nets.into_iter().collect();
    nets.sort_unstable();
    nets
}

/// So many different IPv6 rules.
#[must_use]
pub fn v6(kind: Kind, count: usize) -> Vec<Ipv6Net> {
    let mut rng = rng(6);
    let mut nets = HashSet::with_capacity(count);
    while nets.len() < count {
        let address = Ipv6Addr::from(address6(&mut rng));
        let length = match kind {
            Kind::Hosts => 128,
            Kind::Prefixes => {
                [40, 48, 48, 56, 56, 64, 64, 64, 64, 128][rng.next_u32() as usize % 10]
            }
        };
        nets.extend(Ipv6Net::new(address, length).ok().map(|net| net.trunc()));
    }
    let mut nets: Vec<_> = nets.into_iter().collect();
    nets.sort_unstable();
    nets
}

/// Sources that no rule covers, as many as a run takes.
#[must_use]
pub fn strangers(rules: &[IpNet], is_v6: bool) -> Vec<Source> {
    let mut rng = rng(7);
    let covered = Covered::of(rules);
    let mut sources = Vec::with_capacity(SOURCES);
    while sources.len() < SOURCES {
        let address: IpAddr = if is_v6 {
            IpAddr::V6(address6(&mut rng).into())
        } else {
            IpAddr::V4(address4(&mut rng).into())
        };
        if !covered.contains(address) {
            sources.push(source(address));
        }
    }
    sources
}

/// Sources that the rules of a family cover: an address of a rule by chance, as many as a run takes.
#[must_use]
pub fn friends(rules: &[IpNet], is_v6: bool) -> Vec<Source> {
    let mut rng = rng(8);
    let rules: Vec<&IpNet> = rules.iter().filter(|net| net.addr().is_ipv6() == is_v6).collect();
    let one = |_| {
        let address = match rules[rng.next_u32() as usize % rules.len()] {
            IpNet::V4(net) => {
                let host = rng.next_u32() & !u32::from(net.netmask());
                IpAddr::V4((u32::from(net.network()) | host).into())
            }
            IpNet::V6(net) => {
                let bits = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
                let host = bits & !u128::from(net.netmask());
                IpAddr::V6((u128::from(net.network()) | host).into())
            }
        };
        source(address)
    };
    (0..SOURCES).map(one).collect()
}

fn source(address: IpAddr) -> Source {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    Source { address: bytes, checksum: [0; 2], padding: [0; 6] }
}

/// Which addresses are in a list, without any code of the guard.
struct Covered(HashSet<IpNet>, Vec<u8>);

impl Covered {
    fn of(rules: &[IpNet]) -> Self {
        let mut lengths: Vec<u8> = rules.iter().map(IpNet::prefix_len).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Self(rules.iter().copied().collect(), lengths)
    }

    fn contains(&self, address: IpAddr) -> bool {
        let net = |length: &u8| IpNet::new(address, *length).ok().map(|net| net.trunc());
        self.1.iter().filter_map(net).any(|net| self.0.contains(&net))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn friends_are_covered_and_strangers_are_not() {
        for kind in [Kind::Hosts, Kind::Prefixes] {
            let rules: Vec<IpNet> = v4(kind, 500)
                .into_iter()
                .map(IpNet::from)
                .chain(v6(kind, 500).into_iter().map(IpNet::from))
                .collect();
            assert_eq!(rules.len(), 1000);
            for is_v6 in [false, true] {
                let read = |source: &Source| match is_v6 {
                    true => IpAddr::from(source.address),
                    false => {
                        let [a, b, c, d, ..] = source.address;
                        IpAddr::from([a, b, c, d])
                    }
                };
                let is_covered = |source| rules.iter().any(|net| net.contains(&read(source)));
                let (friends, strangers) = (friends(&rules, is_v6), strangers(&rules, is_v6));
                assert!(friends[..300].iter().all(is_covered));
                assert!(!strangers[..300].iter().any(is_covered));
                let different: HashSet<_> = strangers.iter().map(|source| source.address).collect();
                assert!(different.len() > SOURCES * 99 / 100, "{}", different.len());
            }
        }
    }
}
