//! Why the daemon did not start.

use std::{io, path::PathBuf};

use crate::{
    audit_log::AuditError, config::StoreError, control::socket::SocketError,
    dataplane::DataplaneError, doors::DoorsError, guard::GuardError,
};

/// Why the daemon did not start. What was in force before still is.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Signals can't be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// The guard's thread can't be started.
    #[error("cannot start the guard's thread: {0}")]
    Thread(io::Error),
    /// The state directory can't be made.
    #[error(
        "cannot make the state directory {path}: {source}; make it, or name another one with \
         --state-dir"
    )]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another daemon keeps its rules there.
    #[error(
        "another ollama-guard keeps its rules in {path}; stop it first, or give this one a \
         --state-dir of its own"
    )]
    StateDirTaken {
        /// The directory.
        path: PathBuf,
    },
    /// The stored rules can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log can't be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The interfaces can't be listed.
    #[error(transparent)]
    Doors(#[from] DoorsError),
    /// The kernel refused something.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The policy can't be put in force.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The control socket can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// An interface was named that there is not.
    #[error("there is no interface {}; there are: {}", .missing.join(", "), .present.join(", "))]
    UnknownInterface {
        /// The names.
        missing: Vec<String>,
        /// The interfaces there are.
        present: Vec<String>,
    },
    /// Loopback was named.
    #[error(
        "the loopback interface {} can't be guarded: only packets of this host itself arrive there",
        .0.join(", ")
    )]
    Loopback(Vec<String>),
    /// Every interface refused.
    #[error("no interface could be covered: {}", .0.join("; "))]
    NothingCovered(Vec<String>),
}

impl StartError {
    /// Whether it is the configuration that has to be mended, as when a reload refuses it.
    pub(super) const fn is_about_the_configuration(&self) -> bool {
        matches!(
            self,
            Self::UnknownInterface { .. } | Self::Loopback(_) | Self::Guard(GuardError::Compile(_))
        )
    }
}
