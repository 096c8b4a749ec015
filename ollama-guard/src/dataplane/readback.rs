//! The policy in force, read back from the maps.
//!
//! [`super::contents`] only wants a fingerprint of it; this is for whoever has to name what differs.

use ollama_guard_common::{Mode, Scope};

use super::{PinDir, Result, maps::Maps, rules};
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
            let info = maps.slot_info(slot);
            let rules = rules::read(&directory, slot, &info);
            // A slot is written again only after the other one was in force: if neither the
            // selection nor the number has moved, this is one policy.
            if maps.selected_slot() != slot || maps.slot_info(slot) != info {
                continue;
            }
            let rules = rules?;
            let image = MapImage {
                mode: Mode::from_number(info.mode),
                scope: Scope::from_number(info.scope),
                port_words: port_words(&maps, slot),
                protocols: info.protocols,
                ports: info.ports,
                prefixes: (info.prefixes_v4, info.prefixes_v6),
                rules,
                capacity: info.capacity,
            };
            return Ok(Some(Self { generation: info.generation, image, digest: info.digest }));
        }
        Ok(None)
    }
}

/// The number of the policy in force.
pub fn generation(pins: &PinDir) -> Result<u64> {
    pins.require_current()?;
    let maps = Maps::open(&pins.current())?;
    Ok(maps.slot_info(maps.selected_slot()).generation)
}

fn port_words(maps: &Maps, slot: u32) -> Vec<(u32, u64)> {
    let words = maps.port_words(slot).into_iter().enumerate();
    words.filter(|(_, word)| *word != 0).map(|(index, word)| (index as u32, word)).collect()
}
