//! What the host itself contributes to a configuration.

use ipnet::IpNet;

/// A member of a built-in group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMember {
    /// The network, or the address.
    pub net: IpNet,
    /// The interface that it is on.
    pub interface: String,
    /// Whether whoever has such an address is meant only if the packet comes in there: a network that anybody
    /// else may use as well.
    pub only_there: bool,
}

/// Knows the groups that are built in: computed from the host, and in no rule until a list names them.
pub trait Surroundings: Sync {
    /// The members of a built-in group; why they are not known, if so; `None` if there is no such group.
    fn group(&self, name: &str) -> Option<Result<Vec<HostMember>, String>>;
}

/// A host without any group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

impl Surroundings for Nowhere {
    fn group(&self, _: &str) -> Option<Result<Vec<HostMember>, String>> {
        None
    }
}
