//! Reading back plain frames that a capture has heard.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Between whom a packet of TCP, UDP or the like goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// The protocol's number.
    pub protocol: u8,
}

/// The ends of an untagged frame with IPv4, or with IPv6 without extension headers. `None` for
/// anything else: real stacks answer in no other form.
#[must_use]
pub fn ends(frame: &[u8]) -> Option<Ends> {
    let packet = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = packet.get(..20)?;
            let transport = packet.get(usize::from(header[0] & 0x0f) * 4..)?;
            let address = |at: usize| IpAddr::from([0, 1, 2, 3].map(|byte| header[at + byte]));
            between(address(12), address(16), header[9], transport)
        }
        [0x86, 0xdd] => {
            let header = packet.get(..40)?;
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(octets).into())
            };
            between(address(8)?, address(24)?, header[6], packet.get(40..)?)
        }
        _ => None,
    }
}

fn between(source: IpAddr, destination: IpAddr, protocol: u8, transport: &[u8]) -> Option<Ends> {
    if !matches!(protocol, 6 | 17) {
        return None;
    }
    let port = |at: usize| -> Option<u16> {
        Some(u16::from_be_bytes([*transport.get(at)?, *transport.get(at + 1)?]))
    };
    Some(Ends {
        source: (source, port(0)?).into(),
        destination: (destination, port(2)?).into(),
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{ethernet, ipv4, ipv6, tcp};

    #[test]
    fn what_was_written_is_read_back() {
        let from: SocketAddr = "192.0.2.10:40000".parse().expect("an address");
        let to: SocketAddr = "192.0.2.1:11434".parse().expect("an address");
        let (IpAddr::V4(a), IpAddr::V4(b)) = (from.ip(), to.ip()) else { unreachable!() };
        let frame =
            ethernet().carries_ip(&ipv4(a, b).no_operations(8).carries(&tcp(40_000, 11_434)));
        assert_eq!(ends(&frame), Some(Ends { source: from, destination: to, protocol: 6 }));
        let (a, b) = (a.to_ipv6_compatible(), b.to_ipv6_compatible());
        let frame = ethernet().carries_ip(&ipv6(a, b).carries(&tcp(40_000, 11_434)));
        assert_eq!(ends(&frame).map(|ends| ends.destination.port()), Some(11_434));
        assert_eq!(ends(&frame[..50]), None);
    }
}
