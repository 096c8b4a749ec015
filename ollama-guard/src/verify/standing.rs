//! What a compiled table says about a source, and which sources are worth asking about.

use std::{collections::HashMap, net::IpAddr};

use ollama_guard_common::{Reason, Source, abi::standing};

use crate::policy::{Entry, Family, MapImage};

/// Sources that are tried first, because a reader knows them for what they are (RFC 5737,
/// RFC 3849).
const KNOWN_V4: [[u8; 4]; 3] = [[203, 0, 113, 66], [198, 51, 100, 66], [192, 0, 2, 66]];
const KNOWN_V6: [u128; 2] =
    [0x2001_0db8_0bad_0000_0000_0000_0000_0066, 0x3fff_0bad_0000_0000_0000_0000_0000_0066];

/// The rules of one family. Addresses are numbers here: an IPv4 address has 32 bits of them.
pub(super) struct Standings {
    family: Family,
    entries: HashMap<(u8, u128), u32>,
    /// The lengths that occur, longest first.
    lengths: Vec<u8>,
    /// The first and the last address of each entry, in the order of the table.
    spans: Vec<(u128, u128)>,
}

impl Standings {
    /// Of a whole image: IPv4 and IPv6.
    pub(super) fn of(image: &MapImage) -> [Self; 2] {
        let v4 = |entry: &Entry<[u8; 4]>| u128::from(u32::from_be_bytes(entry.address));
        let v6 = |entry: &Entry<[u8; 16]>| u128::from_be_bytes(entry.address);
        [
            Self::new(Family::V4, image.v4.iter().map(|e| (e.length, v4(e), e.standing))),
            Self::new(Family::V6, image.v6.iter().map(|e| (e.length, v6(e), e.standing))),
        ]
    }

    fn new(family: Family, table: impl Iterator<Item = (u8, u128, u32)>) -> Self {
        let mut standings =
            Self { family, entries: HashMap::new(), lengths: Vec::new(), spans: Vec::new() };
        for (length, first, standing) in table {
            standings.entries.insert((length, first), standing);
            standings.lengths.push(length);
            standings.spans.push((first, first | standings.host_bits(length)));
        }
        standings.lengths.sort_unstable_by(|a, b| b.cmp(a));
        standings.lengths.dedup();
        standings
    }

    pub(super) const fn family(&self) -> Family {
        self.family
    }

    /// The reason that a packet for a guarded port from this source is to be given, by the most
    /// specific entry.
    pub(super) fn reason(&self, address: u128) -> Reason {
        let found = self
            .lengths
            .iter()
            .find_map(|&length| self.entries.get(&(length, address & !self.host_bits(length))));
        match found {
            Some(&standing::ALLOWED) => Reason::Allowed,
            Some(&standing::DENIED) => Reason::Denied,
            _ => Reason::NotListed,
        }
    }

    /// A source of this standing that a wire could carry, if there is one.
    ///
    /// What the table says changes only where an entry begins or ends, so looking there misses
    /// nothing.
    pub(super) fn source(&self, reason: Reason) -> Option<IpAddr> {
        let known = self.known().into_iter();
        let changes = self.spans.iter().flat_map(|&(first, last)| [Some(first), self.after(last)]);
        let ends = self.forbidden_ends().into_iter().map(|last| self.after(last));
        known
            .chain(changes.flatten())
            .chain(ends.flatten())
            .find(|&address| !self.is_forbidden(address) && self.reason(address) == reason)
            .map(|address| self.address(address))
    }

    /// Sources at the edges of the entries, on both sides, with what is to become of them: of at
    /// most this many entries, spread over the table.
    pub(super) fn edges(&self, most: usize) -> Vec<(IpAddr, Reason)> {
        let step = self.spans.len().div_ceil(most).max(1);
        self.spans
            .iter()
            .step_by(step)
            .flat_map(|&(first, last)| {
                [first.checked_sub(1), Some(first), Some(last), self.after(last)]
            })
            .flatten()
            .filter(|&address| !self.is_forbidden(address))
            .map(|address| (self.address(address), self.reason(address)))
            .collect()
    }

    fn known(&self) -> Vec<u128> {
        match self.family {
            Family::V4 => KNOWN_V4.map(|octets| u32::from_be_bytes(octets).into()).to_vec(),
            Family::V6 => KNOWN_V6.to_vec(),
        }
    }

