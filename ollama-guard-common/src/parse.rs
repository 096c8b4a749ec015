//! From a frame to the port it knocks on.
//!
//! [`locate`] walks link, network and extension headers, as the kernel's own receive path would,
//! and stops at the four bytes of the ports. Offsets are bytes from the start of the frame.

mod ethernet;
mod ipv4;
mod ipv6;
mod packed;
mod plain;
mod ports;

use crate::{
    flow::{Flow, Network, Protocol},
    frame::Frame,
    judge::Target,
    verdict::Reason,
};

pub use ethernet::MAX_VLAN_TAGS;
pub use ipv6::{MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS};
pub use packed::Packed;
pub use plain::locate_plainly;

/// Where a frame starts. Chosen from the device's ARPHRD type, never guessed from the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At an Ethernet header.
    Link,
    /// At an IP header (tun, WireGuard, IPIP and other devices without a link-layer header), before
    /// which there may still be a VLAN tag.
    Network,
    /// At the IP header that the kernel's own IP layer has found: on the way to a socket. Nothing can
    /// stand before it any more.
    Packet,
}

/// What a frame turned out to be.
///
/// Not an enum with what belongs to each variant: of a variant that is not there the compiler leaves
/// the contents undefined, may put them aside all the same, and the verifier refuses to read what
/// was never written. Here everything has a value always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// How far it could be read.
    pub outcome: Outcome,
    /// What stood in the way of the ports; of no meaning but with [`Outcome::Undecidable`].
    pub reason: Reason,
    /// Whether the whole fixed IP header could be read.
    pub has_network: bool,
    /// Where the IP header stands, if it could be read.
    pub network: Network,
    /// The transport protocol, if it is known. It is with [`Outcome::At`].
    pub protocol: Option<Protocol>,
    /// With [`Outcome::At`], where the transport header stands, in bytes from the start of the
    /// frame.
    pub transport: usize,
    /// With [`Outcome::At`], the destination port, in host byte order.
    pub port: u16,
}

/// How far a frame could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// It cannot be for a guarded port: not IP, a protocol without ports, or a later fragment,
    /// which is useless without the first one.
    Elsewhere,
    /// The ports could be read.
    At,
    /// It could be for a guarded port, and its ports cannot be read.
    Undecidable,
}

impl Located {
    /// It cannot be for a guarded port.
    pub const ELSEWHERE: Self = Self {
        outcome: Outcome::Elsewhere,
        reason: Reason::NotGuarded,
        has_network: false,
        network: Network::V4(0),
        protocol: None,
        transport: 0,
        port: 0,
    };

    /// The ports could be read.
    #[inline(always)]
    #[must_use]
    pub const fn at(flow: Flow) -> Self {
        let Flow { network, protocol, transport, port } = flow;
        let protocol = Some(protocol);
        let (outcome, has_network) = (Outcome::At, true);
        Self { outcome, has_network, network, protocol, transport, port, ..Self::ELSEWHERE }
    }

    /// The port that it is for, if that is certain.
    #[inline(always)]
    #[must_use]
    pub const fn target(&self) -> Target {
        match (self.outcome, self.protocol) {
            (Outcome::At, Some(protocol)) => Some((protocol, self.port)),
            _ => None,
        }
    }

    /// A packet of which not even the source is known.
    #[inline(always)]
    #[must_use]
    pub const fn unreadable(reason: Reason) -> Self {
        Self { outcome: Outcome::Undecidable, reason, ..Self::ELSEWHERE }
    }

    /// A packet whose source is known and whose ports are not.
    #[inline(always)]
    #[must_use]
    pub const fn undecidable(reason: Reason, network: Network) -> Self {
        Self { has_network: true, network, ..Self::unreadable(reason) }
    }

    /// The port that was found.
    #[must_use]
    pub const fn flow(&self) -> Option<Flow> {
        match (self.outcome, self.protocol) {
            (Outcome::At, Some(protocol)) => {
                let Self { network, transport, port, .. } = *self;
                Some(Flow { network, protocol, transport, port })
            }
            _ => None,
        }
    }

