//! Which interfaces are guarded, and how: a pure function.

use ollama_guard_common::Start;

use super::{interface::Interface, kind::Role, skip::Skip};
use crate::{config::AttachChoice, dataplane::AttachMode};

/// How far a stack of devices is followed down to the one that may cover it: the kernel builds none
/// deeper (`MAX_NEST_DEV`). A device on a deeper one, or on a circle, is a door itself.
const MAX_STACK: usize = 8;

/// What the operator asked for.
#[derive(Clone, Copy)]
pub struct Selection<'a> {
    /// Whether an interface of this name is asked for; `None` for the automatic choice.
    pub named: Option<&'a dyn Fn(&str) -> bool>,
    /// Whether an interface of this name is excluded. Wins over `named`.
    pub excluded: &'a dyn Fn(&str) -> bool,
    /// The attach mode asked for.
    pub attach: AttachChoice,
}

/// An interface and what is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The interface.
    pub interface: Interface,
    /// Guard it, or leave it.
    pub plan: Plan,
}

/// What is to be done with an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Attach the guard.
    Guard {
        /// Where a frame on this interface starts, which decides on the entry program.
        start: Start,
        /// The modes to try, in this order; at least one.
        modes: Vec<AttachMode>,
    },
    /// Leave it alone, for this reason.
    Skip(Skip),
}

/// Decides for every interface, in the order given, whether it is guarded.
#[must_use]
pub fn choose(interfaces: &[Interface], selection: &Selection<'_>) -> Vec<Door> {
    let chooser = Chooser { interfaces, selection };
    interfaces
        .iter()
        .map(|interface| Door { interface: interface.clone(), plan: chooser.plan(interface) })
        .collect()
}

/// The names, of those that are no patterns, which no interface has.
#[must_use]
pub fn unmatched<S: AsRef<str>>(names: &[S], interfaces: &[Interface]) -> Vec<String> {
    literal(names)
        .filter(|name| interfaces.iter().all(|interface| interface.name != *name))
        .map(str::to_owned)
        .collect()
}

/// The names, of those that are no patterns, which are the loopback interface's: it cannot be
/// guarded, and someone who names it expects that it is.
#[must_use]
pub fn loopback_named<S: AsRef<str>>(names: &[S], interfaces: &[Interface]) -> Vec<String> {
    literal(names)
        .filter(|name| interfaces.iter().any(|i| i.is_loopback() && i.name == *name))
        .map(str::to_owned)
        .collect()
}

fn literal<S: AsRef<str>>(names: &[S]) -> impl Iterator<Item = &str> {
    names.iter().map(AsRef::as_ref).filter(|name| !name.contains(['*', '?', '[']))
}

struct Chooser<'a> {
    interfaces: &'a [Interface],
    selection: &'a Selection<'a>,
}

