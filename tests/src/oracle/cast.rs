//! Who takes part: the two policies, the server's addresses and ports, and a source address for
//! each case that no other case has, so that an answer is known by whom it goes to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ollama_guard_common::{Policy as _, Protocol, Source, Standing, abi::THE_SERVICE};

use super::dice::Dice;
use crate::policy::{GUARDED, HostPolicy, SERVER4, SERVER6};

/// Guarded, and listened on at 127.0.0.1 only.
pub const LOOPBACK_PORT: u16 = 11_435;
/// Guarded, and listened on at one address of the server only.
pub const SINGLE_PORT: u16 = 11_436;
/// Listened on, in TCP and UDP, and guarded by nobody.
pub const OTHER_PORT: u16 = 8_080;
/// Nobody listens here.
pub const CLOSED_PORT: u16 = 9;
/// The server's second addresses, where [`SINGLE_PORT`] is.
pub const SINGLE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// Likewise.
pub const SINGLE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9);
/// An address on the server's network that is nobody's.
pub const NOBODY4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// Likewise.
pub const NOBODY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x77);
/// The server's link-local address, on each door.
pub const SERVER_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 5, 0);
/// Link-local sources of each kind that the server has as neighbours.
pub const LINK_LOCALS: u32 = 32;
/// One in so many cases may have one.
const LINK_LOCAL_EVERY: u32 = 16;

/// Whether the case with this number may come from a link-local address: there are few of them, and
/// so that no two cases of a batch share one, their cases are 512 apart.
#[must_use]
pub const fn may_be_link_local(number: u32) -> bool {
    number.is_multiple_of(LINK_LOCAL_EVERY)
}

/// Allowed prefixes.
pub const ALLOW: [&str; 3] = ["10.0.0.0/8", "2001:db8:7::/48", "fe80::2:0/112"];
/// Denied prefixes, inside the allowed ones.
pub const DENY: [&str; 2] = ["10.66.0.0/16", "2001:db8:7:66::/64"];

/// How many policies there are: one for each guarded server.
pub const POLICIES: usize = 2;

/// The policies: the usual one, and one that guards UDP as well, so that UDP packets can be
/// undecidable.
#[must_use]
pub fn policies() -> [HostPolicy; POLICIES] {
    let tcp = [GUARDED, LOOPBACK_PORT, SINGLE_PORT].map(|port| (Protocol::Tcp, port));
    let both = [&tcp[..], &[(Protocol::Udp, GUARDED)]].concat();
    [HostPolicy::new(&tcp, &ALLOW, &DENY), HostPolicy::new(&both, &ALLOW, &DENY)]
}

/// What the rules, which are the same in both policies, say of an address.
#[must_use]
pub fn standing(address: IpAddr) -> Standing {
    thread_local! {
        static POLICY: HostPolicy = HostPolicy::new(&[], &ALLOW, &DENY);
    }
    let source = match address {
        IpAddr::V4(address) => Source::V4(address.octets()),
        IpAddr::V6(address) => Source::V6(address.octets()),
    };
    POLICY.with(|policy| policy.standing(&source, THE_SERVICE))
}

/// A kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sender {
    /// Allowed.
    Friend,
    /// Denied within an allowed prefix.
    Denied,
    /// In no list.
    Stranger,
    /// In no list, and the neighbour of an allowed prefix.
    Neighbour,
    /// The server's own address.
    Own,
    /// 127/8 or `::1`.
    Loopback,
    /// Multicast, or the limited broadcast.
    Multicast,
    /// 0/8 or `::`.
    Unspecified,
    /// An IPv4-mapped address of a friend; in IPv4 another loopback address.
    Mapped,
    /// Link-local and allowed (IPv6 only).
    LinkLocalFriend,
    /// Link-local and in no list (IPv6 only).
    LinkLocalStranger,
}

