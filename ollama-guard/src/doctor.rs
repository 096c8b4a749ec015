//! The doctor: what this host can do, which paths lead around the guard, and whom it would hurt.
//!
//! Three steps, each a plain value to the next: the collectors read `/proc`, netlink, an ioctl and
//! the packet filters' own listings into [`Facts`]; [`findings`] is a pure function of these; a
//! [`Report`] is both, for a person or as JSON. What could not be looked at is listed with the
//! reason, and never silently left out.
//!
//! Looking needs root to see everything, and is therefore the command line's work and never the
//! daemon's. The daemon has one function here, [`said_at_start`], which reads `/proc/sys` and the
//! interfaces that it has listed anyway.
//!
//! Nothing is changed, and nothing is asked of Ollama. Not seen by design: what happens on other
//! hosts (a router's port forwarding, a load balancer), programs of others at BPF hooks that
//! forward packets, and what a proxy's login is worth.

#![forbid(unsafe_code)]

mod containers;
mod facts;
mod finding;
mod forwarding;
mod inner;
mod interfaces;
mod kernel;
mod listeners;
mod nat;
mod netdev;
mod ollama;
mod ports;
mod processes;
mod proxies;
mod text;

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use ipnet::IpNet;
use ollama_guard_common::Scope;
use serde::Serialize;

use crate::{
    config::Config,
    dataplane::{PinDir, Snapshot, counters::INNER_DOOR, matching_rule},
    doors::{Cgroup, Door, DoorsError, HostGroups, list},
    policy::{Effect, Port},
};

pub use facts::{Facts, GuardFacts, NotSeen};
pub use finding::{Finding, Severity};
pub use forwarding::ForwardingFacts;
pub use inner::{InnerDoor, ShutOut, containers as shut_out_containers, shut_out};
pub use interfaces::{InterfaceFacts, before_native};
pub use kernel::KernelFacts;
pub use ports::EphemeralPorts;

/// What was seen, and what is to be done about it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether there is nothing to do.
    pub healthy: bool,
    /// What is to be done, the worst first.
    pub findings: Vec<Finding>,
    /// What was seen.
    pub facts: Facts,
}

impl Report {
    /// Draws the conclusions.
    #[must_use]
    pub fn new(facts: Facts) -> Self {
        let findings = findings(&facts);
        Self { healthy: findings.iter().all(|one| !one.severity.is_bad()), findings, facts }
    }
}

/// Looks at everything that may be looked at. `choose` says which interfaces are to be guarded.
///
/// # Errors
///
/// If the interfaces cannot be listed. Everything else that cannot be seen is a fact.
pub async fn examine(
    config: &Config,
    choose: impl Fn(&[crate::doors::Interface]) -> Vec<Door>,
) -> Result<Facts, DoorsError> {
    let mut not_seen = Vec::new();
    let pins = PinDir::new(&config.paths.pin_dir);
    let doors = choose(&list().await?);
    let guard = GuardFacts::collect(config, &pins, &mut not_seen);
    let processes = processes::collect(&mut not_seen);
    let addresses = interfaces::addresses(&mut not_seen);
    let rules = nat::collect(&mut not_seen).await;
    let listeners = listeners::collect(&processes, &guard.ports, &mut not_seen);
    let mut facts = Facts {
        kernel: kernel::collect(&config.paths.pin_dir, &mut not_seen),
        interfaces: interfaces::collect(&doors, &guard, &mut not_seen),
        ephemeral: ports::collect(Path::new("/proc/sys"), &mut not_seen),
        forwarding: forwarding::collect(Path::new("/proc/sys"), &doors, &mut not_seen),
        published: containers::collect(&processes),
        proxies: proxies::collect(&processes, &guard.ports, &addresses, &mut not_seen),
        ollama: ollama::collect(&processes, &mut not_seen),
        translations: rules.translations,
        source_nat: rules.source_nat,
        addresses,
        listeners,
        guard,
        not_seen,
        shut_out: Vec::new(),
    };
    if facts.guard.inner != InnerDoor::None {
        let groups = HostGroups::read().await?;
        let networks = groups.members("container-networks").unwrap_or_default();
        let is_let_in =
            |net: IpNet| rule_for(&facts, config, &pins, net.addr(), Some(INNER_DOOR)).is_some();
        facts.shut_out = shut_out(networks, is_let_in);
    }
    facts.guard.allowed_here = allowed_here(&facts, config, &pins);
    Ok(facts)
}

