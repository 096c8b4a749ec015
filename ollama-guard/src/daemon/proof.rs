//! Whether every door holds: what `status` says and what the packets did, side by side.
//!
//! For `ollama-guard verify` and for `/readyz`, so that both say the same.

use ollama_guard_common::{Mode, Start};

use crate::{
    dataplane::{Hook, PinDir, addresses},
    doors::list_addresses,
    status::{DoorState, DoorStatus, StatusError, StatusReport},
    verify::{DoorProof, Findings, VerifyReport},
};

/// The programs that the doors' links run, each once.
#[must_use]
pub fn programs(told: &StatusReport, seen: &StatusReport) -> Vec<(Hook, Start)> {
    let mut programs = Vec::new();
    for door in &told.doors {
        let program = program(seen, door).filter(|program| !programs.contains(program));
        programs.extend(program);
    }
    programs
}

/// Puts together what `status` told, what we see ourselves, and what the programs did.
pub fn assemble(told: &StatusReport, seen: &StatusReport, findings: &Findings) -> VerifyReport {
    let mut report = VerifyReport {
        generation: Some(findings.generation),
        mode: findings.mode.map(|mode| mode.name().into()),
        not_checked: findings.not_checked.iter().cloned().collect(),
        ..VerifyReport::default()
    };
    let is_the_doors = |problem: &String| {
        told.doors.iter().any(|door| {
            let reason = door.reason.as_deref().unwrap_or_default();
            door.is_wrong && (problem == reason || *problem == format!("{}: {reason}", door.name))
        })
    };
    report.failures =
        told.problems.iter().filter(|problem| !is_the_doors(problem)).cloned().collect();
    // Where none is enforced, each door says so.
    if findings.mode == Some(Mode::Enforce) {
        let observed = told.services.iter().filter(|one| one.mode == Mode::Observe.name());
        report.failures.extend(observed.map(|one| {
            format!("{} is only observed: what would be dropped there is delivered", one.name)
        }));
    }
    for door in &told.doors {
        if door.state == DoorState::NotCovered && !door.is_wrong {
            continue;
        }
        let mut proof = DoorProof {
            name: door.name.clone(),
            ifindex: door.ifindex,
            hook: door.hook.map(|hook| hook.name().into()),
            behind: door.behind,
            attach: door.attach.map(|mode| mode.name().into()),
            program_id: door.program_id,
            link_id: door.link_id,
            ..DoorProof::default()
        };
        proof.failures.extend(door.reason.clone());
        if door.state == DoorState::Covered {
            proof.failures.extend(look(door, seen, &mut report.not_checked));
            let program = program(seen, door);
            match findings.programs.iter().find(|one| Some((one.hook, one.start)) == program) {
                Some(tried) => {
                    proof.packets = tried.packets;
                    proof.failures.extend(tried.failures.iter().cloned());
                }
                None => proof.failures.push("its program is not the pinned one".into()),
            }
            proof.failures.extend(findings.content.iter().cloned());
            if findings.mode == Some(Mode::Observe) {
                proof.failures.push("mode observe: what would be dropped is delivered".into());
            } else if door.observes {
                // Not a failure: the doors that there were before the upgrade hold as they did.
                report.not_checked.push(format!(
                    "whether the {} drops: it only observes until `ollama-guard confirm --inner`",
                    door.name
                ));
            }
        } else if proof.failures.is_empty() {
            proof.failures.push("it is not covered".into());
        }
        report.doors.push(proof);
    }
    report
}

/// Addresses of this host that the program does not know, though it decides only on packets for
/// those that it knows.
pub async fn unguarded_addresses(pins: &PinDir) -> Result<Option<String>, StatusError> {
    let known = addresses::read(pins)?;
    let own = list_addresses().await?;
    let unknown: Vec<String> = own
        .iter()
        .map(|own| own.address)
        .filter(|own| !own.is_loopback() && !known.contains(own))
        .map(|own| own.to_string())
        .collect();
    Ok((!unknown.is_empty()).then(|| {
        format!(
            "scope is local, and the kernel does not know these addresses of this host: {}; packets \
             to them pass until the daemon tells it",
            unknown.join(", ")
        )
    }))
}

/// The pinned program that a door's link runs: its hook, and where its frames start.
fn program(seen: &StatusReport, door: &DoorStatus) -> Option<(Hook, Start)> {
    let program =
        seen.programs.iter().find(|program| door.program_id.is_some_and(|id| program.is(id)))?;
    match program.start.as_str() {
        "link" => Some((program.hook, Start::Link)),
        "network" => Some((program.hook, Start::Network)),
        "packet" => Some((program.hook, Start::Packet)),
        _ => None,
    }
}

/// Compares what the daemon tells of a door with what we see there.
fn look(told: &DoorStatus, seen: &StatusReport, not_checked: &mut Vec<String>) -> Option<String> {
    let same = |door: &&DoorStatus| door.name == told.name && door.ifindex == told.ifindex;
    let Some(door) = seen.doors.iter().find(same) else {
        if told.hook == Some(Hook::Cgroup) {
            return Some("the daemon tells of it, and its pin is not there".into());
        }
        not_checked.push(format!(
            "{} is in another network namespace than this command: what netlink says there is the \
             daemon's word",
            told.name
        ));
        return None;
    };
    // A program and its variant take turns while somebody learns.
    let usual = |id| seen.programs.iter().find(|one| one.is(id)).map_or(id, |one| one.id);
    let facts = |door: &DoorStatus| {
        (door.state, door.hook, door.attach, door.program_id.map(usual), door.link_id)
    };
    (facts(door) != facts(told)).then(|| {
        format!(
            "the daemon tells {:?} of it, and the kernel {:?} (state, hook, mode, \
             program, link)",
            facts(told),
            facts(door)
        )
    })
}
