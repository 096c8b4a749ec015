//! How a source is looked up.

use super::{
    LEVELS_V4, LEVELS_V6, PATH_WORDS_V4, PATH_WORDS_V6, REFERENCE_POSITION, Words, cell_words,
    entry4, entry6, is_node,
};

/// The set of an IPv4 address, as a number. `root` is the entry to begin with.
#[inline(always)]
pub fn find4<W: Words + ?Sized>(words: &W, root: u64, address: u32) -> Option<u32> {
    let (mut entry, mut depth) = (root, 0);
    for _ in 0..LEVELS_V4 {
        if !is_node(entry) {
            let is_beside = differs4(entry as u32 ^ address, entry4::length(entry));
            return Some(if is_beside { entry4::beside(entry) } else { entry4::within(entry) });
        }
        let (cells, stride, cell) = match enter4(words, entry, depth, address)? {
            Some(found) => found,
            None => return Some(entry4::beside(entry)),
        };
        match next(words, cells, stride, cell, entry4::WORDS)? {
            None => return Some(entry4::within(entry)),
            Some(position) => {
                depth = entry4::depth(entry).wrapping_add(stride);
                entry = words.word(position)?;
            }
        }
    }
    None
}

/// Where the cells of a node stand, its stride, and the cell of an address. `Some(None)` if the address
/// is off its path. `depth` bits led to the node.
#[inline(always)]
fn enter4<W: Words + ?Sized>(
    words: &W,
    entry: u64,
    depth: u32,
    address: u32,
) -> Option<Option<(u32, u32, u32)>> {
    let (below, mut cells) = (entry4::depth(entry), entry as u32);
    if below != depth {
        if differs4(words.word(cells)? as u32 ^ address, below) {
            return Some(None);
        }
        cells = cells.wrapping_add(PATH_WORDS_V4);
    }
    let stride = entry4::stride(entry);
    let rest = (u64::from(address) << 32).wrapping_shl(below);
    Some(Some((cells, stride, first_bits(rest, stride))))
}

/// Whether there is a set bit among the first `length` of 32.
#[inline(always)]
const fn differs4(bits: u32, length: u32) -> bool {
    (bits as u64).wrapping_shr(32_u32.wrapping_sub(length)) != 0
}

/// The set of an IPv6 address, as a number. `root` is the entry to begin with; `high` and `low` are
/// the address's halves as numbers.
#[inline(always)]
pub fn find6<W: Words + ?Sized>(words: &W, root: [u64; 2], high: u64, low: u64) -> Option<u32> {
    let [mut first, mut second] = root;
    for _ in 0..LEVELS_V6 {
        let (length, within) = (entry6::length(first), entry6::within(first));
        if !is_node(first) {
            let differing = ((first ^ high) & entry6::LEAF_BITS, second ^ low);
            return Some(if differs(differing, length) { 0 } else { within });
        }
        let mut cells = first as u32;
        if entry6::has_path(first) {
            let path = (words.word(cells)?, words.word(cells.wrapping_add(1))?);
            if differs((path.0 ^ high, path.1 ^ low), length) {
                return Some(entry6::off_path(second));
            }
            cells = cells.wrapping_add(PATH_WORDS_V6);
        }
        let stride = entry6::stride(first) & 31;
        if stride == 0 {
            return Some(within);
        }
        let cell = first_bits(behind(high, low, length), stride);
        match next(words, cells, stride, cell, entry6::WORDS)? {
            None => return Some(within),
            Some(position) => {
                (first, second) = (words.word(position)?, words.word(position.wrapping_add(1))?);
            }
        }
    }
    None
}

/// Where the entry of a cell is. `Some(None)` if the cell is not occupied.
#[inline(always)]
fn next<W: Words + ?Sized>(
    words: &W,
    cells: u32,
    stride: u32,
    cell: u32,
    entry_words: u32,
) -> Option<Option<u32>> {
    let (group, bit) = (cell >> 6, cell & 63);
    let occupied = words.word(cells.wrapping_add(group))?;
    if occupied.wrapping_shr(bit) & 1 == 0 {
        return Some(None);
    }
    let references = cells.wrapping_add(cell_words(stride));
    let pair = words.word(references.wrapping_add(group >> 1))?;
    let reference = pair.wrapping_shr((group & 1) * 32) as u32;
    let position = reference & REFERENCE_POSITION;
    let before = 1_u64.wrapping_shl(bit).wrapping_sub(1);
    let within = match reference >> 30 {
        0 => 0,
        1 => (occupied & before).count_ones(),
        2 => {
            let starts = words.word(position.wrapping_mul(entry_words))?;
            // The word of starts stands where the first entry would, and this cell's run counts.
            (starts & (before << 1 | 1)).count_ones()
        }
        _ => return None,
    };
    Some(Some(position.wrapping_add(within).wrapping_mul(entry_words)))
}

