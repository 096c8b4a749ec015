//! Addresses and networks as rules hold them.

mod text;

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An IPv4 or IPv6 network, or a single address, that a rule can be about.
///
/// Always canonical: no host bits, never an IPv4-mapped IPv6 address, and never a network in which
/// no source that could be admitted exists (loopback, multicast, broadcast and unspecified sources
/// are dropped whatever the rules say). A network that merely contains such addresses, like
/// `0.0.0.0/0`, is fine. Ordered by family, address and length: a network stands before everything
/// within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Prefix(IpNet);

/// The two address families. They never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Why a text is no prefix, and what to write instead.
///
/// `text` is always as it was written, in quotes and clipped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// Nothing was written.
    #[error(
        "the prefix is empty: write an address like 192.0.2.10 or a network like 203.0.113.0/24"
    )]
    Empty,
    /// White space before, after or within the text.
    #[error("{text} contains white space: write one address or network, without any")]
    WhiteSpace {
        /// As written.
        text: String,
    },
    /// An address with the name of an interface behind it.
    #[error("{text} has a zone: rules apply to every interface, so write {instead}")]
    Zone {
        /// As written.
        text: String,
        /// The part before the zone.
        instead: String,
    },
    /// An address in brackets, or with a port behind it.
    #[error(
        "{text} has brackets or a port: write {instead}; ports are listed apart from addresses"
    )]
    PortOrBrackets {
        /// As written.
        text: String,
        /// The address alone.
        instead: String,
    },
    /// A number of an IPv4 address, or a prefix length, that starts with a superfluous zero.
    #[error("{text} has a leading zero, which some programs read as octal: write {instead}")]
    LeadingZero {
        /// As written.
        text: String,
        /// The same without leading zeros.
        instead: String,
    },
    /// An IPv4 address that is not four numbers.
    #[error("{text} is not a whole IPv4 address: write all four numbers, as in 10.0.0.0/8")]
    NotFourNumbers {
        /// As written.
        text: String,
    },
    /// A number of an IPv4 address that is above 255.
    #[error("{text} is no IPv4 address: {number} is too large, each number is 0 to 255")]
    NumberTooLarge {
        /// As written.
        text: String,
        /// The first such number, clipped.
        number: String,
    },
    /// From one address to another.
    #[error("{text} is a range: write the networks that it consists of, as in 192.0.2.0/28")]
    Range {
        /// As written.
        text: String,
    },
    /// No address at all, a host name for example.
    #[error(
        "{text} is no address: write one like 192.0.2.10, 203.0.113.0/24 or 2001:db8:7::/48, \
         or a host name with a dot, or host:NAME for one without"
    )]
    NotAnAddress {
        /// As written.
        text: String,
    },
    /// A slash without a number behind it.
    #[error(
        "{text} has no prefix length behind the slash: write a number from 0 to {most} there, \
         or no slash for the one address"
    )]
    NoLength {
        /// As written.
        text: String,
        /// The longest length of this family.
        most: u8,
    },
    /// A netmask where the length belongs.
    #[error("{text} has a netmask: write {instead}")]
    Netmask {
        /// As written.
        text: String,
        /// The same with a length.
        instead: String,
    },
    /// A prefix length longer than the address.
    #[error("{text} has a prefix length above {most}, the most for {family}: write a smaller one")]
    LengthTooLong {
        /// As written.
        text: String,
        /// The longest length of this family.
        most: u8,
        /// The family.
        family: Family,
    },
    /// Bits set behind the prefix length.
    #[error("{text} has host bits: write {instead}")]
    HostBits {
        /// As written.
        text: String,
        /// The network and the address, those of them that a rule can be about.
        instead: String,
    },
    /// An IPv6 address that stands for an IPv4 address.
    #[error(
        "{text} is an IPv4-mapped IPv6 address, which no honest packet carries: write {instead}"
    )]
    Mapped {
        /// As written.
        text: String,
        /// The IPv4 network.
        instead: String,
    },
    /// Loopback addresses.
    #[error(
        "{text} is loopback: leave it out, programs on this host are never stopped, and packets \
         from outside with such a source are always dropped"
    )]
    Loopback {
        /// As written.
        text: String,
    },
    /// Multicast addresses, or the IPv4 broadcast address.
    #[error(
        "{text} is a multicast or broadcast address: leave it out, packets with such a source are \
         always dropped"
    )]
    Multicast {
        /// As written.
        text: String,
    },
    /// The unspecified address, or its network.
    #[error(
        "{text} is no host's address, packets with such a source are always dropped: leave it \
         out, or write {everyone} if you mean everyone"
    )]
    Unspecified {
        /// As written.
        text: String,
        /// The network of all addresses of this family.
        everyone: &'static str,
    },
}

