//! The words of a map, mapped into memory.
//!
//! Reading and writing them takes no system call, and a word is never seen half written, which an
//! update by system call does not promise: it may copy byte by byte.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Words for reading, for as long as this lives.
#[derive(Debug)]
pub(super) struct Words {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: a mapping belongs to the process and not to a thread, and its words are read and written
// as atomics only.
unsafe impl Send for Words {}

/// Words for writing, too.
pub(super) struct WritableWords(Words);

impl Words {
    /// The first words of an array that has so many and can be mapped.
    pub(super) fn of(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        Self::with(map, count, ProtFlags::PROT_READ)
    }

    fn with(map: BorrowedFd<'_>, count: usize, access: ProtFlags) -> io::Result<Self> {
        let Some(bytes) = NonZeroUsize::new(count * size_of::<u64>()) else {
            return Ok(Self { start: NonNull::dangling(), count: 0 });
        };
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self { start: start.cast(), count })
    }

    /// The word at a position.
    ///
    /// # Panics
    ///
    /// Behind the end.
    pub(super) fn get(&self, position: usize) -> u64 {
        // Others may write to it at any time.
        self.word(position).load(Ordering::SeqCst)
    }

    /// Copies words.
    ///
    /// # Panics
    ///
    /// Behind the end.
    pub(super) fn copy(&self, first: usize, count: usize) -> Vec<u64> {
        (first..first + count).map(|position| self.word(position).load(Ordering::Relaxed)).collect()
    }

    fn word(&self, position: usize) -> &AtomicU64 {
        assert!(position < self.count, "word {position} of {}", self.count);
        // SAFETY: within the mapping.
        let place = unsafe { self.start.add(position) };
        // SAFETY: mapped at least for reading, aligned to pages, and any bits are a number.
        unsafe { place.as_ref() }
    }
}

impl WritableWords {
    /// The first words of an array that has so many and can be mapped, and is not frozen.
    pub(super) fn of(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        Words::with(map, count, access).map(Self)
    }

    /// Writes a word at once. Whoever sees it sees all that was written before.
    ///
    /// # Panics
    ///
    /// Behind the end.
    pub(super) fn set(&self, position: usize, word: u64) {
        self.0.word(position).store(word, Ordering::SeqCst);
    }

    /// Writes words one after the other.
    ///
    /// # Panics
    ///
    /// Behind the end.
    pub(super) fn write(&self, first: usize, words: &[u64]) {
        for (position, word) in words.iter().enumerate() {
            self.0.word(first + position).store(*word, Ordering::Relaxed);
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if self.count > 0 {
            // SAFETY: the mapping that was made, and nobody has borrowed from it.
            let _ = unsafe { munmap(self.start.cast(), self.count * size_of::<u64>()) };
        }
    }
}
