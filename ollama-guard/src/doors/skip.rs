//! Why an interface is not guarded.

use std::fmt;

/// Why an interface is not a door. `Display` gives a sentence for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The operator excluded it.
    Excluded,
    /// The operator named other interfaces.
    NotChosen,
    /// Loopback, with the automatic choice.
    Loopback,
    /// Loopback, although a name or a pattern of the operator's matches it.
    LoopbackRefused,
    /// Not up.
    NotUp,
    /// A member of a bond or team that is guarded.
    CoveredByMaster {
        /// The kind of the master.
        kind: String,
        /// The name of the master.
        master: String,
    },
    /// A member of a bond or team that the operator excluded.
    MasterExcluded {
        /// The kind of the master.
        kind: String,
        /// The name of the master.
        master: String,
    },
    /// A VLAN, macvlan or ipvlan whose packets come through a guarded interface.
    CoveredByParent {
        /// The kind of this interface.
        kind: String,
        /// The name of the interface that it stands on.
        parent: String,
        /// The name of the guarded interface: the parent, or an interface below it.
        door: String,
    },
    /// A VLAN, macvlan or ipvlan on an interface that is no door by its nature.
    OnPlumbing {
        /// The kind of this interface.
        kind: String,
        /// The name of the interface that it stands on.
        parent: String,
    },
    /// A veth, netkit or bridge.
    ContainerPlumbing {
        /// The kind of this interface.
        kind: String,
    },
    /// The tap device of a virtual machine on a bridge.
    VirtualMachine {
        /// The name of the bridge.
        bridge: String,
    },
    /// A kind of device that receives nothing from outside.
    Silent {
        /// The kind of this interface.
        kind: String,
    },
    /// An ARPHRD type whose frames cannot be read.
    UnknownType {
        /// The ARPHRD number.
        arphrd: u16,
    },
    /// A kind of tunnel whose frames do not start where its type says.
    Unreadable {
        /// The kind of this interface.
        kind: String,
    },
}

impl Skip {
    /// Whether packets for a guarded port may arrive here unfiltered although nobody asked for
    /// that: to be said in the log, in `status` and by the exit status of `verify`.
    #[must_use]
    pub const fn is_loud(&self) -> bool {
        matches!(self, Self::UnknownType { .. } | Self::Unreadable { .. })
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Excluded => f.write_str("excluded: packets that arrive here are not filtered"),
            Self::NotChosen => f.write_str(
                "not among the chosen interfaces: packets that arrive here are not filtered",
            ),
            Self::Loopback => f.write_str("loopback: only packets of this host itself arrive here"),
            Self::LoopbackRefused => f.write_str(
                "loopback cannot be guarded: only packets of this host itself arrive here, and \
                 they are never filtered",
            ),
            Self::NotUp => f.write_str("not up: nothing arrives here"),
            Self::CoveredByMaster { kind, master } => {
                write!(f, "slave of {kind} {master}: covered by {master}")
            }
            Self::MasterExcluded { kind, master } => write!(
                f,
                "slave of {kind} {master}, which is excluded: packets that arrive here are not \
                 filtered"
            ),
            Self::CoveredByParent { kind, parent, door } => {
                write!(f, "{kind} on {parent}: covered by {door}")
            }
            Self::OnPlumbing { kind, parent } => write!(
                f,
                "{kind} on {parent}: plumbing inside this host; what comes from outside passes a \
                 real interface first"
            ),
            Self::ContainerPlumbing { kind } => write!(
                f,
                "{kind}: container plumbing; what comes from outside passes a real interface first"
            ),
            Self::VirtualMachine { bridge } => {
                write!(f, "tap on bridge {bridge}: virtual machine plumbing")
            }
            Self::Silent { kind } => write!(f, "{kind}: nothing arrives here from outside"),
            Self::UnknownType { arphrd } => write!(
                f,
                "unknown type {arphrd}: not covered; if no packet for a guarded port can arrive \
                 here, add it to `exclude`"
            ),
            Self::Unreadable { kind } => write!(
                f,
                "{kind}: not covered, because XDP does not see its packets from the inner IP header \
                 on; if no packet for a guarded port can arrive here, add it to `exclude`"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_variant() -> Vec<Skip> {
        let (kind, master, parent) = ("vlan".to_owned(), "bond0".to_owned(), "eth0.5".to_owned());
        vec![
            Skip::Excluded,
            Skip::NotChosen,
            Skip::Loopback,
            Skip::LoopbackRefused,
            Skip::NotUp,
            Skip::CoveredByMaster { kind: "bond".into(), master: master.clone() },
            Skip::MasterExcluded { kind: "bond".into(), master },
            Skip::CoveredByParent {
                kind: kind.clone(),
                parent: parent.clone(),
                door: "eth0".to_owned(),
            },
            Skip::OnPlumbing { kind: kind.clone(), parent },
            Skip::ContainerPlumbing { kind: "veth".to_owned() },
            Skip::VirtualMachine { bridge: "br0".to_owned() },
            Skip::Silent { kind: "dummy".to_owned() },
            Skip::UnknownType { arphrd: 32 },
            Skip::Unreadable { kind: "xfrm".to_owned() },
        ]
    }

    #[test]
    fn every_skip_is_a_sentence_of_its_own() {
        let mut sentences: Vec<_> = every_variant().iter().map(Skip::to_string).collect();
        assert!(sentences.iter().all(|s| s.len() > 10 && !s.contains('\n') && !s.contains("  ")));
        sentences.sort();
        let count = sentences.len();
        sentences.dedup();
        assert_eq!(sentences.len(), count);
    }

    #[test]
    fn only_what_cannot_be_covered_is_loud() {
        let loud: Vec<_> = every_variant().into_iter().filter(Skip::is_loud).collect();
        let expected =
            [Skip::UnknownType { arphrd: 32 }, Skip::Unreadable { kind: "xfrm".to_owned() }];
        assert_eq!(loud, expected);
    }

    #[test]
    fn a_covered_interface_names_the_door_that_covers_it() {
        let skip = Skip::CoveredByParent {
            kind: "vlan".to_owned(),
            parent: "eth0.5".to_owned(),
            door: "eth0".to_owned(),
        };
        assert_eq!(skip.to_string(), "vlan on eth0.5: covered by eth0");
        assert!(
            Skip::UnknownType { arphrd: 32 }
                .to_string()
                .starts_with("unknown type 32: not covered")
        );
    }
}
