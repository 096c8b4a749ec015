//! The first node, taken apart in advance: a flood of strangers is settled there, each in a few steps.
//!
//! It is settled here that no rule says anything about a source: it is off the path that all rules have in
//! common, or its cell is not occupied. For all others there are [`super::find4`] and [`super::find6`].
//!
//! | word | bits | |
//! | --- | --- | --- |
//! | last | 63 | 1 if anything can be settled |
//! | | 47..40 | how far a cell is shifted to the right |
//! | | 39..32 | how far the address is shifted to the left before |
//! | | 31..0 | where the cells are |
//! | first (IPv4) | 63..32 | the path |
//! | | 31..0 | the bits of it that count |
//! | first two (IPv6) | | the path and the bits of it that count, of an address's first half |

use super::{PATH_WORDS_V4, PATH_WORDS_V6, Words, entry4, entry6, is_node};

const SETTLES: u64 = 1 << 63;
const RIGHT: u32 = 40;
const LEFT: u32 = 32;

/// For an IPv4 trie that begins with `root`. Zeros, by which nothing is settled, if it begins with a leaf,
/// if sources that no rule is near are in a set, or if the words are damaged.
pub fn first4<W: Words + ?Sized>(words: &W, root: u64) -> [u64; 2] {
    let (depth, stride, mut cells) = (entry4::depth(root), entry4::stride(root), root as u32);
    let has_path = depth > 0;
    let is_clear = entry4::within(root) == 0 && (!has_path || entry4::beside(root) == 0);
    if !is_node(root) || !is_clear || stride == 0 || depth + stride > 32 {
        return [0; 2];
    }
    let (mut path, mut bits) = (0, 0);
    if has_path {
        let Some(word) = words.word(cells) else { return [0; 2] };
        (path, bits) = (word & u64::from(u32::MAX), u64::from(!(u32::MAX >> depth)));
        cells = cells.wrapping_add(PATH_WORDS_V4);
    }
    [path << 32 | bits, how(32 + depth, stride, cells)]
}

/// For an IPv6 trie, likewise; nothing is settled either if the node reaches into an address's second half.
pub fn first6<W: Words + ?Sized>(words: &W, [first, second]: [u64; 2]) -> [u64; 3] {
    let (depth, stride, mut cells) = (entry6::length(first), entry6::stride(first), first as u32);
    let has_path = entry6::has_path(first);
    let is_clear = entry6::within(first) == 0 && (!has_path || entry6::off_path(second) == 0);
    if !is_node(first) || !is_clear || stride == 0 || depth + stride > 64 || depth > 63 {
        return [0; 3];
    }
    let (mut path, mut bits) = (0, 0);
    if has_path {
        let Some(word) = words.word(cells) else { return [0; 3] };
        (path, bits) = (word, !(u64::MAX >> depth));
        cells = cells.wrapping_add(PATH_WORDS_V6);
    }
    [path, bits, how(depth, stride, cells)]
}

fn how(left: u32, stride: u32, cells: u32) -> u64 {
    SETTLES | u64::from(64 - stride) << RIGHT | u64::from(left) << LEFT | u64::from(cells)
}

/// Whether no rule says anything about an IPv4 source. `false` also if that is not settled here.
#[inline(always)]
pub fn is_stranger4<W: Words + ?Sized>(words: &W, [path, how]: [u64; 2], address: u32) -> bool {
    if how & SETTLES == 0 {
        return false;
    }
    ((path >> 32) as u32 ^ address) & path as u32 != 0
        || is_unoccupied(words, how, u64::from(address))
}

/// The same for an IPv6 source, of which `high` is the first half.
#[inline(always)]
pub fn is_stranger6<W: Words + ?Sized>(words: &W, [path, bits, how]: [u64; 3], high: u64) -> bool {
    if how & SETTLES == 0 {
        return false;
    }
    (path ^ high) & bits != 0 || is_unoccupied(words, how, high)
}

#[inline(always)]
fn is_unoccupied<W: Words + ?Sized>(words: &W, how: u64, address: u64) -> bool {
    let cell =
        address.wrapping_shl((how >> LEFT) as u32 & 63).wrapping_shr((how >> RIGHT) as u32 & 63);
    let Some(occupied) = words.word((how as u32).wrapping_add((cell >> 6) as u32)) else {
        return false;
    };
    occupied.wrapping_shr(cell as u32 & 63) & 1 == 0
}
