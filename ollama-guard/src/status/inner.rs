//! The inner door, as one more door.

use std::path::PathBuf;

use ollama_guard_common::Start;

use super::{DoorState, DoorStatus};
use crate::dataplane::{
    Hook, INNER_NAME, Snapshot,
    counters::{Counts, INNER_DOOR},
};

/// Where the inner door is to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InnerChoice {
    /// There is to be none.
    Nowhere,
    /// At a cgroup.
    At {
        /// Its directory.
        path: PathBuf,
        /// Its number.
        id: u64,
    },
    /// At one that can't be had, and why.
    Unknown(String),
}

/// Compares the link with what it is to be. What is wrong is added to `problems`. `choice` is not known without
/// a daemon; then there is nothing to say of a door that is not there.
pub(super) fn describe(
    snapshot: &Snapshot,
    choice: Option<&InnerChoice>,
    problems: &mut Vec<String>,
) -> Option<DoorStatus> {
    let is_wanted = !matches!(choice, None | Some(InnerChoice::Nowhere));
    if snapshot.inner.is_none() && !is_wanted {
        return None;
    }
    let reason = problem(snapshot, choice);
    if let Some(reason) = &reason {
        problems.push(format!("{INNER_NAME}: {reason}"));
    }
    Some(DoorStatus {
        name: INNER_NAME.into(),
        ifindex: INNER_DOOR,
        state: if reason.is_none() { DoorState::Covered } else { DoorState::NotCovered },
        hook: Some(Hook::Cgroup),
        behind: None,
        attach: None,
        program_id: snapshot.inner.map(|link| link.program_id),
        link_id: snapshot.inner.map(|link| link.link_id),
        observes: snapshot.inner_observes,
        is_wrong: reason.is_some(),
        reason,
        counts: counts(snapshot),
    })
}

fn problem(snapshot: &Snapshot, choice: Option<&InnerChoice>) -> Option<String> {
    let Some(link) = snapshot.inner else {
        return Some(match choice {
            Some(InnerChoice::Unknown(why)) => why.clone(),
            _ => {
                "its link is gone: what comes by tunnels, published ports and unguarded interfaces \
                  passes unjudged; a running daemon makes it anew within seconds"
                    .into()
            }
        });
    };
    if !link.is_alive() {
        return Some(
            "its link has been severed: packets pass unjudged; a running daemon makes it anew within \
             seconds"
                .into(),
        );
    }
    if snapshot.program(Hook::Cgroup, Start::Packet).is_none_or(|one| !one.is(link.program_id)) {
        let program = link.program_id;
        return Some(format!("its link runs program {program}, which is not the pinned one"));
    }
    match choice {
        Some(InnerChoice::At { path, id }) if *id != link.cgroup => Some(format!(
            "it stands at cgroup {}, and not at {}, which is {id}",
            link.cgroup,
            path.display()
        )),
        Some(InnerChoice::Unknown(why)) => Some(why.clone()),
        _ => None,
    }
}

fn counts(snapshot: &Snapshot) -> Option<Counts> {
    let doors = &snapshot.counters.doors;
    let inner = doors.iter().find(|door| door.ifindex == Some(INNER_DOOR));
    Some(inner.map(|door| door.counts.clone()).unwrap_or_default())
}
