//! The sequence of cases of a seed: rows of `docs/packets.md`, alone and mixed.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ollama_guard_common::Start;

use super::{
    case::{Case, Door, Frame},
    cast::{
        BROADCAST, LOOPBACK_PORT, NOBODY4, NOBODY6, SERVER_LINK_LOCAL, SINGLE_PORT, SINGLE4,
        SINGLE6, Sender, may_be_link_local, policies,
    },
    dice::Dice,
    link, model,
    model::Placed,
    network4, network6,
    upper::{self, Between, TARGETS, Target},
};
use crate::policy::{HostPolicy, SERVER4, SERVER6};

/// Frames below this length cannot be told apart on a device without Ethernet headers: the
/// source address, which no other case has, ends there.
const TELLS: usize = 24;

/// Makes the cases of a seed.
#[derive(Debug)]
pub struct Generator {
    dice: Dice,
    number: u32,
    policies: [HostPolicy; super::cast::POLICIES],
    seen: HashSet<u64>,
    /// How often each note has been made.
    pub tally: BTreeMap<&'static str, u64>,
}

/// A packet or a fragment of one, with notes of its headers.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub bytes: Vec<u8>,
    pub layers: Vec<Placed>,
}

impl Generator {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            number: 0,
            policies: policies(),
            seen: HashSet::new(),
            tally: BTreeMap::new(),
        }
    }

    /// The next case.
    ///
    /// # Panics
    ///
    /// If the writer did not write what it noted down, or a frame is one that an earlier case has
    /// sent: then the generator is wrong, and its findings would be.
    pub fn next_case(&mut self) -> Case {
        self.number += 1;
        let mut notes = Vec::new();
        let case = self.draft(&mut notes);
        for (position, frame) in case.frames.iter().enumerate() {
            let is_copy = case.frames[..position].iter().any(|known| known.bytes == frame.bytes);
            let tells = frame.door.start() == Start::Link || frame.bytes.len() >= TELLS;
            assert!(
                is_copy || !tells || self.seen.insert(hash(frame)),
                "{} sends a frame of {} bytes that another case has sent",
                case.name(),
                frame.bytes.len()
            );
        }
        for note in &case.notes {
            *self.tally.entry(note).or_default() += 1;
        }
        case
    }

    fn draft(&mut self, notes: &mut Vec<&'static str>) -> Case {
        let number = self.number;
        let dice = &mut self.dice;
        // Half of the cases consist of what a kernel delivers, so that many are answered.
        let honest = dice.chance(50);
        let is_v4 = dice.chance(50);
        let door = door(dice, notes);
        let sender = sender(is_v4, door, honest, number, dice);
        notes.push(sender.name());
        let target = dice.weighted(&TARGETS);
        let between = ends(is_v4, sender, target, door, number, dice, notes);
        let upper = upper::write(target, between, honest, dice, notes);
        let mut pieces = match (between.source, between.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                network4::write(source, destination, &upper, number, honest, door, dice, notes)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                network6::write(source, destination, &upper, number, honest, dice, notes)
            }
            mixed => unreachable!("both ends are of one family: {mixed:?}"),
        };
        if pieces.len() > 1 {
            order(&mut pieces, honest, dice, notes);
        }
        let mut frames: Vec<Frame> = Vec::new();
        for piece in &pieces {
            frames.push(frame(piece, door, number, honest, &self.policies, dice, notes));
        }
        if dice.chance(3) {
            notes.push("a frame twice");
            let copy = frames[dice.below(frames.len())].clone();
            frames.insert(dice.below(frames.len() + 1), copy);
        }
        let mut sources = vec![between.source];
        if between.inner != between.source {
            sources.push(between.inner);
        }
        notes.sort_unstable();
        notes.dedup();
        Case { number, notes: std::mem::take(notes), sources, frames }
    }
}

fn hash(frame: &Frame) -> u64 {
    let mut hasher = DefaultHasher::new();
    (frame.door.start() == Start::Link).hash(&mut hasher);
    frame.bytes.hash(&mut hasher);
    hasher.finish()
}

