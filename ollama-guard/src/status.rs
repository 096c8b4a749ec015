//! What is so: the kernel's state and the interfaces, side by side.
//!
//! The one place where what is desired and what is observed meet. It reads both and writes
//! neither, and works with or without a daemon. What it calls covered is covered by the kernel's
//! word, not by anybody's memory: the pinned link is alive, runs the pinned program, and netlink
//! shows that program on the interface; at TC, nobody stands before it in the kernel's list.

#![forbid(unsafe_code)]

mod doors;
mod inner;
mod text;

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use ollama_guard_common::{Mode, Reason};
use serde::{Deserialize, Serialize};

use crate::{
    control::protocol::{LateEnd, NameView, TrialView},
    dataplane::{
        DataplaneError, PinDir, Snapshot,
        counters::{AllCounts, BookTotals},
        ring::RingBooks,
        snapshot::{ProgramState, RuleTotals, ServiceState},
    },
    doors::{Door, DoorsError, Interface, Selection, choose, list},
    events::Clock,
    metrics::Standing,
};

pub use doors::{DoorState, DoorStatus};
pub use inner::InnerChoice;

/// The state of the guard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// Whether every door that should be covered is, in enforce mode, by a program with its rules.
    pub enforcing: bool,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
    /// "enforce" or "observe"; with services of either sort "enforce".
    pub mode: String,
    /// Whose packets are decided on: "all" that cross a door, or the "local" host's only.
    #[serde(default)]
    pub scope: String,
    /// The number of the policy in force.
    pub generation: u64,
    /// Until when it is on trial, by the kernel's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_until: Option<Timestamp>,
    /// The guarded ports.
    pub ports: Vec<String>,
    /// The services that these belong to.
    #[serde(default)]
    pub services: Vec<ServiceState>,
    /// The rules in force, in entries of the kernel's tables.
    pub rules: RuleTotals,
    /// Every interface, and how it is covered or why not.
    pub doors: Vec<DoorStatus>,
    /// Packets for guarded ports, and undecidable ones, by reason.
    pub counters: BTreeMap<String, ModeCounts>,
    /// What became of the events.
    pub books: BooksStatus,
    /// The ring of events.
    pub ring: RingBooks,
    /// The pinned programs.
    pub programs: Vec<ProgramState>,
    /// The daemon.
    pub daemon: DaemonStatus,
}

/// Packets by mode at the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeCounts {
    /// Judged in enforce mode.
    pub enforce: u64,
    /// Judged in observe mode: a drop was only computed.
    pub observe: u64,
}

/// The books of both modes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct BooksStatus {
    /// Of packets that were dropped.
    pub enforce: BookTotals,
    /// Of packets that would have been dropped.
    pub observe: BookTotals,
}

/// The daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Whether one runs. Without one the filter goes on; edits and events need one.
    pub running: bool,
    /// Whether one holds the pins or the socket and does not answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hangs: bool,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Where its pins are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_dir: Option<PathBuf>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What its keeper found to be not as it should be and put right, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Repair>,
    /// What its keeper can't put right at the moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// The last rules that ended later than they should have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended_late: Vec<LateEnd>,
    /// The host names in rules, and what is known about each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NameView>,
    /// The configuration in force, and the one that was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationStatus>,
    /// Where metrics are served, and why not elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Standing>,
    /// The events of the past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryStatus>,
    /// Whether it counts by source for somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning: Option<LearningStatus>,
    /// What is on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialView>,
}

/// A session of `learn`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearningStatus {
    /// Since when.
    pub since: Timestamp,
    /// Until when, at the latest.
    pub until: Timestamp,
    /// The user who began it.
    pub by: String,
}

/// The events that a daemon keeps on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryStatus {
    /// Bytes that may be kept.
    pub keep: u64,
    /// Bytes that are kept.
    pub bytes: u64,
    /// The time of the oldest event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// Events that were not kept since the daemon started: too many at a time, or there is a trouble.
    pub unwritten: u64,
    /// Why nothing can be kept at the moment. Nothing else depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A daemon's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// The files that it was read from.
    pub files: Vec<PathBuf>,
    /// Since when it is in force.
    pub since: Timestamp,
    /// Services that have another mode by command, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modes: Vec<String>,
    /// What was read last, if it can't be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
}

/// A configuration that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// When it was read.
    pub at: Timestamp,
    /// All that is wrong with it, a line each.
    pub problems: String,
    /// When the one was first in force that is in force instead, if the daemon started with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Timestamp>,
}

/// Something that was not as it should be, and was put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// When.
    pub at: Timestamp,
    /// What was wrong, and what was done.
    pub what: String,
}

