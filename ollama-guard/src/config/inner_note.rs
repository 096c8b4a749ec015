//! Whether the inner door only observes: a guard that never had one has let in whom this one would keep out,
//! so after an upgrade it drops nothing until somebody has seen whom that concerns.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{StoreError, state_file};

const VERSION: u32 = 1;
/// The file within the state directory.
const FILE_NAME: &str = "inner-door.json";
const MOST_BYTES: u64 = 4096;

/// Where that is written down.
#[derive(Clone, Debug)]
pub struct InnerNote {
    directory: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    observes: bool,
}

impl InnerNote {
    /// Names the state directory. Touches nothing.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self { directory: state_dir.into() }
    }

    /// Whether it only observes. `None` if there has never been one.
    ///
    /// # Errors
    ///
    /// If it can't be read or understood.
    pub fn read(&self) -> Result<Option<bool>, StoreError> {
        let content: Option<Content> =
            state_file::read(&self.directory.join(FILE_NAME), MOST_BYTES)?;
        Ok(content.map(|content| content.observes))
    }

    /// Writes it down.
    ///
    /// # Errors
    ///
    /// Then the next start decides anew.
    pub fn write(&self, observes: bool) -> Result<(), StoreError> {
        state_file::write(&self.directory, FILE_NAME, &Content { version: VERSION, observes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_confirmed_stays_so() {
        let directory = tempfile::tempdir().unwrap();
        let note = InnerNote::new(directory.path());
        assert_eq!(note.read().unwrap(), None);
        for observes in [true, false] {
            note.write(observes).unwrap();
            assert_eq!(note.read().unwrap(), Some(observes));
        }
    }
}
