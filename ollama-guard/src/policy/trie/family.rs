//! What differs between the tries of the two families.

use ollama_guard_common::trie::{PATH_WORDS_V4, PATH_WORDS_V6, entry4, entry6, is_node};

/// A node, as its entry describes it.
pub(super) struct Node {
    /// Where its words are.
    pub(super) position: u32,
    /// Bits of the address that its path has.
    pub(super) depth: u32,
    pub(super) stride: u32,
    /// The set of the cells that are not occupied.
    pub(super) unoccupied: u32,
    /// Whether it begins with the words of its path.
    pub(super) has_path: bool,
}

/// One family's addresses and entries.
pub(super) trait Family {
    /// An address as a number: its first bit is the highest.
    type Address: Copy + Ord;
    /// The words of an entry.
    type Entry: Copy + AsRef<[u64]>;

    /// Words of an entry.
    const WORDS: usize;
    /// Words of a node's path, in front of its cells.
    const PATH: usize;

    /// `count` bits of an address behind the first `depth`, as a number. At most 24.
    fn bits(address: Self::Address, depth: u32, count: u32) -> u32;
    /// How many of the first bits two addresses have in common.
    fn common(one: Self::Address, other: Self::Address) -> u32;
    /// The entry that says the same of all addresses.
    fn all(set: u32) -> Self::Entry;
    /// The entry for a single prefix behind a path of `depth` bits, if there is one.
    fn leaf(
        address: Self::Address,
        length: u32,
        within: u32,
        beside: u32,
        depth: u32,
    ) -> Option<Self::Entry>;
    /// The entry for a node. With the set of addresses off its path, if it has one.
    fn node(
        position: u32,
        depth: u32,
        stride: u32,
        unoccupied: u32,
        off_path: Option<u32>,
    ) -> Self::Entry;
    /// The words that a node begins with: its path is the beginning of an address.
    fn path(address: Self::Address) -> Self::Entry;
    /// The reverse.
    fn path_of(words: &[u64]) -> Self::Address;
    /// The node that a trie begins with. `None` if it begins with a leaf.
    fn first_node(root: Self::Entry) -> Option<Node>;
    /// The `number`th network of this length, counted from the one that an address lies in.
    fn network(address: Self::Address, length: u32, number: u32) -> Self::Address;
}

pub(super) struct V4;

impl Family for V4 {
    type Address = u32;
    type Entry = [u64; entry4::WORDS as usize];

    const WORDS: usize = entry4::WORDS as usize;
    const PATH: usize = PATH_WORDS_V4 as usize;

    fn bits(address: u32, depth: u32, count: u32) -> u32 {
        let rest = u64::from(address) << 32 << depth;
        (rest >> 1 >> (63 - count)) as u32
    }

    fn common(one: u32, other: u32) -> u32 {
        (one ^ other).leading_zeros()
    }

    fn all(set: u32) -> Self::Entry {
        [entry4::leaf(0, 0, set, 0)]
    }

    fn leaf(address: u32, length: u32, within: u32, beside: u32, _: u32) -> Option<Self::Entry> {
        Some([entry4::leaf(address, length, within, beside)])
    }

    fn node(
        position: u32,
        depth: u32,
        stride: u32,
        unoccupied: u32,
        off_path: Option<u32>,
    ) -> Self::Entry {
        [entry4::node(position, depth, stride, unoccupied, off_path.unwrap_or(0))]
    }

    fn path(address: u32) -> Self::Entry {
        [address.into()]
    }

    fn path_of(words: &[u64]) -> u32 {
        words[0] as u32
    }

    fn first_node([entry]: Self::Entry) -> Option<Node> {
        is_node(entry).then(|| Node {
            position: entry as u32,
            depth: entry4::depth(entry),
            stride: entry4::stride(entry),
            unoccupied: entry4::within(entry),
            has_path: entry4::depth(entry) > 0,
        })
    }

    fn network(address: u32, length: u32, number: u32) -> u32 {
        let first = address & !u32::MAX.checked_shr(length).unwrap_or(0);
        first.wrapping_add(number.checked_shl(32 - length).unwrap_or(0))
    }
}

pub(super) struct V6;

impl Family for V6 {
    type Address = u128;
    type Entry = [u64; entry6::WORDS as usize];

    const WORDS: usize = entry6::WORDS as usize;
    const PATH: usize = PATH_WORDS_V6 as usize;

    fn bits(address: u128, depth: u32, count: u32) -> u32 {
        let rest = address.checked_shl(depth).unwrap_or(0);
        (rest >> 1 >> (127 - count)) as u32
    }

    fn common(one: u128, other: u128) -> u32 {
        (one ^ other).leading_zeros()
    }

    fn all(set: u32) -> Self::Entry {
        entry6::leaf(0, 0, set)
    }

    fn leaf(
        address: u128,
        length: u32,
        within: u32,
        beside: u32,
        depth: u32,
    ) -> Option<Self::Entry> {
        let can = depth >= entry6::LEAF_DEPTH && beside == 0;
        can.then(|| entry6::leaf(address, length, within))
    }

    fn node(
        position: u32,
        depth: u32,
        stride: u32,
        unoccupied: u32,
        off_path: Option<u32>,
    ) -> Self::Entry {
        entry6::node(position, depth, stride, unoccupied, off_path)
    }

    fn path(address: u128) -> Self::Entry {
        [(address >> 64) as u64, address as u64]
    }

    fn path_of(words: &[u64]) -> u128 {
        u128::from(words[0]) << 64 | u128::from(words[1])
    }

    fn first_node([first, _]: Self::Entry) -> Option<Node> {
        is_node(first).then(|| Node {
            position: first as u32,
            depth: entry6::length(first),
            stride: entry6::stride(first),
            unoccupied: entry6::within(first),
            has_path: entry6::has_path(first),
        })
    }

    fn network(address: u128, length: u32, number: u32) -> u128 {
        let first = address & !u128::MAX.checked_shr(length).unwrap_or(0);
        first.wrapping_add(u128::from(number).checked_shl(128 - length).unwrap_or(0))
    }
}
