//! The packets of a test run: one at least for every reason that a packet can be given, with the
//! reason that it is to be given.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ollama_guard_common::{
    Mode, Reason, Scope, Start,
    parse::{MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS},
};

use super::{
    frames::{
        ARP, Header, IPV4, IPV6, VLAN, destination, ethernet, framed, knock, reachable, tagged,
        transport,
    },
    standing::Standings,
    wanted::{bits, ports, ports_of},
};
use crate::policy::{Family, MapImage, Port};

/// Places in each family where the answer changes, whose two sides are tried.
const EDGES: usize = 256;

const HOP_BY_HOP: u8 = 0;
const IPV4_INSIDE: u8 = 4;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// The flag of a fragment that others follow.
const MORE_FRAGMENTS: u16 = 0x2000;

/// One packet, and what is to become of it.
pub(super) struct Probe {
    pub(super) what: String,
    pub(super) frame: Vec<u8>,
    pub(super) expected: Reason,
    /// Whether that is carried out.
    pub(super) mode: Mode,
}

/// All packets for a policy, a kind of device and a class of doors, whose bits begin at `shift`. `own` are
/// this host's addresses, if only packets for these are decided on; a family without any is left out.
pub(super) fn probes(
    image: &MapImage,
    own: &BTreeSet<IpAddr>,
    start: Start,
    shift: u32,
) -> Vec<Probe> {
    let here_for = |family| here(family, image.scope, own);
    let (mode, here) = (image.mode, Ipv4Addr::UNSPECIFIED.into());
    let mut list = List { start, here, mode, probes: Vec::new() };
    for (&number, service) in &image.services {
        list.mode = service.mode;
        let ports = ports_of(image, number);
        for standings in Standings::of(image, bits(1 << number, shift)).iter().flatten() {
            let Some(here) = here_for(standings.family()) else { continue };
            list.here = here;
            let sources = Sources::of(standings);
            for &port in &ports {
                list.knocks(&sources, port, other_port(port, &self::ports(image)));
            }
            let Some(&port) = ports.first() else { continue };
            for (source, reason) in standings.edges(EDGES) {
                list.knock(source, port, reason);
            }
            list.impossible_addresses(&sources, port);
        }
    }
    list.mode = image.mode;
    for standings in Standings::of(image, bits(image.doubted, shift)).iter().flatten() {
        let Some(here) = here_for(standings.family()) else { continue };
        let Some(&port) = ports(image).first() else { continue };
        list.here = here;
        let sources = Sources::of(standings);
        if image.scope == Scope::Local {
            list.others(&sources, port, standings.family(), own);
        }
        match standings.family() {
            Family::V4 => list.doubtful_v4(&sources, port),
            Family::V6 => list.doubtful_v6(&sources, port),
        }
    }
    list.unreadable();
    list.probes
}

/// A destination that packets of a family are decided on for. `None` if this host has none.
pub(super) fn here(family: Family, scope: Scope, own: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let anywhere = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    match scope {
        Scope::All => Some(destination(anywhere, [])),
        Scope::Local => reachable(family, own),
    }
}

/// The next port that is not guarded, if there is one.
pub(super) fn other_port(port: Port, guarded: &[Port]) -> Option<Port> {
    (1..=u16::MAX)
        .map(|distance| Port { number: port.number.wrapping_add(distance), ..port })
        .find(|other| other.number != 0 && guarded.binary_search(other).is_err())
}

/// One source of each standing, where there is one.
struct Sources {
    family: Family,
    stranger: Option<IpAddr>,
    friend: Option<IpAddr>,
    denied: Option<IpAddr>,
}

impl Sources {
    fn of(standings: &Standings) -> Self {
        Self {
            family: standings.family(),
            stranger: standings.source(Reason::NotListed),
            friend: standings.source(Reason::Allowed),
            denied: standings.source(Reason::Denied),
        }
    }

