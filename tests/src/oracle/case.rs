//! Cases: one or more frames that a sender sends, and what is to become of each.

use std::net::IpAddr;

use ollama_guard_common::{Reason, Start};

use super::cast::POLICIES;

/// Where a frame arrives at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    /// The first cable.
    First,
    /// The second cable.
    Second,
    /// A device without Ethernet header, which takes the packet's EtherType from its other end.
    Tun {
        /// That EtherType.
        ethertype: u16,
    },
    /// A VXLAN device; the tunnel's packets come in over the first cable.
    Vxlan,
}

impl Door {
    /// Where frames start here.
    #[must_use]
    pub const fn start(self) -> Start {
        match self {
            Self::Tun { .. } => Start::Network,
            Self::First | Self::Second | Self::Vxlan => Start::Link,
        }
    }

    /// Whether it is a cable.
    #[must_use]
    pub const fn is_cable(self) -> bool {
        matches!(self, Self::First | Self::Second)
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it arrives.
    pub door: Door,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The reason that the guard is to have under each policy; `None` where a mutation has made
    /// something that nobody planned.
    pub expect: Option<[Reason; POLICIES]>,
}

impl Frame {
    /// What a packet socket behind the guard shows of it: the kernel takes the outermost tag off
    /// before.
    #[must_use]
    pub fn shown(&self) -> Vec<u8> {
        let bytes = &self.bytes;
        match (self.door, bytes.get(12..14)) {
            (Door::Tun { ethertype: 0x8100 | 0x88a8 }, _) => bytes.get(4..).unwrap_or(&[]).to_vec(),
            (Door::Tun { .. }, _) => bytes.clone(),
            (_, Some([0x81, 0x00] | [0x88, 0xa8])) => {
                [&bytes[..12], bytes.get(16..).unwrap_or(&[])].concat()
            }
            _ => bytes.clone(),
        }
    }
}

/// Frames that belong together, in the order in which they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its place in the sequence of its seed.
    pub number: u32,
    /// Who sends what, and which tricks are in it.
    pub notes: Vec<&'static str>,
    /// The addresses that answers may go to; no other case has them.
    pub sources: Vec<IpAddr>,
    /// The frames.
    pub frames: Vec<Frame>,
}

impl Case {
    /// The case as a sentence.
    #[must_use]
    pub fn name(&self) -> String {
        format!("case {}: {}", self.number, self.notes.join(", "))
    }

    /// Whether every frame was planned.
    #[must_use]
    pub fn is_planned(&self) -> bool {
        self.frames.iter().all(|frame| frame.expect.is_some())
    }
}
