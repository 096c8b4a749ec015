//! Host names as they are shown.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Effect, End, Limits};

/// A name in the place of a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameView {
    /// The name, as lists and commands say it.
    pub name: String,
    /// What happens to its addresses.
    pub effect: Effect,
    /// Where that holds, if not everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What it is for.
    pub comment: Option<String>,
    /// Where it comes from, in words.
    pub origin: String,
    /// Whether `remove` can remove it.
    pub removable: bool,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<End>,
    /// The addresses that it stands for at present.
    pub addresses: Vec<IpAddr>,
    /// When a name server was last believed; `None` if never.
    pub resolved: Option<Timestamp>,
    /// When it will be looked up again.
    pub next: Option<Timestamp>,
    /// Why there was no answer at the last try.
    pub error: Option<String>,
}

impl NameView {
    /// What is known about its addresses, for a person.
    #[must_use]
    pub fn standing(&self) -> String {
        let list = || self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match (&self.error, self.resolved, self.addresses.is_empty()) {
            (None, None, true) => "is being looked up; nobody is meant by it so far".to_owned(),
            (Some(error), None, true) => {
                format!("NEVER RESOLVED, so that nobody is meant: {error}")
            }
            (Some(error), Some(at), true) => {
                format!("NOT RESOLVED since {at:.0}, so that nobody is meant any more: {error}")
            }
            (None, Some(at), true) => format!("HAS NO ADDRESS, by the answer of {at:.0}"),
            (Some(error), Some(at), false) => {
                format!("{}, as of {at:.0}; NOT RESOLVED since: {error}", list())
            }
            (None, Some(at), false) => format!("{}, as of {at:.0}", list()),
            (_, None, false) => list(),
        }
    }

    /// Whether there is something that a person should look after.
    #[must_use]
    pub fn is_in_trouble(&self) -> bool {
        self.error.is_some() || (self.resolved.is_some() && self.addresses.is_empty())
    }
}
