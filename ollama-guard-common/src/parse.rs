//! From a frame to the port it knocks on.
//!
//! [`locate`] walks link, network and extension headers, as the kernel's own receive path would,
//! and stops at the four bytes of the ports. Offsets are bytes from the start of the frame.

mod ethernet;
mod ipv4;
mod ipv6;
mod ports;

use crate::{
    flow::{Flow, Network, Protocol},
    frame::Frame,
    verdict::Reason,
};

pub use ethernet::MAX_VLAN_TAGS;
pub use ipv6::{MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS};

/// Where a frame starts. Chosen from the device's ARPHRD type, never guessed from the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At an Ethernet header.
    Link,
    /// At an IP header (tun, WireGuard, IPIP and other devices without a link-layer header).
    Network,
}

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// It cannot be for a guarded port: not IP, a protocol without ports, or a later fragment,
    /// which is useless without the first one.
    Elsewhere,
    /// The ports could be read.
    At(Flow),
    /// It could be for a guarded port, and its ports cannot be read.
    Undecidable(Undecidable),
}

/// A packet that could be for a guarded port and that cannot be read to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecidable {
    /// What stood in the way.
    pub reason: Reason,
    /// Where the IP header stands, if the whole fixed header could be read.
    pub network: Option<Network>,
    /// The transport protocol, if it is known.
    pub protocol: Option<Protocol>,
}

impl Undecidable {
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
    }
}

/// A frame without an Ethernet header. Some such devices take the packet's EtherType from the wire
/// (tun with packet information, GRE over IPv6), and the kernel strips a VLAN tag there as anywhere
/// else (`__netif_receive_skb_core`). Such a frame starts with the tag's control word.
#[inline(always)]
fn network<F: Frame + ?Sized>(frame: &F) -> Located {
    let Some(bytes) = frame.load::<4>(0) else {
        return unreadable(Reason::IpHeaderCut);
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
        [0x60, 0, ..] if ethernet::is_tag(bytes) => unreadable(Reason::TagOrIpv6),
        [0x60..=0x6f, ..] => ipv6::locate(frame, 0),
        _ if ethernet::is_tag(bytes) => ethernet::behind_tag(frame, 2),
        // The stack hands nothing else to a socket with a port.
        _ => Located::Elsewhere,
    }
}

/// A packet of which not even the source is known.
#[inline(always)]
const fn unreadable(reason: Reason) -> Located {
    Located::Undecidable(Undecidable { reason, network: None, protocol: None })
}

/// A packet whose source is known and whose ports are not.
#[inline(always)]
const fn undecidable(reason: Reason, network: Network) -> Located {
    Located::Undecidable(Undecidable { reason, network: Some(network), protocol: None })
}
