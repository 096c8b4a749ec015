//! Learning who uses the guarded ports: a variant of each entry program, which judges as the usual one
//! does and also counts by source, in the pinned links for a while.
//!
//! The programs were loaded at the start, because a confined daemon loads none; the table that they
//! count in is made when somebody learns, and goes afterwards. Links are updated in place, so that each
//! packet is judged once, by one program or by the other. A daemon that dies amid learning leaves the
//! variant in the links, which filters all the same, until the next one puts its own programs there.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::{
    maps::{HashMap, Map, MapData},
    util::{nr_cpus, online_cpus},
};
use aya_obj::generated::bpf_map_type;
use bytemuck::Zeroable as _;
use ollama_guard_common::{
    Source, Start,
    abi::{SourceBook, SourceKey, SourceRecord, maps as names},
};

use super::{
    Dataplane, DataplaneError, Hook, Result, links,
    sys::{self, NewMap},
};

type KeyBytes = [u8; size_of::<SourceKey>()];
type RecordWords = [u64; size_of::<SourceRecord>() / 8];

/// The table of sources of one session.
pub struct SourceTable {
    map: HashMap<MapData, KeyBytes, RecordWords>,
}

/// What a table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// By source, over all CPUs.
    pub seen: BTreeMap<IpAddr, SourceRecord>,
    /// Packets of sources that found no place.
    pub homeless: u64,
}

impl SourceTable {
    /// Makes one with this many places, beside those for its books, and puts it where the programs look.
    fn new(places: u32, outer: BorrowedFd<'_>) -> Result<Self> {
        let books = cpus()?;
        let fd = create(places.saturating_add(books.into()))?;
        let at = |action| DataplaneError::map(action, names::SOURCES);
        let copy = fd.try_clone().map_err(failed("open"))?;
        let map = MapData::from_fd(copy).and_then(Map::from_map_data).map_err(at("open"))?;
        let mut map = HashMap::try_from(map).map_err(at("open"))?;
        let empty: RecordWords = bytemuck::cast(SourceBook::zeroed());
        for cpu in 0..books {
            let key: KeyBytes = bytemuck::cast(SourceKey::book(cpu));
            map.insert(key, empty, 0).map_err(at("fill"))?;
        }
        sys::set_inner_map(outer, 0, fd.as_fd()).map_err(failed("write"))?;
        Ok(Self { map })
    }

    /// What it holds now: exact once learning has ended.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn read(&self) -> Result<Sources> {
        let (mut sources, mut inside) = (Sources::default(), Sources::default());
        for entry in self.map.iter() {
            let (key, words) = entry.map_err(DataplaneError::map("read", names::SOURCES))?;
            let key: SourceKey = bytemuck::pod_read_unaligned(&key);
            match key.source() {
                None => sources.homeless += bytemuck::cast::<_, SourceBook>(words).homeless,
                Some(source) if key.is_inner() => {
                    inside.add(address(source), &bytemuck::cast(words))
                }
                Some(source) => sources.add(address(source), &bytemuck::cast(words)),
            }
        }
        sources.beside(inside);
        Ok(sources)
    }
}

/// Makes the array of one that a table is put into, and pins it.
///
/// The loader could make it, and would give the model of the tables types (BTF), which the tables have not. Kernels before
/// 6.2 take such a table for one of another kind: without types the place of a timer is unknown, and with them
/// there is none (`timer_off` in `bpf_map_meta_equal`, kernel/bpf/map_in_map.c).
pub(super) fn create_outer(directory: &Path) -> Result<()> {
    let template = create(1)?;
    let outer = sys::map_create(&NewMap {
        kind: bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS,
        key_bytes: 4,
        value_bytes: 4,
        entries: 1,
        flags: 0,
        inner: Some(template.as_fd()),
        name: names::SOURCES,
    })
    .map_err(failed("create"))?;
    let path = directory.join(names::SOURCES);
    sys::obj_pin(outer.as_fd(), &path).map_err(DataplaneError::pin("pin", path))
}

fn create(entries: u32) -> Result<OwnedFd> {
    sys::map_create(&NewMap {
        kind: bpf_map_type::BPF_MAP_TYPE_HASH,
        key_bytes: size_of::<SourceKey>() as u32,
        value_bytes: size_of::<SourceRecord>() as u32,
        entries,
        flags: 0,
        inner: None,
        name: names::SOURCES,
    })
    .map_err(failed("create"))
}

impl Sources {
    /// Adds what the inner door has seen. What comes in by another door comes by there too, so of each source
    /// the larger number stands: that is all of its packets but for those that a door alone has seen.
    fn beside(&mut self, inside: Self) {
        self.homeless += inside.homeless;
        for (source, seen) in inside.seen {
            let sum = self.seen.entry(source).or_insert(seen);
            sum.allowed = sum.allowed.max(seen.allowed);
            sum.refused = sum.refused.max(seen.refused);
            sum.bytes = sum.bytes.max(seen.bytes);
            sum.first_ns = sum.first_ns.min(seen.first_ns);
            sum.last_ns = sum.last_ns.max(seen.last_ns);
            sum.traits |= seen.traits;
        }
    }

