//! The policy in force, read back from the maps entry by entry.
//!
//! [`super::contents`] only wants a fingerprint of it; this is for whoever has to name what differs.

use ollama_guard_common::{
    Mode, Scope,
    abi::{SlotInfo, maps as names},
};

use super::{
    DataplaneError, PinDir, Result,
    maps::{self, Maps, Rules},
};
use crate::policy::{Entry, MapImage};

/// Readings that are tried: one is only good if no other policy was put in force meanwhile.
const ATTEMPTS: usize = 8;

/// The policy in force, as the maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readback {
    /// The number of the policy.
    pub generation: u64,
    /// Ports and entries are what was found. Mode, the number of ports, their protocols and the
    /// capacity are what the slot's description says.
    pub image: MapImage,
    /// IPv4 and IPv6 entries, as the slot's description says.
    pub described_entries: (u32, u32),
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
            let slot = maps.selected_slot()?;
            let info = maps.slot_info(slot)?;
            let image = MapImage {
                mode: Mode::from_number(info.mode),
                scope: Scope::from_number(info.scope),
                port_words: port_words(&maps, slot)?,
                protocols: info.protocols,
                ports: info.ports,
                v4: entries(maps::open_rules(&directory, names::RULES_V4, slot)?, names::RULES_V4)?,
                v6: entries(maps::open_rules(&directory, names::RULES_V6, slot)?, names::RULES_V6)?,
                capacity: info.capacity,
            };
            // A slot is written again only after the other one was in force: if neither the
            // selection nor the number has moved, this is one policy.
            if maps.selected_slot()? == slot && maps.slot_info(slot)? == info {
                let SlotInfo { generation, digest, prefixes_v4, prefixes_v6, .. } = info;
                let described_entries = (prefixes_v4, prefixes_v6);
                return Ok(Some(Self { generation, image, described_entries, digest }));
            }
        }
        Ok(None)
    }
}

/// The number of the policy in force.
pub fn generation(pins: &PinDir) -> Result<u64> {
    pins.require_current()?;
    let maps = Maps::open(&pins.current())?;
    Ok(maps.slot_info(maps.selected_slot()?)?.generation)
}

fn port_words(maps: &Maps, slot: u32) -> Result<Vec<(u32, u64)>> {
    let words = maps.port_words_of(slot)?.into_iter().enumerate();
    Ok(words.filter(|(_, word)| *word != 0).map(|(index, word)| (index as u32, word)).collect())
}

/// The entries of a trie, by address and length. Host bits, which the kernel keeps and never looks
/// at, are cleared.
fn entries<A>(rules: Rules<A>, name: &'static str) -> Result<Vec<Entry<A>>>
where
    A: aya::Pod + Ord + AsMut<[u8]>,
{
    let mut entries = Vec::new();
    for entry in rules.iter() {
        let (key, standing) = entry.map_err(DataplaneError::map("read", name))?;
        let length = key.prefix_len().min(u32::from(u8::MAX)) as u8;
        entries.push(Entry { length, address: masked(key.data(), length), standing });
    }
    entries.sort_unstable_by_key(|entry| (entry.address, entry.length));
    Ok(entries)
}

fn masked<A: AsMut<[u8]>>(mut address: A, length: u8) -> A {
    for (position, byte) in address.as_mut().iter_mut().enumerate() {
        let bits = usize::from(length).saturating_sub(position * 8).min(8);
        *byte &= !(0xff_u16 >> bits) as u8;
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared() {
        for (length, expected) in [
            (0, [0, 0, 0, 0]),
            (1, [128, 0, 0, 0]),
            (8, [255, 0, 0, 0]),
            (12, [255, 240, 0, 0]),
            (31, [255, 255, 255, 254]),
            (32, [255; 4]),
        ] {
            assert_eq!(masked([255_u8; 4], length), expected, "/{length}");
        }
    }
}
