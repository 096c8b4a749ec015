//! Counters by door and reason, and the books of the events.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
};

use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use ollama_guard_common::{
    Mode, Reason, Verdict,
    abi::{
        Book, Books, DOOR_DEPARTED, DOOR_INNER, DOOR_UNKNOWN, DoorCounters, FIRST_DOOR, MAX_DOORS,
        ServiceCounters, door_number, door_places, door_word, maps as names,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    DataplaneError, Result,
    maps::{CounterWords, Maps, ServiceWords},
    table,
};

/// Stands for the inner door where interfaces have their index: none has this one.
pub const INNER_DOOR: u32 = 0;

/// Packets by mode at the time and by reason, summed over the CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// By the reason's name; reasons that never occurred are left out.
    pub enforce: BTreeMap<String, u64>,
    /// The same, for packets that were judged in observe mode.
    pub observe: BTreeMap<String, u64>,
}

impl Counts {
    fn of(packets: &[[u64; Reason::SLOTS]; Mode::COUNT]) -> Self {
        let by_name = |mode: Mode| {
            let counts = &packets[mode as usize];
            let named = Reason::ALL.iter().map(|reason| (reason, counts[reason.index()]));
            named.filter(|&(_, n)| n > 0).map(|(reason, n)| (reason.name().into(), n)).collect()
        };
        Self { enforce: by_name(Mode::Enforce), observe: by_name(Mode::Observe) }
    }

    /// Packets that were judged in one mode, by the reason's name.
    #[must_use]
    pub const fn in_mode(&self, mode: Mode) -> &BTreeMap<String, u64> {
        match mode {
            Mode::Enforce => &self.enforce,
            Mode::Observe => &self.observe,
        }
    }

    /// What is left without the others, reason by reason.
    #[must_use]
    pub fn without<'o>(mut self, others: impl IntoIterator<Item = &'o Self>) -> Self {
        for other in others {
            for (mine, theirs) in
                [(&mut self.enforce, &other.enforce), (&mut self.observe, &other.observe)]
            {
                for (reason, count) in theirs {
                    if let Some(mine) = mine.get_mut(reason) {
                        *mine = mine.saturating_sub(*count);
                    }
                }
            }
        }
        self
    }

    /// Without what passed. What the inner door lets pass has passed another door before, as a rule, and is
    /// not counted twice where doors are added up.
    #[must_use]
    pub fn without_passes(mut self) -> Self {
        for reason in Reason::ALL.iter().filter(|reason| reason.verdict() == Verdict::Pass) {
            self.enforce.remove(reason.name());
            self.observe.remove(reason.name());
        }
        self
    }

    /// Packets for which the verdict was to drop, in one mode.
    #[must_use]
    pub fn drops(&self, mode: Mode) -> u64 {
        let counts = self.in_mode(mode);
        Reason::ALL
            .iter()
            .filter(|reason| reason.verdict() == Verdict::Drop)
            .filter_map(|reason| counts.get(reason.name()))
            .sum()
    }
}

/// The counters of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorCounts {
    /// The interface, or [`INNER_DOOR`]; `None` for the two numbers that stand for no door in particular.
    pub ifindex: Option<u32>,
    /// What was counted there.
    pub counts: Counts,
}

/// The counters of all doors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllCounts {
    /// Over all doors, departed ones included; of the inner door without what passed there
    /// ([`Counts::without_passes`]).
    pub total: Counts,
    /// By interface.
    pub doors: Vec<DoorCounts>,
    /// Drops whose event was not tried, by mode; told with the books.
    #[serde(skip)]
    pub suppressed: [u64; Mode::COUNT],
}

/// What became of the drop events of one mode, summed over the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookTotals {
    /// Packets that were to be dropped, from the counters by reason.
    pub dropped: u64,
    /// Events put into the ring.
    pub submitted: u64,
    /// Not tried, because the allowance was used up.
    pub suppressed: u64,
    /// Tried, and the ring was full.
    pub lost: u64,
}

