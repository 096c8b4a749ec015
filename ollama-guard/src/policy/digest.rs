//! A fingerprint of what the kernel's maps hold, so that an edit behind the guard's back is seen.
//!
//! It is compared with what was written, by whoever can read both. It guards against accidents
//! and other tools, not against root: root can change the maps and the fingerprint.
//!
//! The entries of a trie come in no useful order and may be many, so each entry has a hash of its
//! own, and these are added up.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::{Entry, MapImage};

/// The sum of the hashes of all parts of a policy. Equal for equal policies, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u64);

/// What is hashed, so that no part can stand for another.
#[derive(Clone, Copy)]
enum Part {
    Settings = 0,
    PortWord = 1,
    Entry = 2,
    Scope = 3,
}

impl Digest {
    /// Of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Of a whole image.
    #[must_use]
    pub fn of(image: &MapImage) -> Self {
        let mut digest = Self::new();
        digest.settings([image.mode as u32, image.protocols, image.ports, image.capacity]);
        digest.scope(image.scope as u32);
        for &(index, bits) in &image.port_words {
            digest.port_word(index, bits);
        }
        image.v4.iter().for_each(|entry| digest.entry(entry));
        image.v6.iter().for_each(|entry| digest.entry(entry));
        digest
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

    /// Adds an entry of a trie. The address's size says which.
    pub fn entry<A: AsRef<[u8]>>(&mut self, entry: &Entry<A>) {
        let mut hasher = hasher(Part::Entry);
        hasher.write(entry.address.as_ref());
        hasher.write(&[entry.length]);
        hasher.write(&entry.standing.to_be_bytes());
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

    const ENTRY: Entry<[u8; 4]> = Entry { length: 24, address: [192, 0, 2, 0], standing: 1 };

    fn of(entries: &[Entry<[u8; 4]>]) -> Digest {
        let mut digest = Digest::new();
        entries.iter().for_each(|entry| digest.entry(entry));
        digest
    }

    #[test]
    fn the_order_does_not_matter_and_everything_else_does() {
        let other = Entry { length: 25, ..ENTRY };
        assert_eq!(of(&[ENTRY, other]), of(&[other, ENTRY]));
        let denied = Entry { standing: 2, ..ENTRY };
        let moved = Entry { address: [192, 0, 3, 0], ..ENTRY };
        for different in [&[][..], &[other], &[denied], &[moved], &[ENTRY, ENTRY], &[ENTRY, other]]
        {
            assert_ne!(of(different), of(&[ENTRY]), "{different:?}");
        }
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
        let mut digest = of(&[ENTRY]);
        digest.settings([0, 1, 1, 65_536]);
        digest.port_word(178, 1 << 42);
        assert_eq!(digest.number(), 11_215_893_692_026_351_946);
    }
}
