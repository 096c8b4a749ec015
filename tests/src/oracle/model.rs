//! What the guard is to say of a frame, told from how the frame was put together.
//!
//! The writer notes each header that it lays down ([`Layer`]) and where. The answers below are
//! those of `docs/packets.md`; nothing here reads a header back from bytes, except to check that
//! the notes are true ([`check`]), and to see which port number has come to stand where a lie
//! about a header's length leads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ollama_guard_common::{Policy as _, Protocol, Reason, Standing, Start};

use super::cast::standing;
use crate::policy::HostPolicy;

/// VLAN tags and extension headers that are followed (packets.md, sections 1 and 3).
const LIMIT: usize = 8;
/// Bytes of extension headers that are followed (packets.md, section 3).
const EXTENSION_BYTES: usize = 2048;

/// How much of a packet a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// Its beginning.
    First,
    /// Something further on.
    Later,
}

/// A header, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// A VLAN tag behind one.
    Tag,
    /// A VLAN tag at the start of a frame without Ethernet header: control word and EtherType.
    ControlWord,
    /// Behind an EtherType that leads to no IP.
    NotIp,
    /// An IPv4 header, or what an EtherType says is one.
    V4 {
        /// Its source.
        source: Ipv4Addr,
        /// Its destination.
        destination: Ipv4Addr,
        /// The version that stands in it.
        version: u8,
        /// The header length that stands in it, in words.
        words: u8,
        /// What the fragment field says.
        extent: Extent,
        /// The protocol.
        protocol: u8,
    },
    /// An IPv6 header, or what an EtherType says is one.
    V6 {
        /// Its source.
        source: Ipv6Addr,
        /// Its destination.
        destination: Ipv6Addr,
        /// The version that stands in it.
        version: u8,
        /// The payload length that stands in it.
        payload: u16,
    },
    /// Hop-by-hop options of this many bytes.
    HopByHop(usize),
    /// Destination options of this many bytes.
    Destination(usize),
    /// A routing header of this many bytes.
    Routing(usize),
    /// An IPv6 fragment header.
    Fragment(Extent),
    /// What the IPv6 headers lead to.
    Upper(u8),
}

/// A header and where it begins, in bytes from the start of the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where.
    pub at: usize,
    /// What.
    pub layer: Layer,
}

/// The ends of a packet.
#[derive(Clone, Copy)]
struct Ends {
    source: IpAddr,
    destination: IpAddr,
}

/// The reason that the guard is to have for a frame under a policy.
#[must_use]
pub fn expected(start: Start, layers: &[Placed], frame: &[u8], policy: &HostPolicy) -> Reason {
    if start == Start::Network {
        if frame.len() < 4 {
            return Reason::IpHeaderCut;
        }
        let leads_to_ip =
            matches!([frame[2], frame[3]], [8, 0] | [0x86, 0xdd] | [0x81, 0] | [0x88, 0xa8]);
        if frame[..2] == [0x60, 0] && leads_to_ip {
            return Reason::TagOrIpv6;
        }
    }
    let holds = |end: usize| end <= frame.len();
    let mut tags = 0;
    for (position, Placed { at, layer }) in layers.iter().enumerate() {
        match *layer {
            Layer::Ethernet if !holds(14) => return Reason::LinkHeaderCut,
            Layer::Ethernet => {}
            Layer::Tag | Layer::ControlWord => {
                tags += 1;
                if tags > LIMIT {
                    return Reason::TooManyVlanTags;
                }
                if !holds(at + 4) {
                    return Reason::LinkHeaderCut;
                }
            }
            Layer::NotIp => return Reason::NotGuarded,
            Layer::V4 { .. } if !holds(at + 20) => return Reason::IpHeaderCut,
            Layer::V6 { .. } if !holds(at + 40) => return Reason::IpHeaderCut,
            Layer::V4 { version, .. } if version != 4 => return Reason::VersionMismatch,
            Layer::V6 { version, .. } if version != 6 => return Reason::VersionMismatch,
            Layer::V4 { source, destination, words, extent, protocol, .. } => {
                let ends = Ends { source: source.into(), destination: destination.into() };
                if words < 5 {
                    return in_doubt(Reason::Ipv4HeaderLength, ends);
                }
                if extent == Extent::Later {
                    return Reason::NotGuarded;
                }
                let ports = at + usize::from(words) * 4;
                return behind(protocol, ports, frame, extent == Extent::First, ends, policy);
            }
            Layer::V6 { source, destination, payload, .. } => {
                let ends = Ends { source: source.into(), destination: destination.into() };
                let end = at + 40 + usize::from(payload);
                return chain(&layers[position + 1..], end, frame, ends, policy);
            }
            _ => unreachable!("an extension header without IPv6 before it: {layers:?}"),
        }
    }
    unreachable!("no layer ends the frame: {layers:?}")
}

