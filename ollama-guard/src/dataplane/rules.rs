//! The arrays that hold the rules, one for each policy slot in use.
//!
//! An array is filled once, before anybody can see it, and then frozen: from there on no process
//! can write to it, ours included, and the program never does. Another policy is another array.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::maps::{MapData, MapInfo};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};
use ollama_guard_common::abi::{
    RULE_BLOCK_WORDS, RuleBlock, SLOTS, SlotInfo, maps as names, rule_blocks,
};

use super::{
    DataplaneError, Result, pins,
    sys::{self, NewMap},
    words::{Words, WritableWords},
};
use crate::policy::RuleTable;

/// The array of one slot.
pub(super) struct RuleArray {
    fd: OwnedFd,
    id: u32,
}

impl RuleArray {
    /// Makes, fills and freezes an array with room for so many prefixes.
    pub(super) fn build(capacity: u32, rules: &RuleTable) -> Result<Self> {
        let blocks = rule_blocks(capacity);
        let room = blocks as usize * RULE_BLOCK_WORDS as usize;
        if rules.words.len() > room {
            let count = rules.words.len();
            return Err(DataplaneError::Image(format!("{count} words of rules, room for {room}")));
        }
        let fd = create(blocks)?;
        let words = WritableWords::of(fd.as_fd(), room).map_err(failed("fill"))?;
        words.write(0, &rules.words);
        // The kernel freezes nothing that somebody could still write to through a mapping.
        drop(words);
        sys::map_freeze(fd.as_fd()).map_err(failed("freeze"))?;
        let (_, id) = sys::identity(fd.as_fd()).map_err(failed("look at"))?;
        Ok(Self { fd, id })
    }

    /// The kernel's id.
    pub(super) const fn id(&self) -> u32 {
        self.id
    }

    /// Pins the array as that of a slot, in the place of an older one.
    pub(super) fn pin(&self, directory: &Path, slot: u32) -> Result<()> {
        let path = directory.join(pins::rules_name(slot));
        pins::unpin(&path)?;
        sys::obj_pin(self.fd.as_fd(), &path).map_err(DataplaneError::pin("pin", path))
    }

    /// Puts the array into a slot. On return every program that was running has ended
    /// (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c).
    pub(super) fn select(&self, outer: BorrowedFd<'_>, slot: u32) -> Result<()> {
        sys::set_inner_map(outer, slot, self.fd.as_fd()).map_err(failed("write"))
    }
}

/// Makes the array of arrays with room for so many prefixes in each, and pins it.
pub(super) fn create_outer(directory: &Path, capacity: u32) -> Result<()> {
    let template = create(rule_blocks(capacity))?;
    let outer = sys::map_create(&NewMap {
        kind: bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS,
        key_bytes: 4,
        value_bytes: 4,
        entries: SLOTS,
        flags: 0,
        inner: Some(template.as_fd()),
        name: names::RULES,
    })
    .map_err(failed("create"))?;
    let path = directory.join(names::RULES);
    sys::obj_pin(outer.as_fd(), &path).map_err(DataplaneError::pin("pin", path))
}

fn create(blocks: u32) -> Result<OwnedFd> {
    sys::map_create(&NewMap {
        kind: bpf_map_type::BPF_MAP_TYPE_ARRAY,
        key_bytes: 4,
        value_bytes: size_of::<RuleBlock>() as u32,
        entries: blocks,
        flags: BPF_F_MMAPABLE,
        inner: None,
        name: names::RULES,
    })
    .map_err(failed("create"))
}

/// Elements of the pinned arrays. `None` if none is pinned.
pub(super) fn blocks(directory: &Path) -> Option<u32> {
    let pinned = |slot| MapInfo::from_pin(directory.join(pins::rules_name(slot))).ok();
    (0..SLOTS).find_map(pinned).map(|info| info.max_entries())
}

/// The slots that have pinned rules, a bit each.
pub(super) fn filled(directory: &Path) -> u32 {
    let is_filled = |slot: &u32| directory.join(pins::rules_name(*slot)).exists();
    (0..SLOTS).filter(is_filled).fold(0, |bits, slot| bits | 1 << slot)
}

/// Reads the rules of a slot back, as its description says that they lie.
pub(super) fn read(directory: &Path, slot: u32, info: &SlotInfo) -> Result<RuleTable> {
    let path = directory.join(pins::rules_name(slot));
    let foreign = |problem: String| DataplaneError::ForeignPin { path: path.clone(), problem };
    let array = MapData::from_pin(&path).map_err(|error| foreign(error.to_string()))?;
    // Asked of what was opened: a mapping of less than what is read would end the process.
    let found = array.info().map_err(|error| foreign(error.to_string()))?;
    let shape = (found.map_type().ok(), found.key_size(), found.value_size(), found.map_flags());
    let wanted =
        (Some(aya::maps::MapType::Array), 4, size_of::<RuleBlock>() as u32, BPF_F_MMAPABLE);
    let room = found.max_entries() as usize * RULE_BLOCK_WORDS as usize;
    if shape != wanted {
        return Err(foreign(format!("it is {shape:?}, where {wanted:?} belongs")));
    }
    let words = info.words as usize;
    if words > room {
        return Err(foreign(format!("it has room for {room} words, and {words} are in use")));
    }
    let view = Words::of(array.fd().as_fd(), words).map_err(DataplaneError::pin("read", &path))?;
    Ok(RuleTable { words: view.copy(0, words), root4: info.root4, root6: info.root6 })
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> DataplaneError {
    move |source| DataplaneError::RawMap { action, map: names::RULES, source }
}
