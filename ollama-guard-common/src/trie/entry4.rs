//! Entries of the IPv4 trie: one word.
//!
//! | bits | leaf | node |
//! | --- | --- | --- |
//! | 63 | 0 | 1 |
//! | 62..57 | prefix length | stride (62..58) |
//! | 57..52 | | depth: bits of the address that its path has |
//! | 51..42 | set within the prefix | set of unoccupied cells |
//! | 41..32 | set of all others | set of addresses off its path |
//! | 31..0 | the address as a number | position of the node |
//!
//! A node whose depth is more than what led to it begins with a word of its path: an address that
//! begins with it.

use super::NODE;

/// Words of an entry.
pub const WORDS: u32 = 1;

/// A leaf. `within` and `beside` are sets.
#[must_use]
pub const fn leaf(address: u32, length: u32, within: u32, beside: u32) -> u64 {
    (length as u64) << 57 | (within as u64) << 42 | (beside as u64) << 32 | address as u64
}

/// A node. `unoccupied` and `off_path` are sets.
#[must_use]
pub const fn node(position: u32, depth: u32, stride: u32, unoccupied: u32, off_path: u32) -> u64 {
    let bits = (stride as u64) << 58 | (depth as u64) << 52;
    NODE | bits | (unoccupied as u64) << 42 | (off_path as u64) << 32 | position as u64
}

/// The set within a leaf's prefix, or of a node's unoccupied cells.
#[inline(always)]
#[must_use]
pub const fn within(entry: u64) -> u32 {
    (entry >> 42) as u32 & 0x3ff
}

/// The set outside a leaf's prefix, or off a node's path.
#[inline(always)]
#[must_use]
pub const fn beside(entry: u64) -> u32 {
    (entry >> 32) as u32 & 0x3ff
}

/// A leaf's prefix length.
#[inline(always)]
#[must_use]
pub const fn length(entry: u64) -> u32 {
    (entry >> 57) as u32 & 0x3f
}

/// A node's stride.
#[inline(always)]
#[must_use]
pub const fn stride(entry: u64) -> u32 {
    (entry >> 58) as u32 & 0x1f
}

/// A node's depth.
#[inline(always)]
#[must_use]
pub const fn depth(entry: u64) -> u32 {
    (entry >> 52) as u32 & 0x3f
}
