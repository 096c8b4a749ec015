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

/// Finds the port that a frame is for.
#[inline(always)]
pub fn locate<F: Frame + ?Sized>(frame: &F, start: Start) -> Located {
    match start {
        Start::Link => ethernet::locate(frame),
        Start::Network => match frame.load(0) {
            Some([0x40..=0x4f, _, _, _]) => ipv4::locate(frame, 0),
            Some([0x60..=0x6f, _, _, _]) => ipv6::locate(frame, 0),
            // The stack hands nothing but IPv4 and IPv6 to a socket with a port.
            Some(_) => Located::Elsewhere,
            None => unreadable(Reason::IpHeaderCut),
        },
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
