//! Ends of what is planned.

use std::{fmt::Display, time::Duration};

use super::{Planned, Planner};
use crate::{
    control::protocol::AddRequest,
    guard::GuardError,
    policy::{Change, End},
};

impl Planned {
    /// Whether rules with an end come.
    pub(in crate::guard) fn has_ends(&self) -> bool {
        let (rules, names) = match self {
            Self::Same => return false,
            Self::Some(Change { add, add_names, .. }) => (add, add_names),
            Self::Whole { rules, names, .. } => (rules, names),
        };
        rules.iter().any(|rule| rule.expires.is_some())
            || names.iter().any(|rule| rule.expires.is_some())
    }
}

impl Planner<'_> {
    /// When what is added ends.
    pub(super) fn end(&self, request: &AddRequest) -> Result<Option<End>, GuardError> {
        match (request.expires, request.for_seconds) {
            (None, None) => Ok(None),
            (Some(end), None) => Ok(Some(end.ahead_of(self.now)?)),
            (None, Some(seconds)) => Ok(Some(End::after(self.now, Duration::from_secs(seconds))?)),
            (Some(_), Some(_)) => Err(GuardError::TwoEnds),
        }
    }
}

/// Whether a rule lasts as long as one with this end.
pub(super) fn lasts(rule: Option<End>, end: Option<End>) -> bool {
    match (rule, end) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(rule), Some(end)) => rule >= end,
    }
}

/// What is said about a rule that gets another end.
pub(super) fn another_end(prefix: &dyn Display, before: Option<End>, end: Option<End>) -> String {
    match (before, end) {
        (Some(before), Some(end)) => format!("{prefix} ends at {end} now, and not at {before}"),
        (None, Some(end)) => format!("{prefix} ends at {end} now, and had no end"),
        (Some(before), None) => format!("{prefix} has no end any more, and had one at {before}"),
        (None, None) => format!("{prefix} has no end"),
    }
}
