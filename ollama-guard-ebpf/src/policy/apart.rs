//! What a packet wants where services or doors have to be told apart.
//!
//! Numbers, because a function of a kernel program returns one: 32 bits of pairs, then eight of the service,
//! then the mode.

use ollama_guard_common::{
    Mode, Protocol, Target, Terms, Wanted,
    abi::{MAX_PAIRS, SLOTS, Selection},
};

use super::guardian;
use crate::maps::OG_POLICY;

const SERVICE: u32 = 32;
const MODE: u32 = 40;

/// A target as a number: the protocol and the port, or 0.
#[inline(always)]
pub const fn packed(target: Target) -> u32 {
    match target {
        Some((protocol, port)) => (protocol.number() as u32) << 16 | port as u32,
        None => 0,
    }
}

/// What [`wanted`] said.
#[inline(always)]
pub const fn unpacked(answer: u64) -> Wanted {
    let (service, mode) = ((answer >> SERVICE) as u8, (answer >> MODE & 1) as u32);
    Wanted { pairs: answer as u32, terms: Terms { service, mode: Mode::from_number(mode) } }
}

/// What a packet for a target wants that came in by this door, by the policy that was selected for it.
#[inline(always)]
pub fn wanted(door: u32, selection: u64, target: u32) -> u64 {
    let selection = Selection(selection);
    let slot = selection.slot();
    // Every pair: that, no source has.
    let Some(table) = OG_POLICY.get_ptr(0) else {
        return (Terms::IN_DOUBT as u64) << SERVICE | u32::MAX as u64;
    };
    // SAFETY: one of the slots' descriptions.
    let info = unsafe { &raw const (*table).slots[(slot % SLOTS) as usize] };
    // SAFETY: below the number of slots, and a field of the table.
    let classes = unsafe { &raw const (*table).classes[(slot % SLOTS) as usize] };
    // SAFETY: a door number is below the number of classes that there are.
    let place = unsafe { classes.cast::<u8>().add(door as usize) };
    // SAFETY: as above. Volatile, as user space may write to it meanwhile.
    let shift = u32::from(unsafe { place.read_volatile() }) % MAX_PAIRS;
    let service = match Protocol::from_number((target >> 16) as u8) {
        Some(protocol) => guardian(table, slot, protocol, target as u16),
        None => 0,
    };
    if service == 0 {
        // SAFETY: a field of a description, which is a part of the table.
        let place = unsafe { &raw const (*info).doubted };
        // SAFETY: as above.
        let doubted = unsafe { place.read_volatile() };
        let mode = selection.mode() as u64;
        return mode << MODE | (Terms::IN_DOUBT as u64) << SERVICE | u64::from(doubted << shift);
    }
    let number = u32::from(service - 1) % MAX_PAIRS;
    // SAFETY: a field of a description, which is a part of the table.
    let place = unsafe { &raw const (*info).observed };
    // SAFETY: as above.
    let observed = unsafe { place.read_volatile() };
    let mode = u64::from(observed >> number & 1);
    mode << MODE | u64::from(number) << SERVICE | 1 << ((shift + number) % MAX_PAIRS)
}
