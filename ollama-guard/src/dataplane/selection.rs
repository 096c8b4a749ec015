//! The word that says which policy is in force.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use ollama_guard_common::{Mode, Scope, abi::Selection};

/// The selection of a slot whose policy has these settings and these words of ports.
pub(super) fn of(
    slot: u32,
    mode: Mode,
    scope: Scope,
    protocols: u32,
    port_words: &[u64],
) -> Selection {
    let none = Selection::new(slot, mode, scope, protocols);
    port_words.iter().fold(none, |selection, word| selection.with_ports(*word))
}

/// Writes the word at once: an update by system call may copy it byte by byte, and a packet could see
/// one half of it and not the other.
pub(super) fn store(map: BorrowedFd<'_>, selection: Selection) -> io::Result<()> {
    const BYTES: NonZeroUsize = NonZeroUsize::new(size_of::<u64>()).expect("8 is not 0");
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at a place that the kernel chooses.
    let start = unsafe { mmap(None, BYTES, access, MapFlags::MAP_SHARED, map, 0) }?;
    // SAFETY: the mapping is at least a page, begins on one, and lives until it is taken away below.
    let word = unsafe { start.cast::<AtomicU64>().as_ref() };
    word.store(selection.0, Ordering::SeqCst);
    // SAFETY: the mapping that was made, and `word` is not used any more.
    unsafe { munmap(start, BYTES.get()) }?;
    Ok(())
}