impl Prefix {
    /// Whether this is `0.0.0.0/0` or `::/0`. Parsing accepts them; whoever takes them into an
    /// allowlist asks for an explicit word first.
    #[must_use]
    pub fn is_everyone(&self) -> bool {
        self.0.prefix_len() == 0
    }

    /// Whether `address` lies within. Never true across the families.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether every address of `other` lies within. A prefix covers itself.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> IpNet {
        self.0
    }

    /// The number of leading bits that count: 0 to 32 or to 128.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// The address family.
    #[must_use]
    pub fn family(&self) -> Family {
        match self.0 {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }
}

impl TryFrom<IpNet> for Prefix {
    type Error = PrefixError;

    fn try_from(net: IpNet) -> Result<Self, PrefixError> {
        text::check(net, &net.to_string()).map(Self)
    }
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        text::parse(text).map(Self)
    }
}

impl fmt::Display for Prefix {
    /// The bare address for a single one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_bare_address_is_a_prefix_of_full_length_and_prints_bare() {
        for (text, net) in [("192.0.2.10", "192.0.2.10/32"), ("2001:db8::1", "2001:db8::1/128")] {
            assert_eq!(prefix(text).net(), net.parse::<IpNet>().unwrap());
            assert_eq!(prefix(net).to_string(), text);
        }
        assert_eq!(prefix("2001:0DB8:0::/32").to_string(), "2001:db8::/32", "one spelling");
    }

    #[test]
    fn covering_is_within_a_family_and_includes_itself() {
        assert!(prefix("10.0.0.0/8").covers(&prefix("10.0.0.0/8")));
        assert!(prefix("10.0.0.0/8").covers(&prefix("10.255.0.1")));
        assert!(!prefix("10.0.0.0/8").covers(&prefix("0.0.0.0/0")));
        assert!(!prefix("0.0.0.0/0").covers(&prefix("::/0")));
        assert!(!prefix("::/0").contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_network_stands_before_everything_within_it() {
        let mut sorted = ["::/0", "10.0.0.1", "10.0.0.0/8", "10.0.0.0/16", "0.0.0.0/0"].map(prefix);
        sorted.sort();
        let texts = sorted.map(|p| p.to_string());
        assert_eq!(texts, ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.1", "::/0"]);
    }

    #[test]
    fn json_holds_the_text_and_is_read_as_strictly() {
        assert_eq!(serde_json::to_string(&prefix("10.0.0.0/8")).unwrap(), "\"10.0.0.0/8\"");
        assert_eq!(serde_json::from_str::<Prefix>("\"10.0.0.0/8\"").unwrap(), prefix("10.0.0.0/8"));
        let error = serde_json::from_str::<Prefix>("\"10.0.0.1/8\"").unwrap_err();
        assert!(error.to_string().contains("host bits"), "{error}");
    }

    #[test]
    fn a_net_that_was_not_text_is_held_to_the_same_rules() {
        let host_bits = IpNet::new("10.1.2.3".parse().unwrap(), 8).unwrap();
        assert!(matches!(Prefix::try_from(host_bits), Err(PrefixError::HostBits { .. })));
    }
}
