//! The guarded ports of an image, and what a packet for one wants.

use ollama_guard_common::{
    Mode,
    abi::{MAX_PAIRS, port_at, port_place},
};

use crate::policy::{MapImage, Port};

/// The guarded ports of an image.
pub(super) fn ports(image: &MapImage) -> Vec<Port> {
    image.ports.iter().filter_map(|(place, _)| port(*place)).collect()
}

/// Those of one service.
pub(super) fn ports_of(image: &MapImage, number: u8) -> Vec<Port> {
    let ports = image.ports.iter().filter(|(_, service)| *service == number);
    ports.filter_map(|(place, _)| port(*place)).collect()
}

/// The port at a place of the table.
pub(super) fn port(place: u32) -> Option<Port> {
    let (protocol, number) = port_at(place as usize)?;
    Some(Port { protocol, number })
}

/// What a packet for a port wants that comes in through a door about which nothing is known: the bits of
/// a rule set, and the mode.
pub(super) fn wanted(image: &MapImage, port: Port) -> Option<(u32, Mode)> {
    let place = port_place(port.protocol, port.number) as u32;
    let (_, number) = image.ports.iter().find(|(at, _)| *at == place)?;
    Some((bits(1 << number, 0), image.services.get(number)?.mode))
}

/// Services, one bit each, as the bits of a rule set for a class of doors.
pub(super) const fn bits(services: u32, shift: u32) -> u32 {
    services << (shift % MAX_PAIRS)
}