/// Behind an IPv6 header whose payload ends at `end`, if that is to be believed. Where the chain is
/// not followed to its end, there may be a packet inside with a source of its own: that the outer
/// one is allowed does not help.
fn chain(layers: &[Placed], end: usize, frame: &[u8], ends: Ends, policy: &HostPolicy) -> Reason {
    let (mut walked, mut routing, mut fragment, mut first) = (0, false, false, false);
    for (position, Placed { at, layer }) in layers.iter().enumerate() {
        if first && at + 4 > end {
            return Reason::FragmentWithoutPorts;
        }
        let length = match *layer {
            Layer::Upper(4 | 41) if routing => {
                return Reason::EncapsulatedBehindRouting;
            }
            Layer::Upper(protocol) => return behind(protocol, *at, frame, first, ends, policy),
            Layer::HopByHop(_) if position > 0 => return in_doubt(Reason::HopByHopMisplaced, ends),
            Layer::Fragment(_) if fragment => return in_doubt(Reason::FragmentNested, ends),
            Layer::HopByHop(length) | Layer::Destination(length) | Layer::Routing(length) => length,
            Layer::Fragment(_) => 8,
            _ => unreachable!("behind an IPv6 header: {layer:?}"),
        };
        if position == LIMIT {
            return Reason::TooManyExtensionHeaders;
        }
        if at + 4 > frame.len() {
            if first {
                return Reason::FragmentWithoutPorts;
            }
            return in_doubt(Reason::ExtensionHeaderCut, ends);
        }
        match *layer {
            Layer::Fragment(Extent::Later) => return Reason::NotGuarded,
            Layer::Fragment(extent) => (fragment, first) = (true, extent == Extent::First),
            Layer::Routing(_) => routing = true,
            _ => {}
        }
        walked += length;
        if walked > EXTENSION_BYTES {
            return Reason::ExtensionHeadersTooLong;
        }
    }
    unreachable!("the chain leads nowhere: {layers:?}")
}

/// At the header of a transport protocol, or of none.
fn behind(
    protocol: u8,
    at: usize,
    frame: &[u8],
    first: bool,
    ends: Ends,
    policy: &HostPolicy,
) -> Reason {
    let Some(protocol) = Protocol::ALL.into_iter().find(|known| known.number() == protocol) else {
        return Reason::NotGuarded;
    };
    if !policy.guards_any(protocol) {
        return Reason::NotGuarded;
    }
    let Some(&[_, _, high, low]) = frame.get(at..at + 4) else {
        return in_doubt(if first { Reason::FragmentWithoutPorts } else { Reason::PortsCut }, ends);
    };
    if policy.is_guarded(protocol, u16::from_be_bytes([high, low])) {
        unbelievable(ends).unwrap_or_else(|| match standing(ends.source) {
            Standing::Allowed => Reason::Allowed,
            Standing::Denied => Reason::Denied,
            _ => Reason::NotListed,
        })
    } else {
        Reason::NotGuarded
    }
}

/// A packet that cannot be read to the end: an allowed source passes all the same.
fn in_doubt(reason: Reason, ends: Ends) -> Reason {
    let is_friend = unbelievable(ends).is_none() && standing(ends.source) == Standing::Allowed;
    if is_friend { Reason::Allowed } else { reason }
}

/// Addresses that no wire carries honestly (packets.md, sections 2 and 3).
fn unbelievable(ends: Ends) -> Option<Reason> {
    let source = match ends.source {
        IpAddr::V4(source) if source.octets()[0] == 0 => Some(Reason::SourceUnspecified),
        IpAddr::V6(source) if source.to_ipv4_mapped().is_some() => Some(Reason::SourceMapped),
        source if source.is_unspecified() => Some(Reason::SourceUnspecified),
        source if source.is_loopback() => Some(Reason::SourceLoopback),
        source if source.is_multicast() => Some(Reason::SourceMulticast),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(Reason::SourceMulticast),
        _ => None,
    };
    source.or_else(|| ends.destination.is_loopback().then_some(Reason::DestinationLoopback))
}

/// Whether the notes about an uncut frame are true: each header stands where it is said to.
///
/// # Errors
///
/// The first one that is not there.
pub fn check(layers: &[Placed], frame: &[u8]) -> Result<(), String> {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    // Of the headers of an IPv6 packet: the number that the one before gave, or its place.
    let mut next = 0;
    for Placed { at, layer } in layers {
        let at = *at;
        // What a first fragment leaves to the later ones.
        if at + 8 > frame.len() && !matches!(layer, Layer::NotIp) {
            return Ok(());
        }
        let is_there = match *layer {
            Layer::Ethernet => at == 0,
            Layer::Tag => matches!(word(at - 2), 0x8100 | 0x88a8),
            Layer::ControlWord => at.is_multiple_of(4),
            Layer::NotIp => !matches!(word(at - 2), 0x0800 | 0x86dd | 0x8100 | 0x88a8),
            Layer::V4 { source, destination, version, words, extent, protocol } => {
                let field = word(at + 6);
                let said = match (field & 0x1fff, field & 0x2000) {
                    (0, 0) => Extent::Whole,
                    (0, _) => Extent::First,
                    _ => Extent::Later,
                };
                frame[at] == version << 4 | words
                    && (version != 4
                        || frame[at + 12..at + 16] == source.octets()
                            && frame[at + 16..at + 20] == destination.octets()
                            && frame[at + 9] == protocol
                            && said == extent)
            }
            Layer::V6 { source, destination, version, payload } => {
                next = frame[at + 6];
                frame[at] >> 4 == version
                    && (version != 6
                        || frame[at + 8..at + 24] == source.octets()
                            && frame[at + 24..at + 40] == destination.octets()
                            && word(at + 4) == payload)
            }
            Layer::HopByHop(length) | Layer::Destination(length) | Layer::Routing(length) => {
                let number = match layer {
                    Layer::HopByHop(_) => 0,
                    Layer::Routing(_) => 43,
                    _ => 60,
                };
                let is_there = next == number && usize::from(frame[at + 1]) * 8 + 8 == length;
                next = frame[at];
                is_there
            }
            Layer::Fragment(extent) => {
                let field = word(at + 2);
                let said = match (field & 0xfff8, field & 1) {
                    (0, 0) => Extent::Whole,
                    (0, _) => Extent::First,
                    _ => Extent::Later,
                };
                let is_there = next == 44 && said == extent;
                next = frame[at];
                is_there
            }
            Layer::Upper(protocol) => next == protocol,
        };
        if !is_there {
            return Err(format!("no {layer:?} at {at}"));
        }
    }
    Ok(())
}