/// What follows from the facts, the worst first.
#[must_use]
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = kernel::findings(&facts.kernel);
    findings.extend(interfaces::findings(facts));
    findings.extend(listeners::findings(facts));
    findings.extend(containers::findings(facts));
    findings.extend(nat::findings(facts));
    findings.extend(proxies::findings(facts));
    findings.extend(ollama::findings(facts));
    findings.extend(ports::findings(&facts.ephemeral, &facts.guard.ports));
    findings.extend(forwarding::findings(&facts.forwarding, facts.guard.scope, &facts.guard.ports));
    inner::conclude(facts, &mut findings);
    // Stable: within a severity, in the order of the packets' way.
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Whom a guard of these ports on these doors would hurt, with the least that a daemon can look
/// at: `/proc/sys`, and the interfaces as it has listed them. What cannot be read is passed over:
/// the `doctor` command lists it.
#[must_use]
pub fn said_at_start(ports: &BTreeSet<Port>, scope: Scope, doors: &[Door]) -> Vec<Finding> {
    let mut passed_over = Vec::new();
    let sys = Path::new("/proc/sys");
    let mut findings = ports::findings(&ports::collect(sys, &mut passed_over), ports);
    findings.extend(interfaces::native_findings(doors));
    let forwarding = forwarding::collect(sys, doors, &mut passed_over);
    findings.extend(forwarding::findings(&forwarding, scope, ports));
    findings
}

/// This host's own addresses that a rule lets in, if they may be given to others: from the kernel if a guard is loaded, else from
/// the configuration.
fn allowed_here(facts: &Facts, config: &Config, pins: &PinDir) -> Vec<facts::AllowedAddress> {
    if facts.source_nat.is_empty() {
        // Nobody hides behind them, and the kernel's table is read to its end for each.
        return Vec::new();
    }
    let all = facts.addresses.iter().filter(|one| !one.address.is_loopback());
    all.filter_map(|one| {
        let rule = rule_for(facts, config, pins, one.address, None)?;
        Some(facts::AllowedAddress { address: one.address, rule })
    })
    .collect()
}

/// The rule that lets an address in at a door: from the kernel if a guard is loaded, else from the configuration.
fn rule_for(
    facts: &Facts,
    config: &Config,
    pins: &PinDir,
    address: IpAddr,
    door: Option<u32>,
) -> Option<String> {
    if facts.guard.loaded {
        return facts.guard.ports.iter().find_map(|&port| {
            let found = matching_rule(pins, address, port, door);
            let (prefix, effect) = found.ok().flatten()?;
            (effect == Effect::Allow).then_some(prefix)
        });
    }
    let covering = |effect| {
        let rules = config.rules.iter().filter(move |rule| rule.effect == effect);
        rules.filter(|rule| rule.prefix.contains(address)).max_by_key(|r| r.prefix.length())
    };
    match covering(Effect::Deny) {
        Some(_) => None,
        None => covering(Effect::Allow).map(|rule| rule.prefix.to_string()),
    }
}

impl GuardFacts {
    fn inner(config: &Config, snapshot: &Snapshot) -> InnerDoor {
        let is_root = |id| Cgroup::find(None).is_ok_and(|root| root.id() == id);
        match snapshot.inner.filter(|link| link.is_alive()) {
            None if config.inner.is_wanted() => InnerDoor::Missing,
            None => InnerDoor::None,
            Some(_) if snapshot.inner_observes => InnerDoor::Observes,
            Some(link) if is_root(link.cgroup) => InnerDoor::Everywhere,
            Some(_) => InnerDoor::InPart,
        }
    }

    /// What the pins say, or the configuration if nothing is loaded.
    fn collect(config: &Config, pins: &PinDir, not_seen: &mut Vec<NotSeen>) -> Self {
        match Snapshot::read(pins) {
            Ok(snapshot) => Self {
                loaded: true,
                unknown: false,
                scope: if snapshot.scope == Scope::Local.name() {
                    Scope::Local
                } else {
                    Scope::All
                },
                ports: snapshot.ports.iter().filter_map(|port| port.parse().ok()).collect(),
                covered: snapshot
                    .links
                    .iter()
                    .filter(|l| l.alive && l.listed)
                    .map(|l| l.ifindex)
                    .collect(),
                programs: snapshot.programs.iter().map(|program| program.id).collect(),
                allowed_here: Vec::new(),
                inner: Self::inner(config, &snapshot),
            },
            Err(error) => {
                let unknown = !matches!(error, crate::dataplane::DataplaneError::NotLoaded { .. });
                if unknown {
                    let what = format!("the guard's pins in {}", pins.root().display());
                    not_seen.push(NotSeen::new(what, &error));
                }
                let ports = config.ports();
                Self { scope: config.scope, ports, unknown, ..Self::default() }
            }
        }
    }
}
