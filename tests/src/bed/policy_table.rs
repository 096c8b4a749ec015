//! The table of the policy in the kernel, edited by somebody who is not the guard.

use std::{panic::resume_unwind, path::Path, thread};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use ollama_guard_common::abi::{PolicyTable, Selection, SlotInfo, maps};

use super::{Guard, VERSION_DIRECTORY};

/// aya has its own marker for what may be a value; arrays of words have it.
type Words = [u64; size_of::<PolicyTable>() / 8];

/// Room for a dozen tables and more.
const STACK: usize = 16 << 20;

/// What packets are judged by.
pub fn selection(guard: &Guard<'_>) -> Result<Selection> {
    Ok(Selection(read(guard)?.selection))
}

/// The number of the slot in force, and its description.
pub fn slot_in_force(guard: &Guard<'_>) -> Result<(u32, SlotInfo)> {
    let table = read(guard)?;
    let slot = Selection(table.selection).slot();
    Ok((slot, table.slots[slot as usize]))
}

fn read(guard: &Guard<'_>) -> Result<Box<PolicyTable>> {
    let pins = guard.pin_dir();
    with_room(|| {
        let words = open(pins)?.get(&0, 0).context("reading the table of the policy")?;
        Ok(Box::new(bytemuck::cast(words)))
    })
}

/// Changes the table behind the guard's back, by a system call as another tool would make it.
/// `change` gets the slot in force, too.
pub fn tamper(guard: &Guard<'_>, change: impl FnOnce(&mut PolicyTable, usize)) -> Result<()> {
    let mut table = read(guard)?;
    let slot = Selection(table.selection).slot() as usize;
    change(&mut table, slot);
    let pins = guard.pin_dir();
    with_room(|| {
        let words: Words = bytemuck::cast(*table);
        open(pins)?.set(0, words, 0).context("writing the table of the policy")
    })
}

fn open(pins: &Path) -> Result<Array<MapData, Words>> {
    let map = MapData::from_pin(pins.join(VERSION_DIRECTORY).join(maps::POLICY))?;
    Ok(Array::try_from(Map::from_map_data(map)?)?)
}

/// Where there is room for some copies of the table: aya hands values over by the stack, and that of a
/// test is small.
fn with_room<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
