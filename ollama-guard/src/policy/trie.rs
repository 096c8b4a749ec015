//! The rules as the kernel program reads them: a compressed multibit trie for each family.
//!
//! Layout and lookup are `ollama_guard_common::trie`. Here they are built, and read back into plain
//! ranges of addresses by whoever has to say what a table holds.

mod build;
mod family;
mod read;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;
use ollama_guard_common::{
    abi::RuleSet,
    trie::{MAX_SETS, entry4, entry6, find4, find6, first4, first6},
};

pub use build::Said;
pub use read::{Range, ranges4, ranges6};

use self::family::{Family as _, V4, V6};

/// The rules of both families, as words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTable {
    /// The sets, and behind them the tries.
    pub words: Vec<u64>,
    /// The entry that the IPv4 trie begins with.
    pub root4: u64,
    /// The entry that the IPv6 trie begins with.
    pub root6: [u64; 2],
}

impl RuleTable {
    /// Builds the tries. What is said is sorted by address and length, each prefix once; its sets
    /// are positions in `sets`, of which the first is the empty one.
    ///
    /// # Panics
    ///
    /// With more than [`MAX_SETS`] sets.
    #[must_use]
    pub fn build(sets: &[RuleSet], v4: &[Said<u32>], v6: &[Said<u128>]) -> Self {
        assert!(sets.len() <= MAX_SETS, "{} sets", sets.len());
        let mut words: Vec<u64> = sets.iter().map(|set| set.word()).collect();
        let [root4] = build::build::<V4>(&mut words, v4);
        let root6 = build::build::<V6>(&mut words, v6);
        Self { words, root4, root6 }
    }

    /// Builds the parts of the IPv4 trie again that these prefixes, address and length, lie in.
    /// `said` is asked for networks, and tells the set of what stands around one, and what is said
    /// within it. `None` if the first node is not the right one any more: then the words are of no
    /// use, and the whole table has to be built.
    pub fn rebuild4(
        &mut self,
        changed: &[(u32, u32)],
        said: impl FnMut(u32, u32) -> Option<(u32, Vec<Said<u32>>)>,
    ) -> Option<()> {
        build::rebuild::<V4>(&mut self.words, [self.root4], changed, said)
    }

    /// The same for the IPv6 trie.
    pub fn rebuild6(
        &mut self,
        changed: &[(u128, u32)],
        said: impl FnMut(u128, u32) -> Option<(u32, Vec<Said<u128>>)>,
    ) -> Option<()> {
        build::rebuild::<V6>(&mut self.words, self.root6, changed, said)
    }

    /// What the rules say about a source, by the lookup that the program does. `None` if the words
    /// are damaged.
    #[must_use]
    pub fn find(&self, source: IpAddr) -> Option<RuleSet> {
        let words = self.words.as_slice();
        let set = match source {
            IpAddr::V4(source) => find4(words, self.root4, source.into())?,
            IpAddr::V6(source) => {
                let bits = u128::from(source);
                find6(words, self.root6, (bits >> 64) as u64, bits as u64)?
            }
        };
        self.set(set)
    }

    /// The largest prefix around an address all of whose addresses are in one set, and the set. `None`
    /// if the words are damaged.
    #[must_use]
    pub fn around(&self, source: IpAddr) -> Option<(IpNet, RuleSet)> {
        let (first, last, set) = match source {
            IpAddr::V4(address) => {
                let bits = u32::from(address);
                let range = ranges4(self)?.into_iter().find(|range| range.last >= bits)?;
                let (first, last) = (range.first.into(), range.last.into());
                (IpAddr::V4(first), IpAddr::V4(last), range.set)
            }
            IpAddr::V6(address) => {
                let bits = u128::from(address);
                let range = ranges6(self)?.into_iter().find(|range| range.last >= bits)?;
                (IpAddr::V6(range.first.into()), IpAddr::V6(range.last.into()), range.set)
            }
        };
        let is_inside = |net: &IpNet| net.network() >= first && net.broadcast() <= last;
        let longest = if source.is_ipv4() { 32 } else { 128 };
        let nets =
            (0..=longest).filter_map(|length| Some(IpNet::new(source, length).ok()?.trunc()));
        Some((nets.into_iter().find(is_inside)?, self.set(set)?))
    }

    /// How most strangers are settled, of IPv4 and of IPv6.
    #[must_use]
    pub fn firsts(&self) -> ([u64; 2], [u64; 3]) {
        let words = self.words.as_slice();
        (first4(words, self.root4), first6(words, self.root6))
    }

    /// A set by its number.
    #[must_use]
    pub fn set(&self, number: u32) -> Option<RuleSet> {
        self.words.get(number as usize).map(|word| RuleSet::from_word(*word))
    }
}

impl Default for RuleTable {
    /// No rules: nobody is in any set.
    fn default() -> Self {
        let [root4] = V4::all(0);
        debug_assert_eq!((entry4::WORDS, entry6::WORDS), (1, 2));
        Self { words: vec![0], root4, root6: V6::all(0) }
    }
}