impl StatusReport {
    /// The configuration that was read last, if it can't be used.
    #[must_use]
    pub fn rejected(&self) -> Option<&Rejected> {
        self.daemon.configuration.as_ref()?.rejected.as_ref()
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The kernel could not be read.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The interfaces could not be listed.
    #[error(transparent)]
    Doors(#[from] DoorsError),
}

impl StatusError {
    /// Whether a pin is missing or is not what it should be.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Dataplane(DataplaneError::Pin { .. } | DataplaneError::ForeignPin { .. })
        )
    }

    /// Whether nothing of ours is loaded.
    #[must_use]
    pub const fn is_not_loaded(&self) -> bool {
        matches!(self, Self::Dataplane(DataplaneError::NotLoaded { .. }))
    }
}

/// Reads everything. `selection` is what the daemon was told to guard; without a daemon it is not
/// known, and the automatic choice only gives the reasons.
pub async fn report(
    pins: &PinDir,
    selection: Option<&(dyn SelectionSource + Sync)>,
    daemon: DaemonStatus,
) -> Result<StatusReport, StatusError> {
    let snapshot = Snapshot::read(pins)?;
    let interfaces = list().await?;
    let doors = match selection {
        Some(source) => source.choose(&interfaces),
        None => {
            let excluded = |_: &str| false;
            let attach = Default::default();
            choose(&interfaces, &Selection { named: None, excluded: &excluded, attach })
        }
    };
    let missing = selection.map(|source| source.missing(&interfaces)).unwrap_or_default();
    let inner = selection.map(SelectionSource::inner);
    let mut report = assemble(snapshot, &doors, selection.is_some(), inner.as_ref(), daemon);
    if !missing.is_empty() {
        report.enforcing = false;
        let absent = |name| format!("{name} is to be guarded, and is not there");
        report.problems.extend(missing.iter().map(absent));
    }
    Ok(report)
}

/// Whoever knows which interfaces are to be guarded.
pub trait SelectionSource {
    /// Decides for every interface.
    fn choose(&self, interfaces: &[Interface]) -> Vec<Door>;

    /// The interfaces that were asked for by name and are not there.
    fn missing(&self, interfaces: &[Interface]) -> Vec<String>;

    /// Where the inner door is to stand.
    fn inner(&self) -> InnerChoice;
}

fn assemble(
    snapshot: Snapshot,
    doors: &[Door],
    is_chosen: bool,
    inner: Option<&InnerChoice>,
    daemon: DaemonStatus,
) -> StatusReport {
    let mut problems = Vec::new();
    let mut doors = doors::describe(&snapshot, doors, is_chosen, &mut problems);
    doors.extend(inner::describe(&snapshot, inner, &mut problems));
    if !snapshot.rules.intact {
        problems.push(
            "ports or rules in force are not what was put there, or are missing (then everything \
             for a guarded port is dropped); a running daemon puts them right within seconds"
                .into(),
        );
    }
    if !doors.iter().any(|door| door.state == DoorState::Covered) {
        problems.push("no interface is covered: the guarded ports are open".into());
    }
    problems.extend(snapshot.programs.iter().filter(|program| !program.twin_matches).map(
        |program| {
            let (hook, start) = (program.hook, &program.start);
            format!("the twin of the {hook} program for {start} devices has other instructions")
        },
    ));
    problems.extend(daemon.troubles.iter().cloned());
    StatusReport {
        enforcing: problems.is_empty()
            && snapshot.services.iter().all(|one| one.mode == Mode::Enforce.name()),
        problems,
        mode: snapshot.mode,
        scope: snapshot.scope,
        generation: snapshot.generation,
        trial_until: snapshot.trial.and_then(|until| Some(Clock::now().ok()?.at(until))),
        ports: snapshot.ports,
        services: snapshot.services,
        rules: snapshot.rules,
        doors,
        counters: by_reason(&snapshot.counters),
        books: BooksStatus { enforce: snapshot.books, observe: snapshot.observed_books },
        ring: snapshot.ring,
        programs: snapshot.programs,
        daemon,
    }
}

fn by_reason(counts: &AllCounts) -> BTreeMap<String, ModeCounts> {
    let of = |by_name: &BTreeMap<String, u64>, reason: &Reason| {
        by_name.get(reason.name()).copied().unwrap_or(0)
    };
    Reason::ALL
        .iter()
        .map(|reason| {
            let enforce = of(&counts.total.enforce, reason);
            let observe = of(&counts.total.observe, reason);
            (reason.name().to_owned(), ModeCounts { enforce, observe })
        })
        .filter(|(_, counts)| *counts != ModeCounts::default())
        .collect()
}
