//! The rules of one family in one policy slot, and what is in them.

use std::{cmp::Ordering, os::fd::AsFd as _, path::Path};

use aya::maps::{IterableMap as _, LpmTrie, lpm_trie::Key};

use super::{DataplaneError, Result, maps::Rules, pins, sys};
use crate::policy::Entry;

/// `BPF_F_NO_PREALLOC`, without which the kernel makes no LPM trie.
const NO_PREALLOC: u32 = 1;

/// A trie of the kernel, and its contents. Written only while its slot is not in force.
pub(super) struct Table<A> {
    name: &'static str,
    rules: Rules<A>,
    /// Sorted by address and length.
    held: Vec<Entry<A>>,
    capacity: u32,
}

impl<A: aya::Pod + Ord> Table<A> {
    /// Makes and fills a new trie.
    pub(super) fn build(name: &'static str, capacity: u32, entries: &[Entry<A>]) -> Result<Self> {
        let rules = LpmTrie::create(capacity.max(1), NO_PREALLOC)
            .map_err(DataplaneError::map("create", name))?;
        let mut table = Self { name, rules, held: Vec::new(), capacity };
        table.change_to(entries)?;
        Ok(table)
    }

    /// Changes the trie to hold these entries, sorted by address and length, by writing only what
    /// differs. After an error nobody knows what it holds: let go of it.
    pub(super) fn change_to(&mut self, entries: &[Entry<A>]) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        let (mut old, mut new) = (held.iter().peekable(), entries.iter().peekable());
        let mut inserts = Vec::new();
        // Removals first: a trie that is full has no room for more.
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some(old), Some(new)) => key(old).cmp(&key(new)),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            match order {
                Ordering::Less => {
                    if let Some(gone) = old.next() {
                        self.remove(gone)?;
                    }
                }
                Ordering::Greater => inserts.extend(new.next()),
                Ordering::Equal => {
                    let before = old.next().map(|entry| entry.standing);
                    inserts.extend(new.next().filter(|entry| Some(entry.standing) != before));
                }
            }
        }
        for entry in inserts {
            self.insert(entry)?;
        }
        self.held = entries.to_vec();
        Ok(())
    }

    /// Whether it has room for as many entries as are asked for, and not for more.
    pub(super) const fn has_capacity(&self, capacity: u32) -> bool {
        self.capacity == capacity
    }

    /// The trie, to be put into a slot.
    pub(super) const fn rules(&self) -> &Rules<A> {
        &self.rules
    }

    /// Pins the trie as that of a slot, in the place of an older one.
    pub(super) fn pin(&self, directory: &Path, slot: u32) -> Result<()> {
        let path = directory.join(pins::rules_name(self.name, slot));
        pins::unpin(&path)?;
        sys::obj_pin(self.rules.map().fd().as_fd(), &path).map_err(DataplaneError::pin("pin", path))
    }

    fn insert(&mut self, entry: &Entry<A>) -> Result<()> {
        let key = Key::new(u32::from(entry.length), entry.address);
        self.rules.insert(&key, entry.standing, 0).map_err(DataplaneError::map("fill", self.name))
    }

    fn remove(&mut self, entry: &Entry<A>) -> Result<()> {
        let key = Key::new(u32::from(entry.length), entry.address);
        self.rules.remove(&key).map_err(DataplaneError::map("clear", self.name))
    }
}

const fn key<A: Copy>(entry: &Entry<A>) -> (A, u8) {
    (entry.address, entry.length)
}
