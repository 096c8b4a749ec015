//! Reading a trie back: which addresses are in which set.

use ollama_guard_common::trie::{
    LEVELS_V4, LEVELS_V6, PATH_WORDS_V4, PATH_WORDS_V6, REFERENCE_POSITION, cell_words, entry4,
    entry6, is_node,
};

use super::RuleTable;

/// Addresses that follow each other and are in one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<A> {
    /// The first, as a number.
    pub first: A,
    /// The last, as a number.
    pub last: A,
    /// The number of the set.
    pub set: u32,
}

/// All IPv4 addresses, from the first to the last, in as few ranges as can be. `None` if the words
/// are damaged.
#[must_use]
pub fn ranges4(table: &RuleTable) -> Option<Vec<Range<u32>>> {
    let mut reader = Reader { words: &table.words, ranges: Vec::new() };
    reader.entry4(table.root4, 0, 0, LEVELS_V4)?;
    let narrow = |range: Range<u128>| Range {
        first: (range.first >> 96) as u32,
        last: (range.last >> 96) as u32,
        set: range.set,
    };
    Some(reader.ranges.into_iter().map(narrow).collect())
}

/// All IPv6 addresses, likewise.
#[must_use]
pub fn ranges6(table: &RuleTable) -> Option<Vec<Range<u128>>> {
    let mut reader = Reader { words: &table.words, ranges: Vec::new() };
    reader.entry6(table.root6, 0, 0, LEVELS_V6)?;
    Some(reader.ranges)
}

/// Addresses of both families have their first bit at the highest place here.
struct Reader<'a> {
    words: &'a [u64],
    ranges: Vec<Range<u128>>,
}