impl BookTotals {
    /// Whether the books balance. Under load they may be off by one packet a CPU.
    #[must_use]
    pub const fn balances(&self) -> bool {
        self.dropped == self.submitted + self.suppressed + self.lost
    }
}

/// Held while counts move from one number to another, so that nobody in this process sees them twice or
/// not at all: who takes the sums for counters would take that for a reset.
static MOVING: RwLock<()> = RwLock::new(());

/// Reads every counter.
pub(super) fn read(maps: &Maps) -> Result<AllCounts> {
    let _still = MOVING.read().unwrap_or_else(PoisonError::into_inner);
    let mut sums = zero();
    let mut doors = Vec::new();
    let numbers = numbers(maps);
    let unlisted = [DOOR_UNKNOWN, DOOR_DEPARTED].map(|number| (None, number));
    let listed = numbers.iter().map(|(&ifindex, &number)| (Some(ifindex), number));
    for (ifindex, number) in listed.chain(unlisted) {
        let mut counters = sum(&maps.counters, number)?;
        let counts = Counts::of(&counters.packets);
        let is_there = ifindex.is_some_and(|ifindex| ifindex != INNER_DOOR);
        if is_there || counts != Counts::default() {
            doors.push(DoorCounts { ifindex, counts });
        }
        if ifindex == Some(INNER_DOOR) {
            forget_passes(&mut counters.packets);
        }
        add(&mut sums, &counters);
    }
    Ok(AllCounts { total: Counts::of(&sums.packets), doors, suppressed: sums.suppressed })
}

/// Reads the books of every CPU.
pub(super) fn read_books(maps: &Maps) -> Result<Vec<Books>> {
    let values = maps.books.get(&0, 0).map_err(DataplaneError::map("read", names::BOOKS))?;
    Ok(values.iter().map(|words| bytemuck::cast(*words)).collect())
}

/// The books of one mode.
pub(super) fn totals(books: &[Books], counts: &AllCounts, mode: Mode) -> BookTotals {
    let sum = |field: fn(&Book) -> u64| books.iter().map(|b| field(&b.modes[mode as usize])).sum();
    BookTotals {
        dropped: counts.total.drops(mode),
        submitted: sum(|book| book.submitted),
        suppressed: counts.suppressed[mode as usize],
        lost: sum(|book| book.lost),
    }
}

/// Gives an interface a door number, so that it has counters of its own. With all numbers in use
/// its packets are counted together under "unknown".
pub(super) fn register(maps: &Maps, ifindex: u32) -> Result<()> {
    let numbers = numbers(maps);
    if numbers.contains_key(&ifindex) {
        return Ok(());
    }
    let free = (FIRST_DOOR..MAX_DOORS).find(|n| !numbers.values().any(|used| used == n));
    let Some(free) = free else {
        return Ok(());
    };
    let words = maps.door_words();
    // Should both places be taken, which is rare among so many, the packets count as "unknown" too.
    match door_places(ifindex).into_iter().find(|&place| words[place as usize] == 0) {
        Some(place) => maps.set_door(place, door_word(ifindex, free)),
        None => Ok(()),
    }
}

/// Takes the number from an interface that is gone and keeps its counts under "departed".
pub(super) fn retire(maps: &mut Maps, ifindex: u32) -> Result<()> {
    if ifindex == INNER_DOOR {
        return Ok(());
    }
    let _moving = MOVING.write().unwrap_or_else(PoisonError::into_inner);
    let Some(number) = numbers(maps).remove(&ifindex) else {
        return Ok(());
    };
    let at = |action| DataplaneError::map(action, names::COUNTERS);
    let leaving = maps.counters.get(&number, 0).map_err(at("read"))?;
    let departed = maps.counters.get(&DOOR_DEPARTED, 0).map_err(at("read"))?;
    let sums: Vec<CounterWords> = departed
        .iter()
        .zip(leaving.iter())
        .map(|(departed, leaving)| std::array::from_fn(|i| departed[i] + leaving[i]))
        .collect();
    let zeros = vec![[0; size_of::<DoorCounters>() / 8]; sums.len()];
    let words = maps.door_words();
    for place in door_places(ifindex) {
        if door_number(words[place as usize], ifindex).is_some() {
            maps.set_door(place, 0)?;
        }
    }
    table::forget_class(maps, number)?;
    for (number, values) in [(DOOR_DEPARTED, sums), (number, zeros)] {
        let values = PerCpuValues::try_from(values)
            .map_err(|source| DataplaneError::Image(format!("counters of every CPU: {source}")))?;
        maps.counters.set(number, values, 0).map_err(at("write"))?;
    }
    Ok(())
}