fn door(dice: &mut Dice, notes: &mut Vec<&'static str>) -> Door {
    let (door, note) = dice.weighted(&[
        (46, (Door::First, "over the first cable")),
        (22, (Door::Second, "over the second cable")),
        (15, (Door::Tun { ethertype: 0 }, "over the tun device")),
        (17, (Door::Vxlan, "over the VXLAN device")),
    ]);
    notes.push(note);
    door
}

fn sender(is_v4: bool, door: Door, honest: bool, number: u32, dice: &mut Dice) -> Sender {
    let common =
        [(45, Sender::Stranger), (34, Sender::Friend), (8, Sender::Denied), (8, Sender::Neighbour)];
    let strange = [
        (2, Sender::Own),
        (3, Sender::Loopback),
        (3, Sender::Multicast),
        (2, Sender::Unspecified),
        (4, Sender::Mapped),
    ];
    if !is_v4 && door.is_cable() && may_be_link_local(number) && dice.chance(60) {
        return dice.pick(&[Sender::LinkLocalFriend, Sender::LinkLocalStranger]);
    }
    if !honest && dice.chance(12) { dice.weighted(&strange) } else { dice.weighted(&common) }
}

/// Who sends to whom.
fn ends(
    is_v4: bool,
    sender: Sender,
    target: Target,
    door: Door,
    number: u32,
    dice: &mut Dice,
    notes: &mut Vec<&'static str>,
) -> Between {
    let (source, destination): (IpAddr, IpAddr) = if is_v4 {
        (sender.v4(number, dice).into(), destination4(target, dice, notes).into())
    } else {
        (sender.v6(number, dice).into(), destination6(target, door, dice, notes).into())
    };
    let inner = if target == Target::Encapsulated && dice.chance(70) {
        notes.push("a stranger inside");
        if dice.chance(40) {
            Sender::Stranger.v4(number, dice).into()
        } else {
            Sender::Stranger.v6(number, dice).into()
        }
    } else {
        source
    };
    Between { source, destination, inner, number }
}

fn destination4(target: Target, dice: &mut Dice, notes: &mut Vec<&'static str>) -> Ipv4Addr {
    if target == Target::Guarded(SINGLE_PORT) && dice.chance(80) {
        return SINGLE4;
    }
    let at_loopback = target == Target::Guarded(LOOPBACK_PORT);
    if dice.chance(if at_loopback { 70 } else { 6 }) {
        notes.push("to a loopback address");
        let anywhere = Ipv4Addr::new(127, 9, 9, 9);
        return if dice.chance(75) { Ipv4Addr::LOCALHOST } else { anywhere };
    }
    let (note, destination) = match dice.below(40) {
        0 => ("to somebody else's address", NOBODY4),
        1 => ("to the limited broadcast", BROADCAST),
        2 => ("to the directed broadcast", Ipv4Addr::new(192, 0, 2, 255)),
        3 => ("to a multicast address", Ipv4Addr::new(224, 0, 0, 1)),
        4 | 5 => ("to the second address", SINGLE4),
        _ => return SERVER4,
    };
    notes.push(note);
    destination
}

