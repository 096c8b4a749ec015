//! Typed handles on the pinned maps, and the check that a pin is what it should be.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use aya::maps::{HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray};
use aya_obj::generated::BPF_F_MMAPABLE;
use ollama_guard_common::abi::{
    Books, DOOR_PLACES, DoorCounters, EVENT_RING_BYTES, MAX_ADDRESSES, MAX_DOORS, MAX_SERVICES,
    PolicyTable, SLOTS, Selection, ServiceCounters, maps,
};

use super::{
    DataplaneError, Result, sys,
    table::{self, Trial},
    words::{Words, WritableWords},
};
use crate::boot_clock;

/// aya wants its own marker trait on map values; arrays of words have it, and bytemuck casts
/// them to the shared structs with sizes and alignments checked by the compiler.
pub(super) type CounterWords = [u64; size_of::<DoorCounters>() / 8];
pub(super) type ServiceWords = [u64; size_of::<ServiceCounters>() / 8];
pub(super) type BooksWords = [u64; size_of::<Books>() / 8];

/// The maps that outlive a policy: what was counted, and which interfaces there are.
pub(super) const LASTING: [&str; 7] = [
    maps::ADDRESSES,
    maps::DOORS,
    maps::COUNTERS,
    maps::SERVICES,
    maps::BOOKS,
    maps::ALLOWANCE,
    maps::EVENTS,
];

/// Every pinned map.
pub(super) struct Maps {
    policy: Direct,
    rules: MapData,
    pub(super) addresses: HashMap<MapData, [u8; 16], u32>,
    doors: Direct,
    pub(super) counters: PerCpuArray<MapData, CounterWords>,
    pub(super) services: PerCpuArray<MapData, ServiceWords>,
    pub(super) books: PerCpuArray<MapData, BooksWords>,
    pub(super) allowance: PerCpuArray<MapData, u64>,
    sources: MapData,
}

/// An array of words that is mapped into memory.
struct Direct {
    map: MapData,
    words: Words,
}

/// The shape of a map: what the kernel must say about a pin before it is used.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: usize,
    /// `BPF_F_*`.
    flags: u32,
}

const fn shape(
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: usize,
) -> Shape {
    Shape { name, kind, key, value, entries, flags: 0 }
}

const fn mapped(shape: Shape) -> Shape {
    Shape { flags: BPF_F_MMAPABLE, ..shape }
}

const SHAPES: [Shape; maps::ALL.len()] = [
    mapped(shape(maps::POLICY, MapType::Array, 4, size_of::<PolicyTable>(), 1)),
    shape(maps::RULES, MapType::ArrayOfMaps, 4, 4, SLOTS as usize),
    shape(maps::ADDRESSES, MapType::Hash, 16, 4, MAX_ADDRESSES as usize),
    mapped(shape(maps::DOORS, MapType::Array, 4, 8, DOOR_PLACES as usize)),
    shape(maps::COUNTERS, MapType::PerCpuArray, 4, size_of::<DoorCounters>(), MAX_DOORS as usize),
    shape(maps::SERVICES, MapType::PerCpuArray, 4, size_of::<ServiceCounters>(), MAX_SERVICES),
    shape(maps::BOOKS, MapType::PerCpuArray, 4, size_of::<Books>(), 1),
    shape(maps::ALLOWANCE, MapType::PerCpuArray, 4, 8, 1),
    shape(maps::EVENTS, MapType::RingBuf, 0, 0, EVENT_RING_BYTES as usize),
    shape(maps::SOURCES, MapType::ArrayOfMaps, 4, 4, 1),
];

/// Whether what follows a trial is in force.
fn is_over(trial: &Trial) -> bool {
    // Every kernel that runs the guard has this clock.
    boot_clock::now().is_ok_and(|now| now >= trial.until)
}

