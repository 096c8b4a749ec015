//! What the kernel says about one interface.

use ollama_guard_common::Start;
use serde::Serialize;

/// A network interface, as the kernel reported it at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The name, unique in its network namespace at this moment; bytes that are no UTF-8 are
    /// replaced, so what acts on an interface goes by the ifindex.
    pub name: String,
    /// The number, unique in its network namespace.
    pub ifindex: u32,
    /// The hardware type, an `ARPHRD_*` number: what a frame on this interface starts with.
    pub arphrd: u16,
    /// The kernel's own word for the kind of software device (`IFLA_INFO_KIND`), such as `veth`;
    /// `None` for real network cards and loopback.
    pub kind: Option<String>,
    /// The ifindex of the bond, team, bridge or VRF that this interface belongs to.
    pub master: Option<u32>,
    /// The ifindex of the interface that this one stands on (`IFLA_LINK`), or of a veth's peer.
    pub parent: Option<u32>,
    /// Whether [`Interface::parent`] is an ifindex of this namespace and not of another one.
    pub parent_is_here: bool,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// The largest packet, in bytes, without the link-layer header.
    pub mtu: u32,
    /// Where its frames start, if its kind says so: a tun or tap device knows, and anybody who owns
    /// one can give it any [`Interface::arphrd`] (`TUNSETLINK`).
    #[serde(skip)]
    pub frames: Option<Start>,
    /// The XDP programs that are attached to it, whoever attached them.
    pub xdp: XdpSlots,
}

/// The kernel ids of the XDP programs in an interface's three slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct XdpSlots {
    /// In the driver.
    pub native: Option<u32>,
    /// In the network stack, for any driver.
    pub generic: Option<u32>,
    /// In the network card.
    pub offload: Option<u32>,
}

/// `ARPHRD_LOOPBACK`.
const LOOPBACK: u16 = 772;

impl Interface {
    /// Whether this is the loopback interface.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        self.arphrd == LOOPBACK
    }

    /// Where a frame on this interface starts, from its kind or its ARPHRD type; `None` for a type
    /// whose frames the guard cannot read.
    #[must_use]
    pub const fn start(&self) -> Option<Start> {
        if self.frames.is_some() {
            return self.frames;
        }
        match self.arphrd {
            // Ethernet.
            1 => Some(Start::Link),
            // PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE: the IP header comes first.
            512 | 519 | 768 | 769 | 776 | 778 | 823 | 65534 => Some(Start::Network),
            _ => None,
        }
    }
}