    /// The last addresses of the ranges that no source can be in (`Source::forbidden`).
    fn forbidden_ends(&self) -> Vec<u128> {
        match self.family {
            Family::V4 => [0x00ff_ffff_u32, 0x7fff_ffff, 0xefff_ffff].map(u128::from).to_vec(),
            Family::V6 => vec![0, 1, 0xffff_ffff_ffff],
        }
    }

    fn is_forbidden(&self, address: u128) -> bool {
        let source = match self.address(address) {
            IpAddr::V4(address) => Source::V4(address.octets()),
            IpAddr::V6(address) => Source::V6(address.octets()),
        };
        source.forbidden().is_some()
    }

    fn address(&self, address: u128) -> IpAddr {
        match self.family {
            Family::V4 => IpAddr::V4((address as u32).into()),
            Family::V6 => IpAddr::V6(address.into()),
        }
    }

    fn after(&self, address: u128) -> Option<u128> {
        (address < self.host_bits(0)).then(|| address + 1)
    }

    /// The bits behind a prefix of this length.
    const fn host_bits(&self, length: u8) -> u128 {
        let width = match self.family {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        match width - length as u32 {
            0 => 0,
            bits => u128::MAX >> (128 - bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ollama_guard_common::{Mode, Scope};

    use super::*;
    use crate::policy::{Effect, Origin, Policy, Port, Rule, compile};

    fn standings(allow: &[&str], deny: &[&str]) -> [Standings; 2] {
        let rule = |effect| {
            move |text: &&str| Rule {
                prefix: text.parse().unwrap(),
                effect,
                comment: None,
                origin: Origin::Flag,
            }
        };
        let rules =
            allow.iter().map(rule(Effect::Allow)).chain(deny.iter().map(rule(Effect::Deny)));
        let ports = BTreeSet::from([Port::OLLAMA]);
        let policy = Policy {
            mode: Mode::Enforce,
            scope: Scope::All,
            ports,
            rules: rules.collect(),
            capacity: 1000,
        };
        Standings::of(&compile(&policy).unwrap())
    }

    fn found(standings: &Standings, reason: Reason) -> Option<String> {
        standings.source(reason).map(|address| address.to_string())
    }

    #[test]
    fn a_source_of_each_standing_is_found_wherever_it_is() {
        let [v4, v6] = standings(&["10.0.0.0/8", "fd00::/8"], &["10.0.0.0/9", "fd00::1"]);
        assert_eq!(found(&v4, Reason::NotListed).as_deref(), Some("203.0.113.66"));
        assert_eq!(found(&v4, Reason::Denied).as_deref(), Some("10.0.0.0"));
        assert_eq!(found(&v4, Reason::Allowed).as_deref(), Some("10.128.0.0"));
        assert_eq!(found(&v6, Reason::Allowed).as_deref(), Some("fd00::"));
        assert_eq!(found(&v6, Reason::Denied).as_deref(), Some("fd00::1"));

        let [v4, v6] = standings(&["0.0.0.0/0"], &["203.0.113.66"]);
        assert_eq!(found(&v4, Reason::NotListed), None);
        assert_eq!(found(&v4, Reason::Allowed).as_deref(), Some("198.51.100.66"));
        assert_eq!(found(&v6, Reason::Allowed), None);

        // All but one address, at the end of a range that no source can be in.
        let others: Vec<String> = (1..=32)
            .map(|length| {
                format!(
                    "{}/{length}",
                    std::net::Ipv4Addr::from(
                        0x8000_0000_u32
                            ^ 1 << (32 - length) & !((1_u64 << (32 - length)) - 1) as u32
                    )
                )
            })
            .collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let usable: Vec<&str> = others
            .into_iter()
            .filter(|text| text.parse::<crate::policy::Prefix>().is_ok())
            .collect();
        let [v4, _] = standings(&usable, &[]);
        assert_eq!(found(&v4, Reason::NotListed).as_deref(), Some("128.0.0.0"));
    }

    #[test]
    fn edges_are_on_both_sides_and_never_impossible_sources() {
        let [v4, _] = standings(&["192.0.2.0/24", "128.0.0.0/8"], &[]);
        let edges: Vec<String> = v4
            .edges(100)
            .iter()
            .map(|(address, reason)| format!("{address} {}", reason.name()))
            .collect();
        assert_eq!(
            edges,
            [
                "128.0.0.0 allowed",
                "128.255.255.255 allowed",
                "129.0.0.0 not-listed",
                "192.0.1.255 not-listed",
                "192.0.2.0 allowed",
                "192.0.2.255 allowed",
                "192.0.3.0 not-listed",
            ]
        );
        assert_eq!(v4.edges(1).len(), 3, "of one entry only");
    }
}
