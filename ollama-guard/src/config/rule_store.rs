//! The rules that were added by command, kept on disk.
//!
//! One file, replaced whole: at any moment, also of a power cut, there is the old list or the new
//! one. A file that cannot be understood is an error: the list may deny somebody, so taking it for
//! empty could open a door. There is no lock here: the daemon that owns the pins is the only one
//! that writes.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::trusted_file::{self, FileError, Links};
use crate::policy::{Origin, Prefix, Rule};

/// The version of the file's layout.
const VERSION: u32 = 1;
/// The file within the state directory.
const FILE_NAME: &str = "rules.json";
/// Where the next list is written before it takes the file's place.
const NEW_FILE_NAME: &str = "rules.json.new";
/// The largest file that is read, and so the largest that is written: about two million rules.
const MOST_BYTES: u64 = 256 << 20;

/// The rules that were added by command.
#[derive(Debug)]
pub struct RuleStore {
    directory: PathBuf,
    rules: Vec<Rule>,
}

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
        "the rules in {path} are damaged ({error}): put a copy of the file back, or move it away \
         with `mv {path} {path}.damaged` and add the rules again", path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        #[source]
        error: serde_json::Error,
    },
    /// The file has another version's layout.
    #[error(
        "the rules in {path} are of version {version}, and this program knows version {VERSION}: \
         run the ollama-guard that wrote them, or move the file away and add the rules again",
        path = path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A rule that was not added by command. Kept here, it would outlive its removal there.
    #[error(
        "{prefix} in {} was not added by command but stands at: {written}; take it out of this \
         file", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The rule's prefix.
        prefix: Prefix,
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

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<R> {
    version: u32,
    rules: R,
}

/// What the file of any version holds.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

impl RuleStore {
    /// Reads the rules; none if there is no file yet. Makes the directory if it is missing.
    ///
    /// # Errors
    ///
    /// If directory or file cannot be used, trusted or understood.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        prepare(state_dir)?;
        let path = state_dir.join(FILE_NAME);
        let rules = match trusted_file::read(&path, Links::Refuse, MOST_BYTES) {
            Err(FileError::Absent { .. }) => Vec::new(),
            Err(error) => return Err(StoreError::File { path, error }),
            Ok(bytes) => decode(&path, &bytes)?,
        };
        Ok(Self { directory: state_dir.to_owned(), rules })
    }

    /// The rules, in the order in which they were given to [`RuleStore::replace`].
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Replaces all the rules. On return they survive a power cut. Returns the old ones.
    ///
    /// # Errors
    ///
    /// The old rules stay, here and on disk.
    pub fn replace(&mut self, rules: Vec<Rule>) -> Result<Vec<Rule>, StoreError> {
        let path = self.directory.join(FILE_NAME);
        no_foreign(&path, &rules)?;
        let bytes = encode(&path, &rules)?;
        self.write(&bytes)?;
        if let Err(error) = fs::rename(self.directory.join(NEW_FILE_NAME), &path) {
            return Err(StoreError::Write { path, error });
        }
        if let Err(error) = File::open(&self.directory).and_then(|directory| directory.sync_all()) {
            // The new list is there but may not last, and the caller will be told that it is not:
            // the old one goes back, as well as that can be done on such a disk.
            if let Ok(old) = encode(&path, &self.rules)
                && self.write(&old).is_ok()
            {
                let _ = fs::rename(self.directory.join(NEW_FILE_NAME), &path);
            }
            return Err(StoreError::Write { path: self.directory.clone(), error });
        }
        Ok(std::mem::replace(&mut self.rules, rules))
    }

    /// Writes the file beside, down to the disk.
    fn write(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.directory.join(NEW_FILE_NAME);
        let written = write_new(&path, bytes);
        written.map_err(|error| {
            // Half a list is of no use. If it cannot be removed either, the next write does it.
            let _ = fs::remove_file(&path);
            StoreError::Write { path, error }
        })
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        // Left behind by a crash.
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // `create_new` never follows a link that somebody put there.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // Whatever the umask made of it.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the directory if it is missing, and refuses one that others can write to: they could put
/// a file of their own in the place of ours.
fn prepare(directory: &Path) -> Result<(), StoreError> {
    let path = directory.to_owned();
    let metadata = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| fs::metadata(directory));
    match metadata {
        Err(error) => Err(StoreError::Directory { path, error }),
        Ok(metadata) => trusted_file::check_writers(directory, &metadata)
            .map_err(|error| StoreError::DirectoryUntrusted { path, error }),
    }
}

fn encode(path: &Path, rules: &[Rule]) -> Result<Vec<u8>, StoreError> {
    let path = path.to_owned();
    let mut bytes = match serde_json::to_vec(&Document { version: VERSION, rules }) {
        Ok(bytes) => bytes,
        Err(error) => return Err(StoreError::Write { path, error: error.into() }),
    };
    bytes.push(b'\n');
    if bytes.len() as u64 > MOST_BYTES {
        return Err(StoreError::TooLarge { path });
    }
    Ok(bytes)
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Vec<Rule>, StoreError> {
    let damaged = |error| StoreError::Damaged { path: path.to_owned(), error };
    // First, because the rest of another version's file may look like damage.
    let AnyVersion { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != VERSION {
        return Err(StoreError::Version { path: path.to_owned(), version });
    }
    let document: Document<Vec<Rule>> = serde_json::from_slice(bytes).map_err(damaged)?;
    no_foreign(path, &document.rules)?;
    Ok(document.rules)
}

fn no_foreign(path: &Path, rules: &[Rule]) -> Result<(), StoreError> {
    match rules.iter().find(|rule| !matches!(rule.origin, Origin::Cli { .. })) {
        None => Ok(()),
        Some(rule) => Err(StoreError::Foreign {
            path: path.to_owned(),
            prefix: rule.prefix,
            written: rule.written(),
        }),
    }
}

#[cfg(test)]
mod tests;
