//! The inner door: what it makes good, and whom it shuts out that nobody may have thought of.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::{
    facts::{Facts, written},
    finding::{Finding, Severity},
};
use crate::config::HostMember;

/// How the inner door stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InnerDoor {
    /// Nobody wants one, or no guard is loaded.
    #[default]
    None,
    /// It is to be there and is not.
    Missing,
    /// It drops nothing.
    Observes,
    /// It is at one cgroup only.
    InPart,
    /// It is before every socket of the machine.
    Everywhere,
}

/// A network of this host's containers that no rule lets in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShutOut {
    /// The network.
    pub network: IpNet,
    /// The bridge.
    pub interface: String,
}

/// Those of these networks that are not let in.
#[must_use]
pub fn shut_out(networks: &[HostMember], is_allowed: impl Fn(IpNet) -> bool) -> Vec<ShutOut> {
    let is_local = |net: &IpNet| match net.addr() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_shut = |one: &&HostMember| !is_local(&one.net) && !is_allowed(one.net);
    let of = |one: &HostMember| ShutOut { network: one.net, interface: one.interface.clone() };
    networks.iter().filter(is_shut).map(of).collect()
}

/// What to know about containers that are shut out, and how to let them in. `None` if there are none.
#[must_use]
pub fn containers(shut: &[ShutOut], ports: &str) -> Option<Finding> {
    if shut.is_empty() {
        return None;
    }
    let names: Vec<String> =
        shut.iter().map(|one| format!("{} ({})", one.network, one.interface)).collect();
    let networks: Vec<String> = shut.iter().map(|one| one.network.to_string()).collect();
    Some(Finding::new(
        "containers-shut-out",
        Severity::Caution,
        format!(
            "containers of this host cannot reach {ports}, for no rule lets their networks in: {}",
            names.join(", ")
        ),
        format!(
            "if they are to use it, `ollama-guard allow add {} --comment containers`, or \
             \"container-networks\" in `allow`",
            networks.join(" ")
        ),
    ))
}

/// What follows from the inner door, added to what follows from everything else.
pub(super) fn conclude(facts: &Facts, findings: &mut Vec<Finding>) {
    match facts.guard.inner {
        InnerDoor::None => return,
        InnerDoor::Missing => findings.push(Finding::new(
            "inner-door-missing",
            Severity::Open,
            "the inner door is not there: tunnels, published ports and interfaces that nobody guards \
             lead around the guard",
            "`ollama-guard status` says why",
        )),
        InnerDoor::Observes => findings.push(Finding::new(
            "inner-door-observes",
            Severity::Caution,
            "the inner door drops nothing since the guard was upgraded",
            "look at `ollama-guard events` whom it would shut out, then `ollama-guard confirm --inner`",
        )),
        InnerDoor::InPart => {}
        InnerDoor::Everywhere => findings.iter_mut().for_each(made_good),
    }
    findings.extend(containers(&facts.shut_out, &written(&facts.guard.ports)));
}

/// A way that leads to a guarded port of a socket leads through the inner door.
fn made_good(finding: &mut Finding) {
    let judged = match finding.code {
        "port-translation" | "uncovered-interface" => "the inner door judges them all the same",
        "published-port" => {
            "the inner door judges them by the gateway's address, behind which clients cannot be \
             told apart"
        }
        _ => return,
    };
    finding.severity = Severity::Note;
    finding.what = format!("{} ({judged})", finding.what);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> Vec<HostMember> {
        ["172.17.0.0/16", "fe80::/64", "fd17::/64"]
            .map(|net| HostMember {
                net: net.parse().unwrap(),
                interface: "docker0".into(),
                only_there: false,
            })
            .to_vec()
    }

    #[test]
    fn containers_that_no_rule_lets_in_are_named_with_the_command() {
        let shut = shut_out(&networks(), |net| net.addr().is_ipv6());
        let found = containers(&shut, "11434/tcp").unwrap();
        assert!(found.what.ends_with("172.17.0.0/16 (docker0)"), "{found}");
        assert!(found.advice.contains("allow add 172.17.0.0/16 --comment"), "{found}");
        assert_eq!(containers(&shut_out(&networks(), |_| true), "11434/tcp"), None);
    }

    #[test]
    fn a_way_around_is_none_if_the_inner_door_stands_at_its_end() {
        let around =
            Finding::new("port-translation", Severity::Open, "8080 leads there", "guard it");
        let with = |inner| {
            let mut facts = Facts::default();
            facts.guard.inner = inner;
            let mut findings = vec![around.clone()];
            conclude(&facts, &mut findings);
            findings.iter().map(|one| (one.code, one.severity)).collect::<Vec<_>>()
        };
        assert_eq!(with(InnerDoor::Everywhere), [("port-translation", Severity::Note)]);
        for other in [InnerDoor::None, InnerDoor::InPart, InnerDoor::Observes, InnerDoor::Missing] {
            assert_eq!(with(other)[0], ("port-translation", Severity::Open), "{other:?}");
        }
    }
}
