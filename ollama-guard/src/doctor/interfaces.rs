//! The interfaces: which are covered, how the others could be, and what attaching does to a card.

use std::net::IpAddr;

use serde::Serialize;

use super::{
    facts::{Facts, GuardFacts, NotSeen, written},
    finding::{Finding, Severity},
    netdev,
};
use crate::{
    config::AttachChoice,
    dataplane::{AttachMode, driver_name},
    doors::{Door, Interface, Plan, Selection, Skip, XdpSlots, choose},
};

/// One interface.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InterfaceFacts {
    /// Its name.
    pub name: String,
    /// Its number.
    pub ifindex: u32,
    /// The kernel's word for a software device.
    pub kind: Option<String>,
    /// Its driver; `None` if it does not tell.
    pub driver: Option<String>,
    /// Whether it is up.
    pub up: bool,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// The programs in its XDP slots.
    pub xdp: XdpSlots,
    /// Whether its driver can run XDP programs; `None` if the kernel does not tell (before 6.3).
    pub native_possible: Option<bool>,
    /// The mode that would be used; `None` for what is no door.
    pub best_mode: Option<AttachMode>,
    /// Whether a living link of ours is on it.
    pub covered: bool,
    /// Whether packets for a guarded port may arrive on it without crossing another door, or the
    /// configuration names it.
    pub is_door: bool,
    /// Whether it is a door that cannot be covered.
    pub is_loud: bool,
    /// Whether the configuration leaves it out by name.
    pub excluded: bool,
    /// Why it is no door, or why nothing can be attached.
    pub reason: Option<String>,
    /// Whether packets from outside may be for 127.0.0.0/8 (`route_localnet`).
    pub route_localnet: bool,
    /// Whether the guard would newly be attached in native mode.
    pub native_planned: bool,
}

/// One of this host's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Address {
    /// The interface that has it.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// The length of its network's prefix.
    pub prefix: u8,
}

impl Address {
    /// Whether another address is on the same network.
    pub(super) fn is_near(&self, other: IpAddr) -> bool {
        let net = ipnet::IpNet::new(self.address, self.prefix);
        net.is_ok_and(|net| net.contains(&other))
    }
}

/// This host's addresses, in the calling thread's network namespace.
pub(super) fn addresses(not_seen: &mut Vec<NotSeen>) -> Vec<Address> {
    let found = match nix::ifaddrs::getifaddrs() {
        Ok(found) => found,
        Err(error) => {
            not_seen.push(NotSeen::new("this host's addresses", error));
            return Vec::new();
        }
    };
    found
        .filter_map(|one| {
            let address = ip(&one.address?)?;
            let prefix = match one.netmask.as_ref().and_then(ip) {
                Some(IpAddr::V4(mask)) => mask.to_bits().count_ones() as u8,
                Some(IpAddr::V6(mask)) => mask.to_bits().count_ones() as u8,
                None if address.is_ipv4() => 32,
                None => 128,
            };
            Some(Address { interface: one.interface_name, address, prefix })
        })
        .collect()
}

fn ip(storage: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
    let v6 = storage.as_sockaddr_in6().map(|address| IpAddr::from(address.ip()));
    v4.or(v6)
}

/// Describes every interface. `doors` is the configuration's choice.
pub(super) fn collect(
    doors: &[Door],
    guard: &GuardFacts,
    not_seen: &mut Vec<NotSeen>,
) -> Vec<InterfaceFacts> {
    let native = netdev::native_support().unwrap_or_else(|error| {
        not_seen.push(NotSeen::new("which drivers run XDP programs (netlink, netdev)", error));
        Default::default()
    });
    // By nature: whatever the configuration names or leaves out.
    let interfaces: Vec<_> = doors.iter().map(|door| door.interface.clone()).collect();
    let everything =
        Selection { named: None, excluded: &|_| false, attach: AttachChoice::default() };
    let by_nature = choose(&interfaces, &everything);
    let route_localnet = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/route_localnet");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
    };
    let everywhere = route_localnet("all");
    let describe = |(door, natural): (&Door, &Door)| {
        let interface = &door.interface;
        let native_possible = native.get(&interface.ifindex).copied();
        InterfaceFacts {
            name: interface.name.clone(),
            ifindex: interface.ifindex,
            kind: interface.kind.clone(),
            driver: driver_name(&interface.name).ok(),
            up: interface.up,
            mtu: interface.mtu,
            xdp: interface.xdp,
            native_possible,
            best_mode: best_mode(door, natural, native_possible),
            covered: guard.covered.contains(&interface.ifindex),
            is_door: match (&door.plan, &natural.plan) {
                (Plan::Guard { .. }, _) | (_, Plan::Guard { .. }) => true,
                (_, Plan::Skip(skip)) => skip.is_loud(),
            },
            is_loud: matches!(&natural.plan, Plan::Skip(skip) if skip.is_loud()),
            excluded: matches!(door.plan, Plan::Skip(Skip::Excluded | Skip::MasterExcluded { .. })),
            reason: match &natural.plan {
                Plan::Skip(skip) => Some(skip.to_string()),
                Plan::Guard { .. } => None,
            },
            route_localnet: everywhere || route_localnet(&interface.name),
            native_planned: native_planned(door) && native_possible != Some(false),
        }
    };
    doors.iter().zip(&by_nature).map(describe).collect()
}

