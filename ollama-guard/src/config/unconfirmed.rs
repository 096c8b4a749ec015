//! Which configuration was on trial, and is not for good.
//!
//! The files are the operator's, and have what was tried out. So that neither a daemon that starts nor a machine
//! takes that for confirmed, it is written down before the trial begins what was in them.

use std::{fs, io::ErrorKind, path::PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{StoreError, Transcript, state_file};

const VERSION: u32 = 1;
/// The file within the state directory.
const FILE_NAME: &str = "unconfirmed.json";
const MOST_BYTES: u64 = 4096;

/// Where that is written down.
#[derive(Clone, Debug)]
pub struct Unconfirmed {
    directory: PathBuf,
}

/// What was written down before.
#[derive(Debug)]
#[must_use]
pub struct Noted(Option<Content>);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    /// Of the files.
    sha256: String,
}

impl Unconfirmed {
    /// Names the state directory. Touches nothing.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self { directory: state_dir.into() }
    }

    /// Writes down that these files are not confirmed. Returns what was written there before.
    ///
    /// # Errors
    ///
    /// Then they must not be tried out.
    pub fn note(&self, transcript: &Transcript) -> Result<Noted, StoreError> {
        let before = Noted(self.content());
        self.write(&Content { version: VERSION, sha256: sha256(transcript) })?;
        Ok(before)
    }

    /// Nothing came of the trial: what was written down before it still holds.
    pub fn restore(&self, before: Noted) {
        match before.0 {
            None => self.forget(),
            Some(content) => {
                if let Err(error) = self.write(&content) {
                    tracing::error!("{error}: what was on trial once is taken as it is at a start");
                }
            }
        }
    }

    /// Whether these files were on trial, and were never confirmed. What can't be read is not.
    #[must_use]
    pub fn is(&self, transcript: &Transcript) -> bool {
        self.content().is_some_and(|content| content.sha256 == sha256(transcript))
    }

    fn content(&self) -> Option<Content> {
        state_file::read(&self.directory.join(FILE_NAME), MOST_BYTES)
            .inspect_err(|error| tracing::warn!("{error}"))
            .ok()
            .flatten()
    }

    fn write(&self, content: &Content) -> Result<(), StoreError> {
        state_file::write(&self.directory, FILE_NAME, content)
    }

    /// Whatever is in the files is meant.
    pub fn forget(&self) {
        match fs::remove_file(self.directory.join(FILE_NAME)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, "a confirmed configuration is taken for unconfirmed at a start");
            }
            _ => {}
        }
    }
}

fn sha256(transcript: &Transcript) -> String {
    let mut hash = Sha256::new();
    for (path, bytes) in &transcript.files {
        // Lengths, so that nothing can be shifted from one part to the next.
        let path = path.as_os_str().as_encoded_bytes();
        for part in [path, bytes] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_on_trial_is_known_again_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let unconfirmed = Unconfirmed::new(directory.path());
        let transcript = |text: &str| Transcript {
            main: "/c.toml".into(),
            files: vec![("/c.toml".into(), text.as_bytes().to_vec())],
        };
        let tried = transcript("mode = \"enforce\"");
        assert!(!unconfirmed.is(&tried));
        let nothing = unconfirmed.note(&tried).unwrap();
        assert!(unconfirmed.is(&tried) && !unconfirmed.is(&transcript("mode = \"observe\"")));
        // Another one that comes to nothing.
        let other = transcript("mode = \"observe\"");
        let before = unconfirmed.note(&other).unwrap();
        unconfirmed.restore(before);
        assert!(unconfirmed.is(&tried) && !unconfirmed.is(&other));
        unconfirmed.restore(nothing);
        unconfirmed.forget();
        assert!(!unconfirmed.is(&tried));
    }
}
