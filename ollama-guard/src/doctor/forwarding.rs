//! A host that passes packets on: the guard judges these too.

use std::{collections::BTreeSet, fs, path::Path};

use ollama_guard_common::Scope;
use serde::Serialize;

use super::{
    facts::{NotSeen, written},
    finding::{Finding, Severity},
};
use crate::{
    doors::{Door, Plan},
    policy::Port,
};

const IPV4: &str = "net/ipv4";
const IPV6: &str = "net/ipv6";

/// Whether packets that are not for this host pass its doors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ForwardingFacts {
    /// IPv4 is routed, by the setting of this name; `None` if it is not.
    pub v4: Option<String>,
    /// The same for IPv6.
    pub v6: Option<String>,
    /// Bridges that have a guarded interface among their ports: the bridge, and that interface.
    pub bridged: Vec<(String, String)>,
}

/// Reads the settings of the calling thread's network namespace, under `/proc/sys`.
pub(super) fn collect(sys: &Path, doors: &[Door], not_seen: &mut Vec<NotSeen>) -> ForwardingFacts {
    ForwardingFacts {
        v4: switched_on(sys, IPV4, doors, not_seen),
        v6: switched_on(sys, IPV6, doors, not_seen),
        bridged: bridged(doors),
    }
}

/// The first of the settings that is on. IPv4 packets are routed if that of the interface they
/// arrive on is, which `conf.all` sets for all (`IN_DEV_FORWARD`, include/linux/inetdevice.h); for
/// IPv6 only `conf.all` counts (`ip6_forward`, net/ipv6/ip6_output.c).
fn switched_on(
    sys: &Path,
    family: &str,
    doors: &[Door],
    not_seen: &mut Vec<NotSeen>,
) -> Option<String> {
    let conf = sys.join(family).join("conf");
    if !conf.exists() {
        // IPv6 may be switched off altogether.
        return None;
    }
    let guarded =
        doors.iter().filter(|door| family == IPV4 && matches!(door.plan, Plan::Guard { .. }));
    let names = std::iter::once("all").chain(guarded.map(|door| door.interface.name.as_str()));
    for name in names {
        let path = conf.join(name).join("forwarding");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim() != "0" => {
                let setting = format!("{family}/conf/{name}/forwarding");
                return Some(setting.replace('/', "."));
            }
            Ok(_) => {}
            Err(error) => not_seen.push(NotSeen::new(path.display().to_string(), error)),
        }
    }
    None
}

/// The guarded interfaces that are a bridge's ports.
fn bridged(doors: &[Door]) -> Vec<(String, String)> {
    let guarded = doors.iter().filter(|door| matches!(door.plan, Plan::Guard { .. }));
    guarded
        .filter_map(|door| {
            let master = door.interface.master?;
            let bridge = doors.iter().find(|one| one.interface.ifindex == master)?;
            let is_bridge = bridge.interface.kind.as_deref() == Some("bridge");
            is_bridge.then(|| (bridge.interface.name.clone(), door.interface.name.clone()))
        })
        .collect()
}

/// Forwarding and bridging, each with the way out; nothing where it has been taken.
pub(super) fn findings(
    facts: &ForwardingFacts,
    scope: Scope,
    ports: &BTreeSet<Port>,
) -> Vec<Finding> {
    if scope == Scope::Local {
        return Vec::new();
    }
    let ports = written(ports);
    let advice = "if these hosts are to be reached by others, judge only what is for this host: \
                  `scope = \"local\"`";
    let mut findings = Vec::new();
    let settings: Vec<_> =
        facts.v4.iter().chain(&facts.v6).map(|name| format!("{name}=1")).collect();
    if !settings.is_empty() {
        findings.push(Finding::new(
            "forwarding",
            Severity::Hurts,
            format!(
                "this host routes ({}): packets to {ports} of hosts, containers and virtual \
                 machines behind it are judged by the same rules",
                settings.join(", ")
            ),
            advice,
        ));
    }
    for (bridge, port) in &facts.bridged {
        findings.push(Finding::new(
            "bridging",
            Severity::Hurts,
            format!(
                "{bridge} bridges {port} with others: packets that only cross it, to {ports} of \
                 virtual machines and hosts behind it, are judged by the same rules"
            ),
            advice,
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_is_told_of_scope_local_until_it_has_it() {
        let facts = ForwardingFacts { v4: Some("ip_forward".into()), ..Default::default() };
        let found = |scope| findings(&facts, scope, &BTreeSet::from([Port::OLLAMA]));
        assert!(found(Scope::All)[0].to_string().contains("scope = \"local\""));
        assert!(found(Scope::Local).is_empty());
    }
}
