//! Which addresses an answer may have.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

/// The most addresses of one name. A name with more is a pool, and not somebody.
pub(super) const MOST: usize = 32;

/// An answer whose addresses may all be admitted, or why it is refused whole: whoever puts one bad address
/// into an answer is not to be believed about the others.
pub(super) fn screen(addresses: BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, String> {
    if addresses.len() > MOST {
        let count = addresses.len();
        return Err(format!("the answer has {count} addresses, and more than {MOST} are refused"));
    }
    match addresses.iter().find_map(|address| Some((address, never(*address)?))) {
        Some((address, why)) => Err(format!("the answer is refused, because {address} is {why}")),
        None => Ok(addresses),
    }
}

/// Why an address is nobody's who could knock from outside.
fn never(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => never4(address),
        IpAddr::V6(address) if address.is_loopback() => Some("loopback"),
        IpAddr::V6(address) if address.is_unspecified() => Some("no host's address"),
        IpAddr::V6(address) if address.is_multicast() => Some("multicast"),
        // Whoever is on the link has one of these, and it says nothing about who that is.
        IpAddr::V6(address) if address.is_unicast_link_local() => Some("link-local"),
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => {
            Some("an IPv4 address in IPv6")
        }
        IpAddr::V6(_) => None,
    }
}

fn never4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("no host's address"),
        [127, ..] => Some("loopback"),
        [169, 254, ..] => Some("link-local"),
        [224..=239, ..] => Some("multicast"),
        [240..=255, ..] => Some("reserved or broadcast"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screened(texts: &[&str]) -> Result<usize, String> {
        screen(texts.iter().map(|text| text.parse().unwrap()).collect()).map(|all| all.len())
    }

    #[test]
    fn one_bad_address_spoils_the_answer() {
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.1.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "fe80::1",
            "::ffff:192.0.2.1",
        ] {
            let message = screened(&["192.0.2.1", bad]).unwrap_err();
            assert!(message.contains("is refused, because "), "{bad}: {message}");
        }
        assert_eq!(screened(&["192.0.2.1", "10.0.0.1", "fd00::1", "2001:db8::1"]), Ok(4));
        assert_eq!(screened(&[]), Ok(0));
    }

    #[test]
    fn a_pool_is_refused() {
        let many = |count: u8| (1..=count).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        assert_eq!(screen(many(32)).map(|all| all.len()), Ok(32));
        let message = screen(many(33)).unwrap_err();
        assert_eq!(message, "the answer has 33 addresses, and more than 32 are refused");
    }
}
