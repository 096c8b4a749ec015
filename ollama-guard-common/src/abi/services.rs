//! Several services: which port belongs to which, and which bit of a rule set stands for what.
//!
//! A service has a number below [`MAX_SERVICES`]. A packet that came in through a door of some class asks the
//! rules for the bit `shift + number`, where the shift is that of the class ([`PolicyTable::classes`]). A
//! packet in doubt asks for every service whose rules are enforced.
//!
//! [`PolicyTable::classes`]: super::PolicyTable::classes

use bytemuck::{Pod, Zeroable};

use crate::{
    flow::Protocol,
    verdict::{Mode, Reason},
};

/// Services that fit: four bits of a port, but for the value that means an open one.
pub const MAX_SERVICES: usize = 15;
/// Bits of a rule set: pairs of a service and a class of doors that fit.
pub const MAX_PAIRS: u32 = 32;
/// The longest name of a service, in bytes.
pub const SERVICE_NAME_BYTES: usize = 32;
/// A service's name. Behind a shorter one, zeros follow.
pub type ServiceName = [u8; SERVICE_NAME_BYTES];

/// Ports of one protocol.
const PORTS: usize = 1 << 16;
/// Places in the table of ports of one slot: one for each port of each protocol.
pub const PORT_PLACES: usize = PORTS * Protocol::ALL.len();
/// Bytes of that table: two places in each, the even one in the low half.
pub const PORT_BYTES: usize = PORT_PLACES / 2;

/// Where a port stands in the table of its slot.
#[inline(always)]
#[must_use]
pub const fn port_place(protocol: Protocol, port: u16) -> usize {
    protocol.index() * PORTS + port as usize
}

/// The port that stands there. `None` behind the end.
#[must_use]
pub const fn port_at(place: usize) -> Option<(Protocol, u16)> {
    if place < PORT_PLACES {
        Some((Protocol::ALL[place / PORTS], (place % PORTS) as u16))
    } else {
        None
    }
}

/// What stands in the table of ports for a port of the service with this number; 0 is an open port.
#[inline(always)]
#[must_use]
pub const fn guarded_by(service: u8) -> u8 {
    service + 1
}

/// What a byte of the table says about a port.
#[inline(always)]
#[must_use]
pub const fn guardian_in(byte: u8, port: u16) -> u8 {
    byte >> ((port & 1) * 4) & 0xf
}

/// Packets for the ports of one service on one CPU, while there are several. Those in doubt are for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ServiceCounters {
    /// By [`Mode`] at the time and by [`Reason`].
    pub packets: [[u64; Reason::SLOTS]; Mode::COUNT],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_one_port() {
        for protocol in Protocol::ALL {
            for port in [0, 1, 11_434, u16::MAX] {
                assert_eq!(port_at(port_place(protocol, port)), Some((protocol, port)));
            }
        }
        assert_eq!(port_at(PORT_PLACES), None);
    }

    #[test]
    fn every_service_has_room_in_half_a_byte() {
        assert_eq!(guarded_by(MAX_SERVICES as u8 - 1), 0xf);
        assert_eq!((guardian_in(0x5c, 80), guardian_in(0x5c, 81)), (0xc, 0x5));
    }
}
