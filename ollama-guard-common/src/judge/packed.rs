//! [`Judgement`] in one number: what a function of a kernel program can take and return.
//!
//! The verifier checks a function that is called by itself and learns nothing of how its result
//! came about, so the many ways through the headers are looked at once, and not again for each
//! thing that is done with what they lead to.

use crate::{
    flow::{Network, Protocol},
    judge::Judgement,
    verdict::Reason,
};

/// The largest position that can be told: 13 bits of it.
pub const MAX_POSITION: usize = (1 << 13) - 1;

/// Whether there is a transport header.
const HAS_TRANSPORT: u64 = 1;

// Where each part begins: the lowest bit.
const REASON: u32 = 2;
const FAMILY: u32 = 10;
const HEADER: u32 = 12;
const PROTOCOL: u32 = 25;
const TRANSPORT: u32 = 33;

impl Judgement {
    /// As a number. Positions above [`MAX_POSITION`] come out as others; a frame that is read to there
    /// is undecidable long before.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        let Self { reason, network, protocol, transport } = self;
        let protocol = match protocol {
            Some(protocol) => protocol.number() as u64,
            None => 0,
        };
        let transport = match transport {
            Some(transport) => HAS_TRANSPORT | ((transport & MAX_POSITION) as u64) << TRANSPORT,
            None => 0,
        };
        (reason as u64) << REASON | packed_network(network) | protocol << PROTOCOL | transport
    }

    /// The reverse. A number that no judgement is packed into has the reason of an unreadable packet.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(number: u64) -> Self {
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
                        assert_eq!(Judgement::unpack(judged.pack()), judged);
                    }
                }
            }
        }
    }

    #[test]
    fn a_number_that_is_nothing_closes_the_port() {
        assert_eq!(Judgement::unpack(u64::MAX).reason, Reason::IpHeaderCut);
    }
}
