//! The two policy slots: building a policy beside the live one, and switching to it.

use std::{path::Path, thread};

use ollama_guard_common::abi::{PORT_WORDS_PER_SLOT, SLOTS, SlotInfo, maps as names};

use super::{
    DataplaneError, Result,
    maps::{Maps, Rules, SlotInfoWords},
    table::Table,
};
use crate::policy::{Digest, MapImage};

/// Where a compiled policy goes. The seam between the guard and the kernel.
pub trait PolicySink: Send {
    /// Puts a policy in force, whole: every packet is judged by the old one or by this one. Once
    /// it returns, no packet is judged by the old one any more. On an error the old one stays.
    ///
    /// Returns the new generation.
    fn swap(&mut self, image: &MapImage) -> Result<u64>;
}

/// The writer of the slots.
pub(super) struct Slots {
    /// The guarded ports that each slot's part of the table holds, so that only changes are
    /// written.
    words: [Vec<u64>; SLOTS as usize],
    /// The rules of each slot, once this process has built them.
    rules: [Option<Both>; SLOTS as usize],
    /// The number of the last policy that this process has put in force.
    newest: Option<u64>,
}

/// The rules of both families.
struct Both {
    v4: Table<[u8; 4]>,
    v6: Table<[u8; 16]>,
}

impl Slots {
    /// Reads what the table of ports holds.
    pub(super) fn read(maps: &Maps) -> Result<Self> {
        let words = maps.port_words()?;
        Ok(Self { words, rules: [None, None], newest: None })
    }

    /// Forgets what the slots were last made to hold, so that the next policy is written whole.
    pub(super) fn distrust(&mut self, maps: &Maps) -> Result<()> {
        *self = Self { newest: self.newest, ..Self::read(maps)? };
        Ok(())
    }

    /// See [`PolicySink::swap`].
    pub(super) fn swap(
        &mut self,
        maps: &mut Maps,
        directory: &Path,
        image: &MapImage,
    ) -> Result<u64> {
        let live = maps.selected_slot()?;
        let slot = (live + 1) % SLOTS;
        // Of what another daemon left, the number is all there is; after that, nobody else counts.
        let before = self.newest.map_or_else(|| Ok(maps.slot_info(live)?.generation), Ok)?;
        let generation = before.saturating_add(1);

        // Beside the live policy: until the switch, no packet sees any of it.
        let rules = self.write_rules(maps, directory, slot, image)?;
        self.write_ports(maps, slot, image)?;
        let info = SlotInfo {
            generation,
            digest: Digest::of(image).number(),
            mode: image.mode as u32,
            protocols: image.protocols,
            prefixes_v4: image.v4.len() as u32,
            prefixes_v6: image.v6.len() as u32,
            capacity: image.capacity,
            ports: image.ports,
            scope: image.scope as u32,
            padding: 0,
        };
        maps.slot_info
            .set(slot, bytemuck::cast::<_, SlotInfoWords>(info), 0)
            .map_err(DataplaneError::map("write", names::SLOT_INFO))?;

        // The switch. Only the lowest byte ever differs, so that it can't be seen half written.
        maps.selected.set(0, slot, 0).map_err(DataplaneError::map("write", names::SELECTED))?;
        self.newest = Some(generation);

        // An update of an array of maps returns only after every program that was running has
        // ended (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c), so here the map that is there
        // is put there again. From here on nobody looks at the old slot, and the next policy may
        // be written into it. Should it fail, the policy is in force all the same, and the old
        // slot's tries are left to whoever still looks at them.
        if let Err(error) = maps.rules_v4.set(slot, rules.v4.rules(), 0) {
            tracing::warn!(%error, "cannot wait for the last packets of the old policy");
            self.rules[live as usize] = None;
        }
        self.rules[slot as usize] = Some(rules);
        Ok(generation)
    }

    /// Brings the rules of a slot to the image: tries that are there by writing what differs, so
    /// that an edit of a long list is quick, and otherwise new ones. Returns what is to be kept
    /// once the policy is in force; should that fail, the next swap builds them anew.
    fn write_rules(
        &mut self,
        maps: &mut Maps,
        directory: &Path,
        slot: u32,
        image: &MapImage,
    ) -> Result<Both> {
        if let Some(mut rules) = self.rules[slot as usize].take()
            && rules.v4.has_capacity(image.capacity)
        {
            rules.v4.change_to(&image.v4)?;
            rules.v6.change_to(&image.v6)?;
            return Ok(rules);
        }
        let v4 = Table::build(names::RULES_V4, image.capacity, &image.v4)?;
        let v6 = Table::build(names::RULES_V6, image.capacity, &image.v6)?;
        v4.pin(directory, slot)?;
        v6.pin(directory, slot)?;
        set_rules(maps, slot, v4.rules(), v6.rules())?;
        Ok(Both { v4, v6 })
    }

    fn write_ports(&mut self, maps: &mut Maps, slot: u32, image: &MapImage) -> Result<()> {
        let mut wanted = vec![0_u64; PORT_WORDS_PER_SLOT];
        for &(word, bits) in &image.port_words {
            *wanted
                .get_mut(word as usize)
                .ok_or_else(|| DataplaneError::Image(format!("no port word {word}")))? = bits;
        }
        let held = &mut self.words[slot as usize];
        let first = slot * PORT_WORDS_PER_SLOT as u32;
        for (index, (held, wanted)) in held.iter_mut().zip(wanted).enumerate() {
            if *held != wanted {
                maps.ports
                    .set(first + index as u32, wanted, 0)
                    .map_err(DataplaneError::map("write", names::PORTS))?;
                *held = wanted;
            }
        }
        Ok(())
    }
}

/// Puts the rules of both families into a slot. Each update waits for the programs that are
/// running, so the two wait at the same time.
fn set_rules(maps: &mut Maps, slot: u32, v4: &Rules<[u8; 4]>, v6: &Rules<[u8; 16]>) -> Result<()> {
    let Maps { rules_v4, rules_v6, .. } = maps;
    let (v4, v6) = thread::scope(|scope| {
        let v6 = scope.spawn(|| rules_v6.set(slot, v6, 0));
        let v4 = rules_v4.set(slot, v4, 0);
        (v4, v6.join())
    });
    v4.map_err(DataplaneError::map("write", names::RULES_V4))?;
    v6.map_err(|_| DataplaneError::Image("the writer of the IPv6 rules panicked".into()))?
        .map_err(DataplaneError::map("write", names::RULES_V6))
}
