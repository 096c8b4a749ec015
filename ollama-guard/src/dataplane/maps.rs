//! Typed handles on the pinned maps, and the check that a pin is what it should be.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray};
use aya_obj::generated::BPF_F_MMAPABLE;
use ollama_guard_common::abi::{
    Books, DOOR_PLACES, DoorCounters, EVENT_RING_BYTES, MAX_ADDRESSES, MAX_DOORS, PORT_WORDS,
    PORT_WORDS_PER_SLOT, SLOTS, Selection, SlotInfo, maps,
};

use super::{DataplaneError, Result, selection, sys};

/// aya wants its own marker trait on map values; arrays of words have it, and bytemuck casts
/// them to the shared structs with sizes and alignments checked by the compiler.
pub(super) type SlotInfoWords = [u64; size_of::<SlotInfo>() / 8];
pub(super) type CounterWords = [u64; size_of::<DoorCounters>() / 8];
pub(super) type BooksWords = [u64; size_of::<Books>() / 8];

/// The maps that outlive a policy: what was counted, and which interfaces there are.
pub(super) const LASTING: [&str; 6] =
    [maps::ADDRESSES, maps::DOORS, maps::COUNTERS, maps::BOOKS, maps::ALLOWANCE, maps::EVENTS];

/// Every pinned map.
pub(super) struct Maps {
    selected: Array<MapData, u64>,
    selected_data: MapData,
    pub(super) slot_info: Array<MapData, SlotInfoWords>,
    pub(super) ports: Array<MapData, u64>,
    rules: MapData,
    /// A second handle on ports and doors, for what aya's types do not offer.
    all_ports: MapData,
    pub(super) addresses: HashMap<MapData, [u8; 16], u32>,
    pub(super) doors: Array<MapData, u64>,
    all_doors: MapData,
    pub(super) counters: PerCpuArray<MapData, CounterWords>,
    pub(super) books: PerCpuArray<MapData, BooksWords>,
    pub(super) allowance: PerCpuArray<MapData, u64>,
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

const SHAPES: [Shape; maps::ALL.len()] = [
    Shape { flags: BPF_F_MMAPABLE, ..shape(maps::SELECTED, MapType::Array, 4, 8, 1) },
    shape(maps::SLOT_INFO, MapType::Array, 4, size_of::<SlotInfo>(), SLOTS as usize),
    shape(maps::PORTS, MapType::Array, 4, 8, PORT_WORDS),
    shape(maps::RULES, MapType::ArrayOfMaps, 4, 4, SLOTS as usize),
    shape(maps::ADDRESSES, MapType::Hash, 16, 4, MAX_ADDRESSES as usize),
    shape(maps::DOORS, MapType::Array, 4, 8, DOOR_PLACES as usize),
    shape(maps::COUNTERS, MapType::PerCpuArray, 4, size_of::<DoorCounters>(), MAX_DOORS as usize),
    shape(maps::BOOKS, MapType::PerCpuArray, 4, size_of::<Books>(), 1),
    shape(maps::ALLOWANCE, MapType::PerCpuArray, 4, 8, 1),
    shape(maps::EVENTS, MapType::RingBuf, 0, 0, EVENT_RING_BYTES as usize),
];

impl Maps {
    /// Opens the pins of a directory, each of them checked.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        check(directory)?;
        Ok(Self {
            selected: typed(directory, maps::SELECTED)?,
            selected_data: open(directory, maps::SELECTED)?,
            slot_info: typed(directory, maps::SLOT_INFO)?,
            ports: typed(directory, maps::PORTS)?,
            rules: open(directory, maps::RULES)?,
            all_ports: words_for_batches(directory, maps::PORTS, PORT_WORDS)?,
            addresses: typed(directory, maps::ADDRESSES)?,
            doors: typed(directory, maps::DOORS)?,
            all_doors: words_for_batches(directory, maps::DOORS, DOOR_PLACES as usize)?,
            counters: typed(directory, maps::COUNTERS)?,
            books: typed(directory, maps::BOOKS)?,
            allowance: typed(directory, maps::ALLOWANCE)?,
        })
    }

    /// The array of the arrays of rules.
    pub(super) fn rules(&self) -> BorrowedFd<'_> {
        self.rules.fd().as_fd()
    }

    /// What packets are judged by.
    pub(super) fn selection(&self) -> Result<Selection> {
        let word = self.selected.get(&0, 0).map_err(DataplaneError::map("read", maps::SELECTED))?;
        Ok(Selection(word))
    }

    /// The slot that packets are judged by.
    pub(super) fn selected_slot(&self) -> Result<u32> {
        Ok(self.selection()?.slot())
    }

    /// Puts another policy in force, whole.
    pub(super) fn select(&self, selection: Selection) -> Result<()> {
        selection::store(self.selected_data.fd().as_fd(), selection).map_err(|source| {
            DataplaneError::RawMap { action: "write", map: maps::SELECTED, source }
        })
    }

    /// The words of the table of guarded ports, slot by slot.
    pub(super) fn port_words(&self) -> Result<[Vec<u64>; SLOTS as usize]> {
        let words =
            sys::array_words(self.all_ports.fd().as_fd(), PORT_WORDS).map_err(|source| {
                DataplaneError::RawMap { action: "read", map: maps::PORTS, source }
            })?;
        Ok(std::array::from_fn(|slot| {
            let first = slot * PORT_WORDS_PER_SLOT;
            words[first..first + PORT_WORDS_PER_SLOT].to_vec()
        }))
    }

    /// The words of the table of doors.
    pub(super) fn door_words(&self) -> Result<Vec<u64>> {
        sys::array_words(self.all_doors.fd().as_fd(), DOOR_PLACES as usize)
            .map_err(|source| DataplaneError::RawMap { action: "read", map: maps::DOORS, source })
    }

    /// The words of one slot.
    pub(super) fn port_words_of(&self, slot: u32) -> Result<Vec<u64>> {
        let [first, second] = self.port_words()?;
        Ok(if slot.is_multiple_of(SLOTS) { first } else { second })
    }

    /// What a slot holds.
    pub(super) fn slot_info(&self, slot: u32) -> Result<SlotInfo> {
        let words =
            self.slot_info.get(&slot, 0).map_err(DataplaneError::map("read", maps::SLOT_INFO))?;
        Ok(bytemuck::cast(words))
    }
}

/// Opens an array of words for batches. Its shape is asked of what was opened, and not only of the
/// pin before: the kernel writes as many bytes as the map's values have.
fn words_for_batches(directory: &Path, name: &'static str, words: usize) -> Result<MapData> {
    let data = open(directory, name)?;
    let info = data.info().map_err(DataplaneError::map("look at", name))?;
    let (key, value, entries) = (info.key_size(), info.value_size(), info.max_entries() as usize);
    if (key, value, entries) == (4, 8, words) {
        return Ok(data);
    }
    Err(DataplaneError::ForeignPin {
        path: directory.join(name),
        problem: format!("it has keys of {key}, values of {value} bytes and {entries} entries"),
    })
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
