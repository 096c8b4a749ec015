//! The table of the policy: what each slot holds, as words of a mapping.
//!
//! A slot that is not in force may be written in any order. Everything that a packet depends on is chosen by
//! the selection, which is written last, and at once.

use std::{collections::BTreeMap, mem::offset_of};

use ollama_guard_common::{
    Mode, Scope,
    abi::{
        INNER_OBSERVES, MAX_DOORS, MAX_SERVICES, PORT_BYTES, PORT_PLACES, PolicyTable,
        SERVICE_NAME_BYTES, SLOTS, Selection, ServiceName, SlotInfo, guarded_by, guardian_in,
        port_at,
    },
};

use super::{
    maps::Maps,
    words::{Words, WritableWords},
};
use crate::policy::{MapImage, ServiceImage};

const NAMES: usize = size_of::<[ServiceName; MAX_SERVICES]>();
const CLASSES: usize = MAX_DOORS as usize;

/// What a slot of the table holds, but for the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) info: SlotInfo,
    /// By number.
    pub(super) services: BTreeMap<u8, ServiceImage>,
    /// By place, what stands there that is not 0.
    pub(super) ports: Vec<(u32, u8)>,
    /// By door number.
    classes: Vec<u8>,
}

/// That a policy is in force for a time only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trial {
    /// Until when, in nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) until: u64,
    /// What is in force from then on.
    pub(super) before: Selection,
}

impl Slot {
    /// Reads a slot.
    pub(super) fn read(words: &Words, slot: u32) -> Self {
        Self {
            info: info(words, slot),
            services: services(words, slot),
            ports: ports(&words.copy(ports_at(slot) / 8, PORT_BYTES / 8)),
            classes: bytes(words, classes_at(slot), CLASSES),
        }
    }

    /// What an image comes to, but for the classes of doors: these have their numbers from the maps.
    pub(super) fn of(image: &MapImage, info: SlotInfo, numbers: &BTreeMap<u32, u32>) -> Self {
        let mut classes = vec![0; CLASSES];
        for (ifindex, shift) in &image.doors {
            if let Some(class) = numbers.get(ifindex).and_then(|one| classes.get_mut(*one as usize))
            {
                // Below the number of bits of a set.
                *class = *shift as u8;
            }
        }
        let ports = image.ports.iter().map(|&(place, number)| (place, guarded_by(number)));
        Self { info, services: image.services.clone(), ports: ports.collect(), classes }
    }

    /// Writes a slot that is not in force.
    pub(super) fn write(&self, words: &WritableWords, slot: u32) {
        let mut names = vec![0; NAMES];
        for (number, service) in &self.services {
            let at = usize::from(*number) * SERVICE_NAME_BYTES;
            let name = service.name.as_bytes();
            let length = name.len().min(SERVICE_NAME_BYTES);
            names[at..at + length].copy_from_slice(&name[..length]);
        }
        let mut ports = vec![0; PORT_BYTES];
        for &(place, guardian) in &self.ports {
            if let Some(byte) = ports.get_mut(place as usize / 2) {
                *byte |= guardian << (place % 2 * 4);
            }
        }
        let info: [u64; size_of::<SlotInfo>() / 8] = bytemuck::cast(self.info);
        words.write(names_at(slot) / 8, &as_words(&names));
        words.write(ports_at(slot) / 8, &as_words(&ports));
        words.write(classes_at(slot) / 8, &as_words(&self.classes));
        words.write(info_at(slot) / 8, &info);
    }

    /// Where the bits of each door's class begin, by the index of its interface, if not at 0.
    pub(super) fn doors(&self, numbers: &BTreeMap<u32, u32>) -> BTreeMap<u32, u32> {
        let shift =
            |number: u32| u32::from(self.classes.get(number as usize).copied().unwrap_or(0));
        let doors = numbers.iter().map(|(&ifindex, &number)| (ifindex, shift(number)));
        doors.filter(|(_, shift)| *shift != 0).collect()
    }

    /// Whether a class is noted for a door that has no number.
    pub(super) fn has_stray_classes(&self, numbers: &BTreeMap<u32, u32>) -> bool {
        let is_stray = |(number, class): (usize, &u8)| {
            *class != 0 && !numbers.values().any(|used| *used as usize == number)
        };
        self.classes.iter().enumerate().any(is_stray)
    }

    /// What the program reads first, for this slot.
    pub(super) fn selection(&self, slot: u32) -> Selection {
        let SlotInfo { mode, scope, protocols, .. } = self.info;
        let (mode, scope) = (Mode::from_number(mode), Scope::from_number(scope));
        let none = Selection::new(slot, mode, scope, protocols);
        let none = if self.info.stride == 0 { none } else { none.apart() };
        let port = |place: u32| port_at(place as usize).map_or(0, |(_, port)| port);
        self.ports.iter().fold(none, |selection, (place, _)| selection.with_port(port(*place)))
    }
}

