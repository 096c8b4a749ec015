//! Entries of the IPv6 trie: two words.
//!
//! | word | bits | leaf | node |
//! | --- | --- | --- | --- |
//! | 0 | 63 | 0 | 1 |
//! | | 62..55 | prefix length | depth: bits of the address that its path has |
//! | | 54..45 | set within the prefix | set of unoccupied cells |
//! | | 44..0 | the address's bits 19 to 63 (from the left) | 1 if it has a path (44), stride (39..32), position (31..0) |
//! | 1 | 63..0 | the address's bits 64 to 127 | set of addresses off its path |
//!
//! The first 19 bits of an address that a leaf is about are those that led to it, unless its length
//! is 0. Addresses off a leaf's prefix have set 0. What this can't say is said by a node of stride 0,
//! whose path is the prefix.
//!
//! A node without a path begins with its cells: its depth is the end of what led to it.

use super::NODE;

/// Words of an entry.
pub const WORDS: u32 = 2;
/// Bits that must lead to a leaf, if it has a length.
pub const LEAF_DEPTH: u32 = 19;
/// The bits of an address's first half that a leaf holds.
pub const LEAF_BITS: u64 = (1 << (64 - LEAF_DEPTH)) - 1;

/// A leaf. `within` is a set.
#[must_use]
pub const fn leaf(address: u128, length: u32, within: u32) -> [u64; 2] {
    let high = (address >> 64) as u64 & LEAF_BITS;
    [(length as u64) << 55 | (within as u64) << 45 | high, address as u64]
}

const HAS_PATH: u64 = 1 << 44;

/// A node. `unoccupied` and `off_path` are sets; without an `off_path` it has no path.
#[must_use]
pub const fn node(
    position: u32,
    depth: u32,
    stride: u32,
    unoccupied: u32,
    off_path: Option<u32>,
) -> [u64; 2] {
    let numbers = (depth as u64) << 55 | (unoccupied as u64) << 45;
    let first = NODE | numbers | (stride as u64) << 32 | position as u64;
    match off_path {
        Some(off_path) => [first | HAS_PATH, off_path as u64],
        None => [first, 0],
    }
}

/// Whether a node begins with the words of its path.
#[inline(always)]
#[must_use]
pub const fn has_path(first: u64) -> bool {
    first & HAS_PATH != 0
}

/// A leaf's prefix length, or a node's depth.
#[inline(always)]
#[must_use]
pub const fn length(first: u64) -> u32 {
    (first >> 55) as u32 & 0xff
}

/// The set within a leaf's prefix, or of a node's unoccupied cells.
#[inline(always)]
#[must_use]
pub const fn within(first: u64) -> u32 {
    (first >> 45) as u32 & 0x3ff
}

/// A node's stride.
#[inline(always)]
#[must_use]
pub const fn stride(first: u64) -> u32 {
    (first >> 32) as u32 & 0xff
}

/// The set of addresses off a node's path.
#[inline(always)]
#[must_use]
pub const fn off_path(second: u64) -> u32 {
    second as u32 & 0x3ff
}