impl Reader<'_> {
    fn word(&self, position: u32) -> Option<u64> {
        self.words.get(position as usize).copied()
    }

    /// What an entry says about the addresses that begin with `depth` bits of `start`.
    fn entry4(&mut self, entry: u64, start: u128, depth: u32, levels: u32) -> Option<()> {
        let levels = levels.checked_sub(1)?;
        let (length, within) = (entry4::length(entry), entry4::within(entry));
        if !is_node(entry) {
            let address = u128::from(entry as u32) << 96;
            self.prefix(start, depth, address, length.min(32), within, entry4::beside(entry));
            return Some(());
        }
        let (mut cells, mut path, below) = (entry as u32, start, entry4::depth(entry).min(32));
        if below != depth {
            path = u128::from(self.word(cells)? as u32) << 96 & !rest(below);
            cells = cells.checked_add(PATH_WORDS_V4)?;
        }
        let (stride, off_path) = (entry4::stride(entry), entry4::beside(entry));
        if below < depth || path & !rest(depth) != start {
            self.prefix(start, depth, path, below, within, off_path);
            return Some(());
        }
        self.fill(start, path, off_path);
        self.cells(cells, stride, path, below, within, entry4::WORDS, &mut |this, at, cell| {
            let entry = this.word(at)?;
            this.entry4(entry, cell, below + stride, levels)
        })?;
        self.fill_to(path | rest(below), start | rest(depth), off_path);
        Some(())
    }

    fn entry6(&mut self, entry: [u64; 2], start: u128, depth: u32, levels: u32) -> Option<()> {
        let levels = levels.checked_sub(1)?;
        let [first, second] = entry;
        let (length, within) = (entry6::length(first).min(128), entry6::within(first));
        if !is_node(first) {
            let high = u128::from(first & entry6::LEAF_BITS) | start >> 64;
            let address = if length == 0 { start } else { high << 64 | u128::from(second) };
            self.prefix(start, depth, address, length, within, 0);
            return Some(());
        }
        let (mut cells, mut path) = (first as u32, start);
        if entry6::has_path(first) {
            let words = (self.word(cells)?, self.word(cells.checked_add(1)?)?);
            path = (u128::from(words.0) << 64 | u128::from(words.1)) & !rest(length);
            cells = cells.checked_add(PATH_WORDS_V6)?;
        }
        let stride = entry6::stride(first) & 31;
        let off_path = entry6::off_path(second);
        if stride == 0 || length < depth || path & !rest(depth) != start {
            self.prefix(start, depth, path, length, within, off_path);
            return Some(());
        }
        self.fill(start, path, off_path);
        self.cells(cells, stride, path, length, within, entry6::WORDS, &mut |this, at, cell| {
            let entry = [this.word(at)?, this.word(at + 1)?];
            this.entry6(entry, cell, length + stride, levels)
        })?;
        self.fill_to(path | rest(length), start | rest(depth), off_path);
        Some(())
    }

    /// The addresses behind `depth` bits of `start`: those of a prefix, and the others.
    fn prefix(
        &mut self,
        start: u128,
        depth: u32,
        address: u128,
        length: u32,
        within: u32,
        beside: u32,
    ) {
        let last = start | rest(depth);
        if length <= depth {
            let set =
                if address & !rest(length) == start & !rest(length) { within } else { beside };
            return self.push(start, last, if length == 0 { within } else { set });
        }
        let inside = address & !rest(length);
        if inside < start || inside > last {
            return self.push(start, last, beside);
        }
        self.fill(start, inside, beside);
        self.push(inside, inside | rest(length), within);
        self.fill_to(inside | rest(length), last, beside);
    }

    /// From `start` up to `end`, which is not included.
    fn fill(&mut self, start: u128, end: u128, set: u32) {
        if start < end {
            self.push(start, end - 1, set);
        }
    }

    /// From behind `before` up to `last`, which is included.
    fn fill_to(&mut self, before: u128, last: u128, set: u32) {
        if before < last {
            self.push(before + 1, last, set);
        }
    }

    fn push(&mut self, first: u128, last: u128, set: u32) {
        match self.ranges.last_mut() {
            Some(range) if range.set == set => range.last = last,
            _ => self.ranges.push(Range { first, last, set }),
        }
    }

    /// Walks the cells of a node whose path is `depth` bits of `start`.
    #[expect(clippy::too_many_arguments, reason = "a node is that many numbers")]
    fn cells(
        &mut self,
        cells: u32,
        stride: u32,
        start: u128,
        depth: u32,
        unoccupied: u32,
        entry_words: u32,
        walk: &mut dyn FnMut(&mut Self, u32, u128) -> Option<()>,
    ) -> Option<()> {
        let below = (128 - depth).checked_sub(stride)?;
        let address = |cell: u32| start | u128::from(cell).checked_shl(below).unwrap_or(0);
        for group in 0..cell_words(stride) {
            let occupied = self.word(cells.checked_add(group)?)?;
            let count = 64.min(1 << stride);
            let from = group * 64;
            if occupied == 0 {
                self.push(address(from), address(from + count - 1) | low(below), unoccupied);
                continue;
            }
            let references = cells.checked_add(cell_words(stride))?;
            let pair = self.word(references.checked_add(group / 2)?)?;
            let reference = (pair >> (group % 2 * 32)) as u32;
            let position = reference & REFERENCE_POSITION;
            let starts = match reference >> 30 {
                0 => occupied & occupied.wrapping_neg(),
                1 => occupied,
                2 => self.word(position.checked_mul(entry_words)?)?,
                _ => return None,
            };
            // Runs stand behind their word.
            let first = if reference >> 30 == 2 { position } else { position.wrapping_sub(1) };
            for bit in 0..count {
                let cell = address(from + bit);
                if occupied >> bit & 1 == 0 {
                    self.push(cell, cell | low(below), unoccupied);
                    continue;
                }
                let run = (starts & (u64::MAX >> (63 - bit))).count_ones();
                let at = first.wrapping_add(run).checked_mul(entry_words)?;
                walk(self, at, cell)?;
            }
        }
        Some(())
    }
}

/// The bits of an address behind its first `length`.
fn rest(length: u32) -> u128 {
    u128::MAX.checked_shr(length).unwrap_or(0)
}

/// So many of the lowest bits.
fn low(count: u32) -> u128 {
    rest(128 - count)
}
