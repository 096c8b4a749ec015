//! The policy slots: building a policy beside the live one, and switching to it, for good or on trial.
//!
//! A policy on trial is in force until a moment by the kernel's own clock; from then on the one before is, which
//! stays in its slot meanwhile. No process is needed for that.

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
    table::{self, Slot, Trial},
};
use crate::policy::{Digests, MapImage};

/// Where a compiled policy goes. The seam between the guard and the kernel.
pub trait PolicySink: Send {
    /// Puts a policy in force, whole: every packet is judged by the old one or by this one. Once
    /// it returns, no packet is judged by the old one any more. On an error the old one stays. A
    /// trial, also one that another daemon began, is over.
    ///
    /// Returns the new generation.
    fn swap(&mut self, image: &MapImage, digests: &Digests) -> Result<u64>;

    /// The same until a moment, in nanoseconds of the boot clock; from then on what is in force now is in
    /// force again. During a trial: the same as its policy falls back to.
    fn try_out(&mut self, image: &MapImage, digests: &Digests, until: u64) -> Result<u64>;

    /// Puts another policy in the place of the one that a trial falls back to. Returns its generation.
    fn swap_before(&mut self, image: &MapImage, digests: &Digests) -> Result<u64>;

    /// Ends a trial: what is on trial is in force for good, or what was before is, at once. Returns the
    /// generation that is in force.
    fn settle(&mut self, end: TrialEnd) -> Result<u64>;

    /// The services of the policy in force, with their numbers: none before the first one.
    fn services(&self) -> Vec<(u8, String)>;
}

/// How a trial ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialEnd {
    /// What is on trial stays.
    Confirmed,
    /// What was before comes back.
    Reverted,
}

/// The writer of the slots.
pub(super) struct Slots {
    /// The highest number that a policy was given, by this process or by the one before.
    newest: u64,
    /// The rules that this process has put in force last.
    known: Option<Known>,
    /// The trial that this process has begun last, if it has not ended it.
    trial: Option<Trial>,
    /// Slots that may have rules, a bit each.
    filled: u32,
}

/// A policy that stands in a slot, and is not selected yet.
struct Built {
    slot: u32,
    rules: RuleArray,
    content: Slot,
    generation: u64,
    known: Known,
}

impl Slots {
    /// `newest` is the highest number that a policy has had; `filled` has a bit for each slot that may
    /// have rules.
    pub(super) const fn new(newest: u64, filled: u32) -> Self {
        Self { newest, known: None, trial: None, filled }
    }

    /// Forgets what the slots were last made to hold.
    pub(super) const fn distrust(&mut self) {
        self.known = None;
    }

    /// The rules that were put in force last, if this process did.
    pub(super) const fn known(&self) -> Option<Known> {
        self.known
    }

    /// Whether what is on trial, until when, and what comes back is what this process has written.
    pub(super) fn are_on_trial_as_meant(&self, maps: &Maps) -> bool {
        table::trial(maps.policy()) == self.trial
    }

    /// See [`PolicySink::swap`].
    pub(super) fn swap(
        &mut self,
        maps: &mut Maps,
        directory: &Path,
        image: &MapImage,
        digests: &Digests,
    ) -> Result<u64> {
        let built = self.build(maps, directory, image, digests)?;
        self.select(maps, &built, None)
    }

    /// See [`PolicySink::try_out`].
    pub(super) fn try_out(
        &mut self,
        maps: &mut Maps,
        directory: &Path,
        image: &MapImage,
        digests: &Digests,
        until: u64,
    ) -> Result<u64> {
        let built = self.build(maps, directory, image, digests)?;
        let before = maps.trial().map_or_else(|| maps.selection(), |trial| trial.before);
        self.select(maps, &built, Some(&Trial { until, before }))
    }

