//! A second opinion on a frame, from a parser that somebody else wrote (etherparse), and what
//! must hold between it and `judge`.
//!
//! Long because it is a whole parser beside the one of the guard, and the comparison of the two.
//!
//! Twice, from two sides:
//!
//! * etherparse reads the whole packet by itself. Where it finds a TCP or UDP segment, `judge` must
//!   not let one to a guarded port pass from a source that is not allowed, and must not refuse one
//!   to another port for its source.
//! * etherparse reads header by header, and this file decides how far to follow. Then the answer
//!   is known exactly, for every frame, also for those that can't be read to the end.
//!
//! The two parsers legitimately differ, and these are all the differences:
//!
//! | where | etherparse | `judge`, and why |
//! | --- | --- | --- |
//! | tags of type 0x9100, MACsec, AH | reads on | passes: Linux delivers nothing behind them |
//! | tags | three, as a whole | follows eight, refuses more |
//! | extension headers | any number and size | eight, 2,048 bytes; refuses more |
//! | a second IPv6 fragment header, IP in IPv6 behind a routing header | reads on | refuses |
//! | EtherType and IP version | reads by the version | refuses if they differ |
//! | length fields | bound the packet | never looked at, but for an IPv6 first fragment |
//! | an option or extension header cut by the frame's end | error | its next header counts, then the ports are out of reach |
//! | a first fragment | no transport header | the ports decide |
//! | a TCP or UDP header cut behind the ports | error | the ports decide |
//! | VLAN tags without an Ethernet header | unknown | followed |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Slice, Ipv4HeaderSlice, Ipv6ExtensionSlice, Ipv6ExtensionsSlice,
    Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, LaxLinkExtSlice, LaxNetSlice,
    LaxSlicedPacket, LinkSlice, SingleVlanSlice, TcpHeaderSlice, TransportSlice, UdpHeaderSlice,
    ether_type, ip_number,
};
use ollama_guard_common::{
    Judgement, Policy, Protocol, Reason, Scope, Source, Standing, Start, Verdict, judge,
    parse::{Located, locate, locate_plainly},
};

/// The guarded port.
const GUARDED: u16 = 11_434;
/// How far `judge` follows.
const MOST_TAGS: usize = 8;
const MOST_EXTENSIONS: usize = 8;
const MOST_EXTENSION_BYTES: usize = 2048;

/// Judges a frame under several policies and compares with the second opinion.
///
/// # Errors
///
/// The disagreement, in words.
pub fn check(frame: &[u8], start: Start) -> Result<(), String> {
    if let Some(flow) = locate_plainly(frame, start)
        && locate(frame, start) != Located::at(flow)
    {
        return Err(format!("{flow:?} by the short way, and not by the long one"));
    }
    for lists in Lists::ALL {
        let judgement = judge(frame, start, &lists);
        agree(frame, start, lists, &judgement)?;
    }
    Ok(())
}

/// Compares a judgement with the second opinion.
///
/// # Errors
///
/// The disagreement, in words.
pub fn agree(
    frame: &[u8],
    start: Start,
    lists: Lists,
    judgement: &Judgement,
) -> Result<(), String> {
    let got = judgement.reason;
    if let Some(segment) = whole_packet(frame, start) {
        let wanted = lists.answer(&segment);
        if wanted.verdict() == Verdict::Drop && got.verdict() == Verdict::Pass {
            return Err(format!("{got:?} lets {segment:?} pass under {lists:?}"));
        }
        let for_its_source = matches!(got, Reason::NotListed | Reason::Denied);
        if wanted.verdict() == Verdict::Pass && for_its_source {
            return Err(format!("{got:?} hits {segment:?} under {lists:?}"));
        }
    }
    let opinion = header_by_header(frame, start);
    let holds = match &opinion {
        Opinion::Elsewhere => got == Reason::NotGuarded,
        Opinion::Segment(segment) => got == lists.answer(segment),
        Opinion::Unreadable { protocol: Some(protocol), .. } if !lists.guards_any(*protocol) => {
            got == Reason::NotGuarded
        }
        Opinion::Unreadable { ends: Some(ends), hides: false, .. }
            if lists.is_for_another_host(ends) =>
        {
            got == Reason::NotForThisHost
        }
        Opinion::Unreadable { ends: Some(ends), hides: false, .. }
            if lists.is_believed_and_allowed(ends) =>
        {
            got == Reason::Allowed
        }
        Opinion::Unreadable { .. } => got.verdict() == Verdict::Drop && is_about_the_frame(got),
    };
    if holds { Ok(()) } else { Err(format!("{got:?} against {opinion:?} under {lists:?}")) }
}

