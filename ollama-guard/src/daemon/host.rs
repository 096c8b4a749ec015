//! This host's groups, for the configuration.

use crate::{
    config::{HostMember, Surroundings},
    doors::{HOST_GROUPS, HostGroups},
};

/// The built-in groups as they were at one moment, or why they are not known: that is told where a list
/// names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(Result<HostGroups, String>);

impl Host {
    /// Looks at the calling thread's network namespace.
    pub async fn look() -> Self {
        Self(HostGroups::read().await.map_err(|error| error.to_string()))
    }
}

impl Host {
    /// Whether it could be looked at.
    pub(super) const fn is_known(&self) -> bool {
        self.0.is_ok()
    }
}

impl Surroundings for Host {
    fn group(&self, name: &str) -> Option<Result<Vec<HostMember>, String>> {
        let is_one = HOST_GROUPS.iter().any(|(known, _)| *known == name);
        is_one.then(|| match &self.0 {
            Ok(groups) => Ok(groups.members(name).unwrap_or_default().to_vec()),
            Err(error) => Err(error.clone()),
        })
    }
}
