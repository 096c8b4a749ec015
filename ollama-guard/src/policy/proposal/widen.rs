//! From single sources to networks, where that is what is meant.
//!
//! * Hosts of an IPv6 network change their addresses (RFC 8981), and one whose address was let in is a
//!   stranger tomorrow: what is let in is the /64, once two of its addresses or one that looks made up
//!   were seen.
//! * Of a local IPv4 network, many hosts stand for all. An interface's own network is known; of others
//!   a /24 is taken.
//! * Of anybody else's IPv4 network one host says nothing about the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{Entry, Group, RuleIndex, Sighting};

/// From so many hosts on they stand for their network.
const MANY: usize = 4;
/// Networks of fewer bits are not proposed: whoever answers DHCP says how wide one is.
const WIDEST_V4: u8 = 16;
/// Of a network that no interface is in.
const USUAL_V4: u8 = 24;
const USUAL_V6: u8 = 64;

/// What there is to look at.
pub(super) struct Widening<'a> {
    pub(super) networks: &'a [IpNet],
    /// Who is not to get in with others.
    pub(super) avoided: BTreeSet<IpAddr>,
    pub(super) rules: RuleIndex<'a>,
}

/// The entries for those who talked.
pub(super) fn propose(talked: &[&Sighting], widening: &Widening<'_>) -> Vec<Entry> {
    let mut networks: BTreeMap<IpNet, Vec<&Sighting>> = BTreeMap::new();
    let mut entries = Vec::new();
    for &sighting in talked {
        match widening.network(sighting.source) {
            Some(net) => networks.entry(net).or_default().push(sighting),
            None => entries.push(widening.single(sighting, None)),
        }
    }
    for (net, members) in networks {
        if !stand_for(&net, &members) {
            entries.extend(members.into_iter().map(|one| widening.single(one, None)));
        } else if let Some(why_not) = widening.obstacle(&net) {
            entries.extend(members.into_iter().map(|one| widening.single(one, Some(&why_not))));
        } else {
            entries.push(whole(&net, &members));
        }
    }
    entries.sort_by_key(|(address, _)| *address);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

/// An entry and where it stands among the others.
type Placed = (IpAddr, Entry);

fn whole(net: &IpNet, members: &[&Sighting]) -> Placed {
    let mut entry = Entry::new(group(net.network()), net.to_string());
    for member in members {
        entry.add(member);
    }
    (net.network(), entry)
}

impl Widening<'_> {
    /// The network that a source may stand for.
    fn network(&self, source: IpAddr) -> Option<IpNet> {
        let own = self.networks.iter().filter(|net| net.contains(&source));
        let own = own.max_by_key(|net| net.prefix_len()).map(IpNet::trunc);
        let usual = |length| IpNet::new(source, length).ok().map(|net| net.trunc());
        match source {
            IpAddr::V4(_) if !is_local(source) => None,
            // These do not change, and everybody on the wire has one.
            IpAddr::V6(address) if address.is_unicast_link_local() => None,
            IpAddr::V4(_) => {
                let own = own.filter(|net| (WIDEST_V4..31).contains(&net.prefix_len()));
                own.or_else(|| usual(USUAL_V4))
            }
            IpAddr::V6(_) => {
                let own = own.filter(|net| (USUAL_V6..127).contains(&net.prefix_len()));
                own.or_else(|| usual(USUAL_V6))
            }
        }
    }

    /// What stands against a network, the second half of a sentence about it.
    fn obstacle(&self, net: &IpNet) -> Option<String> {
        let inside = self.avoided.range(net.network()..=net.broadcast());
        let inside: Vec<_> = inside.filter(|one| net.contains(*one)).collect();
        match inside[..] {
            [] if self.rules.denies_within(net) => {
                Some("in which a deny rule is about some".into())
            }
            [] => None,
            [one] => Some(format!("in which {one} did not talk")),
            [one, ..] => Some(format!("in which {one} and {} more did not talk", inside.len() - 1)),
        }
    }

    fn single(&self, sighting: &Sighting, why_no_network: Option<&str>) -> Placed {
        let source = sighting.source;
        let mut entry = Entry::of_source(group(source), sighting);
        entry.note = match (self.network(source), why_no_network) {
            (Some(net), Some(why)) => Some(format!("not {net}, {why}")),
            _ if entry.group == Group::Public => {
                let own = self.networks.iter().find(|net| net.contains(&source));
                own.map(|net| format!("in this host's own network {}", net.trunc()))
            }
            _ => None,
        };
        (source, entry)
    }
}

/// Whether those who were seen stand for all of their network.
fn stand_for(net: &IpNet, members: &[&Sighting]) -> bool {
    let changes = |member: &&Sighting| match member.source {
        IpAddr::V6(address) => is_made_up(address),
        IpAddr::V4(_) => false,
    };
    match net {
        IpNet::V6(net) if net.prefix_len() <= USUAL_V6 => {
            members.len() > 1 || members.iter().any(changes)
        }
        _ => members.len() >= MANY,
    }
}

/// Whether the last half of an address is a random number: not a small one, which somebody gave it, and
/// not one from the hardware's address (RFC 4291, appendix A).
fn is_made_up(address: Ipv6Addr) -> bool {
    let [.., a, b, c, _] = address.segments();
    let is_small = a == 0 && b == 0;
    let is_from_hardware = b & 0xff == 0xff && c >> 8 == 0xfe;
    !is_small && !is_from_hardware
}

fn group(source: IpAddr) -> Group {
    if is_local(source) { Group::Local } else { Group::Public }
}

/// Whether an address is one of a network that is nobody else's: RFC 1918, 3927, 6598, 4193, and
/// link-local.
fn is_local(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            let is_shared = a == 100 && b & 0xc0 == 64;
            address.is_private() || address.is_link_local() || is_shared
        }
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    }
}