/// Packets for the ports of the service with this number, since there are several.
pub(super) fn read_service(maps: &Maps, number: u8) -> Result<Counts> {
    let values = maps.services.get(&u32::from(number), 0);
    let values = values.map_err(DataplaneError::map("read", names::SERVICES))?;
    let mut packets = [[0; Reason::SLOTS]; Mode::COUNT];
    for words in values.iter() {
        add_packets(&mut packets, &bytemuck::cast::<ServiceWords, ServiceCounters>(*words).packets);
    }
    Ok(Counts::of(&packets))
}

/// Begins to count anew for a number that another service has now.
pub(super) fn clear_service(maps: &mut Maps, number: u8) -> Result<()> {
    let at = |action| DataplaneError::map(action, names::SERVICES);
    let processors = maps.services.get(&u32::from(number), 0).map_err(at("read"))?.len();
    let zeros = vec![[0; size_of::<ServiceCounters>() / 8]; processors];
    let zeros = PerCpuValues::try_from(zeros)
        .map_err(|source| DataplaneError::Image(format!("counters of every CPU: {source}")))?;
    maps.services.set(u32::from(number), zeros, 0).map_err(at("write"))
}

/// The interfaces with a door number, and the inner door, which always has its own.
pub(super) fn numbers(maps: &Maps) -> BTreeMap<u32, u32> {
    let listed = maps.door_words().into_iter().filter(|word| *word != 0);
    let listed = listed.map(|word| ((word >> 32) as u32, word as u32));
    listed.chain([(INNER_DOOR, DOOR_INNER)]).collect()
}

/// What was counted under one door number.
pub(super) fn read_one<T: Borrow<MapData>>(
    counters: &PerCpuArray<T, CounterWords>,
    number: u32,
) -> Result<Counts> {
    Ok(Counts::of(&sum(counters, number)?.packets))
}

fn sum<T: Borrow<MapData>>(
    counters: &PerCpuArray<T, CounterWords>,
    number: u32,
) -> Result<DoorCounters> {
    let values = counters.get(&number, 0).map_err(DataplaneError::map("read", names::COUNTERS))?;
    let mut sum = zero();
    for words in values.iter() {
        add(&mut sum, &bytemuck::cast::<CounterWords, DoorCounters>(*words));
    }
    Ok(sum)
}

fn forget_passes(packets: &mut [[u64; Reason::SLOTS]; Mode::COUNT]) {
    for reason in Reason::ALL.iter().filter(|reason| reason.verdict() == Verdict::Pass) {
        packets.iter_mut().for_each(|counts| counts[reason.index()] = 0);
    }
}

fn add(sum: &mut DoorCounters, counters: &DoorCounters) {
    add_packets(&mut sum.packets, &counters.packets);
    for (sum, count) in sum.suppressed.iter_mut().zip(&counters.suppressed) {
        *sum += count;
    }
}

fn add_packets(
    sum: &mut [[u64; Reason::SLOTS]; Mode::COUNT],
    packets: &[[u64; Reason::SLOTS]; Mode::COUNT],
) {
    for (sum, count) in sum.as_flattened_mut().iter_mut().zip(packets.as_flattened()) {
        *sum += count;
    }
}

const fn zero() -> DoorCounters {
    DoorCounters { packets: [[0; Reason::SLOTS]; Mode::COUNT], suppressed: [0; Mode::COUNT] }
}
