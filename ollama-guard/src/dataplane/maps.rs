//! Typed handles on the pinned maps, and the check that a pin is what it should be.

use std::{io, os::fd::AsFd as _, path::Path};

use aya::maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, MapType, PerCpuArray,
};
use ollama_guard_common::abi::{
    Books, DoorCounters, EVENT_RING_BYTES, MAX_ADDRESSES, MAX_DOORS, PORT_WORDS,
    PORT_WORDS_PER_SLOT, SLOTS, SlotInfo, maps,
};

use super::{DataplaneError, Result, pins, sys};

/// aya wants its own marker trait on map values; arrays of words have it, and bytemuck casts
/// them to the shared structs with sizes and alignments checked by the compiler.
pub(super) type SlotInfoWords = [u64; size_of::<SlotInfo>() / 8];
pub(super) type CounterWords = [u64; size_of::<DoorCounters>() / 8];
pub(super) type BooksWords = [u64; size_of::<Books>() / 8];

/// The rules of one family in one slot.
pub(super) type Rules<A> = LpmTrie<MapData, A, u32>;

/// Every pinned map.
pub(super) struct Maps {
    pub(super) selected: Array<MapData, u32>,
    pub(super) slot_info: Array<MapData, SlotInfoWords>,
    pub(super) ports: Array<MapData, u64>,
    pub(super) rules_v4: ArrayOfMaps<MapData, Rules<[u8; 4]>>,
    pub(super) rules_v6: ArrayOfMaps<MapData, Rules<[u8; 16]>>,
    /// A second handle on each array of maps and on the ports, for what aya's types do not offer.
    pub(super) outer_v4: MapData,
    pub(super) outer_v6: MapData,
    all_ports: MapData,
    pub(super) addresses: HashMap<MapData, [u8; 16], u32>,
    pub(super) doors: HashMap<MapData, u32, u32>,
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
}

const fn shape(
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: usize,
) -> Shape {
    Shape { name, kind, key, value, entries }
}

const SHAPES: [Shape; maps::ALL.len()] = [
    shape(maps::SELECTED, MapType::Array, 4, 4, 1),
    shape(maps::SLOT_INFO, MapType::Array, 4, size_of::<SlotInfo>(), SLOTS as usize),
    shape(maps::PORTS, MapType::Array, 4, 8, PORT_WORDS),
    shape(maps::RULES_V4, MapType::ArrayOfMaps, 4, 4, SLOTS as usize),
    shape(maps::RULES_V6, MapType::ArrayOfMaps, 4, 4, SLOTS as usize),
    shape(maps::ADDRESSES, MapType::Hash, 16, 4, MAX_ADDRESSES as usize),
    shape(maps::DOORS, MapType::Hash, 4, 4, MAX_DOORS as usize),
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
            slot_info: typed(directory, maps::SLOT_INFO)?,
            ports: typed(directory, maps::PORTS)?,
            rules_v4: typed(directory, maps::RULES_V4)?,
            rules_v6: typed(directory, maps::RULES_V6)?,
            outer_v4: open(directory, maps::RULES_V4)?,
            outer_v6: open(directory, maps::RULES_V6)?,
            all_ports: ports_for_batches(directory)?,
            addresses: typed(directory, maps::ADDRESSES)?,
            doors: typed(directory, maps::DOORS)?,
            counters: typed(directory, maps::COUNTERS)?,
            books: typed(directory, maps::BOOKS)?,
            allowance: typed(directory, maps::ALLOWANCE)?,
        })
    }

    /// The slot that packets are judged by. The program takes it modulo the number of slots.
    pub(super) fn selected_slot(&self) -> Result<u32> {
        let word = self.selected.get(&0, 0).map_err(DataplaneError::map("read", maps::SELECTED))?;
        Ok(word % SLOTS)
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

/// Opens the table of ports for batches. Its shape is asked of what was opened, and not only of the
/// pin before: the kernel writes as many bytes as the map's values have.
fn ports_for_batches(directory: &Path) -> Result<MapData> {
    let data = open(directory, maps::PORTS)?;
    let info = data.info().map_err(DataplaneError::map("look at", maps::PORTS))?;
    let (key, value, entries) = (info.key_size(), info.value_size(), info.max_entries() as usize);
    if (key, value, entries) == (4, 8, PORT_WORDS) {
        return Ok(data);
    }
    Err(DataplaneError::ForeignPin {
        path: directory.join(maps::PORTS),
        problem: format!("it has keys of {key}, values of {value} bytes and {entries} entries"),
    })
}

/// Opens the ring of events for reading.
pub(super) fn open_events(directory: &Path) -> Result<MapData> {
    open(directory, maps::EVENTS)
}

/// Opens the pinned rules of a slot.
pub(super) fn open_rules<A: aya::Pod>(
    directory: &Path,
    outer: &'static str,
    slot: u32,
) -> Result<Rules<A>> {
    let path = directory.join(pins::rules_name(outer, slot));
    let data = MapData::from_pin(&path).map_err(|error| open_error(&path, error))?;
    Map::from_map_data(data).and_then(Rules::try_from).map_err(DataplaneError::map("open", outer))
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
    if found == wanted && info.map_flags() == 0 {
        return Ok(());
    }
    let problem = format!(
        "it is {found:?} with flags {:#x}, where {wanted:?} without flags belongs (type, key \
         bytes, value bytes, entries)",
        info.map_flags()
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
