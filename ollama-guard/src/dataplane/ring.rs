//! Reading the ring of drop events, and the kernel side's own log.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    ptr::NonNull,
};

use aya::{
    Ebpf,
    maps::{Map, MapData, RingBuf},
};
use aya_log::EbpfLogger;
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::{SysconfVar, sysconf},
};
use ollama_guard_common::abi::{EVENT_RECORD_BYTES, maps as names};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::{DataplaneError, Result, maps, programs::load_error};

/// The one reader of the ring. Two would corrupt each other's position, which is why the daemon
/// holds the lock on the pin directory.
pub struct EventRing {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl EventRing {
    /// Opens the pinned ring. Needs a tokio runtime.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let map = Map::from_map_data(maps::open_events(directory)?)
            .map_err(DataplaneError::map("open", names::EVENTS))?;
        let ring = RingBuf::try_from(map).map_err(DataplaneError::map("open", names::EVENTS))?;
        // SAFETY: the ring owns its descriptor for as long as it lives, and always returns the
        // same one.
        let ring =
            unsafe { AsyncFd::register(ring) }.map_err(|error| raw("watch")(error.into()))?;
        Ok(Self { ring })
    }

    /// Waits until there are records, and hands every one of them to `each`, as raw bytes.
    ///
    /// Cancel-safe: a record is either still in the ring or has been handed over.
    pub async fn drain(&mut self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut ready = self.ring.readable_mut().await.map_err(raw("wait for"))?;
        while let Some(record) = ready.get_inner_mut().next() {
            each(&record);
        }
        // The registration is edge-triggered: only an empty ring may be waited for.
        ready.clear_ready();
        Ok(())
    }

    /// Hands over what is in the ring now, without waiting.
    pub fn drain_now(&mut self, mut each: impl FnMut(&[u8])) {
        while let Some(record) = self.ring.get_mut().next() {
            each(&record);
        }
    }
}

/// How far the ring has been written and read, in records since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingBooks {
    /// Records that a reader has taken out.
    pub read: u64,
    /// Records that wait for a reader.
    pub unread: u64,
}

/// Reads the positions of the ring, without touching them (kernel/bpf/ringbuf.c: the consumer's
/// page, then the producer's).
pub(super) fn positions(directory: &Path) -> Result<RingBooks> {
    let ring = maps::open_events(directory)?;
    let consumed = position(ring.fd().as_fd(), 0).map_err(raw("map"))?;
    let produced = position(ring.fd().as_fd(), 1).map_err(raw("map"))?;
    let record = EVENT_RECORD_BYTES as u64;
    Ok(RingBooks { read: consumed / record, unread: produced.saturating_sub(consumed) / record })
}

fn position(ring: BorrowedFd<'_>, page: i64) -> io::Result<u64> {
    let size = sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
    let length = NonZeroUsize::new(size as usize).unwrap_or(NonZeroUsize::MIN);
    // SAFETY: a new mapping of a page that the ring has, at an address that the kernel chooses.
    let mapping = unsafe {
        mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, ring, page * size)
    }?;
    let word: NonNull<u64> = mapping.cast();
    // SAFETY: the mapping is a page long, aligned to a page, and readable; the kernel writes the
    // word with one store.
    let position = unsafe { word.read_volatile() };
    // SAFETY: the mapping made above, which nothing else refers to.
    unsafe { munmap(mapping, length.get()) }?;
    Ok(position)
}

/// The log of the kernel side: what must never happen.
pub struct KernelLog {
    logger: AsyncFd<EbpfLogger<&'static dyn log::Log>>,
}

impl KernelLog {
    /// Takes over the log of an object whose programs are not loaded yet. Needs a tokio runtime.
    pub(super) fn open(object: &mut Ebpf) -> Result<Self> {
        let logger = EbpfLogger::init(object).map_err(load_error)?;
        // SAFETY: the logger owns the descriptor of its ring for as long as it lives, and always
        // returns the same one.
        let logger =
            unsafe { AsyncFd::register(logger) }.map_err(|error| raw("watch")(error.into()))?;
        Ok(Self { logger })
    }

    /// Passes records on to the logger of this process, until an error.
    pub async fn run(mut self) -> io::Result<()> {
        loop {
            let mut ready = self.logger.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

fn raw(action: &'static str) -> impl FnOnce(io::Error) -> DataplaneError {
    move |source| DataplaneError::RawMap { action, map: names::EVENTS, source }
}
