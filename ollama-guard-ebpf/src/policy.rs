//! The policy in force, read from the maps.

mod apart;

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use ollama_guard_common::{
    Mode, Policy, Protocol, Scope, Source, Standing, Target, Wanted,
    abi::{
        INNER_OBSERVES, PolicyTable, RULE_BLOCK_WORDS, RuleSet, SLOTS, Selection, SlotInfo,
        guardian_in, port_place,
    },
    flow::{halves, whole},
    trie::{Words, find4, find6, is_stranger4, is_stranger6},
};

use crate::{
    frames::Arrived,
    maps::{OG_ADDRESSES, OG_POLICY, OG_RULES, PORTS_MASK, Rules},
};

pub use apart::wanted;

/// The policy of the slot that was selected when the packet came in.
///
/// The selection is read once for each packet: everything about it is decided by the old policy or
/// by the new one, never by a mixture.
pub struct LivePolicy<'a, A> {
    /// The packet, for the door that it came in through.
    arrived: &'a A,
    table: *const PolicyTable,
    selection: Selection,
}

impl<'a, A: Arrived> LivePolicy<'a, A> {
    /// Selects the slot for one packet. Always `Some`: the table is one element, and it is there.
    #[inline(always)]
    pub fn select(arrived: &'a A) -> Option<Self> {
        let table = OG_POLICY.get_ptr(0)?;
        // SAFETY: a field of a live array element.
        let selection = unsafe { &raw const (*table).selection };
        // SAFETY: as above.
        let mut selection = Selection(unsafe { word(selection) });
        if selection.is_on_trial() {
            selection = Selection(og_on_trial(selection.0));
        }
        Some(Self { arrived, table, selection })
    }

    /// The policy that was selected for this packet, in a function that goes on with it.
    #[inline(always)]
    pub fn of(arrived: &'a A, selection: u64) -> Option<Self> {
        Some(Self { arrived, table: OG_POLICY.get_ptr(0)?, selection: Selection(selection) })
    }

    /// How it was selected.
    #[inline(always)]
    pub const fn selection(&self) -> Selection {
        self.selection
    }

    /// Which slot it is.
    #[inline(always)]
    pub const fn slot(&self) -> u32 {
        self.selection.slot()
    }
}

/// Reads a word that user space may write meanwhile: once, where it stands in the source. Otherwise
/// the compiler could read it twice, and find different values.
///
/// # Safety
///
/// The place is in a live map element.
#[inline(always)]
unsafe fn word(place: *const u64) -> u64 {
    // SAFETY: promised by the caller.
    unsafe { place.read_volatile() }
}

/// Whether the inner door drops nothing, whatever the policy says.
#[inline(always)]
fn inner_observes(table: *const PolicyTable) -> bool {
    // SAFETY: a field of a live array element.
    let place = unsafe { &raw const (*table).inner };
    // SAFETY: as above.
    unsafe { word(place) == INNER_OBSERVES }
}

/// What stands in the table of ports for one: 0 if it is not guarded.
#[inline(always)]
fn guardian(table: *const PolicyTable, slot: u32, protocol: Protocol, port: u16) -> u8 {
    let index = port_place(protocol, 0) / 2 + (u32::from(port) >> 1 & PORTS_MASK.load()) as usize;
    // SAFETY: below the number of slots, and a field of the table.
    let ports = unsafe { &raw const (*table).ports[(slot % SLOTS) as usize] };
    // SAFETY: within the bytes of a slot: those of a protocol are as many as the mask has numbers.
    let place = unsafe { ports.cast::<u8>().add(index) };
    // SAFETY: as above. Volatile, as user space may write to it meanwhile.
    guardian_in(unsafe { place.read_volatile() }, port)
}

impl<A: Arrived> Policy for LivePolicy<'_, A> {
    #[inline(always)]
    fn is_guarded(&self, protocol: Protocol, port: u16) -> bool {
        self.selection.may_guard(port) && guardian(self.table, self.slot(), protocol, port) != 0
    }

    #[inline(always)]
    fn guards_any(&self, protocol: Protocol) -> bool {
        self.selection.guards_any(protocol)
    }

    #[inline(always)]
    fn scope(&self) -> Scope {
        self.selection.scope()
    }

    #[inline(always)]
    fn is_behind_nat(&self) -> bool {
        A::IS_INNER
    }

    #[inline(always)]
    fn is_own_address(&self, destination: &[u8; 16]) -> bool {
        let (high, low) = halves(*destination);
        og_own_address(high, low) != 0
    }

    #[inline(always)]
    fn wanted(&self, target: Target) -> Wanted {
        let mut wanted = match self.selection.is_apart() {
            false => Wanted::plainly(self.selection.mode()),
            true => apart::unpacked(self.arrived.wanted(self.selection.0, apart::packed(target))),
        };
        if A::IS_INNER && inner_observes(self.table) {
            wanted.terms.mode = Mode::Observe;
        }
        wanted
    }

    #[inline(always)]
    fn standing(&self, source: &Source, pairs: u32) -> Standing {
        self.look_up(source).map_or(Standing::RulesAbsent, |set| set.standing(pairs))
    }
}

