//! A fingerprint of what the kernel's maps hold, so that an edit behind the guard's back is seen.
//!
//! It is compared with what was written, by whoever can read both. It guards against accidents
//! and other tools, not against root: root can change the maps and the fingerprint.
//!
//! Each part has a hash of its own, and these are added up, so that the order is nobody's concern.

use std::hash::Hasher as _;

use ollama_guard_common::{Mode, abi::guarded_by};
use siphasher::sip::SipHasher13;

use super::MapImage;

/// The sum of the hashes of all parts of a policy. Equal for equal policies, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u64);

/// What is hashed, so that no part can stand for another.
#[derive(Clone, Copy)]
enum Part {
    Settings = 0,
    Port = 1,
    Rules = 2,
    Scope = 3,
    Roots = 4,
    Service = 5,
    Door = 6,
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
        let ports = image.ports.len() as u32;
        whole.settings([image.mode as u32, image.protocols, ports, image.capacity]);
        whole.scope(image.scope as u32);
        for &(place, service) in &image.ports {
            whole.port(place, guarded_by(service));
        }
        for (&number, service) in &image.services {
            whole.service(number, &service.name, service.mode == Mode::Observe);
        }
        whole.apart([u32::from(image.is_apart), image.doubted, image.stride]);
        for (&ifindex, &shift) in &image.doors {
            whole.door(ifindex, shift);
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

    /// Adds a guarded port by its place within the slot, and what stands there. 0 is an open port.
    pub fn port(&mut self, place: u32, guardian: u8) {
        if guardian != 0 {
            let bytes = (u64::from(place) << 8 | u64::from(guardian)).to_be_bytes();
            self.add(Part::Port, &bytes);
        }
    }

    /// Adds a service.
    pub fn service(&mut self, number: u8, name: &str, is_observed: bool) {
        self.add(Part::Service, &[&[number, is_observed.into()], name.as_bytes()].concat());
    }

    /// Adds how services and doors are told apart: whether, what a packet in doubt wants, and the bits of
    /// a class.
    pub fn apart(&mut self, [is_apart, doubted, stride]: [u32; 3]) {
        if is_apart != 0 {
            let bytes = [is_apart, doubted, stride].map(u32::to_be_bytes);
            self.add(Part::Door, bytes.as_flattened());
        }
    }

    /// Adds where the bits of a door's class begin. At 0 is where those of all others do.
    pub fn door(&mut self, ifindex: u32, shift: u32) {
        if shift != 0 {
            let bytes = [ifindex, shift].map(u32::to_be_bytes);
            self.add(Part::Door, bytes.as_flattened());
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
    fn an_open_port_and_an_unknown_door_are_nothing() {
        let mut digest = Digest::new();
        digest.port(7, 0);
        digest.door(7, 0);
        assert_eq!(digest, Digest::new());
        let digests = [(7, 1), (8, 1), (7, 2)].map(|(place, guardian)| {
            let mut digest = Digest::new();
            digest.port(place, guardian);
            digest.number()
        });
        assert!(digests[0] != digests[1] && digests[0] != digests[2]);
    }

    /// The number stands in the kernel, where a daemon of another build reads it.
    #[test]
    fn the_number_is_the_same_everywhere() {
        let rules = RuleTable { words: vec![0, 1], root4: 2, root6: [3, 4] };
        let mut digest = of(&rules);
        digest.settings([0, 1, 1, 65_536]);
        digest.port(11_434, 1);
        digest.service(0, "ollama", false);
        assert_eq!(digest.number(), 6_397_977_367_318_857_699);
    }
}