impl Sender {
    /// What it is called in the name of a case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Friend => "a friend",
            Self::Denied => "a denied source",
            Self::Stranger => "a stranger",
            Self::Neighbour => "a neighbour of an allowed prefix",
            Self::Own => "the server's own address",
            Self::Loopback => "a loopback address",
            Self::Multicast => "a multicast address",
            Self::Unspecified => "an unspecified address",
            Self::Mapped => "a mapped address",
            Self::LinkLocalFriend => "a link-local friend",
            Self::LinkLocalStranger => "a link-local stranger",
        }
    }

    /// Its address in the case with this number.
    pub fn v4(self, number: u32, dice: &mut Dice) -> Ipv4Addr {
        let [_, high, middle, low] = number.to_be_bytes();
        match self {
            // Below 10.64/10: the denied part lies above.
            Self::Friend => Ipv4Addr::new(10, high & 0x3f, middle, low),
            Self::Denied => Ipv4Addr::new(10, 66, middle, low),
            Self::Neighbour if number.is_multiple_of(2) => Ipv4Addr::new(11, 0, middle, low),
            Self::Neighbour => Ipv4Addr::new(9, 255, middle, low),
            Self::Own => dice.pick(&[SERVER4, SINGLE4]),
            Self::Loopback | Self::Mapped => Ipv4Addr::new(127, high, middle, low),
            Self::Multicast => {
                dice.pick(&[Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(239, 1, 2, 3), BROADCAST])
            }
            Self::Unspecified => Ipv4Addr::new(0, high, middle, low),
            Self::Stranger | Self::LinkLocalFriend | Self::LinkLocalStranger => {
                Ipv4Addr::new(172, 16 | (high & 0x0f), middle, low)
            }
        }
    }

    /// Its address in the case with this number.
    pub fn v6(self, number: u32, dice: &mut Dice) -> Ipv6Addr {
        let [high, low] = [(number >> 16) as u16, number as u16];
        let documentation =
            |site, subnet| Ipv6Addr::new(0x2001, 0xdb8, site, subnet, 0, 0, high, low);
        let nearby = (number / LINK_LOCAL_EVERY % LINK_LOCALS) as u16;
        match self {
            Self::Friend => documentation(7, 1),
            Self::Denied => documentation(7, 0x66),
            Self::Stranger => documentation(0xbad, 0),
            Self::Neighbour if number.is_multiple_of(2) => documentation(8, 0),
            Self::Neighbour => documentation(6, 0xffff),
            Self::Own => dice.pick(&[SERVER6, SINGLE6]),
            Self::Loopback => Ipv6Addr::LOCALHOST,
            Self::Multicast => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, high, low),
            Self::Unspecified => Ipv6Addr::UNSPECIFIED,
            Self::Mapped => Self::Friend.v4(number, dice).to_ipv6_mapped(),
            Self::LinkLocalFriend => link_local(2, nearby),
            Self::LinkLocalStranger => link_local(1, nearby),
        }
    }
}

/// The limited broadcast.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::BROADCAST;

/// The link-local address of a neighbour: 2 for friends, 1 for strangers.
#[must_use]
pub const fn link_local(kind: u16, number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, kind, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_stand_as_their_names_say() {
        let mut dice = Dice::new(3);
        for number in [1, 2, 255, 65_535, 65_536, 3_999_999] {
            for (sender, expected) in [
                (Sender::Friend, Standing::Allowed),
                (Sender::Denied, Standing::Denied),
                (Sender::Stranger, Standing::NotListed),
                (Sender::Neighbour, Standing::NotListed),
                (Sender::Own, Standing::NotListed),
            ] {
                assert_eq!(standing(sender.v4(number, &mut dice).into()), expected, "{sender:?}");
                assert_eq!(standing(sender.v6(number, &mut dice).into()), expected, "{sender:?}");
            }
            let friend = Sender::LinkLocalFriend.v6(number, &mut dice);
            assert_eq!(standing(friend.into()), Standing::Allowed);
            let stranger = Sender::LinkLocalStranger.v6(number, &mut dice);
            assert_eq!(standing(stranger.into()), Standing::NotListed);
        }
    }
}
