//! Building one family's trie.
//!
//! A node's stride is chosen by the number of rules below it: sixteen cells for each, so that most
//! addresses that no rule is near fall into a cell that is not occupied, whatever part of the
//! address space the rules are crowded in.

use std::{collections::BTreeMap, marker::PhantomData};

use ollama_guard_common::trie::{
    Arrangement, MAX_STRIDE, MIN_ROOT_STRIDE, MIN_STRIDE, cell_words, reference, reference_words,
};

use super::family::Family;

/// Cells for each rule, as a power of two.
const SPARSENESS: u32 = 4;

/// What is said about the addresses of one prefix, but for those of a longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<A> {
    /// The first address, as a number.
    pub address: A,
    /// Leading bits that count.
    pub length: u32,
    /// The number of the set.
    pub set: u32,
}

/// Appends the trie of what is said to the words. Sorted by address and length, each prefix once.
/// Returns the entry to begin with.
pub(super) fn build<F: Family>(words: &mut Vec<u64>, said: &[Said<F::Address>]) -> F::Entry {
    let mut builder = Builder::<F> { words, shared: Vec::new(), family: PhantomData };
    builder.entry(said, 0, 0)
}

/// Builds the groups of the first node again that these prefixes, address and length, lie in, with new
/// entries behind the words. See [`super::RuleTable::rebuild4`].
pub(super) fn rebuild<F: Family>(
    words: &mut Vec<u64>,
    root: F::Entry,
    changed: &[(F::Address, u32)],
    mut said: impl FnMut(F::Address, u32) -> Option<(u32, Vec<Said<F::Address>>)>,
) -> Option<()> {
    if changed.is_empty() {
        return Some(());
    }
    let node = F::first_node(root).filter(|node| node.stride >= MIN_ROOT_STRIDE)?;
    let position = node.position as usize;
    let path = if node.has_path { F::PATH } else { 0 };
    // A group is a network, too.
    let length = node.depth + node.stride - 6;
    let mut groups = BTreeMap::new();
    for &(address, bits) in changed {
        let is_inside = !node.has_path
            || F::common(address, F::path_of(&words[position..position + path])) >= node.depth;
        // What is about all of the node's addresses stands in its entry.
        let shorter = length.saturating_sub(bits);
        if !is_inside || bits <= node.depth || shorter > MOST_GROUPS {
            return None;
        }
        for number in 0..1 << shorter {
            let first = F::network(address, length, number);
            groups.insert(F::bits(first, node.depth, node.stride) >> 6, first);
        }
    }
    let mut builder = Builder::<F> { words, shared: Vec::new(), family: PhantomData };
    let cells = cell_words(node.stride) as usize;
    for (number, first) in groups {
        let (outer, inside) = said(first, length)?;
        let number = number as usize;
        let (at, pair) = (position + path, position + path + cells + number / 2);
        builder.words[at + number] = 0;
        builder.words[pair] &= !(u64::from(u32::MAX) << (number % 2 * 32));
        let group = Group { at, cells, number, ..Group::default() };
        let (depth, stride, unoccupied) = (node.depth, node.stride, node.unoccupied);
        let from = (number as u32) << 6;
        let around = vec![(from + 64, outer)];
        Sweep { builder: &mut builder, group, depth, stride, unoccupied }.run_over(
            &inside,
            around,
            from,
            from + 64,
        );
    }
    Some(())
}

/// A change of so many groups, as a power of two, is worth a whole table.
const MOST_GROUPS: u32 = 10;

struct Builder<'a, F> {
    words: &'a mut Vec<u64>,
    /// Where the entry is that says the same of all addresses, by set.
    shared: Vec<Option<u32>>,
    family: PhantomData<F>,
}