fn destination6(
    target: Target,
    door: Door,
    dice: &mut Dice,
    notes: &mut Vec<&'static str>,
) -> Ipv6Addr {
    if target == Target::Guarded(SINGLE_PORT) && dice.chance(80) {
        return SINGLE6;
    }
    let (note, destination) = match dice.below(40) {
        0 => ("to somebody else's address", NOBODY6),
        1 => ("to a multicast address", Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
        2 => ("to a mapped address", SERVER4.to_ipv6_mapped()),
        3 => ("to a loopback address", Ipv6Addr::LOCALHOST),
        4 | 5 => ("to the second address", SINGLE6),
        6 if door.is_cable() => ("to the link-local address", SERVER_LINK_LOCAL),
        _ => return SERVER6,
    };
    notes.push(note);
    destination
}

/// Fragments in any order, some twice, some not at all.
fn order(pieces: &mut Vec<Piece>, honest: bool, dice: &mut Dice, notes: &mut Vec<&'static str>) {
    match dice.below(4) {
        0 => {}
        1 => {
            notes.push("fragments from the last to the first");
            pieces.reverse();
        }
        _ => {
            notes.push("fragments in any order");
            dice.shuffle(pieces);
        }
    }
    if !honest && dice.chance(10) {
        notes.push("a fragment missing");
        pieces.remove(dice.below(pieces.len()));
    }
}

/// Puts a piece on its way, and does it harm.
fn frame(
    piece: &Piece,
    door: Door,
    number: u32,
    honest: bool,
    policies: &[HostPolicy; super::cast::POLICIES],
    dice: &mut Dice,
    notes: &mut Vec<&'static str>,
) -> Frame {
    // The fragments of one packet may come over different cables.
    let door = match door {
        Door::First if dice.chance(12) => Door::Second,
        other => other,
    };
    let (door, mut bytes, layers) = link::write(piece, door, number, honest, dice, notes);
    if let Err(problem) = model::check(&layers, &bytes) {
        panic!("case {number} is not what it was to be: {problem}");
    }
    let shortest = if door.start() == Start::Link { 14 } else { 1 };
    if dice.chance(6) {
        notes.push("bytes behind the end");
        let count = dice.between(1, 64);
        bytes.extend((0..count).map(|_| dice.roll() as u8));
    } else if !honest && dice.chance(14) && bytes.len() > shortest {
        notes.push("a frame that is cut");
        let longest = bytes.len() - 1;
        // Mostly where it hurts: in the first bytes of some header.
        let near = layers[dice.below(layers.len())].at + dice.below(25);
        let length = if dice.chance(70) { near } else { dice.below(bytes.len()) };
        bytes.truncate(length.clamp(shortest, longest));
    }
    let mut expect = Some(std::array::from_fn(|policy| {
        model::expected(door.start(), &layers, &bytes, &policies[policy])
    }));
    if !honest && dice.chance(10) {
        notes.push("bytes changed at random");
        let begin = if door.start() == Start::Link { 12 } else { 0 };
        // Shorter ones cannot be shown to the guard's twin.
        if bytes.len() > begin.max(14) {
            for _ in 0..dice.between(1, 3) {
                let at = dice.between(begin, bytes.len() - 1);
                bytes[at] ^= dice.between(1, 255) as u8;
            }
            expect = None;
        }
    }
    Frame { door, bytes, expect }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ollama_guard_common::{Reason, judge};

    use super::*;

    /// Enough for every ingredient and every reason; the real runs are longer.
    const CASES: usize = 30_000;

    #[test]
    fn a_seed_gives_the_same_cases_and_another_one_others() {
        let cases = |seed| {
            let mut generator = Generator::new(seed);
            (0..200).map(|_| generator.next_case()).collect::<Vec<_>>()
        };
        assert_eq!(cases(5), cases(5));
        assert_ne!(cases(5), cases(6));
    }

    /// That each frame is what its notes say and like no other is asserted by the generator.
    #[test]
    fn every_reason_and_every_ingredient_comes() {
        let mut generator = Generator::new(11);
        let mut reasons = BTreeSet::new();
        for _ in 0..CASES {
            for frame in generator.next_case().frames {
                reasons.extend(frame.expect.into_iter().flatten());
            }
        }
        // No policy here is without rules, and none is for this host alone.
        let never = [Reason::RulesAbsent, Reason::NotForThisHost];
        let all = Reason::ALL.iter().copied().filter(|reason| !never.contains(reason));
        assert_eq!(reasons, all.collect());
        let rare: Vec<_> = generator.tally.iter().filter(|(_, count)| **count < 15).collect();
        assert!(generator.tally.len() > 90 && rare.is_empty(), "{rare:?}");
    }

    /// The model and the decision are two readings of one specification.
    #[test]
    fn the_model_and_the_decision_agree() {
        let mut generator = Generator::new(12);
        let policies = policies();
        for _ in 0..CASES {
            let case = generator.next_case();
            for frame in &case.frames {
                let Some(expect) = frame.expect else { continue };
                for (policy, expected) in policies.iter().zip(expect) {
                    let judged = judge(frame.bytes.as_slice(), frame.door.start(), policy);
                    assert_eq!(
                        judged.reason,
                        expected,
                        "{}, of {} bytes",
                        case.name(),
                        frame.bytes.len()
                    );
                }
            }
        }
    }
}