/// The first mode of the plan that the driver can do.
fn best_mode(door: &Door, natural: &Door, native_possible: Option<bool>) -> Option<AttachMode> {
    let modes = [&door.plan, &natural.plan].into_iter().find_map(|plan| match plan {
        Plan::Guard { modes, .. } => Some(modes),
        Plan::Skip(_) => None,
    })?;
    let possible =
        |mode: &&AttachMode| **mode == AttachMode::Generic || native_possible != Some(false);
    modes.iter().find(possible).or(modes.first()).copied()
}

/// Whether a native program is to be attached where there is none: a card that runs one already has
/// been through it.
fn native_planned(door: &Door) -> bool {
    let is_empty = door.interface.xdp == XdpSlots::default();
    is_empty && matches!(&door.plan, Plan::Guard { modes, .. } if modes[0] == AttachMode::Native)
}

/// What attaching in native mode would do, for doors that are to be attached to.
pub(super) fn native_findings(doors: &[Door]) -> Vec<Finding> {
    let mut planned = doors.iter().filter(|door| native_planned(door)).peekable();
    if planned.peek().is_none() {
        return Vec::new();
    }
    let support = netdev::native_support().unwrap_or_default();
    planned
        .filter(|door| support.get(&door.interface.ifindex) != Some(&false))
        .map(|door| {
            let driver = driver_name(&door.interface.name).ok();
            native(&door.interface.name, door.interface.kind.as_deref(), driver.as_deref())
        })
        .collect()
}

/// What attaching to this interface in native mode would do. Asks nobody: a daemon that runs may
/// have given up the right to.
#[must_use]
pub fn before_native(interface: &Interface) -> Finding {
    native(&interface.name, interface.kind.as_deref(), None)
}

fn native(name: &str, kind: Option<&str>, driver: Option<&str>) -> Finding {
    let what = match kind {
        Some(kind @ ("bond" | "team")) => format!(
            "attaching natively to {name} ({kind}) can reset the network cards in it, drop their \
             links for seconds, switch receive offloads off, and make them refuse their MTU, or a \
             larger one later"
        ),
        Some(kind) => format!(
            "native mode on {name} ({kind}) takes much of everybody's bulk throughput away, and \
             can make it refuse a larger MTU later"
        ),
        None => format!(
            "attaching natively to {name}{} can reset the network card, drop its link for seconds, \
             switch receive offloads off, and make it refuse its MTU, or a larger one later",
            driver.map(|driver| format!(" (driver {driver})")).unwrap_or_default()
        ),
    };
    let advice = "it happens once, when the guard is first attached; to keep clear of it, start \
                  with `--attach generic`";
    Finding::new("native-attach", Severity::Caution, what, advice)
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for interface in &facts.interfaces {
        findings.extend(uncovered(facts, interface));
        findings.extend(slot_taken(facts, interface));
        findings.extend(loopback_exposed(facts, interface));
        if interface.native_planned && !interface.covered {
            let (kind, driver) = (interface.kind.as_deref(), interface.driver.as_deref());
            findings.push(native(&interface.name, kind, driver));
        }
    }
    findings
}

fn described(interface: &InterfaceFacts) -> String {
    match &interface.kind {
        Some(kind) => format!("{} ({kind})", interface.name),
        None => interface.name.clone(),
    }
}

/// A door without a filter, while other doors have one. That no guard is loaded at all is said
/// once, with the listeners.
fn uncovered(facts: &Facts, interface: &InterfaceFacts) -> Option<Finding> {
    if !facts.guard.loaded || interface.covered || !interface.is_door {
        return None;
    }
    let what = format!(
        "nothing guards {}: packets for {} that arrive there are not filtered",
        described(interface),
        written(&facts.guard.ports)
    );
    Some(match (&interface.reason, interface.excluded) {
        (_, true) => Finding::new(
            "excluded-interface",
            Severity::Note,
            what,
            "the configuration excludes it; take it out of `exclude` to have it guarded",
        ),
        (Some(reason), _) if interface.is_loud => {
            Finding::new("uncovered-interface", Severity::Open, what, reason)
        }
        _ => Finding::new(
            "uncovered-interface",
            Severity::Open,
            what,
            "leave the choice to the guard (`interfaces = \"auto\"`) or name it as well; see \
             `ollama-guard status`",
        ),
    })
}