/// Whether a reason says that the frame can't be read, and nothing of its source.
const fn is_about_the_frame(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::NotGuarded
            | Reason::Allowed
            | Reason::NotListed
            | Reason::Denied
            | Reason::RulesAbsent
            | Reason::SourceLoopback
            | Reason::SourceMulticast
            | Reason::SourceUnspecified
            | Reason::SourceMapped
            | Reason::DestinationLoopback
            | Reason::NotForThisHost
    )
}

/// Between whom a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    source: IpAddr,
    destination: IpAddr,
}

/// The start of a conversation, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    ends: Ends,
    protocol: Protocol,
    port: u16,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opinion {
    /// No socket with a port is behind it.
    Elsewhere,
    /// A whole segment or its first fragment.
    Segment(Segment),
    /// It could be for a guarded port, and `judge` should not have read to the end. What hides is a
    /// part of the chain of headers, behind which there could be another packet: then the ends are
    /// not believed.
    Unreadable { ends: Option<Ends>, protocol: Option<Protocol>, hides: bool },
}

const UNREADABLE: Opinion = Opinion::Unreadable { ends: None, protocol: None, hides: false };

/// The policies that every frame is judged under: those of the packet table that matter here, so
/// that its frames are a good start for the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// Only TCP is guarded; some sources are allowed, some denied.
    Tcp,
    /// Every protocol with ports is guarded; everyone is allowed.
    AllForEveryone,
    /// As `Tcp`, for packets to this host's own addresses only.
    Local,
}

/// This host's addresses, with [`Lists::Local`].
const OWN: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)),
];

impl Lists {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::AllForEveryone, Self::Local];

    fn rules(self, source: IpAddr) -> Standing {
        if self == Self::AllForEveryone {
            return Standing::Allowed;
        }
        match source {
            IpAddr::V4(source) => match source.octets() {
                [192, 0, 2, 66] => Standing::Denied,
                [192, 0, 2, 0..=127] => Standing::Allowed,
                _ => Standing::NotListed,
            },
            IpAddr::V6(source) => match source.segments() {
                [0x2001, 0xdb8, 7, 0x66, ..] => Standing::Denied,
                [0x2001, 0xdb8, 7, ..] => Standing::Allowed,
                _ => Standing::NotListed,
            },
        }
    }

    /// The reason for a segment whose ports can be read.
    fn answer(self, segment: &Segment) -> Reason {
        if !self.is_guarded(segment.protocol, segment.port) {
            return Reason::NotGuarded;
        }
        if self.is_for_another_host(&segment.ends) {
            return Reason::NotForThisHost;
        }
        if let Some(reason) = never_believed(&segment.ends) {
            return reason;
        }
        match self.rules(segment.ends.source) {
            Standing::Allowed => Reason::Allowed,
            Standing::Denied => Reason::Denied,
            Standing::NotListed => Reason::NotListed,
            Standing::RulesAbsent => Reason::RulesAbsent,
        }
    }

    /// By the standard library's idea of an address that a single host has.
    fn is_for_another_host(self, ends: &Ends) -> bool {
        let is_a_hosts = match ends.destination {
            IpAddr::V4(address) => {
                let first = address.octets()[0];
                first != 0 && first < 240 && !address.is_loopback() && !address.is_multicast()
            }
            IpAddr::V6(address) => {
                let is_special = address.is_unspecified()
                    || address.is_loopback()
                    || address.is_multicast()
                    || address.to_ipv4_mapped().is_some();
                !is_special
            }
        };
        self == Self::Local && is_a_hosts && !OWN.contains(&ends.destination)
    }

    fn is_believed_and_allowed(self, ends: &Ends) -> bool {
        never_believed(ends).is_none() && self.rules(ends.source) == Standing::Allowed
    }
}

