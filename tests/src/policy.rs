//! The fixed policies of the packet table, and a host model of them.
//!
//! All addresses are from ranges set aside for documentation (RFC 5737, RFC 3849).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use ollama_guard_common::{Policy, Protocol, Scope, Source, Standing};

/// The port that is guarded in every policy here.
pub const GUARDED: u16 = 11_434;

/// The server's IPv4 address.
pub const SERVER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The server's IPv6 address.
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

/// An IPv4 source that [`Lists::Standard`] allows.
pub const FRIEND4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// An IPv6 source that [`Lists::Standard`] allows.
pub const FRIEND6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0x10);

/// An IPv4 source that [`Lists::Standard`] denies, within an allowed prefix.
pub const DENIED4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
/// An IPv6 source that [`Lists::Standard`] denies, within an allowed prefix.
pub const DENIED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0x66, 0, 0, 0, 1);

/// An IPv4 source in no list but [`Lists::Everyone`].
pub const STRANGER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// An IPv6 source in no list but [`Lists::Everyone`].
pub const STRANGER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0x66);

/// The policies that the table is written against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lists {
    /// 11434/tcp; a few prefixes allowed, one inside each of them denied.
    Standard,
    /// 11434/tcp; no rules at all.
    Empty,
    /// 11434/tcp; everyone is allowed, in both families.
    Everyone,
    /// 11434/tcp; every IPv4 source is allowed, and no IPv6 source.
    EveryoneV4,
    /// 11434/tcp; every IPv6 source is allowed, and no IPv4 source.
    EveryoneV6,
    /// As `Standard`, with 11434/udp guarded as well.
    StandardWithUdp,
    /// As `Standard`, with 11434 guarded in every protocol that has ports.
    StandardWithAll,
    /// As `Standard`, with 1, 63, 64, 8080 and 65535/tcp guarded instead of 11434/tcp.
    StandardOtherPorts,
    /// As `Standard`, for packets to the server's own addresses only.
    Local,
}

impl Lists {
    /// Every policy.
    pub const ALL: [Self; 9] = [
        Self::Standard,
        Self::Empty,
        Self::Everyone,
        Self::EveryoneV4,
        Self::EveryoneV6,
        Self::StandardWithUdp,
        Self::StandardWithAll,
        Self::StandardOtherPorts,
        Self::Local,
    ];

    /// The policy as plain data.
    #[must_use]
    pub fn policy(self) -> HostPolicy {
        let tcp = [(Protocol::Tcp, GUARDED)];
        let standard = (
            ["192.0.2.0/25", "198.51.100.7/32", "2001:db8:7::/48", "fe80::a/128"],
            ["192.0.2.66/32", "2001:db8:7:66::/64"],
        );
        let everyone = ["0.0.0.0/0", "::/0"];
        match self {
            Self::Standard => HostPolicy::new(&tcp, &standard.0, &standard.1),
            Self::Empty => HostPolicy::new(&tcp, &[], &[]),
            Self::Everyone => HostPolicy::new(&tcp, &everyone, &[]),
            Self::EveryoneV4 => HostPolicy::new(&tcp, &everyone[..1], &[]),
            Self::EveryoneV6 => HostPolicy::new(&tcp, &everyone[1..], &[]),
            Self::StandardWithUdp => HostPolicy::new(
                &[(Protocol::Tcp, GUARDED), (Protocol::Udp, GUARDED)],
                &standard.0,
                &standard.1,
            ),
            Self::StandardWithAll => HostPolicy::new(
                &Protocol::ALL.map(|protocol| (protocol, GUARDED)),
                &standard.0,
                &standard.1,
            ),
            Self::StandardOtherPorts => HostPolicy::new(
                &[1, 63, 64, 8080, 65_535].map(|port| (Protocol::Tcp, port)),
                &standard.0,
                &standard.1,
            ),
            Self::Local => HostPolicy {
                own: Some(vec![SERVER4.into(), SERVER6.into()]),
                ..HostPolicy::new(&tcp, &standard.0, &standard.1)
            },
        }
    }
}

/// A policy as plain data, with the meaning of the rules written out as simply as it can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPolicy {
    /// Guarded ports.
    pub ports: Vec<(Protocol, u16)>,
    /// Prefixes whose sources may knock.
    pub allow: Vec<IpNet>,
    /// Prefixes whose sources may not, whatever `allow` says.
    pub deny: Vec<IpNet>,
    /// This host's own addresses, if only packets for these are decided on.
    pub own: Option<Vec<IpAddr>>,
}

impl HostPolicy {
    /// A policy from prefixes as text.
    ///
    /// # Panics
    ///
    /// If a text is no prefix.
    #[must_use]
    pub fn new(ports: &[(Protocol, u16)], allow: &[&str], deny: &[&str]) -> Self {
        let parse = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap_or_else(|_| panic!("{text} is no prefix")))
                .collect()
        };
        Self { ports: ports.to_vec(), allow: parse(allow), deny: parse(deny), own: None }
    }
}

impl Policy for HostPolicy {
    fn is_guarded(&self, protocol: Protocol, port: u16) -> bool {
        self.ports.contains(&(protocol, port))
    }

    fn guards_any(&self, protocol: Protocol) -> bool {
        self.ports.iter().any(|guarded| guarded.0 == protocol)
    }

    fn scope(&self) -> Scope {
        if self.own.is_some() { Scope::Local } else { Scope::All }
    }

    fn is_own_address(&self, destination: &[u8; 16]) -> bool {
        let destination = IpAddr::from(*destination).to_canonical();
        self.own.as_ref().is_none_or(|own| own.contains(&destination))
    }

    fn standing(&self, source: &Source, _: u32) -> Standing {
        let source: IpAddr = match *source {
            Source::V4(octets) => octets.into(),
            Source::V6(octets) => octets.into(),
        };
        let covers = |prefixes: &[IpNet]| prefixes.iter().any(|prefix| prefix.contains(&source));
        if covers(&self.deny) {
            Standing::Denied
        } else if covers(&self.allow) {
            Standing::Allowed
        } else {
            Standing::NotListed
        }
    }
}

#[cfg(test)]
mod tests {
    use ollama_guard_common::abi::THE_SERVICE;

    use super::*;

    #[test]
    fn the_known_sources_stand_as_their_names_say() {
        let policy = Lists::Standard.policy();
        let standing = |source: &Source| policy.standing(source, THE_SERVICE);
        assert_eq!(standing(&Source::V4(FRIEND4.octets())), Standing::Allowed);
        assert_eq!(standing(&Source::V6(FRIEND6.octets())), Standing::Allowed);
        assert_eq!(standing(&Source::V4(DENIED4.octets())), Standing::Denied);
        assert_eq!(standing(&Source::V6(DENIED6.octets())), Standing::Denied);
        assert_eq!(standing(&Source::V4(STRANGER4.octets())), Standing::NotListed);
        assert_eq!(standing(&Source::V6(STRANGER6.octets())), Standing::NotListed);
    }
}
