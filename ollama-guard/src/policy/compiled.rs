//! A compiled policy that follows edits.
//!
//! A whole list is compiled in the time that it takes to read it; a change of a few rules in a long
//! list must not take as long. Where the first node of the trie stays as it is, only those of its
//! groups are built again that a changed prefix lies in, behind the words that there are. What such
//! changes leave behind unused is bounded: then, and whenever there is any doubt, the whole table is
//! built again. Both say the same (`policy::properties`), in other words.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ollama_guard_common::Scope;

use super::{
    CompileError, Layout, MapImage, Policy, Prefix, Statement,
    compile::{Sets, check_count, compile_with, fits, resolve, within},
};

/// Changes at a time that are worth being followed one by one.
const FEW: usize = 64;

/// A policy and its image.
#[derive(Debug)]
pub struct Compiled {
    /// Its rules are moved to `written`.
    policy: Policy,
    /// What the rules say, sorted, each once.
    written: Vec<Statement>,
    image: MapImage,
    /// The sets that the table knows.
    sets: Sets,
    /// Words of the table when it was built whole.
    built: usize,
}

impl Compiled {
    /// Compiles a policy.
    ///
    /// # Errors
    ///
    /// As [`super::compile`].
    pub fn new(mut policy: Policy) -> Result<Self, CompileError> {
        let mut written = std::mem::take(&mut policy.rules);
        written.sort_unstable();
        written.dedup();
        written.shrink_to_fit();
        let (image, sets) = compile_with(&policy, &written)?;
        let built = image.rules.words.len();
        Ok(Self { policy, written, image, sets, built })
    }

    /// The image.
    #[must_use]
    pub const fn image(&self) -> &MapImage {
        &self.image
    }

    /// The services and the doors, and their bits.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.policy.layout
    }

    /// Another scope for the same rules.
    pub const fn set_scope(&mut self, scope: Scope) {
        self.policy.scope = scope;
        self.image.scope = scope;
    }

    /// The policy with some rules more and some less. What is removed is there, and is said by no
    /// other rule.
    ///
    /// # Errors
    ///
    /// As [`super::compile`].
    pub fn edited(
        mut self,
        added: &[Statement],
        removed: &[Statement],
    ) -> Result<Self, CompileError> {
        if added.len() + removed.len() > FEW {
            return self.rewritten(added, removed);
        }
        let mut changed = BTreeSet::new();
        for said in removed {
            if let Ok(position) = self.written.binary_search(said) {
                self.written.remove(position);
                self.count(said.prefix, -1);
                changed.insert(said.prefix);
            }
        }
        for &said in added {
            if let Err(position) = self.written.binary_search(&said) {
                self.count(said.prefix, 1);
                self.written.insert(position, said);
                changed.insert(said.prefix);
            }
        }
        check_count(self.image.prefixes, self.policy.capacity)?;
        if self.follow(&changed) {
            return Ok(self);
        }
        self.rebuilt()
    }

    /// Counts a prefix that comes or goes, if nothing else is said about it. The statement is not in
    /// `written` at this moment.
    fn count(&mut self, prefix: Prefix, change: i32) {
        let place = self.written.partition_point(|said| said.prefix < prefix);
        if self.written.get(place).is_some_and(|said| said.prefix == prefix) {
            return;
        }
        let count = match prefix.net() {
            IpNet::V4(_) => &mut self.image.prefixes.0,
            IpNet::V6(_) => &mut self.image.prefixes.1,
        };
        *count = count.saturating_add_signed(change);
    }

    /// Builds what lies around these prefixes again. `false` if the whole table has to be.
    fn follow(&mut self, changed: &BTreeSet<Prefix>) -> bool {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in changed {
            let length = u32::from(prefix.length());
            match prefix.net().addr() {
                IpAddr::V4(address) => v4.push((address.into(), length)),
                IpAddr::V6(address) => v6.push((address.into(), length)),
            }
        }
        let Self { written, sets, .. } = self;
        let known = sets.count();
        let table = &mut self.image.rules;
        // A set that the table does not know has no place in front of the words.
        let found = table.rebuild4(&v4, |address, length| {
            let net = Ipv4Net::new(address.into(), length as u8).ok()?;
            let (outer, inside) = within(written, net.into());
            let inside = resolve(inside, outer, sets).v4;
            let outer = sets.number(outer);
            (sets.count() == known).then_some((outer, inside))
        });
        let found = found.and_then(|()| {
            table.rebuild6(&v6, |address, length| {
                let net = Ipv6Net::new(address.into(), length as u8).ok()?;
                let (outer, inside) = within(written, net.into());
                let inside = resolve(inside, outer, sets).v6;
                let outer = sets.number(outer);
                (sets.count() == known).then_some((outer, inside))
            })
        });
        let words = table.words.len();
        let is_bounded = words <= self.built + self.built / 4 + 4096;
        found.is_some() && is_bounded && fits(words, self.policy.capacity).is_ok()
    }

    /// The policy with many rules more or less.
    fn rewritten(
        mut self,
        added: &[Statement],
        removed: &[Statement],
    ) -> Result<Self, CompileError> {
        let removed: BTreeSet<_> = removed.iter().collect();
        self.written.retain(|said| !removed.contains(said));
        self.written.extend(added);
        self.written.sort_unstable();
        self.written.dedup();
        self.rebuilt()
    }

    fn rebuilt(self) -> Result<Self, CompileError> {
        let Self { policy, written, .. } = self;
        let (image, sets) = compile_with(&policy, &written)?;
        let built = image.rules.words.len();
        Ok(Self { policy, written, image, sets, built })
    }
}