impl Policy for Lists {
    fn is_guarded(&self, protocol: Protocol, port: u16) -> bool {
        self.guards_any(protocol) && port == GUARDED
    }

    fn guards_any(&self, protocol: Protocol) -> bool {
        *self == Self::AllForEveryone || protocol == Protocol::Tcp
    }

    fn scope(&self) -> Scope {
        if *self == Self::Local { Scope::Local } else { Scope::All }
    }

    fn is_own_address(&self, destination: &[u8; 16]) -> bool {
        OWN.contains(&IpAddr::from(*destination).to_canonical())
    }

    fn standing(&self, source: &Source, _: u32) -> Standing {
        self.rules(match *source {
            Source::V4(octets) => octets.into(),
            Source::V6(octets) => octets.into(),
        })
    }
}

/// The reason to drop whatever the rules say, by the standard library's idea of an address.
fn never_believed(ends: &Ends) -> Option<Reason> {
    let mapped = |address: &Ipv6Addr| address.to_ipv4_mapped().is_some();
    match ends.source {
        IpAddr::V4(source) if source.octets()[0] == 0 => Some(Reason::SourceUnspecified),
        IpAddr::V6(source) if mapped(&source) => Some(Reason::SourceMapped),
        source if source.is_unspecified() => Some(Reason::SourceUnspecified),
        source if source.is_loopback() => Some(Reason::SourceLoopback),
        source if source.is_multicast() => Some(Reason::SourceMulticast),
        IpAddr::V4(source) if source.is_broadcast() => Some(Reason::SourceMulticast),
        _ if ends.destination.is_loopback() => Some(Reason::DestinationLoopback),
        _ => None,
    }
}

/// The segment that etherparse finds without any help, if it does and Linux would too.
fn whole_packet(frame: &[u8], start: Start) -> Option<Segment> {
    let packet = match start {
        Start::Link => LaxSlicedPacket::from_ethernet(frame).ok()?,
        Start::Network | Start::Packet => LaxSlicedPacket::from_ip(frame).ok()?,
    };
    if packet.stop_err.is_some() {
        return None;
    }
    let mut kind = match &packet.link {
        Some(LinkSlice::Ethernet2(ethernet)) => Some(ethernet.ether_type()),
        _ => None,
    };
    for extension in &packet.link_exts {
        match extension {
            LaxLinkExtSlice::Vlan(tag) if kind != Some(ether_type::VLAN_DOUBLE_TAGGED_FRAME) => {
                kind = Some(tag.ether_type());
            }
            _ => return None,
        }
    }
    let ends = match packet.net? {
        LaxNetSlice::Ipv4(ip) if ip.extensions().auth.is_none() => Ends {
            source: ip.header().source_addr().into(),
            destination: ip.header().destination_addr().into(),
        },
        LaxNetSlice::Ipv6(ip) if !has_authentication(ip.extensions()) => Ends {
            source: ip.header().source_addr().into(),
            destination: ip.header().destination_addr().into(),
        },
        _ => return None,
    };
    match packet.transport? {
        TransportSlice::Tcp(tcp) => {
            Some(Segment { ends, protocol: Protocol::Tcp, port: tcp.destination_port() })
        }
        TransportSlice::Udp(udp) => {
            Some(Segment { ends, protocol: Protocol::Udp, port: udp.destination_port() })
        }
        _ => None,
    }
}