/// A door whose XDP slot holds somebody else's program.
fn slot_taken(facts: &Facts, interface: &InterfaceFacts) -> Option<Finding> {
    let slots = [
        (interface.xdp.native, "native"),
        (interface.xdp.generic, "generic"),
        (interface.xdp.offload, "offload"),
    ];
    let foreign =
        |&(id, _): &(Option<u32>, _)| id.is_some_and(|id| !facts.guard.programs.contains(&id));
    let (id, mode) = slots.into_iter().find(foreign)?;
    if !interface.is_door {
        return None;
    }
    let what = format!(
        "the XDP slot of {} is taken by program {} ({mode}), which is not ours",
        described(interface),
        id.unwrap_or_default()
    );
    Some(if interface.covered {
        let advice = "the guard works behind it: what that program redirects or answers, it does \
                      not see";
        Finding::new("xdp-slot-taken", Severity::Note, what, advice)
    } else {
        let advice = format!(
            "see whose it is with `bpftool prog show id {}`; it is never displaced: the guard \
             works behind it at TC ingress, and does not see what it redirects or answers",
            id.unwrap_or_default()
        );
        Finding::new("xdp-slot-taken", Severity::Caution, what, advice)
    })
}

/// The guard drops everything for 127.0.0.0/8 that arrives at a door, whoever sent it.
fn loopback_exposed(facts: &Facts, interface: &InterfaceFacts) -> Option<Finding> {
    let is_loopback = facts
        .addresses
        .iter()
        .any(|one| one.interface == interface.name && one.address.is_loopback());
    if !interface.route_localnet || interface.covered || !interface.up || is_loopback {
        return None;
    }
    Some(Finding::new(
        "route-localnet",
        Severity::Open,
        format!(
            "route_localnet is set on {}, which is not guarded: whoever can send there reaches \
             listeners on 127.0.0.1",
            described(interface)
        ),
        format!(
            "if nothing needs it, type `sysctl -w net.ipv4.conf.{0}.route_localnet=0` (and the \
             same for `all`); or guard {0} too",
            interface.name
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> InterfaceFacts {
        InterfaceFacts {
            name: "eth0".into(),
            ifindex: 2,
            driver: Some("virtio_net".into()),
            up: true,
            is_door: true,
            best_mode: Some(AttachMode::Native),
            ..InterfaceFacts::default()
        }
    }

    fn found(guard: GuardFacts, interface: InterfaceFacts) -> Vec<(&'static str, Severity)> {
        let facts = Facts { guard, interfaces: vec![interface], ..Facts::default() };
        findings(&facts).iter().map(|finding| (finding.code, finding.severity)).collect()
    }

    fn loaded() -> GuardFacts {
        GuardFacts { loaded: true, covered: vec![2], programs: vec![7], ..GuardFacts::default() }
    }

    #[test]
    fn a_covered_card_with_our_program_is_no_finding() {
        let xdp = XdpSlots { native: Some(7), ..XdpSlots::default() };
        assert_eq!(found(loaded(), InterfaceFacts { covered: true, xdp, ..card() }), []);
    }

    #[test]
    fn a_door_that_a_loaded_guard_does_not_cover_is_open_unless_it_is_excluded() {
        assert_eq!(found(loaded(), card()), [("uncovered-interface", Severity::Open)]);
        let excluded = InterfaceFacts { excluded: true, ..card() };
        assert_eq!(found(loaded(), excluded), [("excluded-interface", Severity::Note)]);
        assert_eq!(found(loaded(), InterfaceFacts { is_door: false, ..card() }), []);
        assert_eq!(found(GuardFacts::default(), card()), []);
    }

    #[test]
    fn a_card_that_is_to_be_attached_to_natively_is_said_and_one_that_was_is_not() {
        let planned = InterfaceFacts { native_planned: true, ..card() };
        let expected = [("native-attach", Severity::Caution)];
        assert_eq!(found(GuardFacts::default(), planned.clone()), expected);
        let covered = InterfaceFacts { covered: true, ..planned };
        assert_eq!(found(loaded(), covered), []);
        let said = native("eth0", None, Some("ixgbe")).to_string();
        for word in ["eth0", "ixgbe", "reset", "link", "offloads", "MTU", "`--attach generic`"] {
            assert!(said.contains(word), "no {word} in: {said}");
        }
        let bond = native("bond0", Some("bond"), None).to_string();
        assert!(bond.contains("network cards in it"), "{bond}");
    }

    #[test]
    fn a_foreign_program_is_named_and_is_a_note_where_the_guard_works_behind_it() {
        let xdp = XdpSlots { generic: Some(9), ..XdpSlots::default() };
        let foreign = InterfaceFacts { xdp, ..card() };
        let expected = [("xdp-slot-taken", Severity::Caution)];
        assert_eq!(found(GuardFacts::default(), foreign.clone()), expected);
        let behind = InterfaceFacts { covered: true, ..foreign };
        assert_eq!(found(loaded(), behind), [("xdp-slot-taken", Severity::Note)]);
    }

    #[test]
    fn localhost_routed_on_an_interface_without_a_guard_is_open() {
        let routed = InterfaceFacts { route_localnet: true, is_door: false, ..card() };
        assert_eq!(found(loaded(), routed.clone()), [("route-localnet", Severity::Open)]);
        assert_eq!(found(loaded(), InterfaceFacts { covered: true, ..routed.clone() }), []);
        assert_eq!(found(loaded(), InterfaceFacts { up: false, ..routed }), []);
    }
}
