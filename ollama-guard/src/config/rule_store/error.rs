//! Why the rules cannot be read or kept.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::MOST_BYTES;
use crate::{config::trusted_file::FileError, policy::Subject};

/// Why the rules cannot be read or kept, and the way out.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The state directory cannot be made or looked at.
    #[error("the state directory {} cannot be used: {error}; make it, or name another one with `--state-dir`", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        error: io::Error,
    },
    /// The state directory is no directory, or others may write to it.
    #[error("the state directory {} cannot be trusted: {error}", path.display())]
    DirectoryUntrusted {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        error: FileError,
    },
    /// The file cannot be read or is not believed.
    #[error("the rules in {} cannot be used: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: FileError,
    },
    /// The file is not what was written.
    #[error(
        "the rules in {path} are damaged ({problem}): put a copy of the file back, or move it away \
         with `mv {path} {path}.damaged` and add the rules again", path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit, and where.
        problem: String,
    },
    /// The file has another version's layout.
    #[error(
        "the rules in {path} are of version {version}, and this program knows version {known}: \
         run the ollama-guard that wrote them, or move the file away and add the rules again",
        path = path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The latest that is known.
        known: u32,
    },
    /// A rule that was not added by command. Kept here, it would outlive its removal there.
    #[error(
        "{subject} in {} was not added by command but stands at: {written}; take it out of this \
         file", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whom the rule is about.
        subject: Subject,
        /// Where it stands.
        written: String,
    },
    /// More rules than are ever read back.
    #[error(
        "the rules would take more than {} MiB in {}: use larger networks, or write them into \
         the configuration file", MOST_BYTES >> 20, path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The new list cannot be written. The old one stays.
    #[error("{} cannot be written: {error}; the rules stay as they were", path.display())]
    Write {
        /// The file that was being written.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        error: io::Error,
    },
}