fn has_authentication(extensions: &Ipv6ExtensionsSlice<'_>) -> bool {
    let is_it = |header| matches!(header, Ipv6ExtensionSlice::Authentication(_));
    extensions.clone().into_iter().any(is_it)
}

/// What a frame is, by etherparse's reading of each header.
fn header_by_header(frame: &[u8], start: Start) -> Opinion {
    match start {
        Start::Link => match Ethernet2Slice::from_slice_without_fcs(frame) {
            Ok(ethernet) => behind_link(ethernet.ether_type(), ethernet.payload_slice(), 0),
            Err(_) => UNREADABLE,
        },
        Start::Network => {
            let Ok(perhaps_tag) = SingleVlanSlice::from_slice(frame) else {
                return UNREADABLE;
            };
            let could_be_tag = matches!(
                perhaps_tag.ether_type(),
                ether_type::IPV4
                    | ether_type::IPV6
                    | ether_type::VLAN_TAGGED_FRAME
                    | ether_type::PROVIDER_BRIDGING
            );
            match frame[0] >> 4 {
                // A tag's control word that looks like IPv4 with a header of no words.
                4 if could_be_tag && frame[0] & 0x0f < 5 => {
                    behind_link(perhaps_tag.ether_type(), perhaps_tag.payload_slice(), 1)
                }
                4 => ipv4(frame),
                6 if could_be_tag && frame[..2] == [0x60, 0] => UNREADABLE,
                6 => ipv6(frame),
                _ if could_be_tag => {
                    behind_link(perhaps_tag.ether_type(), perhaps_tag.payload_slice(), 1)
                }
                _ => Opinion::Elsewhere,
            }
        }
        Start::Packet if frame.len() < 4 => UNREADABLE,
        Start::Packet => match frame[0] >> 4 {
            4 => ipv4(frame),
            6 => ipv6(frame),
            _ => Opinion::Elsewhere,
        },
    }
}

/// What follows an Ethernet header, or a tag.
fn behind_link(mut kind: EtherType, mut rest: &[u8], mut tags: usize) -> Opinion {
    while let ether_type::VLAN_TAGGED_FRAME | ether_type::PROVIDER_BRIDGING = kind {
        tags += 1;
        match SingleVlanSlice::from_slice(rest) {
            Ok(tag) if tags <= MOST_TAGS => (kind, rest) = (tag.ether_type(), tag.payload_slice()),
            _ => return UNREADABLE,
        }
    }
    match kind {
        ether_type::IPV4 => ipv4(rest),
        ether_type::IPV6 => ipv6(rest),
        _ => Opinion::Elsewhere,
    }
}

fn ipv4(packet: &[u8]) -> Opinion {
    const FIXED_HEADER: usize = 20;
    const LONGEST_HEADER: usize = 60;
    if packet.len() < FIXED_HEADER || packet[0] >> 4 != 4 {
        return UNREADABLE;
    }
    // Room for the options, so that one that is cut off does not hide the fixed header.
    let whole = followed_by_zeros(packet, LONGEST_HEADER);
    let Ok(header) = Ipv4HeaderSlice::from_slice(&whole) else {
        // Only a header length below the fixed header is left to be wrong.
        let address = |at: usize| IpAddr::from([0, 1, 2, 3].map(|byte| packet[at + byte]));
        let ends = Ends { source: address(12), destination: address(16) };
        return Opinion::Unreadable { ends: Some(ends), protocol: None, hides: false };
    };
    let Some(protocol) = Protocol::from_number(header.protocol().0) else {
        return Opinion::Elsewhere;
    };
    if header.fragments_offset().value() != 0 {
        return Opinion::Elsewhere;
    }
    let ends =
        Ends { source: header.source_addr().into(), destination: header.destination_addr().into() };
    transport(ends, protocol, packet.get(header.slice().len()..).unwrap_or_default())
}

