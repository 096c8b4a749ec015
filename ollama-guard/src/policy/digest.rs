//! A fingerprint of what the kernel's maps hold, so that an edit behind the guard's back is seen.
//!
//! It is compared with what was written, by whoever can read both. It guards against accidents
//! and other tools, not against root: root can change the maps and the fingerprint.
//!
//! Each part has a hash of its own, and these are added up, so that the order is nobody's concern.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::MapImage;

/// The sum of the hashes of all parts of a policy. Equal for equal policies, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u64);

/// What is hashed, so that no part can stand for another.
#[derive(Clone, Copy)]
enum Part {
    Settings = 0,
    PortWord = 1,
    Rules = 2,
    Scope = 3,
    Roots = 4,
}

/// The fingerprints of an image: there is much to go through, so that it is done once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Of the words of the rules alone.
    pub words: Digest,
    /// Of everything.
    pub whole: Digest,
}

impl Digests {
    /// Of a whole image.
    #[must_use]
    pub fn of(image: &MapImage) -> Self {
        let mut words = Digest::new();
        words.words(&image.rules.words);
        let mut whole = words;
        whole.settings([image.mode as u32, image.protocols, image.ports, image.capacity]);
        whole.scope(image.scope as u32);
        for &(index, bits) in &image.port_words {
            whole.port_word(index, bits);
        }
        whole.roots(image.rules.root4, image.rules.root6, image.rules.firsts());
        Self { words, whole }
    }
}

impl Digest {
    /// Of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds all that is in another one.
    pub const fn join(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    /// Adds the numbers that stand beside ports and rules: mode, protocols, ports, capacity.
    pub fn settings(&mut self, settings: [u32; 4]) {
        let bytes = settings.map(u32::to_be_bytes);
        self.add(Part::Settings, bytes.as_flattened());
    }

    /// Adds whose packets are decided on. All is 0, and adds nothing.
    pub fn scope(&mut self, scope: u32) {
        if scope != 0 {
            self.add(Part::Scope, &scope.to_be_bytes());
        }
    }

    /// Adds a word of guarded ports, by its position within the slot. A word of 0 is none.
    pub fn port_word(&mut self, index: u32, bits: u64) {
        if bits != 0 {
            let bytes = (u128::from(index) << 64 | u128::from(bits)).to_be_bytes();
            self.add(Part::PortWord, &bytes);
        }
    }

    /// Adds where the tries of the rules begin.
    pub fn roots(&mut self, root4: u64, root6: [u64; 2], firsts: ([u64; 2], [u64; 3])) {
        let ([a, b], [c, d, e]) = firsts;
        let bytes = [root4, root6[0], root6[1], a, b, c, d, e].map(u64::to_be_bytes);
        self.add(Part::Roots, bytes.as_flattened());
    }

    /// Adds the words of the rules.
    pub fn words(&mut self, words: &[u64]) {
        let mut hasher = hasher(Part::Rules);
        // As they lie in memory: copying a long table would take longer than hashing it.
        const { assert!(cfg!(target_endian = "little"), "the fingerprint is of other bytes here") };
        hasher.write(bytemuck::cast_slice(words));
        self.0 = self.0.wrapping_add(hasher.finish());
    }

    /// As it stands in the kernel.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    fn add(&mut self, part: Part, bytes: &[u8]) {
        let mut hasher = hasher(part);
        hasher.write(bytes);
        self.0 = self.0.wrapping_add(hasher.finish());
    }
}

fn hasher(part: Part) -> SipHasher13 {
    SipHasher13::new_with_keys(0, part as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RuleTable;

    fn of(rules: &RuleTable) -> Digest {
        let mut digest = Digest::new();
        digest.words(&rules.words);
        digest.roots(rules.root4, rules.root6, rules.firsts());
        digest
    }

    #[test]
    fn every_bit_of_the_rules_counts() {
        let rules = RuleTable { words: vec![0, 1, 2], root4: 3, root6: [4, 5] };
        let mut others = vec![RuleTable::default(); 6];
        others.fill(rules.clone());
        others[0].words[2] ^= 1 << 63;
        others[1].words.push(0);
        others[2].words.swap(0, 1);
        others[3].root4 ^= 1;
        others[4].root6[0] ^= 1;
        others[5].root6[1] ^= 1;
        for other in &others {
            assert_ne!(of(other), of(&rules), "{other:?}");
        }
        assert_eq!(of(&rules.clone()), of(&rules));
    }

    #[test]
    fn a_word_of_no_ports_is_no_word() {
        let mut digest = Digest::new();
        digest.port_word(7, 0);
        assert_eq!(digest, Digest::new());
        digest.port_word(7, 1);
        let mut other = Digest::new();
        other.port_word(8, 1);
        assert_ne!(digest, other);
    }

    /// The number stands in the kernel, where a daemon of another build reads it.
    #[test]
    fn the_number_is_the_same_everywhere() {
        let rules = RuleTable { words: vec![0, 1], root4: 2, root6: [3, 4] };
        let mut digest = of(&rules);
        digest.settings([0, 1, 1, 65_536]);
        digest.port_word(178, 1 << 42);
        assert_eq!(digest.number(), 9_164_664_501_988_015_805);
    }
}
