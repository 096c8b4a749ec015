//! Every interface, and how it is covered or why not.

use serde::{Deserialize, Serialize};

use crate::{
    dataplane::{AttachMode, Hook, LinkState, Snapshot, counters::Counts},
    doors::{Door, Interface, Plan},
};

/// Whether an interface is covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoorState {
    /// Our program runs on it.
    Covered,
    /// It does not.
    NotCovered,
}

/// One interface, or the inner door.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DoorStatus {
    /// Its name; [`crate::dataplane::INNER_NAME`] for the inner door.
    pub name: String,
    /// Its number; 0 for the inner door.
    pub ifindex: u32,
    /// Whether it is covered.
    pub state: DoorState,
    /// Where our program stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Hook>,
    /// The program of somebody else in the XDP slot: it sees packets before ours, and those that
    /// it redirects or transmits itself never reach ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u32>,
    /// The XDP attach mode in force, as netlink shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<AttachMode>,
    /// The program that the link runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_id: Option<u32>,
    /// The link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<u32>,
    /// Of the inner door, while it drops nothing whatever the policy says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub observes: bool,
    /// Why it is not covered, or what is wrong with how it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether that is a problem: it should be covered, or is not as it should be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_wrong: bool,
    /// What was counted there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
}

/// Compares the interfaces with the links. What is wrong is added to `problems`.
pub(super) fn describe(
    snapshot: &Snapshot,
    doors: &[Door],
    is_chosen: bool,
    problems: &mut Vec<String>,
) -> Vec<DoorStatus> {
    // The best first.
    let link_of =
        |ifindex| snapshot.links.iter().find(|link| link.ifindex == ifindex && link.alive);
    let mut described: Vec<DoorStatus> = doors
        .iter()
        .map(|door| {
            let status = match link_of(door.interface.ifindex) {
                Some(link) => linked(snapshot, &door.interface, link),
                None if is_registered(snapshot, door) => lost(&door.interface),
                None => unlinked(door, is_chosen),
            };
            let should_be = matches!(&door.plan, Plan::Guard { .. }) && is_chosen
                || is_registered(snapshot, door);
            let is_loud = matches!(&door.plan, Plan::Skip(skip) if skip.is_loud());
            let is_wrong = status.hook.is_some() && status.reason.is_some();
            let is_wrong =
                status.state == DoorState::NotCovered && (should_be || is_loud) || is_wrong;
            if is_wrong {
                let why = status.reason.as_deref().unwrap_or("it is not covered");
                problems.push(format!("{}: {why}", status.name));
            }
            DoorStatus { is_wrong, counts: counts(snapshot, status.ifindex), ..status }
        })
        .collect();
    described.extend(departed(snapshot, doors, problems));
    described
}

/// An interface with a pinned link that has it.
fn linked(snapshot: &Snapshot, interface: &Interface, link: &LinkState) -> DoorStatus {
    let slots =
        [(AttachMode::Native, interface.xdp.native), (AttachMode::Generic, interface.xdp.generic)];
    let expected = interface.start().and_then(|start| snapshot.program(link.hook, start));
    // Two lists that were read one after the other: meanwhile the variants may have taken turns.
    let took_turns = |id| expected.is_some_and(|one| one.is(id) && one.is(link.program_id));
    let is_shown = |id: u32| id == link.program_id || took_turns(id);
    let shown = slots.iter().find(|(_, id)| id.is_some_and(is_shown));
    let reason = if link.hook == Hook::Xdp && shown.is_none() {
        Some(format!("netlink does not show program {} on it", link.program_id))
    } else if let Some(ahead) = link.ahead {
        let (ahead, hook) = (in_front(ahead), link.hook);
        Some(format!(
            "{ahead} stands before ours at {hook} and may let packets pass that ours never sees: \
             restart the daemon, which goes to the front again where it can"
        ))
    } else if expected.is_none_or(|program| !program.is(link.program_id)) {
        let program = link.program_id;
        Some(format!("its link runs program {program}, which is not the pinned one"))
    } else {
        None
    };
    DoorStatus {
        name: interface.name.clone(),
        ifindex: interface.ifindex,
        state: if reason.is_none() { DoorState::Covered } else { DoorState::NotCovered },
        hook: Some(link.hook),
        behind: foreign(interface).filter(|_| link.hook != Hook::Xdp),
        attach: shown.map(|(mode, _)| *mode),
        program_id: Some(link.program_id),
        link_id: Some(link.link_id).filter(|id| *id != 0),
        observes: false,
        reason,
        is_wrong: false,
        counts: None,
    }
}