impl<A> LivePolicy<'_, A> {
    /// What the rules say about a source. `None` if they are not there, or damaged.
    ///
    /// A stranger whom no rule is near is settled here, as a flood is made of them; for all others
    /// there are the functions.
    #[inline(always)]
    fn look_up(&self, source: &Source) -> Option<RuleSet> {
        let slot = self.selection.slot();
        let info = description(self.table, slot);
        let rules = Table(OG_RULES.get(slot)?);
        let found = match *source {
            Source::V4(address) => {
                let address = u32::from_be_bytes(address);
                if is_stranger4(&rules, first4(info), address) {
                    return Some(RuleSet::NONE);
                }
                og_find4(slot, root4(info), address)
            }
            Source::V6(address) => {
                let (high, low) = halves(address);
                if is_stranger6(&rules, first6(info), high) {
                    return Some(RuleSet::NONE);
                }
                let [first, second] = root6(info);
                og_find6(slot, first, second, high, low)
            }
        };
        // No set has a bit for both.
        if found == ABSENT { None } else { Some(RuleSet::from_word(found)) }
    }
}

/// The selection that is in force, of one that is on trial: as a function of its own, for that is rare.
///
/// Nobody has to be there to take the old policy back: the clock does, and it goes on while the machine sleeps.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_on_trial(selection: u64) -> u64 {
    let Some(table) = OG_POLICY.get_ptr(0) else { return selection };
    // SAFETY: a field of a live array element.
    let until = unsafe { &raw const (*table).trial_until };
    // SAFETY: as above.
    let before = unsafe { &raw const (*table).before_trial };
    // SAFETY: a word of a live array element.
    let until = unsafe { word(until) };
    // SAFETY: as above.
    let before = unsafe { word(before) };
    // SAFETY: a helper without arguments (bpf-helpers(7), Linux 5.8).
    if unsafe { bpf_ktime_get_boot_ns() } < until { selection } else { before }
}

/// [`Policy::is_own_address`] as a function of its own, of the halves of an address. Not 0 if it is.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_own_address(high: u64, low: u64) -> u32 {
    let address = whole(high, low);
    OG_ADDRESSES.get_ptr(address).is_some().into()
}

/// What the lookups return if the rules are not there.
const ABSENT: u64 = u64::MAX;

/// The lookup of an IPv4 source as a function of its own, which the verifier looks at once. Returns
/// the set, or [`ABSENT`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_find4(slot: u32, root: u64, address: u32) -> u64 {
    let find = || {
        let rules = Table(OG_RULES.get(slot)?);
        let set = find4(&rules, root, address)?;
        rules.set(set)
    };
    find().unwrap_or(ABSENT)
}

/// The same for an IPv6 source.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_find6(slot: u32, first: u64, second: u64, high: u64, low: u64) -> u64 {
    let find = || {
        let rules = Table(OG_RULES.get(slot)?);
        let set = find6(&rules, [first, second], high, low)?;
        rules.set(set)
    };
    find().unwrap_or(ABSENT)
}

/// What a slot holds.
#[inline(always)]
const fn description(table: *const PolicyTable, slot: u32) -> *const SlotInfo {
    // SAFETY: one of the slots' descriptions.
    unsafe { &raw const (*table).slots[(slot % SLOTS) as usize] }
}

#[inline(always)]
fn root4(info: *const SlotInfo) -> u64 {
    // SAFETY: a description is part of the table, and this a field of it.
    let [root] = words(unsafe { &raw const (*info).root4 }.cast());
    root
}

#[inline(always)]
fn first4(info: *const SlotInfo) -> [u64; 2] {
    // SAFETY: as in `root4`.
    words(unsafe { &raw const (*info).first4 })
}

#[inline(always)]
fn root6(info: *const SlotInfo) -> [u64; 2] {
    // SAFETY: as in `root4`.
    words(unsafe { &raw const (*info).root6 })
}

#[inline(always)]
fn first6(info: *const SlotInfo) -> [u64; 3] {
    // SAFETY: as in `root4`.
    words(unsafe { &raw const (*info).first6 })
}

/// Words of a description.
#[inline(always)]
fn words<const N: usize>(place: *const [u64; N]) -> [u64; N] {
    core::array::from_fn(|index| {
        // SAFETY: called with fields of a description only.
        let place = unsafe { place.cast::<u64>().add(index) };
        // SAFETY: as above.
        unsafe { word(place) }
    })
}

/// The words of the rules.
struct Table<'a>(&'a Rules);

impl Table<'_> {
    #[inline(always)]
    fn set(&self, number: u32) -> Option<u64> {
        if number == 0 {
            return Some(RuleSet::NONE.word());
        }
        self.word(number)
    }
}

impl Words for Table<'_> {
    #[inline(always)]
    fn word(&self, position: u32) -> Option<u64> {
        let block = self.0.get(position / RULE_BLOCK_WORDS)?;
        Some(block[(position % RULE_BLOCK_WORDS) as usize])
    }
}