    /// Adds what one CPU has seen of a source.
    fn add(&mut self, source: IpAddr, seen: &SourceRecord) {
        let sum = self
            .seen
            .entry(source)
            .or_insert(SourceRecord { first_ns: seen.first_ns, ..SourceRecord::default() });
        sum.allowed += seen.allowed;
        sum.refused += seen.refused;
        sum.bytes += seen.bytes;
        sum.first_ns = sum.first_ns.min(seen.first_ns);
        sum.last_ns = sum.last_ns.max(seen.last_ns);
        sum.traits |= seen.traits;
    }
}

impl Dataplane {
    /// Puts the programs that learn into the links, with a new table of so many places. Doors that are
    /// covered from now on get them as well.
    ///
    /// # Errors
    ///
    /// If the table can't be made, or a link does not take its program; then all have the usual ones.
    pub fn begin_learning(&mut self, places: u32) -> Result<SourceTable> {
        let table = SourceTable::new(places, self.maps.sources())?;
        self.entries.learn(true);
        match self.put_in_place() {
            Ok(()) => Ok(table),
            Err(error) => {
                if let Err(error) = self.end_learning() {
                    tracing::error!(%error, "learning can't be ended as it should");
                }
                Err(error)
            }
        }
    }

    /// Puts the usual programs back into the links. When this returns, nothing more is counted by source.
    ///
    /// # Errors
    ///
    /// If a link does not take its program; the keeper tries again.
    pub fn end_learning(&mut self) -> Result<()> {
        self.entries.learn(false);
        self.put_in_place().and(self.clear_sources())
    }

    /// The kernel's ids of the programs that links of a hook and a start run by turns: the usual one, and
    /// the one that learns.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn variant_ids(&self, hook: Hook, start: Start) -> Result<[u32; 2]> {
        let (_, one) = identity(self.entries.loaded(hook, start)?)?;
        let (_, other) = identity(self.entries.counterpart(hook, start)?)?;
        Ok([one, other])
    }

    /// Takes the table away. On return no program is running that has found it
    /// (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c).
    pub(super) fn clear_sources(&self) -> Result<()> {
        match sys::clear_inner_map(self.maps.sources(), 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(failed("write")),
        }
    }

    /// Puts the programs that links are to run now into all that run their counterparts. One that runs
    /// somebody else's program is the keeper's to mend.
    fn put_in_place(&mut self) -> Result<()> {
        let mut outcome = self.turn_inside();
        for link in self.links()?.into_iter().filter(|link| link.alive) {
            for start in [Start::Link, Start::Network] {
                let (_, before) = identity(self.entries.counterpart(link.hook, start)?)?;
                if link.program_id == before {
                    let program = self.entries.loaded(link.hook, start)?;
                    let put = links::put(&self.pins, program, link.hook, link.ifindex);
                    // Of a clsact filter the pin is another object's now.
                    self.hold([self.pins.link(link.hook, link.ifindex)]);
                    outcome = outcome.and(put);
                }
            }
        }
        outcome
    }
}

fn identity(program: BorrowedFd<'_>) -> Result<(u32, u32)> {
    sys::identity(program).map_err(DataplaneError::pin("look at", "a program of ours"))
}

/// How many CPUs may have a book: their numbers are below.
fn cpus() -> Result<u16> {
    let trouble = |(_, error)| failed("count the CPUs for")(error);
    let last = online_cpus().map_err(trouble)?.into_iter().max().unwrap_or(0) as usize;
    let count = nr_cpus().map_err(trouble)?.max(last + 1);
    u16::try_from(count)
        .map_err(|_| failed("count the CPUs for")(io::ErrorKind::InvalidData.into()))
}

fn address(source: Source) -> IpAddr {
    match source {
        Source::V4(bytes) => IpAddr::from(bytes),
        Source::V6(bytes) => IpAddr::from(bytes),
    }
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> DataplaneError {
    move |source| DataplaneError::RawMap { action, map: names::SOURCES, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_doors_saw_of_a_source_is_not_counted_twice() {
        let record = |allowed| SourceRecord { allowed, bytes: 10 * allowed, ..Default::default() };
        let [both, inside_only] = [7, 8].map(|last| IpAddr::from([192, 0, 2, last]));
        let (mut sources, mut inside) = (Sources::default(), Sources::default());
        sources.add(both, &record(9));
        inside.add(both, &record(8));
        inside.add(inside_only, &record(3));
        sources.beside(inside);
        let seen = BTreeMap::from([(both, record(9)), (inside_only, record(3))]);
        assert_eq!(sources.seen, seen);
    }

    #[test]
    fn what_several_cpus_saw_of_a_source_is_one_sum() {
        let mut sources = Sources::default();
        let record = |allowed, first_ns, last_ns, traits| SourceRecord {
            allowed,
            refused: 1,
            bytes: 100,
            first_ns,
            last_ns,
            traits,
        };
        let source = IpAddr::from([192, 0, 2, 7]);
        sources.add(source, &record(3, 50, 60, 1));
        sources.add(source, &record(4, 40, 45, 4));
        let sum = SourceRecord { refused: 2, bytes: 200, ..record(7, 40, 60, 5) };
        assert_eq!(sources.seen, BTreeMap::from([(source, sum)]));
    }
}
