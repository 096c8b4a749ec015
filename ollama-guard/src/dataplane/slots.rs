//! The two policy slots: building a policy beside the live one, and switching to it.

use std::path::Path;

use ollama_guard_common::abi::{PORT_WORDS_PER_SLOT, SLOTS, SlotInfo};

use super::{
    DataplaneError, Result, contents::Known, maps::Maps, pins, rules::RuleArray, selection, sys,
};
use crate::policy::{Digests, MapImage};

/// Where a compiled policy goes. The seam between the guard and the kernel.
pub trait PolicySink: Send {
    /// Puts a policy in force, whole: every packet is judged by the old one or by this one. Once
    /// it returns, no packet is judged by the old one any more. On an error the old one stays.
    ///
    /// Returns the new generation.
    fn swap(&mut self, image: &MapImage, digests: &Digests) -> Result<u64>;
}

/// The writer of the slots.
pub(super) struct Slots {
    /// The number of the last policy that was put in force, by this process or by the one before.
    newest: u64,
    /// The rules that this process has put in force.
    known: Option<Known>,
    /// A slot that is not in force and may have rules: the one that was in force before.
    stale: Option<u32>,
}

impl Slots {
    /// `before` is the number of the policy in force.
    pub(super) const fn new(before: u64) -> Self {
        Self { newest: before, known: None, stale: None }
    }

    /// Forgets what the slots were last made to hold.
    pub(super) const fn distrust(&mut self) {
        self.known = None;
    }

    /// The rules that were put in force last, if this process did.
    pub(super) const fn known(&self) -> Option<Known> {
        self.known
    }

    /// See [`PolicySink::swap`].
    pub(super) fn swap(
        &mut self,
        maps: &Maps,
        directory: &Path,
        image: &MapImage,
        digests: &Digests,
    ) -> Result<u64> {
        let live = maps.selected_slot();
        let slot = (live + 1) % SLOTS;
        let generation = self.newest.saturating_add(1);

        // Beside the live policy: until the switch, no packet sees any of it.
        let rules = RuleArray::build(image.capacity, &image.rules)?;
        rules.pin(directory, slot)?;
        rules.select(maps.rules(), slot)?;
        // Should anything fail from here on.
        self.stale = Some(slot);
        let ports = port_words(image)?;
        let writer = maps.policy_writer()?;
        writer.set_ports(slot, &ports);
        let (first4, first6) = image.rules.firsts();
        let info = SlotInfo {
            generation,
            digest: digests.whole.number(),
            mode: image.mode as u32,
            protocols: image.protocols,
            prefixes_v4: image.prefixes.0,
            prefixes_v6: image.prefixes.1,
            capacity: image.capacity,
            ports: image.ports,
            scope: image.scope as u32,
            words: image.rules.words.len() as u32,
            root4: image.rules.root4,
            root6: image.rules.root6,
            first4,
            first6,
        };
        writer.set_slot_info(slot, info);

        // The switch.
        writer.select(selection::of(slot, image.mode, image.scope, image.protocols, &ports[..]));
        self.newest = generation;
        self.known = Some(Known { map: rules.id(), words: digests.words });
        self.stale = Some(live);
        wait_for_the_last(maps, &rules, slot);
        Ok(generation)
    }

    /// Empties the slot that was in force before, so that its memory can be freed: not in a change, since
    /// the kernel waits once more for it, and the next change may put other rules there anyway.
    /// Returns whether there was something to do.
    pub(super) fn let_go(&mut self, maps: &Maps, directory: &Path) -> bool {
        let Some(old) = self.stale.take() else {
            return false;
        };
        match sys::clear_inner_map(maps.rules(), old) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                tracing::warn!(%error, slot = old, "the rules of the policy before stay in the kernel");
            }
            _ => {}
        }
        if let Err(error) = pins::unpin(&directory.join(pins::rules_name(old))) {
            tracing::warn!(%error, "the rules of the policy before stay in the kernel");
        }
        true
    }
}

/// The words of the guarded ports.
fn port_words(image: &MapImage) -> Result<Box<[u64; PORT_WORDS_PER_SLOT]>> {
    let mut words = Box::new([0_u64; PORT_WORDS_PER_SLOT]);
    for &(word, bits) in &image.port_words {
        *words
            .get_mut(word as usize)
            .ok_or_else(|| DataplaneError::Image(format!("no port word {word}")))? = bits;
    }
    Ok(words)
}

/// Waits until no packet is judged by the policy that was in force before.
///
/// A packet that read the selection just before the switch still looks for its rules in the old slot.
/// An update of an array of maps returns only after every program that was running has ended
/// (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c), so the array that is there is put there again.
///
/// Should it fail, the new policy is in force all the same.
fn wait_for_the_last(maps: &Maps, rules: &RuleArray, slot: u32) {
    if let Err(error) = rules.select(maps.rules(), slot) {
        tracing::warn!(%error, "cannot wait for the last packets of the old policy");
    }
}