fn ipv6(packet: &[u8]) -> Opinion {
    /// Room for the longest extension header, so that one that is cut off shows its beginning.
    const ROOM: usize = 2048;
    let Ok(header) = Ipv6HeaderSlice::from_slice(packet) else { return UNREADABLE };
    let ends =
        Ends { source: header.source_addr().into(), destination: header.destination_addr().into() };
    let unreadable = |hides| Opinion::Unreadable { ends: Some(ends), protocol: None, hides };
    let rest = &packet[header.slice().len()..];
    let whole = followed_by_zeros(rest, ROOM);
    let (mut next, mut walked) = (header.next_header(), 0);
    let (mut fragment_seen, mut routing_seen) = (false, false);
    let mut first_fragment_end = usize::MAX;
    // Not by etherparse's iterator over extension headers: up to 0.21 it reads out of bounds if
    // the headers end in an error.
    for position in 0.. {
        if walked + 4 > first_fragment_end {
            return unreadable(true);
        }
        let is_extension = matches!(
            next,
            ip_number::IPV6_HOP_BY_HOP
                | ip_number::IPV6_ROUTE
                | ip_number::IPV6_FRAG
                | ip_number::IPV6_DEST_OPTIONS
        );
        if !is_extension {
            break;
        }
        // What the kernel refuses without looking further hides nothing.
        if (next == ip_number::IPV6_HOP_BY_HOP && position > 0)
            || (next == ip_number::IPV6_FRAG && fragment_seen)
        {
            return unreadable(false);
        }
        if position == MOST_EXTENSIONS {
            return unreadable(true);
        }
        if walked + 4 > rest.len() {
            return unreadable(first_fragment_end != usize::MAX);
        }
        if next == ip_number::IPV6_FRAG {
            let Ok(fragment) = Ipv6FragmentHeaderSlice::from_slice(&whole[walked..]) else {
                return unreadable(false);
            };
            if fragment.fragment_offset().value() != 0 {
                return Opinion::Elsewhere;
            }
            fragment_seen = true;
            if fragment.more_fragments() {
                first_fragment_end = usize::from(header.payload_length());
            }
            (next, walked) = (fragment.next_header(), walked + fragment.slice().len());
        } else {
            routing_seen |= next == ip_number::IPV6_ROUTE;
            let Ok(header) = Ipv6RawExtHeaderSlice::from_slice(&whole[walked..]) else {
                return unreadable(false);
            };
            (next, walked) = (header.next_header(), walked + header.slice().len());
        }
        if walked > MOST_EXTENSION_BYTES {
            return unreadable(true);
        }
    }
    match Protocol::from_number(next.0) {
        Some(protocol) => transport(ends, protocol, rest.get(walked..).unwrap_or_default()),
        None if routing_seen && matches!(next, ip_number::IPV4 | ip_number::IPV6) => {
            unreadable(true)
        }
        None => Opinion::Elsewhere,
    }
}

fn transport(ends: Ends, protocol: Protocol, rest: &[u8]) -> Opinion {
    let by_etherparse = match protocol {
        Protocol::Tcp => TcpHeaderSlice::from_slice(rest).ok().map(|tcp| tcp.destination_port()),
        Protocol::Udp => UdpHeaderSlice::from_slice(rest).ok().map(|udp| udp.destination_port()),
        _ => None,
    };
    // A fragment of eight bytes, a header that etherparse does not know or finds wrong: the ports
    // stand in the same place.
    let by_place = rest.get(..4).map(|ports| u16::from_be_bytes([ports[2], ports[3]]));
    match by_etherparse.or(by_place) {
        Some(port) => Opinion::Segment(Segment { ends, protocol, port }),
        None => Opinion::Unreadable { ends: Some(ends), protocol: Some(protocol), hides: false },
    }
}

fn followed_by_zeros(bytes: &[u8], count: usize) -> Vec<u8> {
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len() + count, 0);
    whole
}