    /// See [`PolicySink::swap_before`].
    pub(super) fn swap_before(
        &mut self,
        maps: &mut Maps,
        directory: &Path,
        image: &MapImage,
        digests: &Digests,
    ) -> Result<u64> {
        let known = self.known;
        let built = self.build(maps, directory, image, digests)?;
        let Some(trial) = maps.trial() else {
            // Its time is over: this is what is in force.
            return self.select(maps, &built, None);
        };
        let words = maps.policy_writable()?;
        let trial = Trial { before: built.content.selection(built.slot), ..trial };
        table::set_trial(&words, &trial);
        self.trial = Some(trial);
        self.newest = built.generation;
        self.known = known;
        wait_for_the_last(maps, &built.rules, built.slot);
        Ok(built.generation)
    }

    /// See [`PolicySink::settle`].
    pub(super) fn settle(&mut self, maps: &Maps, end: TrialEnd) -> Result<u64> {
        let words = maps.policy_writable()?;
        self.trial = None;
        // Also of a trial whose time is over: so that no packet has to look at the clock any more.
        if let Some(trial) = table::trial(maps.policy()) {
            let selection = match end {
                TrialEnd::Confirmed if maps.trial().is_some() => {
                    table::selection(maps.policy()).for_good()
                }
                _ => trial.before,
            };
            table::select(&words, selection);
        }
        Ok(maps.generation())
    }

    /// A slot that no packet looks at, now or when a trial is over.
    fn free(maps: &Maps) -> u32 {
        let used = in_use(maps);
        // Of four, two are in use at most.
        (0..SLOTS).find(|slot| used >> slot & 1 == 0).unwrap_or_default()
    }

    /// Puts a policy into a slot that no packet looks at.
    fn build(
        &mut self,
        maps: &mut Maps,
        directory: &Path,
        image: &MapImage,
        digests: &Digests,
    ) -> Result<Built> {
        let live = maps.selected_slot();
        let slot = Self::free(maps);
        let generation = self.newest.saturating_add(1);

        // Beside the live policy: until the switch, no packet sees any of it.
        let rules = RuleArray::build(image.capacity, &image.rules)?;
        rules.pin(directory, slot)?;
        rules.select(maps.rules(), slot)?;
        // Should anything fail from here on.
        self.filled |= 1 << slot;
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
        content.write(&maps.policy_writable()?, slot);
        let known = Known { map: rules.id(), words: digests.words };
        Ok(Built { slot, rules, content, generation, known })
    }

    /// Switches to what was built, for good or on trial.
    fn select(&mut self, maps: &Maps, built: &Built, trial: Option<&Trial>) -> Result<u64> {
        let words = maps.policy_writable()?;
        let mut selection = built.content.selection(built.slot);
        if let Some(trial) = trial {
            // What is in force at the moment is not on trial, or in the same one: no packet sees a mixture.
            table::set_trial(&words, trial);
            selection = selection.on_trial();
        }
        table::select(&words, selection);
        self.trial = trial.copied();
        self.newest = built.generation;
        self.known = Some(built.known);
        wait_for_the_last(maps, &built.rules, built.slot);
        Ok(built.generation)
    }

    /// Empties the slots that were in force before, so that their memory can be freed: not in a change, since
    /// the kernel waits once more for it, and the next change may put other rules there anyway.
    /// Returns whether there was something to do.
    pub(super) fn let_go(&mut self, maps: &Maps, directory: &Path) -> bool {
        let stale = self.filled & !in_use(maps);
        self.filled &= !stale;
        for slot in (0..SLOTS).filter(|slot| stale >> slot & 1 == 1) {
            empty(maps, directory, slot);
        }
        stale != 0
    }
}

/// A bit for each slot that packets are judged by, now or when a trial is over.
fn in_use(maps: &Maps) -> u32 {
    let before = maps.trial().map_or(0, |trial| 1 << trial.before.slot());
    before | 1 << maps.selected_slot()
}

fn empty(maps: &Maps, directory: &Path, old: u32) {
    match sys::clear_inner_map(maps.rules(), old) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            tracing::warn!(%error, slot = old, "the rules of the policy before stay in the kernel");
        }
        _ => {}
    }
    if let Err(error) = pins::unpin(&directory.join(pins::rules_name(old))) {
        tracing::warn!(%error, "the rules of the policy before stay in the kernel");
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
