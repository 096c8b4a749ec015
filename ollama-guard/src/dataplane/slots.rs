//! The two policy slots: building a policy beside the live one, and switching to it.

use std::{os::fd::AsFd as _, path::Path, thread};

use aya::maps::{IterableMap as _, LpmTrie, lpm_trie::Key};
use ollama_guard_common::abi::{PORT_WORDS_PER_SLOT, SLOTS, SlotInfo, maps as names};

use super::{
    DataplaneError, Result,
    maps::{Maps, Rules},
    pins, sys,
};
use crate::policy::{Entry, MapImage};

/// `BPF_F_NO_PREALLOC`, without which the kernel makes no LPM trie.
const NO_PREALLOC: u32 = 1;

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
    /// The guarded ports that each slot's table holds, so that only changes are written.
    words: [Vec<u64>; SLOTS as usize],
}

impl Slots {
    /// Reads what the tables hold.
    pub(super) fn read(maps: &Maps) -> Result<Self> {
        let mut words = [const { Vec::new() }; SLOTS as usize];
        for (slot, words) in words.iter_mut().enumerate() {
            let first = slot * PORT_WORDS_PER_SLOT;
            for index in first..first + PORT_WORDS_PER_SLOT {
                let word = maps
                    .ports
                    .get(&(index as u32), 0)
                    .map_err(DataplaneError::map("read", names::PORTS))?;
                words.push(word);
            }
        }
        Ok(Self { words })
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
        let generation = maps.slot_info(live)?.generation + 1;

        // Built beside the live policy: until the switch, no packet sees any of it.
        let v4 = build(names::RULES_V4, image.capacity, &image.v4)?;
        let v6 = build(names::RULES_V6, image.capacity, &image.v6)?;
        pin_rules(directory, names::RULES_V4, slot, &v4)?;
        pin_rules(directory, names::RULES_V6, slot, &v6)?;
        set_rules(maps, slot, &v4, &v6)?;
        self.write_ports(maps, slot, image)?;
        let info = SlotInfo {
            generation,
            mode: image.mode as u32,
            protocols: image.protocols,
            prefixes_v4: image.v4.len() as u32,
            prefixes_v6: image.v6.len() as u32,
            capacity: image.capacity,
            ports: image.ports,
        };
        maps.slot_info
            .set(slot, bytemuck::cast::<_, super::maps::SlotInfoWords>(info), 0)
            .map_err(DataplaneError::map("write", names::SLOT_INFO))?;

        // The switch. Only the lowest byte ever differs, so that it can't be seen half written.
        maps.selected.set(0, slot, 0).map_err(DataplaneError::map("write", names::SELECTED))?;

        // An update of an array of maps returns only after every program that was running has
        // ended (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c). From here on nobody looks at
        // the old slot, and the next policy may be built in it. Until then its rules stay: an
        // empty slot is of no use, and emptying it would cost another wait.
        maps.rules_v4.set(slot, &v4, 0).map_err(DataplaneError::map("write", names::RULES_V4))?;
        Ok(generation)
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

fn build<A: aya::Pod>(name: &'static str, capacity: u32, entries: &[Entry<A>]) -> Result<Rules<A>> {
    let mut rules: Rules<A> = LpmTrie::create(capacity.max(1), NO_PREALLOC)
        .map_err(DataplaneError::map("create", name))?;
    for entry in entries {
        let key = Key::new(u32::from(entry.length), entry.address);
        rules.insert(&key, entry.standing, 0).map_err(DataplaneError::map("fill", name))?;
    }
    Ok(rules)
}

fn pin_rules<A: aya::Pod>(
    directory: &Path,
    outer: &'static str,
    slot: u32,
    rules: &Rules<A>,
) -> Result<()> {
    let path = directory.join(pins::rules_name(outer, slot));
    pins::unpin(&path)?;
    sys::obj_pin(rules.map().fd().as_fd(), &path).map_err(DataplaneError::pin("pin", path))
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
