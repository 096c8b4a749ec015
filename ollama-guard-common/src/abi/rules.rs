//! The arrays of rules: sets, blocks, and how much room there is.

use crate::judge::Standing;

/// What the rules say about a source, once for each pair of a service and a class of doors: with one
/// service and no rule for some doors only, bit 0 is all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleSet {
    /// An allow rule covers the source, and no deny rule does.
    pub reach: u32,
    /// A deny rule covers the source.
    pub denied: u32,
}

impl RuleSet {
    /// No rule covers the source.
    pub const NONE: Self = Self { reach: 0, denied: 0 };
    /// May reach the one service.
    pub const ALLOWED: Self = Self { reach: THE_SERVICE, denied: 0 };
    /// May not.
    pub const DENIED: Self = Self { reach: 0, denied: THE_SERVICE };

    /// As it stands among the sets of a trie: `reach` in the low half, `denied` in the high one.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        (self.denied as u64) << 32 | self.reach as u64
    }

    /// What the rules say about access to all of these at once.
    #[inline(always)]
    #[must_use]
    pub const fn standing(self, wanted: u32) -> Standing {
        if self.reach & wanted == wanted {
            Standing::Allowed
        } else if self.denied & wanted != 0 {
            Standing::Denied
        } else {
            Standing::NotListed
        }
    }

    /// The reverse of [`RuleSet::word`].
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self { reach: word as u32, denied: (word >> 32) as u32 }
    }
}

/// The bit in a [`RuleSet`] for the one service that there is, at any door.
pub const THE_SERVICE: u32 = 1;

/// An element of an array of rules: words, the first one first. A cache line.
pub type RuleBlock = [u64; RULE_BLOCK_WORDS as usize];
/// Words of a [`RuleBlock`].
pub const RULE_BLOCK_WORDS: u32 = 8;
/// Elements that the object declares for an array of rules. Those in use have
/// [`rule_blocks`] elements of the configured capacity, all the same, so that the kernel can look
/// an element up without a call (`array_map_gen_lookup`, kernel/bpf/arraymap.c).
pub const DECLARED_RULE_BLOCKS: usize = 1 << 16;

/// Elements of an array of rules for so many prefixes: 16 bytes each, and as much again for the
/// bitmaps in front of them, but for that not more than 4 MiB.
#[must_use]
pub const fn rule_blocks(capacity: u32) -> u32 {
    const PREFIX_BYTES: u64 = 16;
    const LEAST_BYTES: u64 = 512 << 10;
    const MOST_BYTES: u64 = 4 << 20;
    let prefixes = capacity as u64 * PREFIX_BYTES;
    let bitmaps = prefixes + LEAST_BYTES;
    let bytes = prefixes + if bitmaps < MOST_BYTES { bitmaps } else { MOST_BYTES };
    bytes.div_ceil(RULE_BLOCK_WORDS as u64 * 8) as u32
}