impl<F: Family> Builder<'_, F> {
    /// The entry for what is said about addresses that share `depth` bits. All others of these are
    /// in the set `outer`.
    fn entry(&mut self, said: &[Said<F::Address>], depth: u32, outer: u32) -> F::Entry {
        let (outer, said) = strip(said, depth, outer);
        let (first, last) = match said {
            [] => return F::all(outer),
            [one] => match F::leaf(one.address, one.length, one.set, outer, depth) {
                Some(leaf) => return leaf,
                None => {
                    let position = self.allocate(F::PATH);
                    self.put(position, F::path(one.address).as_ref());
                    return F::node(position as u32, one.length, 0, one.set, Some(outer));
                }
            },
            [first, .., last] => (first, last),
        };
        let common = F::common(first.address, last.address).min(first.length);
        // A path takes room and a read: not for a few bits, but in the first node, where they are
        // what all the rules have in common.
        let has_path = common > depth && (depth == 0 || common - depth >= MIN_STRIDE);
        let (below, path) = if has_path { (common, F::PATH) } else { (depth, 0) };
        let (unoccupied, inside) = strip(said, below, outer);
        let stride = stride(inside, depth, below);
        let cells = cell_words(stride) as usize;
        let position = self.allocate(path + cells + reference_words(stride) as usize);
        if has_path {
            self.put(position, F::path(first.address).as_ref());
        }
        let group = Group { at: position + path, cells, ..Group::default() };
        Sweep { builder: self, group, depth: below, stride, unoccupied }.cells(inside);
        F::node(position as u32, below, stride, unoccupied, has_path.then_some(outer))
    }

    /// Room for so many words, at a position that an entry may have.
    fn allocate(&mut self, count: usize) -> usize {
        let position = self.words.len().next_multiple_of(F::WORDS);
        self.words.resize(position + count, 0);
        position
    }

    fn put(&mut self, position: usize, words: &[u64]) {
        self.words[position..position + words.len()].copy_from_slice(words);
    }

    /// Appends entries. Returns where they are, in entries from the start of the words.
    fn append(&mut self, entries: &[F::Entry]) -> u32 {
        let position = self.allocate(0);
        for entry in entries {
            self.words.extend_from_slice(entry.as_ref());
        }
        (position / F::WORDS) as u32
    }

    /// Where the one entry is that says the same of all addresses.
    fn shared(&mut self, set: u32) -> u32 {
        let index = set as usize;
        if self.shared.len() <= index {
            self.shared.resize(index + 1, None);
        }
        if let Some(position) = self.shared[index] {
            return position;
        }
        let position = self.append(&[F::all(set)]);
        self.shared[index] = Some(position);
        position
    }
}

/// What is said about all the addresses behind `depth` bits, and what more there is.
fn strip<A>(said: &[Said<A>], depth: u32, outer: u32) -> (u32, &[Said<A>]) {
    let whole = said.iter().take_while(|one| one.length <= depth).count();
    let (whole, inside) = said.split_at(whole);
    (whole.last().map_or(outer, |one| one.set), inside)
}

/// How many bits a node takes that stands behind `below` bits; its parent's end at `depth`.
fn stride<A>(said: &[Said<A>], depth: u32, below: u32) -> u32 {
    let least = if depth == 0 { MIN_ROOT_STRIDE } else { MIN_STRIDE };
    let wanted = said.len().next_power_of_two().trailing_zeros() + SPARSENESS;
    let longest = said.iter().map(|one| one.length).max().unwrap_or(below);
    // Behind the longest prefix there is nothing to tell apart.
    wanted.clamp(least, MAX_STRIDE).min(longest - below).max(1)
}

/// One walk over the cells of a node, from the first to the last.
struct Sweep<'a, 'b, F: Family> {
    builder: &'a mut Builder<'b, F>,
    group: Group<F>,
    depth: u32,
    stride: u32,
    unoccupied: u32,
}

/// The 64 cells that are being filled.
struct Group<F: Family> {
    /// Where the words of cells are.
    at: usize,
    /// How many of them.
    cells: usize,
    /// Which group of the node this is.
    number: usize,
    occupied: u64,
    /// The cells that begin a run of equal ones.
    starts: u64,
    /// One for each run.
    entries: Vec<F::Entry>,
    /// The set of the first run, if it is about all addresses of its cells.
    whole: Option<u32>,
}

