//! The files of the configuration: the main one, the drop-ins beside it, and the lists that these name.
//!
//! Each is noted before it is read, so that a change is seen that comes later; and none is believed that
//! somebody other than root and the caller could have written.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    FileError, Fingerprint, Place, Problem, Transcript,
    trusted_file::{self, Links},
};

/// The largest file that is read: more than a million prefixes.
const MOST_BYTES: u64 = 64 << 20;
/// What a drop-in's name ends in.
const DROP_IN: &str = "toml";

/// A file of the configuration.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) fingerprint: Fingerprint,
    /// Those that were there.
    pub(super) read: Vec<PathBuf>,
    /// The main one, if it was there.
    pub(super) main: Option<PathBuf>,
    /// What was in them.
    pub(super) transcript: Transcript,
    /// Where they are read from, if not from the disk.
    kept: Option<Transcript>,
}

impl From<Transcript> for Files {
    /// The files as they were once.
    fn from(kept: Transcript) -> Self {
        Self { kept: Some(kept), ..Self::default() }
    }
}

impl Files {
    /// The main file, and the drop-ins of the directory beside it in the order of their names:
    /// `config.d/*.toml` beside `config.toml`.
    pub(super) fn texts(
        &mut self,
        path: &Path,
        may_be_absent: bool,
        problems: &mut Vec<Problem>,
    ) -> Vec<Text> {
        // Rules remember the path, and are shown and kept as JSON.
        let Some(path) = std::path::absolute(path).ok().filter(|path| path.to_str().is_some())
        else {
            let message = "the name is not UTF-8 text: give the file another one".to_owned();
            problems.push(about(path, message));
            return Vec::new();
        };
        self.transcript.main.clone_from(&path);
        let mut texts = Vec::new();
        texts.extend(self.text(&path, may_be_absent, problems));
        self.main = self.read.first().cloned();
        for drop_in in self.drop_ins(&path.with_extension("d"), problems) {
            // One that has gone in the meantime is not there.
            texts.extend(self.text(&drop_in, true, problems));
        }
        texts
    }

    /// A list of prefixes.
    pub(super) fn list(&mut self, path: &Path) -> Result<Vec<u8>, FileError> {
        self.fingerprint.note(path);
        let bytes = self.bytes(path)?;
        self.read.push(path.to_owned());
        Ok(bytes)
    }

    fn bytes(&mut self, path: &Path) -> Result<Vec<u8>, FileError> {
        let bytes = match &self.kept {
            None => trusted_file::read(path, Links::Follow, MOST_BYTES)?,
            Some(kept) => match kept.contents(path) {
                Some(bytes) => bytes.to_vec(),
                None => return Err(FileError::Absent { path: path.to_owned() }),
            },
        };
        // A list may be named more than once.
        if self.transcript.contents(path).is_none() {
            self.transcript.files.push((path.to_owned(), bytes.clone()));
        }
        Ok(bytes)
    }

    fn text(
        &mut self,
        path: &Path,
        may_be_absent: bool,
        problems: &mut Vec<Problem>,
    ) -> Option<Text> {
        self.fingerprint.note(path);
        let bytes = match self.bytes(path) {
            Err(FileError::Absent { .. }) if may_be_absent => return None,
            Err(error) => {
                problems.push(about(path, error.to_string()));
                return None;
            }
            Ok(bytes) => bytes,
        };
        self.read.push(path.to_owned());
        text(bytes)
            .map(|text| Text { path: path.to_owned(), text })
            .map_err(|message| problems.push(about(path, message)))
            .ok()
    }

    /// The drop-ins, by name. No directory is none.
    fn drop_ins(&mut self, directory: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
        self.fingerprint.note(directory);
        let listed = match self
            .kept
            .as_ref()
            .map_or_else(|| listed(directory), |kept| Ok(kept.listed(directory)))
        {
            Ok(listed) => listed,
            Err(message) => {
                problems.push(about(directory, message));
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for path in listed {
            let is_hidden =
                path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if is_hidden || path.extension().is_none_or(|extension| extension != DROP_IN) {
                continue;
            }
            if path.to_str().is_some() {
                found.push(path);
            } else {
                let message = "a name in it is not UTF-8 text: give that file another one";
                problems.push(about(directory, message.to_owned()));
            }
        }
        found.sort();
        found
    }
}

/// What is in a directory that nobody but root and the caller can put anything into.
fn listed(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    let metadata = match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        metadata => metadata.map_err(unreadable)?,
    };
    if !metadata.is_dir() {
        return Err("it is no directory: drop-ins are files in it".to_owned());
    }
    trusted_file::check_writers(directory, &metadata).map_err(|error| error.to_string())?;
    let entries = fs::read_dir(directory).map_err(unreadable)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(unreadable)).collect()
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    match String::from_utf8(bytes) {
        // A parser would make a token, or a mistake, of each of them.
        Ok(text) if text.contains('\0') => {
            let before = text.split('\0').next().unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            Err(format!("line {line} has a zero byte: this is no text file"))
        }
        Ok(text) => Ok(text),
        Err(error) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
            Err(format!("line {line} is not UTF-8 text: save the file as UTF-8"))
        }
    }
}

/// A problem with a file as a whole.
fn about(path: &Path, message: String) -> Problem {
    Problem { place: Place::File { path: path.to_owned(), position: None }, message }
}
