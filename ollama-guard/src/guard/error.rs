//! Why a change was not made.

use ollama_guard_common::abi::MAX_ADDRESSES;

use crate::{
    config::{MAX_NAMES, StoreError},
    control::backend::Failure,
    dataplane::DataplaneError,
    policy::{CompileError, EndError, quoted},
};

/// Mistakes that are told one by one; of more there is only the number.
const MOST_TOLD: usize = 20;

/// Why a change was not made. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Prefixes that are none; one sentence each.
    #[error("{}", first(.0))]
    Prefixes(Vec<String>),
    /// A prefix for everyone, without the word for it.
    #[error("{prefix} is everyone: if that is what you want, say so with --anyone")]
    Everyone {
        /// The prefix.
        prefix: String,
    },
    /// No end.
    #[error(transparent)]
    End(#[from] EndError),
    /// An end that is said in two ways.
    #[error("`expires` and `for_seconds` both say when it ends: leave one out")]
    TwoEnds,
    /// More host names than are looked up.
    #[error(
        "{count} host names are too many: {MAX_NAMES} fit, of configuration and commands together"
    )]
    TooManyNames {
        /// How many there would be.
        count: usize,
    },
    /// There is no such rule.
    #[error(
        "there is no {effect} rule {prefix}; `ollama-guard {effect} list` shows those there are"
    )]
    NoSuchRule {
        /// The effect asked for.
        effect: String,
        /// The prefix asked for.
        prefix: String,
    },
    /// There is no such service.
    #[error(
        "there is no service {}: name one of {}, or add it to the configuration",
        quoted(name),
        names.join(", ")
    )]
    NoSuchService {
        /// The name asked for.
        name: String,
        /// Those there are.
        names: Vec<String>,
    },
    /// The rule is the configuration's.
    #[error("the {effect} rule {prefix} comes from {origin}, and is changed there")]
    Configured {
        /// The effect asked for.
        effect: String,
        /// The prefix asked for.
        prefix: String,
        /// Where it stands.
        origin: String,
    },
    /// It does not fit.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// This host's addresses could not be listed, so packets for nobody else are told apart.
    #[error(
        "this host's addresses are not known: packets for other hosts are decided on as well, as if \
         `scope` were \"all\""
    )]
    AddressesUnknown,
    /// This host has more addresses than the kernel's table holds.
    #[error(
        "this host has {count} addresses, and {MAX_ADDRESSES} fit: packets for other hosts are \
         decided on as well, as if `scope` were \"all\""
    )]
    TooManyAddresses {
        /// How many it has, with those that its networks share.
        count: usize,
    },
    /// Another change is on trial.
    #[error(
        "{what} by {by} is on trial for {left} s more: first `ollama-guard confirm`, or `ollama-guard \
         revert`"
    )]
    OnTrial {
        /// What is tried out.
        what: String,
        /// By whom.
        by: String,
        /// Seconds.
        left: u64,
    },
    /// Nothing is on trial.
    #[error("nothing is on trial: what was has been confirmed, or its time is over")]
    NothingOnTrial,
    /// A trial of no time, or of too much.
    #[error("a trial takes from one second to one hour")]
    TrialTime,
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel did not take it.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
}

impl From<GuardError> for Failure {
    fn from(error: GuardError) -> Self {
        let text = error.to_string();
        match error {
            GuardError::Configured { .. }
            | GuardError::OnTrial { .. }
            | GuardError::NothingOnTrial => Self::Conflict(text),
            GuardError::Prefixes(_)
            | GuardError::Everyone { .. }
            | GuardError::End(_)
            | GuardError::TwoEnds
            | GuardError::TrialTime
            | GuardError::TooManyNames { .. }
            | GuardError::NoSuchRule { .. }
            | GuardError::NoSuchService { .. }
            | GuardError::Compile(_) => Self::BadInput(text),
            GuardError::AddressesUnknown
            | GuardError::TooManyAddresses { .. }
            | GuardError::Store(_)
            | GuardError::Dataplane(_) => Self::Internal(text),
        }
    }
}

/// The first of many sentences.
fn first(problems: &[String]) -> String {
    let mut text =
        problems.iter().take(MOST_TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
    if let Some(more) = problems.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        text.push_str(&format!("; and {more} more like these"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_mistakes_the_first_are_told() {
        let problems = |count| GuardError::Prefixes(vec!["no prefix".into(); count]).to_string();
        assert_eq!(problems(2), "no prefix; no prefix");
        assert!(!problems(MOST_TOLD).contains("more"));
        assert!(problems(MOST_TOLD + 7).ends_with("; no prefix; and 7 more like these"));
    }
}
