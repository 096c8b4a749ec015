//! [`Located`] in one number: what a function of a kernel program can return.

use crate::{
    flow::{Network, Protocol},
    judge::Target,
    verdict::Reason,
};

use super::{Located, Outcome};

/// The largest position that can be told: 13 bits of it.
pub const MAX_POSITION: usize = (1 << 13) - 1;

// Where each part begins: the lowest bit.
const OUTCOME: u32 = 0;
const HAS_NETWORK: u32 = 2;
const IS_V6: u32 = 3;
const REASON: u32 = 4;
const PROTOCOL: u32 = 12;
const PORT: u32 = 20;
const HEADER: u32 = 36;
const TRANSPORT: u32 = 49;

/// A packed [`Located`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed(u64);

impl Located {
    /// As a number, which is never 0 but for a packet that is [`Outcome::Elsewhere`]. Positions above
    /// [`MAX_POSITION`] come out as others; a frame that is read to there is undecidable long before.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> Packed {
        let Self { outcome, reason, has_network, network, protocol, transport, port } = self;
        let (is_v6, header) = match network {
            Network::V4(header) => (0, header),
            Network::V6(header) => (1, header),
        };
        let protocol = match protocol {
            Some(protocol) => protocol.number() as u64,
            None => 0,
        };
        let number = (outcome as u64) << OUTCOME
            | (has_network as u64) << HAS_NETWORK
            | is_v6 << IS_V6
            | (reason as u64) << REASON
            | protocol << PROTOCOL
            | (port as u64) << PORT
            | ((header & MAX_POSITION) as u64) << HEADER
            | ((transport & MAX_POSITION) as u64) << TRANSPORT;
        Packed(number)
    }
}

impl Packed {
    /// What nothing is packed into, and what closes the port: undecidable, from nobody knows where.
    pub const UNKNOWN: Self = Self(!(1 << HAS_NETWORK));

    /// From a number that [`Self::number`] gave.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// [`Located::target`] of what is packed.
    #[inline(always)]
    #[must_use]
    pub const fn target(self) -> Target {
        let Self(number) = self;
        match Protocol::from_number((number >> PROTOCOL) as u8) {
            Some(protocol) if number >> OUTCOME & 3 == 1 => {
                Some((protocol, (number >> PORT) as u16))
            }
            _ => None,
        }
    }

    /// The same packet with another reason.
    #[inline(always)]
    #[must_use]
    pub const fn with_reason(self, reason: Reason) -> Self {
        Self(self.0 & !(0xff << REASON) | (reason as u64) << REASON)
    }

    /// The reverse of [`Located::pack`]. Any number is something: one that nothing is packed into is undecidable, or has the
    /// reason of an unreadable packet.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(self) -> Located {
        let Self(number) = self;
        let header = position(number >> HEADER);
        Located {
            outcome: match number >> OUTCOME & 3 {
                0 => Outcome::Elsewhere,
                1 => Outcome::At,
                _ => Outcome::Undecidable,
            },
            reason: match Reason::from_number((number >> REASON) as u8) {
                Some(reason) => reason,
                None => Reason::IpHeaderCut,
            },
            has_network: number >> HAS_NETWORK & 1 == 1,
            network: if number >> IS_V6 & 1 == 0 {
                Network::V4(header)
            } else {
                Network::V6(header)
            },
            protocol: Protocol::from_number((number >> PROTOCOL) as u8),
            transport: position(number >> TRANSPORT),
            port: (number >> PORT) as u16,
        }
    }
}

#[inline(always)]
const fn position(number: u64) -> usize {
    number as usize & MAX_POSITION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_comes_back() {
        let positions = [0, 14, 4095, MAX_POSITION];
        let networks = positions.iter().flat_map(|&at| [Network::V4(at), Network::V6(at)]);
        let outcomes = [Outcome::Elsewhere, Outcome::At, Outcome::Undecidable];
        for network in networks {
            for protocol in Protocol::ALL.into_iter().map(Some).chain([None]) {
                for (transport, port) in [(0, u16::MAX), (MAX_POSITION, 0), (34, 11434)] {
                    for &reason in Reason::ALL {
                        for outcome in outcomes {
                            for has_network in [false, true] {
                                let located = Located {
                                    outcome,
                                    reason,
                                    has_network,
                                    network,
                                    protocol,
                                    transport,
                                    port,
                                };
                                let packed = located.pack();
                                assert_eq!(Packed::from_number(packed.number()), packed);
                                assert_eq!(packed.unpack(), located);
                                assert_eq!(packed.target(), located.target());
                                let other = Reason::Denied;
                                assert_eq!(
                                    packed.with_reason(other).unpack(),
                                    Located { reason: other, ..located }
                                );
                                if outcome != Outcome::Elsewhere {
                                    assert_ne!(packed.number(), 0);
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_number_that_is_nothing_closes_the_port() {
        let nothing = Packed::UNKNOWN.unpack();
        assert!(!nothing.has_network);
        assert_eq!((nothing.outcome, nothing.protocol), (Outcome::Undecidable, None));
        assert_eq!(nothing.reason, Reason::IpHeaderCut);
    }
}
