//! The rules as a compressed multibit trie in an array of 64-bit words, and how to look a source up.
//!
//! The kernel's own LPM trie descends one node for each prefix around an address: some 70 ns at a
//! thousand rules, over a microsecond at a million. This trie takes many bits at a step. User space
//! compiles it (`policy::trie` in the daemon), and the program only reads it: a source that no rule
//! is near is settled by one bit of a bitmap that is sized to the rules, and any other one by a few
//! dependent reads.
//!
//! # Layout
//!
//! Every position is an index of a 64-bit word. An **entry** is one word for IPv4 and two for IPv6,
//! and says what is behind one path of bits. It is one of two kinds (see [`entry4`], [`entry6`]):
//!
//! * a **leaf**: a prefix, the set for addresses within it and (IPv4) the set for all others. A leaf
//!   of length 0 says the same of all;
//! * a **node**: where to go on, the set of the addresses for which nothing is to be found there,
//!   and how many bits of the address are taken next: the **stride**. The 2^stride **cells** stand
//!   in **groups** of 64. A node's words are the bits that the address must share with it down to its
//!   depth (path compression), if they are more than what led to it, and then
//!   1. the occupied cells, a bit each, one word for a group;
//!   2. a **reference** for each group, two in a word (the even one in the low half): where the
//!      entries of its cells are, and how they are found there (see [`Arrangement`]).
//!
//! A set is a number; [`Root::sets`] is where the set itself is found. Set 0 is the empty one.
//!
//! Nothing here trusts the words: any content gives an answer or `None` after a bounded number of
//! reads, and `None` closes the port.

pub mod entry4;
pub mod entry6;
mod find;
mod first;

pub use find::{find4, find6};
pub use first::{first4, first6, is_stranger4, is_stranger6};

/// The bit of an entry that says that it is a node.
const NODE: u64 = 1 << 63;

/// Words that can be read at a position.
pub trait Words {
    /// The word at a position. `None` behind the end.
    fn word(&self, position: u32) -> Option<u64>;
}

impl Words for [u64] {
    fn word(&self, position: u32) -> Option<u64> {
        self.get(position as usize).copied()
    }
}

/// The longest stride: 2^24 cells take 2 MiB of bits and 1 MiB of references.
pub const MAX_STRIDE: u32 = 24;
/// The shortest stride, but for one that reaches the end of the address.
pub const MIN_STRIDE: u32 = 6;
/// The shortest stride of the first node.
pub const MIN_ROOT_STRIDE: u32 = 16;

/// The most entries on a path for IPv4: a first node, as many as the rest of the bits can need, and
/// a leaf.
pub const LEVELS_V4: u32 = 1 + (32 - MIN_ROOT_STRIDE).div_ceil(MIN_STRIDE) + 1;
/// The same for IPv6.
pub const LEVELS_V6: u32 = 1 + (128 - MIN_ROOT_STRIDE).div_ceil(MIN_STRIDE) + 1;

/// Words of an IPv4 node's path: the bits that lead to it.
pub const PATH_WORDS_V4: u32 = 1;
/// Words of an IPv6 node's path.
pub const PATH_WORDS_V6: u32 = 2;

/// Different sets that a trie can speak of.
pub const MAX_SETS: usize = 1 << 10;

/// How the entries of a group stand at the position that its reference names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Arrangement {
    /// One for all occupied cells.
    Shared = 0,
    /// One for each occupied cell.
    Single = 1,
    /// One for each run of cells, behind a word with a bit for the first cell of each run.
    Runs = 2,
}

/// The bits of a reference that hold the position, in entries from the start of the words.
pub const REFERENCE_POSITION: u32 = (1 << 30) - 1;

/// A group's reference: `position` is counted in entries.
#[must_use]
pub const fn reference(arrangement: Arrangement, position: u32) -> u32 {
    (arrangement as u32) << 30 | position & REFERENCE_POSITION
}

/// Words with a bit for each cell of a node.
#[inline(always)]
#[must_use]
pub const fn cell_words(stride: u32) -> u32 {
    if stride <= 6 { 1 } else { 1 << ((stride - 6) & 31) }
}

/// Words of the references of a node's groups.
#[inline(always)]
#[must_use]
pub const fn reference_words(stride: u32) -> u32 {
    cell_words(stride).div_ceil(2)
}

/// Whether an entry is a node.
#[inline(always)]
#[must_use]
pub const fn is_node(first: u64) -> bool {
    first & NODE != 0
}
