//! This host's own addresses, over rtnetlink.
//!
//! As with interfaces, the list is complete or an error: an address that is silently missing from
//! it is an open port if only packets for this host are decided on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use rtnetlink::packet_core::NlasIterator;

use super::list::{DoorsError, dump};

/// The message type of a request for addresses.
const RTM_GETADDR: u16 = 22;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index (4 bytes).
const HEADER_BYTES: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;

/// An address of an interface of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    /// How many of its bits it shares with its network.
    pub length: u8,
    /// The broadcast address that is set beside it.
    pub broadcast: Option<Ipv4Addr>,
    /// The number of its interface.
    pub ifindex: u32,
}

impl HostAddress {
    /// The destinations for which packets are this host's because of it: the address, and those
    /// that everyone in its network answers to, or every router does (RFC 4291 section 2.6.1).
    pub fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        let shared: [Option<IpAddr>; 2] = match self.address {
            // Networks of two and single addresses have none of these (RFC 3021, RFC 6164).
            IpAddr::V4(address) if (1..31).contains(&self.length) => {
                let net = Ipv4Net::new(address, self.length).ok();
                [net.map(|net| net.network().into()), net.map(|net| net.broadcast().into())]
            }
            IpAddr::V6(address) if (1..127).contains(&self.length) => {
                let net = Ipv6Net::new(address, self.length).ok();
                [net.map(|net| net.network().into()), None]
            }
            _ => [None; 2],
        };
        let broadcast = self.broadcast.map(IpAddr::from);
        std::iter::once(self.address).chain(shared.into_iter().flatten()).chain(broadcast)
    }
}

/// Lists the addresses of the calling thread's network namespace, sorted, each once an interface.
///
/// The namespace is that of the thread on which the future is first polled. Needs no privilege, and
/// a tokio runtime with I/O.
///
/// # Errors
///
/// If netlink is not available or fails, and if the list would not be complete.
pub async fn list_addresses() -> Result<Vec<HostAddress>, DoorsError> {
    let mut addresses = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut request = vec![0; HEADER_BYTES];
        request[0] = family;
        for message in dump(RTM_GETADDR, request).await? {
            addresses.extend(read(&message)?);
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Reads the payload of an `RTM_NEWADDR` message. `None` for a family that has no such addresses.
fn read(bytes: &[u8]) -> Result<Option<HostAddress>, DoorsError> {
    let (header, attributes) =
        bytes.split_at_checked(HEADER_BYTES).ok_or(DoorsError::Malformed { ifindex: 0 })?;
    let ifindex = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    if ![AF_INET, AF_INET6].contains(&header[0]) {
        return Ok(None);
    }
    let malformed = DoorsError::Malformed { ifindex };
    let (mut address, mut local, mut broadcast) = (None, None, None);
    for attribute in NlasIterator::new(attributes) {
        let Ok(attribute) = attribute else { return Err(malformed) };
        let value = attribute.value();
        match attribute.kind() {
            IFA_ADDRESS => address = ip(value),
            IFA_LOCAL => local = ip(value),
            IFA_BROADCAST => broadcast = ip(value),
            _ => {}
        }
    }
    // On a point-to-point link the first is the other end's.
    let Some(address) = local.or(address) else { return Err(malformed) };
    let broadcast = match broadcast {
        Some(IpAddr::V4(broadcast)) => Some(broadcast),
        _ => None,
    };
    Ok(Some(HostAddress { address, length: header[1], broadcast, ifindex }))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match *bytes {
        [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).into()),
        _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: u8, length: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![family, length, 0, 0, 7, 0, 0, 0];
        for (kind, value) in attributes {
            bytes.extend((4 + value.len() as u16).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
        }
        bytes
    }

    fn destinations(message: &[u8]) -> Vec<String> {
        let address = read(message).unwrap().unwrap();
        address.destinations().map(|one| one.to_string()).collect()
    }

    #[test]
    fn an_address_brings_what_its_network_answers_to() {
        let lan = message(
            AF_INET,
            24,
            &[(1, &[192, 0, 2, 1]), (2, &[192, 0, 2, 1]), (4, &[192, 0, 2, 254])],
        );
        assert_eq!(destinations(&lan), ["192.0.2.1", "192.0.2.0", "192.0.2.255", "192.0.2.254"]);
        // The other end has 192.0.2.9.
        let tunnel = message(AF_INET, 32, &[(1, &[192, 0, 2, 9]), (2, &[192, 0, 2, 1])]);
        assert_eq!(destinations(&tunnel), ["192.0.2.1"]);
        let v6: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let v6 = message(AF_INET6, 64, &[(1, &v6.octets())]);
        assert_eq!(destinations(&v6), ["2001:db8::7", "2001:db8::"]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_no_gap() {
        let cut = &message(AF_INET, 24, &[(1, &[192, 0, 2, 1])])[..14];
        for bad in [
            &[][..],
            &[2, 24, 0],
            &message(AF_INET, 24, &[]),
            &message(AF_INET, 24, &[(1, &[1])]),
            cut,
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(read(&message(28, 24, &[])).unwrap().is_none(), "MPLS");
    }

    #[tokio::test]
    async fn the_loopback_of_this_machine_is_listed() {
        let addresses = list_addresses().await.expect("netlink answers everybody");
        assert!(addresses.is_sorted());
        // Also a namespace without a configured loopback can list: it has none.
        assert!(addresses.iter().all(|one| !one.address.is_unspecified()));
    }
}
