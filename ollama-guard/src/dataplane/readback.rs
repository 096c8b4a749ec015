//! The policy in force, read back from the maps.
//!
//! [`super::contents`] only wants a fingerprint of it; this is for whoever has to name what differs.

use ollama_guard_common::{Mode, Scope, abi::SlotInfo};

use super::{
    PinDir, Result, counters,
    maps::Maps,
    rules,
    table::{self, Slot},
};
use crate::policy::MapImage;

/// Readings that are tried: one is only good if no other policy was put in force meanwhile.
const ATTEMPTS: usize = 8;

/// The policy in force, as the maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readback {
    /// The number of the policy.
    pub generation: u64,
    /// Ports and the words of the rules are what was found. The rest is what the slot's description
    /// says.
    pub image: MapImage,
    /// How many ports were written.
    pub written_ports: u32,
    /// The fingerprint that was written with it all.
    pub digest: u64,
}

impl Readback {
    /// Reads the slot in force. `None` if other policies came into force during every attempt.
    ///
    /// # Errors
    ///
    /// If nothing is loaded, or a pin is missing or is not what it should be.
    pub fn read(pins: &PinDir) -> Result<Option<Self>> {
        pins.require_current()?;
        let directory = pins.current();
        for _ in 0..ATTEMPTS {
            let maps = Maps::open(&directory)?;
            let slot = maps.selected_slot();
            let info = table::info(maps.policy(), slot);
            let rules = rules::read(&directory, slot, &info);
            // A slot is written again only after the other one was in force: if neither the
            // selection nor the number has moved, this is one policy.
            if maps.selected_slot() != slot || table::info(maps.policy(), slot) != info {
                continue;
            }
            let rules = rules?;
            let content = Slot::read(maps.policy(), slot);
            let doors = content.doors(&counters::numbers(&maps));
            let service = |(place, guardian): (u32, u8)| (place, guardian - 1);
            let image = MapImage {
                mode: Mode::from_number(info.mode),
                scope: Scope::from_number(info.scope),
                services: content.services,
                // None of them is 0.
                ports: content.ports.into_iter().map(service).collect(),
                protocols: info.protocols,
                is_apart: info.stride != 0,
                doubted: info.doubted,
                stride: info.stride,
                doors,
                prefixes: (info.prefixes_v4, info.prefixes_v6),
                rules,
                capacity: info.capacity,
            };
            let SlotInfo { generation, digest, ports: written_ports, .. } = info;
            return Ok(Some(Self { generation, image, written_ports, digest }));
        }
        Ok(None)
    }
}

/// The number of the policy in force.
pub fn generation(pins: &PinDir) -> Result<u64> {
    pins.require_current()?;
    let maps = Maps::open(&pins.current())?;
    Ok(maps.generation())
}