/// The first bits of a word as a number; 0 for none.
#[inline(always)]
const fn first_bits(word: u64, count: u32) -> u32 {
    ((word >> 1).wrapping_shr(63_u32.wrapping_sub(count))) as u32
}

/// The 64 bits of an address behind its first `depth`, with zeros behind its end.
#[inline(always)]
const fn behind(high: u64, low: u64, depth: u32) -> u64 {
    if depth < 64 {
        high.wrapping_shl(depth) | (low >> 1).wrapping_shr(63 - depth)
    } else {
        low.wrapping_shl(depth)
    }
}

/// Whether there is a set bit among the first `length` of 128.
#[inline(always)]
const fn differs((high, low): (u64, u64), length: u32) -> bool {
    if length <= 64 {
        length != 0 && high.wrapping_shr(64 - length) != 0
    } else {
        high != 0 || low.wrapping_shr(128_u32.wrapping_sub(length)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trie::{Arrangement, reference};

    #[test]
    fn lengths_are_counted_from_the_left() {
        for length in 0..=128 {
            // The one bit at position `length` from the left is just outside.
            let outside = if length < 128 { 1_u128 << (127 - length) } else { 0 };
            let inside = if length > 0 { 1_u128 << (128 - length) } else { 0 };
            let halves = |bits: u128| ((bits >> 64) as u64, bits as u64);
            assert!(!differs(halves(outside), length), "{length}");
            assert_eq!(differs(halves(inside), length), length > 0, "{length}");
        }
    }

    #[test]
    fn the_bits_behind_a_depth_are_those_of_a_shift() {
        let address = 0x2001_0db8_0123_4567_89ab_cdef_fedc_ba98_u128;
        for depth in 0..128 {
            let expected = ((address << depth) >> 64) as u64;
            let (high, low) = ((address >> 64) as u64, address as u64);
            assert_eq!(behind(high, low, depth), expected, "{depth}");
        }
        assert_eq!(first_bits(u64::MAX, 0), 0);
        assert_eq!(first_bits(1 << 63, 1), 1);
        assert_eq!(first_bits(u64::MAX, 24), 0xff_ffff);
    }

    #[test]
    fn a_leaf_answers_for_its_prefix_and_for_the_rest() {
        let none: &[u64] = &[];
        let leaf = entry4::leaf(0xc000_0200, 24, 5, 3);
        assert_eq!(find4(none, leaf, 0xc000_02ff), Some(5));
        assert_eq!(find4(none, leaf, 0xc000_0300), Some(3));
        assert_eq!(find4(none, entry4::leaf(7, 32, 5, 3), 7), Some(5));
        assert_eq!(find4(none, entry4::leaf(7, 32, 5, 3), 6), Some(3));
        assert_eq!(find4(none, entry4::leaf(0, 0, 1023, 0), u32::MAX), Some(1023));
        let leaf = entry6::leaf(0x20010db8 << 96 | 1, 128, 7);
        assert_eq!(find6(none, leaf, 0x20010db8 << 32, 1), Some(7));
        assert_eq!(find6(none, leaf, 0x20010db8 << 32, 2), Some(0));
        assert_eq!(find6(none, entry6::leaf(0, 0, 9), 1, 2), Some(9));
    }

    #[test]
    fn words_that_lead_nowhere_are_no_answer() {
        let none: &[u64] = &[];
        assert_eq!(find4(none, entry4::node(0, 0, 16, 1, 1), 0), None);
        assert_eq!(find6(none, entry6::node(0, 0, 16, 1, Some(1)), 0, 0), None);
        // A node whose only entry is itself, which never comes to an end by itself.
        let node = entry4::node(0, 0, 6, 0, 0);
        let circle: &[u64] = &[u64::MAX, u64::from(reference(Arrangement::Shared, 2)), node];
        let _ = find4(circle, node, 0);
        // An arrangement that there is not.
        let unknown: &[u64] = &[u64::MAX, u64::from(u32::MAX), node];
        assert_eq!(find4(unknown, node, 0), None);
    }
}
