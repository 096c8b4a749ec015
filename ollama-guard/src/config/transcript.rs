//! What was read from the files of a configuration, to the letter.

use std::path::{Path, PathBuf};

/// The files of a configuration, as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// Where the main file is looked for, whether or not there is one.
    pub main: PathBuf,
    /// Those that were there, and what was in them.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl Transcript {
    /// What was in a file.
    pub(super) fn contents(&self, path: &Path) -> Option<&[u8]> {
        let found = self.files.iter().find(|(known, _)| known == path);
        found.map(|(_, bytes)| bytes.as_slice())
    }

    /// The files of a directory.
    pub(super) fn listed(&self, directory: &Path) -> Vec<PathBuf> {
        let paths = self.files.iter().map(|(path, _)| path);
        paths.filter(|path| path.parent() == Some(directory)).cloned().collect()
    }
}
