//! Whether what was started holds, asked of the kernel before anybody is told that it does.
//!
//! The same as `ollama-guard verify`, as far as it is the daemon's own: packets of every kind through the
//! twins of all programs on the live rules, the rules in force against those that were put there, and the
//! links of the doors. Not here: doors that could not be covered at the start, of which the start has told,
//! and interfaces that are yet to come.

use std::fmt::Display;

use ollama_guard_common::Start;
use tokio::task::spawn_blocking;

use super::Chosen;
use crate::{
    dataplane::{Hook, PinDir, memory},
    guard::Handle,
    status::{self, DaemonStatus, DoorState, StatusReport},
    verify::{Findings, examine},
};

/// How often it is tried while rules are being edited.
const ATTEMPTS: usize = 10;

/// What was tried, and held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// Interfaces whose packets are judged.
    pub(super) doors: usize,
    /// Packets that were sent through programs.
    pub(super) packets: usize,
}

/// Tries everything once.
///
/// # Errors
///
/// What does not hold, a sentence each.
pub(super) async fn prove(
    handle: &Handle,
    pins: &PinDir,
    chosen: &Chosen,
) -> Result<Proof, Vec<String>> {
    let policy = handle.maintain(|guard| guard.policy_problem()).await.map_err(one)?;
    if let Some(problem) = policy.map_err(one)? {
        return Err(vec![problem]);
    }
    let report = status::report(pins, Some(chosen), DaemonStatus::default()).await.map_err(one)?;
    let (doors, mut problems) = doors(&report);
    let programs = programs(&report);
    for _ in 0..ATTEMPTS {
        let (pins, programs) = (pins.clone(), programs.clone());
        // Reads all of the tables: edits are not to wait for it.
        let examined = spawn_blocking(move || {
            let examined = examine(&pins, None, &programs);
            memory::give_back();
            examined
        });
        if let Some(findings) = examined.await.map_err(one)?.map_err(one)? {
            problems.extend(failures(&findings));
            let packets = findings.programs.iter().map(|program| program.packets).sum();
            return if problems.is_empty() { Ok(Proof { doors, packets }) } else { Err(problems) };
        }
    }
    Err(one("the rules change all the time"))
}

fn one(problem: impl Display) -> Vec<String> {
    vec![problem.to_string()]
}

/// Every loaded program: those that no door has wanted yet are for doors to come.
fn programs(report: &StatusReport) -> Vec<(Hook, Start)> {
    let starts = [("link", Start::Link), ("network", Start::Network), ("packet", Start::Packet)];
    let start = |name: &str| starts.into_iter().find(|(known, _)| *known == name);
    let programs = report.programs.iter();
    programs.filter_map(|program| Some((program.hook, start(&program.start)?.1))).collect()
}

/// How many there are, and what is wrong with those that have or had a link of ours.
fn doors(report: &StatusReport) -> (usize, Vec<String>) {
    let covered = report.doors.iter().filter(|door| door.state == DoorState::Covered);
    let wrong = report.doors.iter().filter(|door| {
        let is_ours = door.hook.is_some() || door.counts.is_some();
        // The inner door may not be to be had here: in a container, for want of the host's cgroups.
        let was_told = door.hook == Some(Hook::Cgroup) && door.link_id.is_none();
        door.is_wrong && is_ours && !was_told
    });
    let told = wrong.map(|door| {
        let why = door.reason.as_deref().unwrap_or("it is not covered");
        format!("{}: {why}", door.name)
    });
    (covered.count(), told.collect())
}

fn failures(findings: &Findings) -> Vec<String> {
    let programs = findings.programs.iter().flat_map(|program| {
        let frames = match program.start {
            Start::Link => "Ethernet",
            Start::Network | Start::Packet => "IP",
        };
        let name = format!("the {} program for {frames} frames", program.hook);
        program.failures.iter().map(move |failure| format!("{name}: {failure}"))
    });
    findings.content.iter().cloned().chain(programs).collect()
}
