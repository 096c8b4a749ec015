//! Who knocks on which port.

use crate::{frame::Frame, verdict::Reason};

/// An address, nearly always a source. The two families are never mixed: an IPv4 rule cannot admit an
/// IPv6 source.
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
            // The first byte settles nearly all: 224/4 is multicast, and of what is above it only
            // the limited broadcast is meant.
            Self::V4(bytes) => match u32::from_be_bytes(bytes) {
                number if number.wrapping_sub(1 << 24) < 126 << 24 => None,
                0x8000_0000..=0xdfff_ffff | 0xf000_0000..=0xffff_fffe => None,
                0..=0x00ff_ffff => Some(Reason::SourceUnspecified),
                0x7f00_0000..=0x7fff_ffff => Some(Reason::SourceLoopback),
                _ => Some(Reason::SourceMulticast),
            },
            Self::V6(bytes) => match halves(bytes) {
                (0xff00_0000_0000_0000.., _) => Some(Reason::SourceMulticast),
                (1.., _) => None,
                (0, 0) => Some(Reason::SourceUnspecified),
                (0, 1) => Some(Reason::SourceLoopback),
                (0, low) if low >> 32 == 0xffff => Some(Reason::SourceMapped),
                (0, _) => None,
            },
        }
    }

    /// The address as one that another host could have: IPv4 as an IPv4-mapped IPv6 address, in
    /// network byte order. `None` for broadcast, multicast, loopback and what is no host's: as a
    /// destination all of these count as this host's.
    #[inline(always)]
    #[must_use]
    pub const fn host(&self) -> Option<[u8; 16]> {
        match *self {
            Self::V4([0 | 127 | 224..=255, ..]) => None,
            Self::V4([a, b, c, d]) => Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]),
            Self::V6(bytes) => match halves(bytes) {
                // Unspecified, loopback; IPv4-mapped, which on a wire is nobody's.
                (0, 0 | 1) | (0xff00_0000_0000_0000.., _) => None,
                (0, low) if low >> 32 == 0xffff => None,
                _ => Some(bytes),
            },
        }
    }

    /// Whether it is a loopback address: 127.0.0.0/8 or ::1.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        match *self {
            Self::V4([first, ..]) => first == 127,
            Self::V6(bytes) => matches!(halves(bytes), (0, 1)),
        }
    }
}

/// An IPv6 address as two numbers.
#[inline(always)]
#[must_use]
pub const fn halves(address: [u8; 16]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p]))
}

/// The reverse of [`halves`].
#[inline(always)]
#[must_use]
pub const fn whole(high: u64, low: u64) -> [u8; 16] {
    ((high as u128) << 64 | low as u128).to_be_bytes()
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
    /// The addresses of both ends.
    #[inline(always)]
    pub fn ends<F: Frame + ?Sized>(self, frame: &F) -> Option<Ends> {
        match self {
            Self::V4(header) => {
                let [ends] = frame.load_words(header + 12)?;
                let address = |number: u64| Source::V4((number as u32).to_be_bytes());
                Some(Ends { source: address(ends >> 32), destination: address(ends) })
            }
            Self::V6(header) => {
                let [a, b, c, d] = frame.load_words(header + 8)?;
                let address = |high, low| Source::V6(whole(high, low));
                Some(Ends { source: address(a, b), destination: address(c, d) })
            }
        }
    }
}

/// Who sends a packet, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The source address.
    pub source: Source,
    /// The destination address.
    pub destination: Source,
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
        // Every first byte, at both its ends.
        for first in 0..=255 {
            let expected = match first {
                0 => Some(Reason::SourceUnspecified),
                127 => Some(Reason::SourceLoopback),
                224..=239 => Some(Reason::SourceMulticast),
                _ => None,
            };
            assert_eq!(Source::V4([first, 0, 0, 0]).forbidden(), expected, "{first}");
            assert_eq!(Source::V4([first, 255, 255, 254]).forbidden(), expected, "{first}");
        }
        let ipv6 = |number: u128| Source::V6(number.to_be_bytes()).forbidden();
        assert_eq!(ipv6(2), None);
        assert_eq!(ipv6(0xfffe_ffff_ffff), None, "beside the mapped ones");
        assert_eq!(ipv6(0x1_0000_0000_0000), None, "behind the mapped ones");
        assert_eq!(ipv6(1 << 64 | 1), None);
        assert_eq!(ipv6(0xff << 120), Some(Reason::SourceMulticast));
        assert_eq!(ipv6((0xff << 120) - 1), None);
        assert_eq!(Source::V6([0; 16]).forbidden(), Some(Reason::SourceUnspecified));
        let loopback = 1_u128.to_be_bytes();
        assert_eq!(Source::V6(loopback).forbidden(), Some(Reason::SourceLoopback));
        let mapped = 0xffff_c000_0201_u128.to_be_bytes();
        assert_eq!(Source::V6(mapped).forbidden(), Some(Reason::SourceMapped));
        let link_local = (0xfe80_u128 << 112 | 1).to_be_bytes();
        assert_eq!(Source::V6(link_local).forbidden(), None);
    }
}