/// The word that every packet reads first.
pub(super) fn selection(words: &Words) -> Selection {
    Selection(words.get(offset_of!(PolicyTable, selection) / 8))
}

/// Puts another policy in force, whole.
pub(super) fn select(words: &WritableWords, selection: Selection) {
    words.set(offset_of!(PolicyTable, selection) / 8, selection.0);
}

/// Until when a policy on trial is in force, and what is from then on.
pub(super) fn trial(words: &Words) -> Option<Trial> {
    selection(words).is_on_trial().then(|| Trial {
        until: words.get(offset_of!(PolicyTable, trial_until) / 8),
        before: Selection(words.get(offset_of!(PolicyTable, before_trial) / 8)),
    })
}

/// Notes what a policy on trial is followed by: before it is selected, or to change it meanwhile.
pub(super) fn set_trial(words: &WritableWords, trial: &Trial) {
    words.set(offset_of!(PolicyTable, trial_until) / 8, trial.until);
    words.set(offset_of!(PolicyTable, before_trial) / 8, trial.before.0);
}

/// Whether the inner door drops nothing, whatever the policy says.
pub(super) fn inner_observes(words: &Words) -> bool {
    inner(words) == INNER_OBSERVES
}

/// What says how the inner door carries verdicts out.
pub(super) fn inner(words: &Words) -> u64 {
    words.get(offset_of!(PolicyTable, inner) / 8)
}

/// What is to say it.
pub(super) const fn inner_word(observes: bool) -> u64 {
    if observes { INNER_OBSERVES } else { 0 }
}

/// Says it.
pub(super) fn set_inner(words: &WritableWords, word: u64) {
    words.set(offset_of!(PolicyTable, inner) / 8, word);
}

/// The description of a slot.
pub(super) fn info(words: &Words, slot: u32) -> SlotInfo {
    let words = words.copy(info_at(slot) / 8, size_of::<SlotInfo>() / 8);
    bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words))
}

/// The services of a slot, by number.
pub(super) fn services(words: &Words, slot: u32) -> BTreeMap<u8, ServiceImage> {
    let info = info(words, slot);
    let names = bytes(words, names_at(slot), NAMES);
    let is_observed = |number: u8| info.observed >> number & 1 == 1;
    let numbers = (0..MAX_SERVICES as u8).filter(|number| info.services >> number & 1 == 1);
    let service = |number: u8| {
        let at = usize::from(number) * SERVICE_NAME_BYTES;
        let name = names[at..at + SERVICE_NAME_BYTES].split(|byte| *byte == 0).next();
        let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
        let mode = if is_observed(number) { Mode::Observe } else { Mode::Enforce };
        (number, ServiceImage { name, mode })
    };
    numbers.map(service).collect()
}

/// Notes in every slot that nothing is known about a door number: whoever gets it next is nobody yet.
pub(super) fn forget_class(maps: &Maps, number: u32) -> super::Result<()> {
    let words = maps.policy_writable()?;
    for slot in 0..SLOTS {
        let at = classes_at(slot) / 8 + number as usize / 8;
        let word = maps.policy().get(at);
        // Nobody else writes to it.
        words.set(at, word & !(0xff << (number % 8 * 8)));
    }
    Ok(())
}

/// What stands in the table of ports. Nearly all of its words are 0.
fn ports(words: &[u64]) -> Vec<(u32, u8)> {
    let occupied = words.iter().enumerate().filter(|(_, word)| **word != 0);
    let bytes = occupied.flat_map(|(at, word)| (at * 8..).zip(word.to_ne_bytes()));
    let places = bytes.flat_map(|(at, byte)| {
        [0, 1].map(|half| ((at * 2 + half) as u32, guardian_in(byte, half as u16)))
    });
    let places =
        places.filter(|(place, guardian)| *guardian != 0 && (*place as usize) < PORT_PLACES);
    places.collect()
}

fn bytes(words: &Words, at: usize, count: usize) -> Vec<u8> {
    words.copy(at / 8, count / 8).into_iter().flat_map(u64::to_ne_bytes).collect()
}

fn as_words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|chunk| u64::from_ne_bytes(*chunk)).collect()
}

const fn info_at(slot: u32) -> usize {
    offset_of!(PolicyTable, slots) + (slot % SLOTS) as usize * size_of::<SlotInfo>()
}

const fn names_at(slot: u32) -> usize {
    offset_of!(PolicyTable, names) + (slot % SLOTS) as usize * NAMES
}

const fn classes_at(slot: u32) -> usize {
    offset_of!(PolicyTable, classes) + (slot % SLOTS) as usize * CLASSES
}

const fn ports_at(slot: u32) -> usize {
    offset_of!(PolicyTable, ports) + (slot % SLOTS) as usize * PORT_BYTES
}

// Each part is whole words.
const _: () = assert!(
    names_at(1).is_multiple_of(8)
        && classes_at(1).is_multiple_of(8)
        && ports_at(1).is_multiple_of(8)
        && ports_at(0).is_multiple_of(8)
);
