//! What can be said about a packet: the closed list of verdicts and reasons.
//!
//! A reason's number is the index of its counter and the field in drop events: numbers are part
//! of the ABI, are never reused and never change their meaning.

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Left to the kernel, untouched.
    Pass,
    /// Not delivered. In [`Mode::Observe`] it is counted, reported and delivered all the same.
    Drop,
}

/// Whether verdicts are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Drop what is to be dropped.
    Enforce = 0,
    /// Compute the same verdict, count and report it, and let the packet pass.
    Observe = 1,
}

impl Mode {
    /// The number of modes, the length of tables indexed by [`Mode`].
    pub const COUNT: usize = 2;

    /// Every mode, in the order of the numbers.
    pub const ALL: [Self; Self::COUNT] = [Self::Enforce, Self::Observe];

    /// The mode with this ABI number.
    ///
    /// Only an explicit 1 means observe: anything else enforces, so that a damaged value can
    /// not open a port.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        if number == 1 { Self::Observe } else { Self::Enforce }
    }

    /// The name in configuration, status and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// Whose packets are decided on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Scope {
    /// Everybody's that cross a door: also those that the host routes or bridges to others.
    #[default]
    All = 0,
    /// Those for this host's own addresses.
    Local = 1,
}

impl Scope {
    /// Every scope, in the order of the numbers.
    pub const ALL: [Self; 2] = [Self::All, Self::Local];

    /// The scope with this ABI number.
    ///
    /// Only an explicit 1 leaves anything out: a damaged value can not open a port.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        if number == 1 { Self::Local } else { Self::All }
    }

    /// The name in configuration and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Local => "local",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $number:literal $variant:ident $name:literal $verdict:ident,)+) => {
        /// Why a packet passed or was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl Reason {
            /// Every reason, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The reason with this ABI number.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name in status, events and metrics: stable, lower case, with hyphens.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Whether this reason drops or passes.
            #[inline(always)]
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self {
                    $(Self::$variant => Verdict::$verdict,)+
                }
            }

            /// One sentence for a person.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

reasons! {
    /// Not for a guarded port, and cannot be: left alone and not counted.
    0 NotGuarded "not-guarded" Pass,
    /// The source is on the allowlist.
    1 Allowed "allowed" Pass,
    /// No allow rule covers the source.
    2 NotListed "not-listed" Drop,
    /// A deny rule covers the source.
    3 Denied "denied" Drop,
    /// The rules of the selected policy are missing from the kernel: everything for a guarded port is dropped.
    4 RulesAbsent "rules-absent" Drop,
    /// The frame ends inside the Ethernet header or inside a VLAN tag.
    5 LinkHeaderCut "link-header-cut" Drop,
    /// More than eight VLAN tags.
    6 TooManyVlanTags "too-many-vlan-tags" Drop,
    /// The IP version in the header is not the one that the EtherType announces.
    7 VersionMismatch "ip-version-mismatch" Drop,
    /// The frame ends inside the fixed IP header.
    8 IpHeaderCut "ip-header-cut" Drop,
    /// An IPv4 header length below five words.
    9 Ipv4HeaderLength "ipv4-header-length" Drop,
    /// More than eight IPv6 extension headers.
    10 TooManyExtensionHeaders "too-many-extension-headers" Drop,
    /// More than 2,048 bytes of IPv6 extension headers.
    11 ExtensionHeadersTooLong "extension-headers-too-long" Drop,
    /// The frame ends inside the IPv6 extension headers.
    12 ExtensionHeaderCut "extension-header-cut" Drop,
    /// A hop-by-hop options header that does not directly follow the IPv6 header.
    13 HopByHopMisplaced "hop-by-hop-misplaced" Drop,
    /// A second IPv6 fragment header.
    14 FragmentNested "fragment-nested" Drop,
    /// A first fragment that ends before the ports.
    15 FragmentWithoutPorts "fragment-without-ports" Drop,
    /// The frame ends before the ports.
    16 PortsCut "ports-cut" Drop,
    /// A loopback source address, which never arrives on a wire honestly.
    17 SourceLoopback "source-loopback" Drop,
    /// A multicast or broadcast source address.
    18 SourceMulticast "source-multicast" Drop,
    /// An unspecified source address (0.0.0.0/8 or ::).
    19 SourceUnspecified "source-unspecified" Drop,
    /// An IPv4-mapped IPv6 source address (::ffff:0:0/96).
    20 SourceMapped "source-ipv4-mapped" Drop,
    /// A loopback destination address from outside (route_localnet would deliver it).
    21 DestinationLoopback "destination-loopback" Drop,
    /// On a device without an Ethernet header: it could be IPv6, and it could be a VLAN tag before an IP header.
    22 TagOrIpv6 "tag-or-ipv6" Drop,
    /// An IP packet in an IPv6 packet behind a routing header, which segment routing would unpack and deliver.
    23 EncapsulatedBehindRouting "encapsulated-behind-routing" Drop,
    /// For an address of another host, and the configuration limits the guard to this host's own (scope local).
    24 NotForThisHost "not-for-this-host" Pass,
}

impl Reason {
    /// Slots in tables indexed by a reason's number: the reasons of today and room for more, so
    /// that adding one does not change the layout of the counters.
    pub const SLOTS: usize = 32;

    /// The index of this reason's counter.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

const _: () = assert!(Reason::ALL.len() <= Reason::SLOTS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_positions_and_lead_back_to_the_reason() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position);
            assert_eq!(Reason::from_number(position as u8), Some(*reason));
        }
        assert_eq!(Reason::from_number(Reason::ALL.len() as u8), None);
    }

    #[test]
    fn names_are_unique_and_fit_a_metric_label() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            let name = reason.name();
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
            assert!(Reason::ALL[..position].iter().all(|earlier| earlier.name() != name));
            assert!(reason.description().ends_with('.'));
            assert!(!reason.description().starts_with(' '));
        }
    }

    #[test]
    fn only_three_reasons_pass() {
        let passing: [Reason; 3] = [Reason::NotGuarded, Reason::Allowed, Reason::NotForThisHost];
        for reason in Reason::ALL {
            assert_eq!(reason.verdict() == Verdict::Pass, passing.contains(reason), "{reason:?}");
        }
    }

    #[test]
    fn a_damaged_scope_leaves_nothing_out() {
        assert_eq!(Scope::from_number(1), Scope::Local);
        for number in [0, 2, 255, u32::MAX] {
            assert_eq!(Scope::from_number(number), Scope::All);
        }
    }

    #[test]
    fn a_damaged_mode_enforces() {
        assert_eq!(Mode::from_number(1), Mode::Observe);
        for number in [0, 2, 255, u32::MAX] {
            assert_eq!(Mode::from_number(number), Mode::Enforce);
        }
    }
}