    /// Whether there may be another packet inside, with a source of its own, that the kernel would
    /// unpack and deliver: one behind a segment routing header (`ipv6_srh_rcv`), which may stand
    /// where a chain of IPv6 headers is not followed. The outer source, which anybody on the way
    /// may make up, then says nothing.
    ///
    /// Other doubts about the chain are ones that the kernel does not have: it delivers no second
    /// fragment header and no misplaced hop-by-hop header, and nothing that the frame's end cuts.
    #[inline(always)]
    #[must_use]
    pub const fn may_hide_a_source(&self) -> bool {
        self.protocol.is_none()
            && matches!(
                self.reason,
                Reason::EncapsulatedBehindRouting
                    | Reason::TooManyExtensionHeaders
                    | Reason::ExtensionHeadersTooLong
                    | Reason::FragmentWithoutPorts
            )
    }
}

/// Finds the port that a frame is for.
#[inline(always)]
pub fn locate<F: Frame + ?Sized>(frame: &F, start: Start) -> Located {
    match start {
        Start::Link => ethernet::locate(frame),
        Start::Network => network(frame),
        Start::Packet => packet(frame),
    }
}

/// What is on its way to a socket: what looks like a tag is the length of an IPv4 packet, or the flow label of
/// an IPv6 one.
#[inline(always)]
fn packet<F: Frame + ?Sized>(frame: &F) -> Located {
    match frame.load::<4>(0) {
        None => Located::unreadable(Reason::IpHeaderCut),
        Some([0x40..=0x4f, ..]) => ipv4::locate(frame, 0),
        Some([0x60..=0x6f, ..]) => ipv6::locate(frame, 0),
        Some(_) => Located::ELSEWHERE,
    }
}

/// A frame without an Ethernet header. Some such devices take the packet's EtherType from the wire
/// (tun with packet information, GRE over IPv6), and the kernel strips a VLAN tag there as anywhere
/// else (`__netif_receive_skb_core`). Such a frame starts with the tag's control word.
#[inline(always)]
fn network<F: Frame + ?Sized>(frame: &F) -> Located {
    let Some(bytes) = frame.load::<4>(0) else {
        return Located::unreadable(Reason::IpHeaderCut);
    };
    match bytes {
        // A control word without a VLAN number looks like IPv4 with a header of no words, which
        // IPv4 refuses: it is the tag that leads somewhere. Taken for IPv4, its source address
        // would be whatever stands behind the tag.
        [0x40..=0x44, ..] if ethernet::is_tag(bytes) => ethernet::behind_tag(frame, 2),
        // One that looks like more has a VLAN number.
        [0x40..=0x4f, ..] => ipv4::locate(frame, 0),
        // A control word of zeros but for the priority looks like IPv6 with one of four flow
        // labels.
        [0x60, 0, ..] if ethernet::is_tag(bytes) => Located::unreadable(Reason::TagOrIpv6),
        [0x60..=0x6f, ..] => ipv6::locate(frame, 0),
        _ if ethernet::is_tag(bytes) => ethernet::behind_tag(frame, 2),
        // The stack hands nothing else to a socket with a port.
        _ => Located::ELSEWHERE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP segment in an IPv6 packet with this flow label.
    fn labelled(label: u16) -> [u8; 44] {
        let mut packet = [0; 44];
        packet[0] = 0x60;
        packet[2..4].copy_from_slice(&label.to_be_bytes());
        packet[6] = 6;
        packet[42..44].copy_from_slice(&11_434_u16.to_be_bytes());
        packet
    }

    #[test]
    fn before_a_socket_no_flow_label_is_taken_for_a_tag() {
        for label in [0x0800, 0x86dd, 0x8100, 0x88a8] {
            let packet = labelled(label);
            let before_a_socket = locate(&packet[..], Start::Packet);
            assert_eq!(before_a_socket.flow().map(|flow| flow.port), Some(11_434), "{label:#x}");
            assert_eq!(before_a_socket.flow(), locate_plainly(&packet[..], Start::Packet));
            assert_eq!(locate(&packet[..], Start::Network).reason, Reason::TagOrIpv6);
        }
    }

    #[test]
    fn before_a_socket_what_is_no_ip_is_elsewhere_and_what_is_cut_in_doubt() {
        assert_eq!(locate(&[0x10; 40][..], Start::Packet), Located::ELSEWHERE);
        for cut in [&[][..], &[0x45; 3], &[0x45; 19], &[0x66; 39]] {
            assert_eq!(locate(cut, Start::Packet), Located::unreadable(Reason::IpHeaderCut));
        }
    }
}