impl Chooser<'_> {
    fn plan(&self, interface: &Interface) -> Plan {
        let decision = match self.selection.named {
            Some(named) => self.named(interface, named),
            None => self.automatic(interface),
        };
        match decision {
            Ok(start) => Plan::Guard { start, modes: self.modes(interface, start) },
            Err(skip) => Plan::Skip(skip),
        }
    }

    /// Exactly what was asked for, whatever it is and in whatever state. Loopback is refused: what
    /// never leaves the host is never filtered.
    fn named(&self, interface: &Interface, named: &dyn Fn(&str) -> bool) -> Result<Start, Skip> {
        if (self.selection.excluded)(&interface.name) {
            Err(Skip::Excluded)
        } else if interface.is_loopback() {
            Err(if named(&interface.name) { Skip::LoopbackRefused } else { Skip::Loopback })
        } else if !named(&interface.name) {
            Err(Skip::NotChosen)
        } else {
            readable(interface)
        }
    }

    fn automatic(&self, interface: &Interface) -> Result<Start, Skip> {
        if (self.selection.excluded)(&interface.name) {
            return Err(Skip::Excluded);
        }
        if interface.is_loopback() {
            return Err(Skip::Loopback);
        }
        if !interface.up {
            return Err(Skip::NotUp);
        }
        if let Some(skip) = self.slave(interface) {
            return Err(skip);
        }
        let kind = || interface.kind.clone().unwrap_or_default();
        let skip = match Role::of(interface.kind.as_deref()) {
            Role::Stacked => self.stacked(interface),
            Role::Plumbing => Some(Skip::ContainerPlumbing { kind: kind() }),
            Role::Silent => Some(Skip::Silent { kind: kind() }),
            Role::Software => self.virtual_machine(interface),
            Role::Card | Role::Aggregate => None,
        };
        skip.map_or_else(|| readable(interface), Err)
    }

    /// A member of a bond or team. If the master is excluded the operator does not want these
    /// packets filtered. If the master cannot be guarded, or is down, the member is judged by
    /// itself: it is up, and nothing says that its packets go nowhere.
    fn slave(&self, interface: &Interface) -> Option<Skip> {
        let master = self.aggregate(interface).filter(|_| self.ends(interface, MAX_STACK))?;
        let kind = master.kind.clone().unwrap_or_default();
        let name = master.name.clone();
        match self.automatic(master) {
            Ok(_) => Some(Skip::CoveredByMaster { kind, master: name }),
            Err(Skip::Excluded) => Some(Skip::MasterExcluded { kind, master: name }),
            Err(_) => None,
        }
    }

    /// A device on a parent, which covers it only if it is guarded itself. A slave of a bond is
    /// not: the kernel hands a VLAN's frames to the VLAN device before it hands any to the bond
    /// (`__netif_receive_skb_core`).
    fn stacked(&self, interface: &Interface) -> Option<Skip> {
        let below = self.below(interface).filter(|_| self.ends(interface, MAX_STACK))?;
        let kind = interface.kind.clone().unwrap_or_default();
        let parent = below.name.clone();
        match self.automatic(below) {
            Ok(_) => Some(Skip::CoveredByParent { kind, door: parent.clone(), parent }),
            Err(Skip::CoveredByParent { door, .. }) => {
                Some(Skip::CoveredByParent { kind, parent, door })
            }
            Err(
                Skip::ContainerPlumbing { .. }
                | Skip::Silent { .. }
                | Skip::OnPlumbing { .. }
                | Skip::VirtualMachine { .. },
            ) => Some(Skip::OnPlumbing { kind, parent }),
            Err(
                Skip::Excluded
                | Skip::NotChosen
                | Skip::Loopback
                | Skip::LoopbackRefused
                | Skip::NotUp
                | Skip::CoveredByMaster { .. }
                | Skip::MasterExcluded { .. }
                | Skip::UnknownType { .. }
                | Skip::Unreadable { .. },
            ) => None,
        }
    }

    /// A tap on a bridge is the wire of a virtual machine; a tap alone may be a VPN.
    fn virtual_machine(&self, interface: &Interface) -> Option<Skip> {
        let is_tap =
            interface.kind.as_deref() == Some("tun") && interface.start() == Some(Start::Link);
        let master = self.by_ifindex(interface.master?)?;
        (is_tap && master.kind.as_deref() == Some("bridge"))
            .then(|| Skip::VirtualMachine { bridge: master.name.clone() })
    }

    /// Native on a software device would take most of everybody's bulk throughput away, and devices
    /// without a link-layer header refuse it.
    fn modes(&self, interface: &Interface, start: Start) -> Vec<AttachMode> {
        match (self.selection.attach, start, Role::of(interface.kind.as_deref())) {
            (AttachChoice::Native, ..) => vec![AttachMode::Native],
            (AttachChoice::Auto, Start::Link, Role::Card | Role::Aggregate) => {
                vec![AttachMode::Native, AttachMode::Generic]
            }
            (AttachChoice::Generic, ..) | (AttachChoice::Auto, ..) => vec![AttachMode::Generic],
        }
    }

    /// The bond or team that this interface is a member of.
    fn aggregate(&self, interface: &Interface) -> Option<&Interface> {
        self.by_ifindex(interface.master?)
            .filter(|master| Role::of(master.kind.as_deref()) == Role::Aggregate)
    }

    /// The interface of this namespace that a VLAN, macvlan or ipvlan stands on.
    fn below(&self, interface: &Interface) -> Option<&Interface> {
        let is_here =
            interface.parent_is_here && Role::of(interface.kind.as_deref()) == Role::Stacked;
        self.by_ifindex(interface.parent.filter(|_| is_here)?)
    }

    /// Whether the way down from an interface is no longer than `limit`.
    fn ends(&self, interface: &Interface, limit: usize) -> bool {
        let next = [self.aggregate(interface), self.below(interface)];
        next.into_iter().flatten().all(|next| limit > 0 && self.ends(next, limit - 1))
    }

    fn by_ifindex(&self, ifindex: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.ifindex == ifindex)
    }
}

/// Where the frames start. Generic XDP hands over what follows the MAC header, and these kinds
/// leave it before the outer IP header (`ipgre_header_ops` with many peers, net/ipv4/ip_gre.c) or
/// put the lower device's back (`skb_mac_header_rebuild`, net/ipv4/xfrm4_input.c): a program there
/// would read the wrong header and pass everything.
fn readable(interface: &Interface) -> Result<Start, Skip> {
    if let (Some(kind @ ("gre" | "vti" | "vti6" | "xfrm")), Some(Start::Network)) =
        (interface.kind.as_deref(), interface.start())
    {
        return Err(Skip::Unreadable { kind: kind.into() });
    }
    interface.start().ok_or(Skip::UnknownType { arphrd: interface.arphrd })
}

#[cfg(test)]
mod tests;
