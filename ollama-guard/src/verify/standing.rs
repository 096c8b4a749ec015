//! What a compiled table says about a source, and which sources are worth asking about.

use std::net::IpAddr;

use ollama_guard_common::{Reason, Source, Standing};

use crate::policy::{
    Family, MapImage,
    trie::{Range, ranges4, ranges6},
};

/// Sources that are tried first, because a reader knows them for what they are (RFC 5737,
/// RFC 3849).
const KNOWN_V4: [[u8; 4]; 3] = [[203, 0, 113, 66], [198, 51, 100, 66], [192, 0, 2, 66]];
const KNOWN_V6: [u128; 2] =
    [0x2001_0db8_0bad_0000_0000_0000_0000_0066, 0x3fff_0bad_0000_0000_0000_0000_0000_0066];

/// The rules of one family. Addresses are numbers here: an IPv4 address has 32 bits of them.
pub(super) struct Standings {
    family: Family,
    /// All addresses of the family, from the first to the last.
    ranges: Vec<(u128, u128, Reason)>,
}

impl Standings {
    /// Of a whole image, about access to all of these pairs: IPv4 and IPv6. `None` if the words of the
    /// rules are damaged.
    pub(super) fn of(image: &MapImage, pairs: u32) -> Option<[Self; 2]> {
        let reason = |set| {
            image.rules.set(set).map(|set| match set.standing(pairs) {
                Standing::Allowed => Reason::Allowed,
                Standing::Denied => Reason::Denied,
                Standing::NotListed | Standing::RulesAbsent => Reason::NotListed,
            })
        };
        let v4 =
            |range: Range<u32>| Some((range.first.into(), range.last.into(), reason(range.set)?));
        let v6 = |range: Range<u128>| Some((range.first, range.last, reason(range.set)?));
        let v4 = ranges4(&image.rules)?.into_iter().map(v4).collect::<Option<_>>()?;
        let v6 = ranges6(&image.rules)?.into_iter().map(v6).collect::<Option<_>>()?;
        let of = |family, ranges| Self { family, ranges: merged(ranges) };
        Some([of(Family::V4, v4), of(Family::V6, v6)])
    }

    pub(super) const fn family(&self) -> Family {
        self.family
    }

    /// The reason that a packet for a guarded port from this source is to be given.
    pub(super) fn reason(&self, address: u128) -> Reason {
        let position = self.ranges.partition_point(|&(_, last, _)| last < address);
        self.ranges.get(position).map_or(Reason::NotListed, |&(_, _, reason)| reason)
    }

    /// A source of this standing that a wire could carry, if there is one.
    ///
    /// What the rules say changes only where a range begins, so looking there, and behind the
    /// addresses that no source can have, misses nothing.
    pub(super) fn source(&self, reason: Reason) -> Option<IpAddr> {
        let known = self.known().into_iter();
        let starts = self.ranges.iter().map(|&(first, _, _)| first);
        let ends = self.forbidden_ends().into_iter().filter_map(|last| self.after(last));
        known
            .chain(starts)
            .chain(ends)
            .find(|&address| !self.is_forbidden(address) && self.reason(address) == reason)
            .map(|address| self.address(address))
    }

    /// Sources at the places where the answer changes, on both sides, with what is to become of
    /// them: at most at this many places, spread over the addresses.
    pub(super) fn edges(&self, most: usize) -> Vec<(IpAddr, Reason)> {
        let changes = self.ranges.len().saturating_sub(1);
        let step = changes.div_ceil(most).max(1);
        self.ranges
            .iter()
            .skip(1)
            .step_by(step)
            .flat_map(|&(first, _, _)| [first - 1, first])
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
        let last = match self.family {
            Family::V4 => u128::from(u32::MAX),
            Family::V6 => u128::MAX,
        };
        (address < last).then(|| address + 1)
    }
}

/// Ranges side by side that are told apart only by what nobody asks about.
fn merged(ranges: Vec<(u128, u128, Reason)>) -> Vec<(u128, u128, Reason)> {
    let mut merged: Vec<(u128, u128, Reason)> = Vec::with_capacity(ranges.len());
    for (first, last, reason) in ranges {
        match merged.last_mut() {
            Some((_, end, same)) if *same == reason => *end = last,
            _ => merged.push((first, last, reason)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use ollama_guard_common::{Mode, Scope, abi::THE_SERVICE};

    use super::*;
    use crate::policy::{Effect, Layout, Policy, Port, Service, Statement, compile};

    fn standings(allow: &[&str], deny: &[&str]) -> [Standings; 2] {
        let rule = |effect| {
            move |text: &&str| Statement {
                prefix: text.parse().unwrap(),
                effect,
                pairs: THE_SERVICE,
            }
        };
        let rules =
            allow.iter().map(rule(Effect::Allow)).chain(deny.iter().map(rule(Effect::Deny)));
        let service = Service::ollama(Mode::Enforce, [Port::OLLAMA]);
        let policy = Policy {
            scope: Scope::All,
            layout: Layout::of(vec![service]).unwrap(),
            rules: rules.collect(),
            capacity: 1000,
        };
        Standings::of(&compile(&policy).unwrap(), THE_SERVICE).unwrap()
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
        assert_eq!(v4.edges(1).len(), 1, "at one place only, and 127.255.255.255 is no source");
    }
}
