//! What the kernel's word for a kind of device means for the choice of doors.

/// The part that a device plays on the way of a packet from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A real network card: it has no link kind.
    Card,
    /// One door made of several cards: a bond or a team.
    Aggregate,
    /// A device whose packets all come through its parent, unchanged but for a tag.
    Stacked,
    /// A wire or a switch inside this host; what comes from outside enters it through a door.
    Plumbing,
    /// A device that does not receive packets from outside.
    Silent,
    /// Every other software device. Tunnels are here: their packets are new ones, which no other
    /// door could read. So is every kind that is unknown: rather a door too many.
    Software,
}

impl Role {
    pub(super) fn of(kind: Option<&str>) -> Self {
        match kind {
            None => Self::Card,
            Some("bond" | "team") => Self::Aggregate,
            // Not `macsec`, whose parent sees only encrypted frames, nor `dsa`, whose parent sees
            // a switch's tag in the place of the EtherType.
            Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap") => Self::Stacked,
            Some("veth" | "netkit" | "bridge") => Self::Plumbing,
            Some("dummy" | "ifb" | "nlmon" | "vsockmon" | "vrf" | "vcan" | "vxcan") => Self::Silent,
            Some(_) => Self::Software,
        }
    }
}
