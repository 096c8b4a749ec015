//! Proof on demand: packets through the twins of the attached programs, on the live maps, and the
//! maps' content against what is meant to be in them.
//!
//! What it promises:
//!
//! * **It changes nothing.** A twin counts nothing and reports nothing, and everything else here
//!   only reads.
//! * **There is a packet for every reason** that a packet can be given, with the reason that it is
//!   to be given written beside it; what cannot be tried is said by name.
//! * **Expectations come from the rules as they are meant**, where somebody knows them, and not
//!   from the tables that are on trial.
//!
//! Not here: whether links, interfaces and programs belong together (`status` says so), and who is
//! asked what is meant (the command).

#![forbid(unsafe_code)]

mod content;
mod frames;
pub mod live;
mod probes;
mod report;
mod standing;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ollama_guard_common::{Mode, Reason, Scope, Start, Verdict};

use crate::{
    dataplane::{
        DataplaneError, Hook, INNER_NAME, PinDir, Readback, Twin, addresses, counters::INNER_DOOR,
        inner, readback::generation, test_run::SHORTEST_FRAME, wiring::twin_problems,
    },
    policy::{Family, MapImage},
};

pub use frames::{destination, knock};
pub use report::{DoorProof, VerifyReport};

/// Failures that are told one by one; the others are counted.
const TOLD: usize = 3;

/// A policy as it is meant to be.
#[derive(Clone, Debug)]
pub struct Meant {
    /// Its number.
    pub generation: u64,
    /// What the maps are to hold. The capacity is not looked at.
    pub image: MapImage,
}

/// What was found out.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The number of the policy that was tried.
    pub generation: u64,
    /// Its mode.
    pub mode: Option<Mode>,
    /// What is wrong with the maps' content, which every door shares.
    pub content: Vec<String>,
    /// What the programs did.
    pub programs: Vec<ProgramFindings>,
    /// What could not be tried or was not, a sentence each.
    pub not_checked: BTreeSet<String>,
}

/// What one program did.
#[derive(Clone, Debug)]
pub struct ProgramFindings {
    /// Where it runs; TCX and clsact run the same one.
    pub hook: Hook,
    /// Where its frames start.
    pub start: Start,
    /// Packets that were tried.
    pub packets: usize,
    /// What is wrong, a sentence each.
    pub failures: Vec<String>,
}

/// Tries everything that all doors share: the content of the maps, and the programs for these
/// kinds of devices.
///
/// `None` if another policy came into force meanwhile, or if the one in force is not (yet, or any
/// more) the one that is meant: ask again what is meant, and try again.
///
/// # Errors
///
/// If nothing is loaded, or a pin is missing or is not what it should be.
pub fn examine(
    pins: &PinDir,
    meant: Option<&Meant>,
    programs: &[(Hook, Start)],
) -> Result<Option<Findings>, DataplaneError> {
    let Some(content) = Readback::read(pins)? else { return Ok(None) };
    if meant.is_some_and(|meant| meant.generation != content.generation) {
        return Ok(None);
    }
    let mut findings = Findings {
        generation: content.generation,
        mode: Some(content.image.mode),
        content: content::problems(&content, meant.map(|meant| &meant.image)),
        ..Findings::default()
    };
    // Expectations come from what is meant. Where nobody knows it, the table itself has to do.
    let image = meant.map_or(&content.image, |meant| &meant.image);
    let own = if image.scope == Scope::Local { addresses::read(pins)? } else { BTreeSet::new() };
    for family in [Family::V4, Family::V6] {
        if probes::here(family, image.scope, &own).is_none() {
            findings.not_checked.insert(format!(
                "{family} packets to this host: scope is local, and it has no {family} address"
            ));
        }
    }
    for &(hook, start) in programs {
        let program = try_program(pins, hook, start, image, &own, &mut findings.not_checked)?;
        findings.programs.push(program);
    }
    Ok((generation(pins)? == content.generation).then_some(findings))
}

