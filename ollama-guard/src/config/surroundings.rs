//! What the host itself contributes to a configuration.

use ipnet::IpNet;

/// Knows the groups that are built in: computed from the host, and in no rule until a list names them.
pub trait Surroundings: Sync {
    /// The members of a built-in group, each with where it is from; why they are not known, if so; `None` if
    /// there is no such group.
    fn group(&self, name: &str) -> Option<Result<Vec<(IpNet, String)>, String>>;
}

/// A host without any group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

impl Surroundings for Nowhere {
    fn group(&self, _: &str) -> Option<Result<Vec<(IpNet, String)>, String>> {
        None
    }
}
