//! The two policy slots: building a policy beside the live one, and switching to it.

use std::path::Path;

use ollama_guard_common::{
    Mode,
    abi::{SLOTS, SlotInfo},
};

use super::{
    DataplaneError, Result,
    contents::Known,
    counters,
    maps::Maps,
    pins,
    rules::RuleArray,
    sys,
    table::{self, Slot},
};
use crate::policy::{Digests, MapImage};

/// Where a compiled policy goes. The seam between the guard and the kernel.
pub trait PolicySink: Send {
    /// Puts a policy in force, whole: every packet is judged by the old one or by this one. Once
    /// it returns, no packet is judged by the old one any more. On an error the old one stays.
    ///
    /// Returns the new generation.
    fn swap(&mut self, image: &MapImage, digests: &Digests) -> Result<u64>;

    /// The services of the policy in force, with their numbers: none before the first one.
    fn services(&self) -> Vec<(u8, String)>;
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
        maps: &mut Maps,
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
        for &ifindex in image.doors.keys() {
            counters::register(maps, ifindex)?;
            if !counters::numbers(maps).contains_key(&ifindex) {
                let message = format!("no number is left for the door with index {ifindex}");
                return Err(DataplaneError::Image(message));
            }
        }
        let observed = image.services.iter().filter(|(_, service)| service.mode == Mode::Observe);
        let (first4, first6) = image.rules.firsts();
        let info = SlotInfo {
            generation,
            digest: digests.whole.number(),
            mode: image.mode as u32,
            protocols: image.protocols,
            prefixes_v4: image.prefixes.0,
            prefixes_v6: image.prefixes.1,
            capacity: image.capacity,
            ports: image.ports.len() as u32,
            scope: image.scope as u32,
            words: image.rules.words.len() as u32,
            services: image.services.keys().fold(0, |bits, number| bits | 1 << number),
            observed: observed.fold(0, |bits, (number, _)| bits | 1 << number),
            doubted: image.doubted,
            // Of no meaning where nothing is told apart.
            stride: if image.is_apart { image.stride } else { 0 },
            root4: image.rules.root4,
            root6: image.rules.root6,
            first4,
            first6,
        };
        let content = Slot::of(image, info, &counters::numbers(maps));
        let before = table::services(maps.policy(), live);
        for (number, service) in &content.services {
            if before.get(number).is_none_or(|other| other.name != service.name) {
                counters::clear_service(maps, *number)?;
            }
        }
        let words = maps.policy_writable()?;
        content.write(&words, slot);

        // The switch.
        table::select(&words, content.selection(slot));
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
