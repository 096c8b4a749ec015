//! The frames that the guard is tried with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ollama_guard_common::{Protocol, Start};

use crate::policy::{Family, Port};

/// An address that nobody has (RFC 5737, RFC 3849): with [`Scope::All`] the decision does not look
/// at it.
///
/// [`Scope::All`]: ollama_guard_common::Scope::All
const DESTINATION_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const DESTINATION_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Ephemeral, and no port that anything listens on.
const SOURCE_PORT: u16 = 50_000;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const ARP: u16 = 0x0806;
pub(super) const VLAN: u16 = 0x8100;

/// The first packet of a connection from `source` to `port`: a TCP SYN, or a transport header of
/// zeros but for the ports. It goes to `destination`, which is of the same family.
pub fn knock(source: IpAddr, destination: IpAddr, port: Port, start: Start) -> Vec<u8> {
    let header = Header::of(port.protocol.number(), source, destination);
    framed(start, &header.before(&transport(port)))
}

/// Where a packet from this source may go: to one of these addresses, or else somewhere.
pub fn destination<'a>(source: IpAddr, addresses: impl IntoIterator<Item = &'a IpAddr>) -> IpAddr {
    let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
    reachable(family, addresses).unwrap_or(match source {
        IpAddr::V4(_) => DESTINATION_V4.into(),
        IpAddr::V6(_) => DESTINATION_V6.into(),
    })
}

/// The first of these addresses, of this family, that a packet can be sent to from anywhere.
pub(super) fn reachable<'a>(
    family: Family,
    addresses: impl IntoIterator<Item = &'a IpAddr>,
) -> Option<IpAddr> {
    addresses.into_iter().copied().find(|address| {
        !address.is_loopback()
            && !address.is_multicast()
            && match address {
                IpAddr::V4(_) => family == Family::V4,
                IpAddr::V6(address) => family == Family::V6 && !address.is_unicast_link_local(),
            }
    })
}

/// A fixed IP header, to be written with what is wrong with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// The protocol, or the first next header.
    pub(super) next: u8,
    /// Of IPv4: the length of the header in words.
    pub(super) words: u8,
    /// Of IPv4: flags and fragment offset.
    pub(super) fragment: u16,
}

impl Header {
    pub(super) const fn of(next: u8, source: IpAddr, destination: IpAddr) -> Self {
        Self { source, destination, next, words: 5, fragment: 0x4000 }
    }

    /// The header and what follows it.
    pub(super) fn before(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet.extend([0x40 | self.words, 0]);
                packet.extend((20 + payload.len() as u16).to_be_bytes());
                packet.extend([0, 0]);
                packet.extend(self.fragment.to_be_bytes());
                packet.extend([64, self.next, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
            }
            (source, destination) => {
                packet.extend([0x60, 0, 0, 0]);
                packet.extend((payload.len() as u16).to_be_bytes());
                packet.extend([self.next, 64]);
                for address in [source, destination] {
                    packet.extend(match address {
                        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                        IpAddr::V6(address) => address.octets(),
                    });
                }
            }
        }
        packet.extend(payload);
        packet
    }
}

/// A packet as it comes on a device of this kind.
pub(super) fn framed(start: Start, packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet.first().is_some_and(|byte| byte >> 4 == 6) { IPV6 } else { IPV4 };
    match start {
        Start::Link => ethernet(ethertype, packet),
        Start::Network | Start::Packet => packet.to_vec(),
    }
}

/// An Ethernet frame between two locally administered addresses.
pub(super) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A number of VLAN tags and what follows them, as it stands behind the first tag's type. Where
/// there is no Ethernet header, that is the begin of the frame.
pub(super) fn tagged(start: Start, tags: usize, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut behind = Vec::new();
    for _ in 1..tags {
        behind.extend([0, 0]);
        behind.extend(VLAN.to_be_bytes());
    }
    behind.extend([0, 0]);
    behind.extend(ethertype.to_be_bytes());
    behind.extend(payload);
    match start {
        Start::Link => ethernet(VLAN, &behind),
        Start::Network | Start::Packet => behind,
    }
}

/// The header of a TCP segment that opens a connection, or zeros but for the ports.
pub(super) fn transport(port: Port) -> [u8; 20] {
    let mut header = [0; 20];
    header[..2].copy_from_slice(&SOURCE_PORT.to_be_bytes());
    header[2..4].copy_from_slice(&port.number.to_be_bytes());
    if port.protocol == Protocol::Tcp {
        // Five words of header, SYN.
        header[12] = 5 << 4;
        header[13] = 0x02;
    }
    header
}

#[cfg(test)]
mod tests {
    use ollama_guard_common::locate;

    use super::*;

    #[test]
    fn the_decision_finds_the_port() {
        for start in [Start::Link, Start::Network, Start::Packet] {
            for source in ["192.0.2.7", "2001:db8::7"] {
                let source = source.parse().unwrap();
                let frame = knock(source, destination(source, []), Port::OLLAMA, start);
                let Some(flow) = locate(frame.as_slice(), start).flow() else {
                    panic!("{source} {start:?}")
                };
                assert_eq!((flow.protocol, flow.port), (Protocol::Tcp, 11_434));
            }
        }
    }
}