impl Maps {
    /// Opens the pins of a directory, each of them checked.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        check(directory)?;
        Ok(Self {
            policy: Direct::open(directory, maps::POLICY, (size_of::<PolicyTable>(), 1))?,
            rules: open(directory, maps::RULES)?,
            addresses: typed(directory, maps::ADDRESSES)?,
            doors: Direct::open(directory, maps::DOORS, (8, DOOR_PLACES as usize))?,
            counters: typed(directory, maps::COUNTERS)?,
            services: typed(directory, maps::SERVICES)?,
            books: typed(directory, maps::BOOKS)?,
            allowance: typed(directory, maps::ALLOWANCE)?,
            sources: open(directory, maps::SOURCES)?,
        })
    }

    /// The array of the arrays of rules.
    pub(super) fn rules(&self) -> BorrowedFd<'_> {
        self.rules.fd().as_fd()
    }

    /// Where a table of sources is put while somebody learns.
    pub(super) fn sources(&self) -> BorrowedFd<'_> {
        self.sources.fd().as_fd()
    }

    /// What packets are judged by: of a trial whose time is over what follows it, as the program has it.
    pub(super) fn selection(&self) -> Selection {
        match table::trial(&self.policy.words) {
            Some(trial) if is_over(&trial) => trial.before,
            _ => table::selection(&self.policy.words),
        }
    }

    /// Until when the policy in force is on trial.
    pub(super) fn trial(&self) -> Option<Trial> {
        table::trial(&self.policy.words).filter(|trial| !is_over(trial))
    }

    /// The slot that packets are judged by.
    pub(super) fn selected_slot(&self) -> u32 {
        self.selection().slot()
    }

    /// The highest number that a policy has had, as far as it can be told.
    pub(super) fn newest(&self) -> u64 {
        (0..SLOTS).map(|slot| table::info(&self.policy.words, slot).generation).max().unwrap_or(0)
    }

    /// The number of the policy in force.
    pub(super) fn generation(&self) -> u64 {
        table::info(&self.policy.words, self.selected_slot()).generation
    }

    /// The words of the table of doors.
    pub(super) fn door_words(&self) -> Vec<u64> {
        self.doors.words.copy(0, DOOR_PLACES as usize)
    }

    /// The words of the table of the policy.
    pub(super) const fn policy(&self) -> &Words {
        &self.policy.words
    }

    /// The same for writing.
    pub(super) fn policy_writable(&self) -> Result<WritableWords> {
        self.policy
            .writable(size_of::<PolicyTable>() / 8)
            .map_err(|source| DataplaneError::RawMap { action: "map", map: maps::POLICY, source })
    }

    /// Writes a word of the table of doors.
    pub(super) fn set_door(&self, place: u32, word: u64) -> Result<()> {
        let words = self
            .doors
            .writable(DOOR_PLACES as usize)
            .map_err(|source| DataplaneError::RawMap { action: "map", map: maps::DOORS, source })?;
        words.set((place % DOOR_PLACES) as usize, word);
        Ok(())
    }
}

impl Direct {
    /// Opens the pin of an array: bytes of a value, and how many there are. Its shape is asked of what was opened,
    /// and not only of the pin before: reading behind the end of a map would end the process.
    fn open(
        directory: &Path,
        name: &'static str,
        (bytes, entries): (usize, usize),
    ) -> Result<Self> {
        let map = open(directory, name)?;
        let info = map.info().map_err(DataplaneError::map("look at", name))?;
        let found = (info.value_size() as usize, info.max_entries() as usize);
        if info.map_type().ok() != Some(MapType::Array) || found != (bytes, entries) {
            return Err(DataplaneError::ForeignPin {
                path: directory.join(name),
                problem: format!("it is no array of {entries} values of {bytes} bytes"),
            });
        }
        let words = Words::of(map.fd().as_fd(), entries * bytes / 8)
            .map_err(|source| DataplaneError::RawMap { action: "map", map: name, source })?;
        Ok(Self { map, words })
    }

    fn writable(&self, words: usize) -> io::Result<WritableWords> {
        WritableWords::of(self.map.fd().as_fd(), words)
    }
}

/// Opens the ring of events for reading.
pub(super) fn open_events(directory: &Path) -> Result<MapData> {
    open(directory, maps::EVENTS)
}

/// Pins the maps that outlive a policy in another directory as well.
pub(super) fn share_lasting(from: &Path, to: &Path) -> Result<()> {
    for name in LASTING {
        let path = from.join(name);
        let map = sys::obj_get(&path).map_err(DataplaneError::pin("open", path))?;
        let path = to.join(name);
        sys::obj_pin(map.as_fd(), &path).map_err(DataplaneError::pin("pin", path))?;
    }
    Ok(())
}

/// Checks that every map is pinned and has the shape that this version gives it.
pub(super) fn check(directory: &Path) -> Result<()> {
    SHAPES.iter().try_for_each(|shape| check_one(directory, shape))
}

fn check_one(directory: &Path, expected: &Shape) -> Result<()> {
    let path = directory.join(expected.name);
    let info = MapInfo::from_pin(&path).map_err(|error| open_error(&path, error))?;
    let found = (
        info.map_type().unwrap_or(MapType::Unspecified),
        info.key_size() as usize,
        info.value_size() as usize,
        info.max_entries() as usize,
    );
    let wanted = (expected.kind, expected.key, expected.value, expected.entries);
    if found == wanted && info.map_flags() == expected.flags {
        return Ok(());
    }
    let problem = format!(
        "it is {found:?} with flags {:#x}, where {wanted:?} with flags {:#x} belongs (type, key \
         bytes, value bytes, entries)",
        info.map_flags(),
        expected.flags
    );
    Err(DataplaneError::ForeignPin { path, problem })
}

fn open(directory: &Path, name: &'static str) -> Result<MapData> {
    let path = directory.join(name);
    MapData::from_pin(&path).map_err(|error| open_error(&path, error))
}

fn typed<T>(directory: &Path, name: &'static str) -> Result<T>
where
    T: TryFrom<Map, Error = MapError>,
{
    Map::from_map_data(open(directory, name)?)
        .and_then(T::try_from)
        .map_err(DataplaneError::map("open", name))
}

fn open_error(path: &Path, error: MapError) -> DataplaneError {
    let source = match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    };
    DataplaneError::pin("open", path)(source)
}
