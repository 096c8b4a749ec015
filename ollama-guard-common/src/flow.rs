//! Who knocks on which port.

use crate::{frame::Frame, verdict::Reason};

/// A source address. The two families are never mixed: an IPv4 rule cannot admit an IPv6 source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An IPv4 address in network byte order.
    V4([u8; 4]),
    /// An IPv6 address in network byte order.
    V6([u8; 16]),
}

impl Source {
    /// The reason to drop a packet with this source whatever the rules say, if there is one.
    ///
    /// None of these can be the address of a host that speaks over a wire (RFC 1122 section
    /// 3.2.1.3, RFC 4291 sections 2.5.2, 2.5.3, 2.5.5.2 and 2.7).
    #[inline(always)]
    #[must_use]
    pub const fn forbidden(&self) -> Option<Reason> {
        match *self {
            Self::V4([0, ..]) => Some(Reason::SourceUnspecified),
            Self::V4([127, ..]) => Some(Reason::SourceLoopback),
            // 224/4 is multicast; 255.255.255.255 is the limited broadcast.
            Self::V4([224..=239, ..] | [255, 255, 255, 255]) => Some(Reason::SourceMulticast),
            Self::V4(_) => None,
            Self::V6([0xff, ..]) => Some(Reason::SourceMulticast),
            Self::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..]) => Some(Reason::SourceMapped),
            Self::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => {
                Some(Reason::SourceUnspecified)
            }
            Self::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]) => {
                Some(Reason::SourceLoopback)
            }
            Self::V6(_) => None,
        }
    }
}

/// A transport protocol whose ports can be guarded. All of them carry the destination port in
/// bytes 2 and 3 of their header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp = 6,
    /// UDP (RFC 768).
    Udp = 17,
    /// DCCP (RFC 4340).
    Dccp = 33,
    /// SCTP (RFC 9260).
    Sctp = 132,
    /// UDP-Lite (RFC 3828).
    UdpLite = 136,
}

impl Protocol {
    /// Every protocol, in the order of [`Protocol::index`].
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Udp, Self::Dccp, Self::Sctp, Self::UdpLite];

    /// The protocol with this number in an IP header; `None` for one that has no ports to guard.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            33 => Some(Self::Dccp),
            132 => Some(Self::Sctp),
            136 => Some(Self::UdpLite),
            _ => None,
        }
    }

    /// The number in an IP header.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The position in tables with one entry for each protocol.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Tcp => 0,
            Self::Udp => 1,
            Self::Dccp => 2,
            Self::Sctp => 3,
            Self::UdpLite => 4,
        }
    }

    /// The name behind the slash in `11434/tcp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Dccp => "dccp",
            Self::Sctp => "sctp",
            Self::UdpLite => "udplite",
        }
    }
}

/// Where the IP header of a packet stands, in bytes from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// An IPv4 header.
    V4(usize),
    /// An IPv6 header.
    V6(usize),
}

impl Network {
    /// The source address.
    #[inline(always)]
    pub fn source<F: Frame + ?Sized>(self, frame: &F) -> Option<Source> {
        match self {
            Self::V4(header) => frame.load(header + 12).map(Source::V4),
            Self::V6(header) => frame.load(header + 8).map(Source::V6),
        }
    }

    /// The destination, if it is one that another host could have: IPv4 as an IPv4-mapped IPv6
    /// address, in network byte order. `None` for broadcast, multicast, loopback and what is no
    /// host's: all of these count as this host's.
    #[inline(always)]
    pub fn destination_host<F: Frame + ?Sized>(self, frame: &F) -> Option<[u8; 16]> {
        match self {
            Self::V4(header) => match frame.load::<4>(header + 16)? {
                [0 | 127 | 224..=255, ..] => None,
                [a, b, c, d] => Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]),
            },
            Self::V6(header) => {
                let destination: [u8; 16] = frame.load(header + 24)?;
                match u128::from_be_bytes(destination) {
                    // Unspecified, loopback; IPv4-mapped, which on a wire is nobody's.
                    0 | 1 => None,
                    address if address >> 32 == 0xffff || address >> 120 == 0xff => None,
                    _ => Some(destination),
                }
            }
        }
    }

    /// Whether the destination is a loopback address: 127.0.0.0/8 or ::1.
    #[inline(always)]
    pub fn is_to_loopback<F: Frame + ?Sized>(self, frame: &F) -> bool {
        match self {
            Self::V4(header) => matches!(frame.load(header + 16), Some([127, _, _, _])),
            Self::V6(header) => match frame.load::<16>(header + 24) {
                Some(destination) => u128::from_be_bytes(destination) == 1,
                None => false,
            },
        }
    }
}

/// A packet whose ports could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where the IP header stands.
    pub network: Network,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Where the transport header stands, in bytes from the start of the frame.
    pub transport: usize,
    /// The destination port, in host byte order.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_positions_lead_back_to_the_protocol() {
        for (position, protocol) in Protocol::ALL.iter().enumerate() {
            assert_eq!(protocol.index(), position);
            assert_eq!(Protocol::from_number(protocol.number()), Some(*protocol));
        }
        assert_eq!(Protocol::from_number(1), None, "ICMP has no ports");
    }

    #[test]
    fn sources_that_no_wire_can_carry_are_forbidden() {
        assert_eq!(Source::V4([127, 9, 9, 9]).forbidden(), Some(Reason::SourceLoopback));
        assert_eq!(Source::V4([239, 1, 2, 3]).forbidden(), Some(Reason::SourceMulticast));
        assert_eq!(Source::V4([255; 4]).forbidden(), Some(Reason::SourceMulticast));
        assert_eq!(Source::V4([0, 0, 0, 0]).forbidden(), Some(Reason::SourceUnspecified));
        assert_eq!(Source::V4([10, 0, 0, 1]).forbidden(), None);
        assert_eq!(Source::V6([0; 16]).forbidden(), Some(Reason::SourceUnspecified));
        let loopback = 1_u128.to_be_bytes();
        assert_eq!(Source::V6(loopback).forbidden(), Some(Reason::SourceLoopback));
        let mapped = 0xffff_c000_0201_u128.to_be_bytes();
        assert_eq!(Source::V6(mapped).forbidden(), Some(Reason::SourceMapped));
        let link_local = (0xfe80_u128 << 112 | 1).to_be_bytes();
        assert_eq!(Source::V6(link_local).forbidden(), None);
    }
}
