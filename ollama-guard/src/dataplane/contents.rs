//! What the maps of a policy slot really hold, read back.

use std::path::Path;

use aya::maps::MapInfo;
use ollama_guard_common::{
    Mode,
    abi::{SlotInfo, maps as names},
};

use super::{
    DataplaneError, Result, counters,
    maps::Maps,
    pins, rules, sys,
    table::{self, Slot},
};
use crate::policy::Digest;

/// How often a policy is read that changes while it is being read.
const ATTEMPTS: usize = 20;

/// The policy in force, as it was written and as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Its number.
    pub generation: u64,
    /// The fingerprint that was written with it.
    pub written: u64,
    /// What the maps hold.
    pub found: Found,
}

/// What the maps of a policy hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Ports and rules with this fingerprint.
    Digest(u64),
    /// The rules that the program would find are missing, or are not the pinned ones.
    OtherTables,
    /// It is on trial though nobody here put it there, or until another moment, or it is not though somebody did.
    OtherTrial,
    /// Other policies came into force during every attempt to read one.
    Unsteady,
}

impl InForce {
    /// Whether the maps hold what was written, as far as it can be told.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.found == Found::Unsteady || self.found == Found::Digest(self.written)
    }
}

/// Rules that this process has written, and that no process can have changed: an array of rules is
/// frozen before it is used. A program in the kernel could still write to it; whoever can load one can
/// do anything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The kernel's id of the array. An id is given once for as long as the kernel runs.
    pub(super) map: u32,
    /// The fingerprint of the rules alone.
    pub(super) words: Digest,
}

/// Reads the whole policy in force, but for the rules that are known.
pub(super) fn read(maps: &Maps, directory: &Path, known: Option<Known>) -> Result<InForce> {
    let in_force = || (maps.selected_slot(), table::info(maps.policy(), maps.selected_slot()));
    let mut selected = in_force();
    for _ in 0..ATTEMPTS {
        let (slot, info) = selected;
        let found = found(maps, directory, slot, &info, known);
        selected = in_force();
        // A slot is written only while the other one is selected.
        if selected == (slot, info) {
            let SlotInfo { generation, digest: written, .. } = info;
            return Ok(InForce { generation, written, found: found? });
        }
    }
    let (_, SlotInfo { generation, digest: written, .. }) = selected;
    Ok(InForce { generation, written, found: Found::Unsteady })
}

fn found(
    maps: &Maps,
    directory: &Path,
    slot: u32,
    info: &SlotInfo,
    known: Option<Known>,
) -> Result<Found> {
    let Some(map) = in_force(maps, directory, slot)? else {
        return Ok(Found::OtherTables);
    };
    let mut digest = Digest::new();
    digest.settings([info.mode, info.protocols, info.ports, info.capacity]);
    digest.scope(info.scope);
    let content = Slot::read(maps.policy(), slot);
    for &(place, guardian) in &content.ports {
        digest.port(place, guardian);
    }
    for (&number, service) in &content.services {
        digest.service(number, &service.name, service.mode == Mode::Observe);
    }
    digest.apart([u32::from(info.stride != 0), info.doubted, info.stride]);
    let numbers = counters::numbers(maps);
    for (ifindex, shift) in content.doors(&numbers) {
        digest.door(ifindex, shift);
    }
    if content.has_stray_classes(&numbers) {
        digest.door(0, u32::MAX);
    }
    // What the program reads first has to say the same.
    let meant = content.selection(slot);
    let selected = maps.selection().for_good();
    if selected.slot() == slot && selected != meant {
        digest.settings([selected.0 as u32, (selected.0 >> 32) as u32, u32::MAX, u32::MAX]);
    }
    digest.roots(info.root4, info.root6, (info.first4, info.first6));
    match known {
        Some(known) if known.map == map => digest.join(known.words),
        _ => digest.words(&rules::read(directory, slot, info)?.words),
    }
    Ok(Found::Digest(digest.number()))
}

/// The kernel's id of the rules that the program finds, if they are the pinned ones.
fn in_force(maps: &Maps, directory: &Path, slot: u32) -> Result<Option<u32>> {
    let found = sys::inner_map_id(maps.rules(), slot).map_err(|source| DataplaneError::RawMap {
        action: "read",
        map: names::RULES,
        source,
    })?;
    let pinned = MapInfo::from_pin(directory.join(pins::rules_name(slot)));
    match (found, pinned) {
        (Some(found), Ok(pinned)) if found == pinned.id() => Ok(Some(found)),
        _ => Ok(None),
    }
}
