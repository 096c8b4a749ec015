//! [`Judgement`] in one number: what a function of a kernel program can take and return.
//!
//! The verifier checks a function that is called by itself and learns nothing of how its result
//! came about, so the many ways through the headers are looked at once, and not again for each
//! thing that is done with what they lead to.

use crate::{
    flow::{Network, Protocol},
    judge::Judgement,
    verdict::{Reason, Verdict},
};

/// The largest position that can be told: 13 bits of it.
pub const MAX_POSITION: usize = (1 << 13) - 1;

/// Whether there is a transport header.
const HAS_TRANSPORT: u64 = 1;
/// Whether the verdict is to drop.
const IS_DROP: u64 = 2;

// Where each part begins: the lowest bit.
const REASON: u32 = 2;
const FAMILY: u32 = 10;
const HEADER: u32 = 12;
const PROTOCOL: u32 = 25;
const TRANSPORT: u32 = 33;

/// A judgement as a number. Every part of it has a value always: of what is not there the compiler
/// would leave the contents undefined, may put them aside all the same, and the verifier refuses to
/// read what was never written.
///
/// Any number is one: the program that reads it need not check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed(pub u64);

impl Packed {
    /// Whether this is left alone and not counted.
    #[inline(always)]
    #[must_use]
    pub const fn is_not_guarded(self) -> bool {
        self.reason_index() == Reason::NotGuarded as usize
    }

    /// What is to be done with the packet, in [`crate::Mode::Enforce`].
    #[inline(always)]
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        if self.0 & IS_DROP == 0 { Verdict::Pass } else { Verdict::Drop }
    }

    /// [`Reason::index`], below [`Reason::SLOTS`].
    #[inline(always)]
    #[must_use]
    pub const fn reason_index(self) -> usize {
        (self.0 >> REASON) as usize & (Reason::SLOTS - 1)
    }

    /// The reason as a number.
    #[inline(always)]
    #[must_use]
    pub const fn reason_number(self) -> u8 {
        (self.0 >> REASON) as u8
    }

    /// 4, 6, or 0 if there is no IP header.
    #[inline(always)]
    #[must_use]
    pub const fn family(self) -> u8 {
        match self.0 >> FAMILY & 3 {
            1 => 4,
            2 => 6,
            _ => 0,
        }
    }

    /// Where the IP header stands; of no meaning without one.
    #[inline(always)]
    #[must_use]
    pub const fn header(self) -> usize {
        position(self.0 >> HEADER)
    }

    /// The protocol's number, 0 if it is not known.
    #[inline(always)]
    #[must_use]
    pub const fn protocol_number(self) -> u8 {
        (self.0 >> PROTOCOL) as u8
    }

    /// Whether there is a transport header whose ports can be read.
    #[inline(always)]
    #[must_use]
    pub const fn has_transport(self) -> bool {
        self.0 & HAS_TRANSPORT != 0
    }

    /// Where it stands; of no meaning without one.
    #[inline(always)]
    #[must_use]
    pub const fn transport(self) -> usize {
        position(self.0 >> TRANSPORT)
    }
}

impl Judgement {
    /// As a number. Positions above [`MAX_POSITION`] come out as others; a frame that is read to there
    /// is undecidable long before.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> Packed {
        let Self { reason, network, protocol, transport } = self;
        let protocol = match protocol {
            Some(protocol) => protocol.number() as u64,
            None => 0,
        };
        let transport = match transport {
            Some(transport) => HAS_TRANSPORT | ((transport & MAX_POSITION) as u64) << TRANSPORT,
            None => 0,
        };
        let verdict = match reason.verdict() {
            Verdict::Pass => 0,
            Verdict::Drop => IS_DROP,
        };
        let reason = (reason as u64) << REASON | verdict;
        Packed(reason | packed_network(network) | protocol << PROTOCOL | transport)
    }

    /// The reverse. A number that no judgement is packed into has the reason of an unreadable packet.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(Packed(number): Packed) -> Self {
        Self {
            reason: match Reason::from_number((number >> REASON) as u8) {
                Some(reason) => reason,
                None => Reason::IpHeaderCut,
            },
            network: unpacked_network(number),
            protocol: Protocol::from_number((number >> PROTOCOL) as u8),
            transport: if number & HAS_TRANSPORT == 0 {
                None
            } else {
                Some(position(number >> TRANSPORT))
            },
        }
    }
}

const fn packed_network(network: Option<Network>) -> u64 {
    match network {
        None => 0,
        Some(Network::V4(header)) => 1 << FAMILY | ((header & MAX_POSITION) as u64) << HEADER,
        Some(Network::V6(header)) => 2 << FAMILY | ((header & MAX_POSITION) as u64) << HEADER,
    }
}

#[inline(always)]
const fn unpacked_network(number: u64) -> Option<Network> {
    match number >> FAMILY & 3 {
        1 => Some(Network::V4(position(number >> HEADER))),
        2 => Some(Network::V6(position(number >> HEADER))),
        _ => None,
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
    fn every_judgement_comes_back() {
        let positions = [0, 14, 4095, MAX_POSITION];
        let networks = positions.iter().flat_map(|&at| [Network::V4(at), Network::V6(at)]);
        for network in networks.map(Some).chain([None]) {
            for protocol in Protocol::ALL.into_iter().map(Some).chain([None]) {
                for transport in [None, Some(0), Some(34), Some(MAX_POSITION)] {
                    for &reason in Reason::ALL {
                        let judged = Judgement { reason, network, protocol, transport };
                        let packed = judged.pack();
                        assert_eq!(Judgement::unpack(packed), judged);
                        assert_eq!(packed.verdict(), judged.verdict());
                        assert_eq!(packed.reason_index(), reason.index());
                        assert_eq!(packed.reason_number(), reason as u8);
                        assert_eq!(packed.is_not_guarded(), reason == Reason::NotGuarded);
                        let number = protocol.map_or(0, Protocol::number);
                        assert_eq!(packed.protocol_number(), number);
                        assert_eq!(packed.has_transport(), transport.is_some());
                        assert_eq!(packed.transport(), transport.unwrap_or(0));
                        let (family, header) = match network {
                            None => (0, 0),
                            Some(Network::V4(header)) => (4, header),
                            Some(Network::V6(header)) => (6, header),
                        };
                        assert_eq!((packed.family(), packed.header()), (family, header));
                    }
                }
            }
        }
    }

    #[test]
    fn a_number_that_is_nothing_closes_the_port() {
        assert_eq!(Judgement::unpack(Packed(u64::MAX)).reason, Reason::IpHeaderCut);
    }
}