fn try_program(
    pins: &PinDir,
    hook: Hook,
    start: Start,
    image: &MapImage,
    own: &BTreeSet<IpAddr>,
    not_checked: &mut BTreeSet<String>,
) -> Result<ProgramFindings, DataplaneError> {
    let mut failures = twin_problems(pins, hook, start)?;
    let twin = Twin::open(pins, hook, start)?;
    let observes = hook == Hook::Cgroup && inner::observes(pins)?;
    let (probes, short): (Vec<_>, Vec<_>) = classes(image, hook)
        .into_iter()
        .flat_map(|(shift, door)| {
            probes::probes(image, own, start, shift).into_iter().map(move |probe| (door, probe))
        })
        .partition(|(_, probe)| probe.frame.len() >= SHORTEST_FRAME);
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for (door, probe) in &probes {
        let answer = match door {
            Some(ifindex) => twin.run_at(&probe.frame, *ifindex),
            None => twin.run(&probe.frame),
        };
        let answer = match answer {
            Ok(answer) => answer,
            // Newer kernels make no socket buffer of an IP frame without a whole IP header.
            Err(_) if hook != Hook::Xdp && probe.expected == Reason::IpHeaderCut => {
                refused += 1;
                continue;
            }
            Err(error) => {
                let bytes = probe.frame.len();
                wrong.push(format!("{} ({bytes} bytes): {error}", probe.what));
                continue;
            }
        };
        let drops =
            probe.expected.verdict() == Verdict::Drop && probe.mode == Mode::Enforce && !observes;
        if (answer.reason, answer.dropped) != (probe.expected, drops) {
            wrong.push(format!(
                "{}: {} ({}), and {} ({}) was to be expected",
                probe.what,
                verdict(answer.dropped),
                answer.reason.name(),
                verdict(drops),
                probe.expected.name(),
            ));
        }
    }
    let more = wrong.len().saturating_sub(TOLD);
    failures.extend(wrong.into_iter().take(TOLD));
    if more > 0 {
        failures.push(format!("and {more} more packets were not judged as expected"));
    }
    if refused > 0 {
        let place = if hook == Hook::Cgroup { INNER_NAME } else { "TC ingress" };
        not_checked.insert(format!(
            "{refused} packets at {place} with a cut IP header: not provable by test run, this \
             kernel takes none"
        ));
    }
    not_checked.insert(format!(
        "{} packets of fewer than {SHORTEST_FRAME} bytes: not provable by test run, the kernel \
         takes none",
        short.len()
    ));
    let tried: BTreeSet<Reason> = probes.iter().map(|(_, probe)| probe.expected).collect();
    for reason in Reason::ALL.iter().filter(|reason| !tried.contains(reason)) {
        if let Some(why) = why_not(*reason, start) {
            not_checked.insert(format!("no packet for {}: {why}", reason.name()));
        }
    }
    Ok(ProgramFindings { hook, start, packets: probes.len() - refused, failures })
}

/// Where the bits of each class of doors begin, with a door of that class; none for those that nothing is
/// known about. At the inner door, its own.
fn classes(image: &MapImage, hook: Hook) -> BTreeMap<u32, Option<u32>> {
    if hook == Hook::Cgroup {
        let shift = image.doors.get(&INNER_DOOR).copied().unwrap_or(0);
        return [(shift, None)].into();
    }
    let known = image.doors.iter().filter(|(ifindex, _)| **ifindex != INNER_DOOR);
    let known = known.map(|(&ifindex, &shift)| (shift, Some(ifindex)));
    known.chain([(0, None)]).collect()
}

const fn verdict(dropped: bool) -> &'static str {
    if dropped { "dropped" } else { "passed" }
}

/// Why no packet could be made for a reason; `None` where there is no such packet at all.
const fn why_not(reason: Reason, start: Start) -> Option<&'static str> {
    match (reason, start) {
        (Reason::TagOrIpv6, Start::Link | Start::Packet) | (Reason::NotForThisHost, _) => None,
        // Before a socket there is no link header any more.
        (
            Reason::LinkHeaderCut
            | Reason::TooManyVlanTags
            | Reason::VersionMismatch
            | Reason::DestinationLoopback,
            Start::Packet,
        ) => None,
        (Reason::RulesAbsent, _) => Some("the rules are there, and taking them away is no test"),
        (Reason::Allowed, _) => Some("no source is allowed"),
        (Reason::Denied, _) => Some("no source is denied"),
        _ => Some("the rules leave no source that would be given it"),
    }
}