fn in_front(program_id: u32) -> String {
    match program_id {
        0 => "a filter".into(),
        id => format!("program {id}"),
    }
}

/// The program in the XDP slot.
fn foreign(interface: &Interface) -> Option<u32> {
    interface.xdp.native.or(interface.xdp.generic).or(interface.xdp.offload)
}

/// Whether the daemon has covered an interface and not let go of it since.
fn is_registered(snapshot: &Snapshot, door: &Door) -> bool {
    snapshot.counters.doors.iter().any(|one| one.ifindex == Some(door.interface.ifindex))
}

/// An interface that was covered and has lost its link.
fn lost(interface: &Interface) -> DoorStatus {
    let reason = "its link is gone: packets pass unjudged; a running daemon makes it anew within \
                  seconds";
    not_covered(interface, reason.into())
}

fn unlinked(door: &Door, is_chosen: bool) -> DoorStatus {
    let interface = &door.interface;
    let reason = match (&door.plan, foreign(interface)) {
        (Plan::Skip(skip), _) => skip.to_string(),
        (Plan::Guard { .. }, Some(id)) => {
            format!("its XDP slot is taken by program {id}, which is not ours")
        }
        (Plan::Guard { .. }, None) if is_chosen => "no filter: packets pass unjudged".into(),
        (Plan::Guard { .. }, None) => "no filter here".into(),
    };
    not_covered(interface, reason)
}

fn not_covered(interface: &Interface, reason: String) -> DoorStatus {
    DoorStatus {
        name: interface.name.clone(),
        ifindex: interface.ifindex,
        state: DoorState::NotCovered,
        hook: None,
        behind: None,
        attach: None,
        program_id: None,
        link_id: None,
        observes: false,
        reason: Some(reason),
        is_wrong: false,
        counts: None,
    }
}

/// Pinned links whose interface is not there any more.
fn departed(snapshot: &Snapshot, doors: &[Door], problems: &mut Vec<String>) -> Vec<DoorStatus> {
    let exists = |ifindex| doors.iter().any(|door| door.interface.ifindex == ifindex);
    snapshot
        .links
        .iter()
        .filter(|link| !exists(link.ifindex))
        .map(|link| {
            let ifindex = link.ifindex;
            let reason = if link.alive {
                format!(
                    "interface {ifindex} has gone to another network namespace, and its filter \
                     went along"
                )
            } else {
                let reason = format!(
                    "the link of interface {ifindex} has lost it: the interface is gone; a running \
                     daemon clears this away within seconds"
                );
                problems.push(reason.clone());
                reason
            };
            DoorStatus {
                name: format!("(interface {ifindex})"),
                ifindex,
                state: DoorState::NotCovered,
                hook: Some(link.hook),
                behind: None,
                attach: None,
                program_id: Some(link.program_id),
                link_id: Some(link.link_id),
                observes: false,
                reason: Some(reason),
                is_wrong: !link.alive,
                counts: counts(snapshot, ifindex),
            }
        })
        .collect()
}

fn counts(snapshot: &Snapshot, ifindex: u32) -> Option<Counts> {
    let door = snapshot.counters.doors.iter().find(|door| door.ifindex == Some(ifindex))?;
    Some(door.counts.clone())
}
