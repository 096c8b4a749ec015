//! Why a change was not made.

use crate::{
    config::StoreError, control::backend::Failure, dataplane::DataplaneError, policy::CompileError,
};

/// Why a change was not made. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Prefixes that are none; one sentence each.
    #[error("{}", .0.join("; "))]
    Prefixes(Vec<String>),
    /// A prefix for everyone, without the word for it.
    #[error("{prefix} is everyone: if that is what you want, say so with --anyone")]
    Everyone {
        /// The prefix.
        prefix: String,
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
            GuardError::Configured { .. } => Self::Conflict(text),
            GuardError::Prefixes(_)
            | GuardError::Everyone { .. }
            | GuardError::NoSuchRule { .. }
            | GuardError::Compile(_) => Self::BadInput(text),
            GuardError::Store(_) | GuardError::Dataplane(_) => Self::Internal(text),
        }
    }
}