impl<F: Family> Default for Group<F> {
    fn default() -> Self {
        Self {
            at: 0,
            cells: 0,
            number: 0,
            occupied: 0,
            starts: 0,
            entries: Vec::new(),
            whole: None,
        }
    }
}

impl<F: Family> Sweep<'_, '_, F> {
    fn cells(self, said: &[Said<F::Address>]) {
        let last = 1 << self.stride;
        self.run_over(said, Vec::new(), 0, last);
    }

    /// The cells up to `last`. `around` are the prefixes of whole cells that are around the cell that is
    /// next, and where they end.
    fn run_over(
        mut self,
        said: &[Said<F::Address>],
        mut around: Vec<(u32, u32)>,
        mut at: u32,
        last: u32,
    ) {
        let end = self.depth + self.stride;
        let mut rest = said;
        while let Some((one, others)) = rest.split_first() {
            let cell = F::bits(one.address, self.depth, self.stride);
            at = self.advance(&mut around, at, cell);
            if one.length <= end {
                around.push((cell + (1 << (end - one.length)), one.set));
                rest = others;
                continue;
            }
            let same =
                |one: &Said<F::Address>| F::bits(one.address, self.depth, self.stride) == cell;
            let count = 1 + others.iter().take_while(|one| same(one)).count();
            let (inside, others) = rest.split_at(count);
            let outer = around.last().map_or(self.unoccupied, |&(_, set)| set);
            let entry = self.builder.entry(inside, end, outer);
            self.single(cell, entry);
            at = cell + 1;
            rest = others;
        }
        self.advance(&mut around, at, last);
        self.close();
    }

    /// Fills the cells up to `to` with what is said of all their addresses.
    fn advance(&mut self, around: &mut Vec<(u32, u32)>, mut at: u32, to: u32) -> u32 {
        loop {
            while around.last().is_some_and(|&(end, _)| end <= at) {
                around.pop();
            }
            if at >= to {
                return at;
            }
            let (until, set) =
                around.last().map_or((to, self.unoccupied), |&(end, set)| (end.min(to), set));
            if set != self.unoccupied {
                self.run(at, until, set);
            }
            at = until;
        }
    }

    /// Cells all of whose addresses are in one set.
    fn run(&mut self, from: u32, to: u32, set: u32) {
        let mut at = from;
        while at < to {
            self.enter(at >> 6);
            let until = to.min((at | 63) + 1);
            let count = until - at;
            let cells = (u64::MAX >> (64 - count)) << (at & 63);
            if self.group.entries.is_empty() {
                self.group.whole = Some(set);
            }
            self.group.occupied |= cells;
            self.group.starts |= 1 << (at & 63);
            self.group.entries.push(F::all(set));
            at = until;
        }
    }

    /// A cell with an entry of its own.
    fn single(&mut self, cell: u32, entry: F::Entry) {
        self.enter(cell >> 6);
        self.group.occupied |= 1 << (cell & 63);
        self.group.starts |= 1 << (cell & 63);
        self.group.entries.push(entry);
    }

    fn enter(&mut self, number: u32) {
        if number as usize != self.group.number {
            self.close();
            self.group.number = number as usize;
        }
    }

    /// Writes the group down.
    fn close(&mut self) {
        let group = &mut self.group;
        if group.occupied == 0 {
            return;
        }
        let reference = match (group.whole, group.entries.len()) {
            (Some(set), 1) => reference(Arrangement::Shared, self.builder.shared(set)),
            _ if group.starts == group.occupied => {
                reference(Arrangement::Single, self.builder.append(&group.entries))
            }
            _ => {
                let position = self.builder.allocate(F::WORDS);
                self.builder.words[position] = group.starts;
                self.builder.append(&group.entries);
                reference(Arrangement::Runs, (position / F::WORDS) as u32)
            }
        };
        self.builder.words[group.at + group.number] = group.occupied;
        let pair = group.at + group.cells + group.number / 2;
        self.builder.words[pair] |= u64::from(reference) << (group.number % 2 * 32);
        (group.occupied, group.starts, group.whole) = (0, 0, None);
        group.entries.clear();
    }
}