    /// Each source, and the reason for it in a packet that is in doubt for this reason. An allowed
    /// one passes, unless there could be another packet inside.
    fn in_doubt(&self, reason: Reason, doubt: Doubt) -> impl Iterator<Item = (IpAddr, Reason)> {
        let friends = match doubt {
            Doubt::Ports => Reason::Allowed,
            Doubt::Inside => reason,
        };
        [(self.stranger, reason), (self.denied, reason), (self.friend, friends)]
            .into_iter()
            .filter_map(|(source, reason)| Some((source?, reason)))
    }
}

/// What is in doubt.
#[derive(Clone, Copy)]
enum Doubt {
    /// Which port it is for.
    Ports,
    /// Whether there is another packet inside, from another source.
    Inside,
}

struct List {
    start: Start,
    /// Where packets go.
    here: IpAddr,
    /// Whether what is expected is carried out.
    mode: Mode,
    probes: Vec<Probe>,
}

impl List {
    fn push(&mut self, what: impl Into<String>, frame: Vec<u8>, expected: Reason) {
        let mode = self.mode;
        self.probes.push(Probe { what: what.into(), frame, expected, mode });
    }

    fn knock(&mut self, source: IpAddr, port: Port, expected: Reason) {
        let frame = knock(source, self.here, port, self.start);
        self.push(format!("{source} to {port}"), frame, expected);
    }

    /// Who may, who may not, and that nobody is asked at another door.
    fn knocks(&mut self, sources: &Sources, port: Port, other: Option<Port>) {
        let Sources { stranger, friend, denied, .. } = *sources;
        for (source, reason) in
            [(stranger, Reason::NotListed), (friend, Reason::Allowed), (denied, Reason::Denied)]
        {
            let Some(source) = source else { continue };
            self.knock(source, port, reason);
            if let Some(other) = other {
                self.knock(source, other, Reason::NotGuarded);
            }
        }
    }

    /// Sources and destinations that no honest wire carries: not even for a friend.
    fn impossible_addresses(&mut self, sources: &Sources, port: Port) {
        let v4 = |octets: [u8; 4]| IpAddr::V4(Ipv4Addr::from(octets));
        let (from, loopback) = match sources.family {
            Family::V4 => (
                vec![
                    (v4([127, 0, 0, 1]), Reason::SourceLoopback),
                    (v4([224, 0, 0, 1]), Reason::SourceMulticast),
                    (v4([255; 4]), Reason::SourceMulticast),
                    (v4([0; 4]), Reason::SourceUnspecified),
                ],
                v4([127, 0, 0, 1]),
            ),
            Family::V6 => (
                vec![
                    (Ipv6Addr::LOCALHOST.into(), Reason::SourceLoopback),
                    (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(), Reason::SourceMulticast),
                    (Ipv6Addr::UNSPECIFIED.into(), Reason::SourceUnspecified),
                    (Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().into(), Reason::SourceMapped),
                ],
                Ipv6Addr::LOCALHOST.into(),
            ),
        };
        for (source, reason) in from {
            self.knock(source, port, reason);
        }
        for (source, standing) in
            [(sources.stranger, Reason::NotListed), (sources.friend, Reason::Allowed)]
        {
            let Some(source) = source else { continue };
            let frame = knock(source, loopback, port, self.start);
            let what = format!("{source} to {port} of {loopback}");
            // On the way to a socket it may be there by this host's own NAT.
            let expected =
                if self.start == Start::Packet { standing } else { Reason::DestinationLoopback };
            self.push(what, frame, expected);
        }
    }

