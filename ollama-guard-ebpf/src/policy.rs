//! The policy in force, read from the maps.

use core::ptr;

use ollama_guard_common::{
    Mode, Policy, Protocol, Scope, Source, Standing,
    abi::{
        PORT_WORDS_PER_SLOT, RULE_BLOCK_WORDS, RuleSet, Selection, THE_SERVICE, port_bit, port_word,
    },
    trie::{Words, find4, find6, settled4, settled6},
};

use crate::maps::{OG_ADDRESSES, OG_PORTS, OG_RULES, OG_SELECTED, OG_SLOT_INFO, Rules};

/// The policy of the slot that was selected when the packet came in.
///
/// The selection is read once for each packet: everything about it is decided by the old policy or
/// by the new one, never by a mixture.
pub struct LivePolicy(Selection);

impl LivePolicy {
    /// Selects the slot for one packet.
    #[inline(always)]
    pub fn select() -> Self {
        let selection = match OG_SELECTED.get_ptr(0) {
            // SAFETY: a pointer to a live array element. Volatile, so that the compiler can't read
            // it a second time and find another slot.
            Some(selected) => unsafe { ptr::read_volatile(selected) },
            // Can't be. If it were, everything is guarded, and there are no rules.
            None => u64::MAX << 3,
        };
        Self(Selection(selection))
    }

    /// The policy of a selection that was read before.
    #[inline(always)]
    pub const fn of(selection: u64) -> Self {
        Self(Selection(selection))
    }

    /// For [`LivePolicy::of`].
    #[inline(always)]
    pub const fn selection(&self) -> u64 {
        self.0.0
    }

    /// Whether verdicts are carried out.
    #[inline(always)]
    pub fn mode(&self) -> Mode {
        self.0.mode()
    }
}

impl Policy for LivePolicy {
    #[inline(always)]
    fn is_guarded(&self, protocol: Protocol, port: u16) -> bool {
        if !self.0.may_guard(port) {
            return false;
        }
        let first = self.0.slot() * PORT_WORDS_PER_SLOT as u32;
        match OG_PORTS.get(first + port_word(protocol, port) as u32) {
            Some(bits) => bits & port_bit(port) != 0,
            // Can't be: the index is within the array. If it were, the packet is guarded.
            None => true,
        }
    }

    #[inline(always)]
    fn guards_any(&self, protocol: Protocol) -> bool {
        self.0.guards_any(protocol)
    }

    #[inline(always)]
    fn scope(&self) -> Scope {
        self.0.scope()
    }

    #[inline(always)]
    fn is_own_address(&self, destination: &[u8; 16]) -> bool {
        OG_ADDRESSES.get_ptr(destination).is_some()
    }

    #[inline(always)]
    fn standing(&self, source: &Source) -> Standing {
        self.look_up(source).map_or(Standing::RulesAbsent, |set| set.standing(THE_SERVICE))
    }
}

impl LivePolicy {
    /// What the rules say about a source. `None` if they are not there, or damaged.
    ///
    /// A stranger whom no rule is near is settled here, as a flood is made of them; for all others
    /// there are the functions.
    #[inline(always)]
    fn look_up(&self, source: &Source) -> Option<RuleSet> {
        let slot = self.0.slot();
        let info = OG_SLOT_INFO.get(slot)?;
        let rules = Table(OG_RULES.get(slot)?);
        let found = match *source {
            Source::V4(address) => {
                let address = u32::from_be_bytes(address);
                match settled4(&rules, info.root4, info.path4, address) {
                    Some(0) => return Some(RuleSet::NONE),
                    _ => og_find4(slot, address),
                }
            }
            Source::V6(address) => {
                let (high, low) = halves(address);
                match settled6(&rules, info.root6, info.path6, high, low) {
                    Some(0) => return Some(RuleSet::NONE),
                    _ => og_find6(slot, high, low),
                }
            }
        };
        // No set has a bit for both.
        if found == ABSENT { None } else { Some(RuleSet::from_word(found)) }
    }
}

/// What the lookups return if the rules are not there.
const ABSENT: u64 = u64::MAX;

/// The lookup of an IPv4 source as a function of its own, which the verifier looks at once. Returns
/// the set, or [`ABSENT`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_find4(slot: u32, address: u32) -> u64 {
    let find = || {
        let rules = Table(OG_RULES.get(slot)?);
        let set = find4(&rules, OG_SLOT_INFO.get(slot)?.root4, address)?;
        rules.set(set)
    };
    find().unwrap_or(ABSENT)
}

/// The same for an IPv6 source.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_find6(slot: u32, high: u64, low: u64) -> u64 {
    let find = || {
        let rules = Table(OG_RULES.get(slot)?);
        let set = find6(&rules, OG_SLOT_INFO.get(slot)?.root6, high, low)?;
        rules.set(set)
    };
    find().unwrap_or(ABSENT)
}

/// An IPv6 address as two numbers.
#[inline(always)]
fn halves(address: [u8; 16]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p]))
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
