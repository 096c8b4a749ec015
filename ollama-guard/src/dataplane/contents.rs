//! What the maps of a policy slot really hold, read back.

use std::{os::fd::AsFd as _, path::Path};

use aya::maps::MapInfo;
use ollama_guard_common::abi::{SlotInfo, maps as names};

use super::{
    DataplaneError, Result,
    maps::{self, Maps, Rules},
    pins, sys,
};
use crate::policy::{Digest, Entry};

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

/// Reads the whole policy in force. Takes two system calls for each rule.
pub(super) fn read(maps: &Maps, directory: &Path) -> Result<InForce> {
    let before = |slot| Ok((slot, maps.slot_info(slot)?));
    let mut selected = before(maps.selected_slot()?)?;
    for _ in 0..ATTEMPTS {
        let (slot, info) = selected;
        let found = found(maps, directory, slot, &info);
        selected = before(maps.selected_slot()?)?;
        // A slot is written only while the other one is selected.
        if selected == (slot, info) {
            let SlotInfo { generation, digest: written, .. } = info;
            return Ok(InForce { generation, written, found: found? });
        }
    }
    let (_, SlotInfo { generation, digest: written, .. }) = selected;
    Ok(InForce { generation, written, found: Found::Unsteady })
}

fn found(maps: &Maps, directory: &Path, slot: u32, info: &SlotInfo) -> Result<Found> {
    if !are_pinned(maps, directory, slot)? {
        return Ok(Found::OtherTables);
    }
    let mut digest = Digest::new();
    digest.settings([info.mode, info.protocols, info.ports, info.capacity]);
    digest.scope(info.scope);
    add_ports(&mut digest, maps, slot)?;
    add_rules::<[u8; 4]>(&mut digest, directory, names::RULES_V4, slot)?;
    add_rules::<[u8; 16]>(&mut digest, directory, names::RULES_V6, slot)?;
    Ok(Found::Digest(digest.number()))
}

/// Whether the rules that the program would find are the pinned ones.
fn are_pinned(maps: &Maps, directory: &Path, slot: u32) -> Result<bool> {
    for (name, outer) in [(names::RULES_V4, &maps.outer_v4), (names::RULES_V6, &maps.outer_v6)] {
        let in_force = sys::inner_map_id(outer.fd().as_fd(), slot)
            .map_err(|source| DataplaneError::RawMap { action: "read", map: name, source })?;
        let pinned = MapInfo::from_pin(directory.join(pins::rules_name(name, slot)));
        match (in_force, pinned) {
            (Some(in_force), Ok(pinned)) if in_force == pinned.id() => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn add_ports(digest: &mut Digest, maps: &Maps, slot: u32) -> Result<()> {
    for (index, word) in maps.port_words_of(slot)?.into_iter().enumerate() {
        digest.port_word(index as u32, word);
    }
    Ok(())
}

fn add_rules<A: aya::Pod + AsRef<[u8]>>(
    digest: &mut Digest,
    directory: &Path,
    outer: &'static str,
    slot: u32,
) -> Result<()> {
    let rules: Rules<A> = maps::open_rules(directory, outer, slot)?;
    for entry in rules.iter() {
        let (key, standing) = entry.map_err(DataplaneError::map("read", outer))?;
        // A prefix is no longer than an address, which has at most 128 bits.
        digest.entry(&Entry { length: key.prefix_len() as u8, address: key.data(), standing });
    }
    Ok(())
}