    /// Packets for another host's address pass, whoever sends them and whatever is in doubt.
    fn others(&mut self, sources: &Sources, port: Port, family: Family, own: &BTreeSet<IpAddr>) {
        let candidates: [[IpAddr; 2]; 2] = [
            [Ipv4Addr::new(198, 18, 0, 99).into(), Ipv4Addr::new(198, 18, 0, 98).into()],
            [
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99).into(),
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x98).into(),
            ],
        ];
        let mut others = candidates[usize::from(family == Family::V6)].into_iter();
        let Some(other) = others.find(|address| !own.contains(address)) else { return };
        let Sources { stranger, friend, denied, .. } = *sources;
        for source in [stranger, friend, denied].into_iter().flatten() {
            let what = format!("{source} to {port} of another host, {other}");
            let frame = knock(source, other, port, self.start);
            self.push(what, frame, Reason::NotForThisHost);
            let cut = Header::of(port.protocol.number(), source, other).before(&[0, 0]);
            let what = format!("a packet without ports from {source} to another host, {other}");
            self.push(what, framed(self.start, &cut), Reason::NotForThisHost);
        }
    }

    fn doubtful(
        &mut self,
        sources: &Sources,
        (reason, doubt): (Reason, Doubt),
        packet: impl Fn(IpAddr) -> Vec<u8>,
    ) {
        for (source, expected) in sources.in_doubt(reason, doubt) {
            let frame = framed(self.start, &packet(source));
            self.push(format!("{} from {source}", reason.name()), frame, expected);
        }
    }

    fn doubtful_v4(&mut self, sources: &Sources, port: Port) {
        let (protocol, transport, here) = (port.protocol.number(), transport(port), self.here);
        self.doubtful(sources, (Reason::Ipv4HeaderLength, Doubt::Ports), |source| {
            Header { words: 4, ..Header::of(protocol, source, here) }.before(&transport)
        });
        self.doubtful(sources, (Reason::PortsCut, Doubt::Ports), |source| {
            Header::of(protocol, source, here).before(&transport[..2])
        });
        self.doubtful(sources, (Reason::FragmentWithoutPorts, Doubt::Ports), |source| {
            Header { fragment: MORE_FRAGMENTS, ..Header::of(protocol, source, here) }
                .before(&transport[..3])
        });
    }

    fn doubtful_v6(&mut self, sources: &Sources, port: Port) {
        let (protocol, transport, here) = (port.protocol.number(), transport(port), self.here);
        // Headers of eight bytes, each naming the next one, and the transport header.
        let chain = |source, kinds: &[u8], last: u8| {
            let followers = kinds.iter().skip(1).copied().chain([last]);
            let mut payload: Vec<u8> =
                followers.flat_map(|next| [next, 0, 0, 0, 0, 0, 0, 0]).collect();
            payload.extend(transport);
            Header::of(kinds[0], source, here).before(&payload)
        };
        for (reason, doubt, kinds, last) in [
            (
                Reason::TooManyExtensionHeaders,
                Doubt::Inside,
                &[DESTINATION_OPTIONS; MAX_EXTENSION_HEADERS + 1][..],
                protocol,
            ),
            (Reason::HopByHopMisplaced, Doubt::Ports, &[DESTINATION_OPTIONS, HOP_BY_HOP], protocol),
            (Reason::FragmentNested, Doubt::Ports, &[FRAGMENT, FRAGMENT], protocol),
            (Reason::EncapsulatedBehindRouting, Doubt::Inside, &[ROUTING], IPV4_INSIDE),
        ] {
            self.doubtful(sources, (reason, doubt), |source| chain(source, kinds, last));
        }
        self.doubtful(sources, (Reason::ExtensionHeadersTooLong, Doubt::Inside), |source| {
            // One of 2,048 bytes, which is the most there may be in all, and a short one.
            let mut payload = vec![0; 2048 + 8];
            (payload[0], payload[1], payload[2048]) = (DESTINATION_OPTIONS, 0xff, protocol);
            payload.extend(transport);
            Header::of(DESTINATION_OPTIONS, source, here).before(&payload)
        });
        self.doubtful(sources, (Reason::ExtensionHeaderCut, Doubt::Ports), |source| {
            Header::of(DESTINATION_OPTIONS, source, here).before(&[protocol, 0])
        });
        self.doubtful(sources, (Reason::PortsCut, Doubt::Ports), |source| {
            Header::of(protocol, source, here).before(&transport[..2])
        });
        self.doubtful(sources, (Reason::FragmentWithoutPorts, Doubt::Inside), |source| {
            // Offset 0, more to come, and its payload ends with two bytes of the ports.
            let mut payload = vec![protocol, 0, 0, 1, 0, 0, 0, 0];
            payload.extend(&transport[..2]);
            Header::of(FRAGMENT, source, here).before(&payload)
        });
    }

    /// What is not even read as far as the source, and what is no IP.
    fn unreadable(&mut self) {
        let start = self.start;
        let cut = |first: u8, bytes: usize| framed(start, &vec![first; bytes]);
        self.push("a cut IPv4 header", cut(0x45, 19), Reason::IpHeaderCut);
        self.push("a cut IPv6 header", cut(0x66, 39), Reason::IpHeaderCut);
        if start == Start::Packet {
            self.push("no IP", vec![0x10; 40], Reason::NotGuarded);
            return;
        }
        let tags = |tags, ethertype, payload: &[u8]| tagged(start, tags, ethertype, payload);
        self.push("a frame that ends in a VLAN tag", tags(4, VLAN, &[0]), Reason::LinkHeaderCut);
        let many = tags(MAX_VLAN_TAGS + 1, IPV4, &[0x45; 20]);
        self.push("nine VLAN tags", many, Reason::TooManyVlanTags);
        self.push("IPv6 announced as IPv4", tags(1, IPV4, &[0x60; 40]), Reason::VersionMismatch);
        self.push("IPv4 announced as IPv6", tags(1, IPV6, &[0x45; 40]), Reason::VersionMismatch);
        match start {
            Start::Link => {
                self.push("ARP", ethernet(ARP, &[0; 28]), Reason::NotGuarded);
                // The kernel takes neither for a test run.
                self.push("half an Ethernet header", vec![2; 7], Reason::LinkHeaderCut);
                self.push("half an EtherType", vec![2; 13], Reason::LinkHeaderCut);
            }
            Start::Network | Start::Packet => {
                let doubtful = [&[0x60, 0][..], &IPV4.to_be_bytes(), &[0; 40]].concat();
                self.push("a tag, or IPv6", doubtful, Reason::TagOrIpv6);
                self.push("no IP", vec![0x10; 40], Reason::NotGuarded);
                self.push("a very short IPv4 header", vec![0x45; 13], Reason::IpHeaderCut);
                self.push("half a tag", vec![0x45; 3], Reason::IpHeaderCut);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ollama_guard_common::{Policy as _, Protocol, Source, Standing, abi::THE_SERVICE, judge};

    use super::*;
    use crate::policy::{Effect, Layout, Policy, Prefix, Service, Statement, compile};

    /// The rules as they are written, answered as simply as can be.
    struct Plain {
        ports: BTreeSet<Port>,
        allow: Vec<Prefix>,
        deny: Vec<Prefix>,
        own: BTreeSet<IpAddr>,
        is_behind_nat: bool,
    }

    impl ollama_guard_common::Policy for Plain {
        fn is_guarded(&self, protocol: Protocol, number: u16) -> bool {
            self.ports.contains(&Port { protocol, number })
        }

        fn guards_any(&self, protocol: Protocol) -> bool {
            self.ports.iter().any(|port| port.protocol == protocol)
        }

        fn scope(&self) -> Scope {
            if self.own.is_empty() { Scope::All } else { Scope::Local }
        }

        fn is_behind_nat(&self) -> bool {
            self.is_behind_nat
        }

        fn is_own_address(&self, destination: &[u8; 16]) -> bool {
            self.own.contains(&IpAddr::from(*destination).to_canonical())
        }

        fn standing(&self, source: &Source, _: u32) -> Standing {
            let source: IpAddr = match *source {
                Source::V4(octets) => octets.into(),
                Source::V6(octets) => octets.into(),
            };
            let covers = |list: &[Prefix]| list.iter().any(|prefix| prefix.contains(source));
            if covers(&self.deny) {
                Standing::Denied
            } else if covers(&self.allow) {
                Standing::Allowed
            } else {
                Standing::NotListed
            }
        }
    }

    fn plain(ports: &[&str], allow: &[&str], deny: &[&str]) -> (Plain, MapImage) {
        let prefixes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let plain = Plain {
            ports: ports.iter().map(|text| text.parse().unwrap()).collect(),
            allow: prefixes(allow),
            deny: prefixes(deny),
            own: BTreeSet::new(),
            is_behind_nat: false,
        };
        let rule =
            |effect| move |&prefix: &Prefix| Statement { prefix, effect, pairs: THE_SERVICE };
        let service = Service::ollama(Mode::Enforce, plain.ports.clone());
        let policy = Policy {
            scope: Scope::All,
            layout: Layout::of(vec![service]).unwrap(),
            rules: plain
                .allow
                .iter()
                .map(rule(Effect::Allow))
                .chain(plain.deny.iter().map(rule(Effect::Deny)))
                .collect(),
            capacity: 100,
        };
        let image = compile(&policy).unwrap();
        (plain, image)
    }

    #[test]
    fn the_decision_gives_every_packet_the_reason_that_it_was_made_for() {
        let policies = [
            plain(
                &["11434", "1/udp", "65535/sctp"],
                &["192.0.2.0/24", "2001:db8:7::/48"],
                &["192.0.2.66", "2001:db8:7:66::/64"],
            ),
            plain(&["80/dccp"], &["0.0.0.0/0"], &[]),
            plain(&["63", "64"], &[], &["::/0"]),
        ];
        let mut local = plain(&["11434"], &["192.0.2.0/24"], &["192.0.2.66", "2001:db8::/32"]);
        local.0.own =
            ["192.0.2.1", "198.18.0.99", "2001:db8::7"].map(|a| a.parse().unwrap()).into();
        local.1.scope = Scope::Local;
        for (mut policy, image) in policies.into_iter().chain([local]) {
            assert_eq!(ports(&image), policy.ports.iter().copied().collect::<Vec<_>>());
            for start in [Start::Link, Start::Network, Start::Packet] {
                for probe in probes(&image, &policy.own, start, 0) {
                    policy.is_behind_nat = start == Start::Packet;
                    let reason = judge(probe.frame.as_slice(), start, &policy).reason;
                    assert_eq!(reason, probe.expected, "{start:?}: {}", probe.what);
                }
            }
        }
    }

    #[test]
    fn there_is_a_packet_for_every_reason_that_one_can_be_given() {
        let (policy, image) = plain(&["11434"], &["192.0.2.0/24"], &["192.0.2.66"]);
        assert!(policy.guards_any(Protocol::Tcp));
        for start in [Start::Link, Start::Network, Start::Packet] {
            let made: BTreeSet<Reason> = probes(&image, &policy.own, start, 0)
                .iter()
                .filter(|probe| probe.frame.len() >= 14)
                .map(|probe| probe.expected)
                .collect();
            let missing: Vec<&Reason> =
                Reason::ALL.iter().filter(|reason| !made.contains(reason)).collect();
            let expected: &[Reason] = match start {
                Start::Link => &[Reason::RulesAbsent, Reason::TagOrIpv6, Reason::NotForThisHost],
                Start::Network => &[Reason::RulesAbsent, Reason::NotForThisHost],
                Start::Packet => &[
                    Reason::RulesAbsent,
                    Reason::LinkHeaderCut,
                    Reason::TooManyVlanTags,
                    Reason::VersionMismatch,
                    Reason::DestinationLoopback,
                    Reason::TagOrIpv6,
                    Reason::NotForThisHost,
                ],
            };
            assert_eq!(missing, expected.iter().collect::<Vec<_>>(), "{start:?}");
        }
    }
}
