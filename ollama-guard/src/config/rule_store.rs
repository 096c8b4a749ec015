//! The rules that were added by command, kept on disk.
//!
//! One file of lines ([`format`]): what the list was when it was last written whole, and behind it
//! each change since. Written whole, the file is replaced: at any moment, also of a power cut, there
//! is the old list or the new one. A change is appended and then counted, so that one of a long list
//! takes no longer than one of a short list, and a change that a crash cut off was never made.
//!
//! A file that cannot be understood is an error: the list may deny somebody, so taking it for
//! empty could open a door. There is no lock here: the daemon that owns the pins is the only one
//! that writes.

mod ended;
mod error;
mod format;
mod trial;
mod undo;

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io::{self, BufWriter, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, FileExt as _, MetadataExt as _, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use self::{
    ended::Ended,
    format::{Extent, no_foreign},
};
pub use self::{error::StoreError, undo::Undo};
use super::{
    state_file,
    trusted_file::{self, FileError, Links},
};
use crate::policy::{Change, NameRule, Rule};

/// The version of the file's layout.
const VERSION: u32 = 3;
/// The file within the state directory.
const FILE_NAME: &str = "rules.json";
/// Where the next list is written before it takes the file's place.
const NEW_FILE_NAME: &str = "rules.json.new";
/// The largest file that is read, and so the largest that is written: about two million rules.
const MOST_BYTES: u64 = 256 << 20;
/// Bytes of changes, beside as many as the whole list took, after which the list is written whole.
const CHANGES_BYTES: u64 = 1 << 20;

/// The rules that were added by command.
#[derive(Debug)]
pub struct RuleStore {
    directory: PathBuf,
    rules: Vec<Rule>,
    names: Vec<NameRule>,
    /// The file as this process left it; `None` if it is to be written whole next.
    left: Option<Left>,
    /// Whether the file has rules that have ended.
    is_behind: bool,
    ended: Ended,
    /// During a trial, what the file has; what is on trial is here only.
    kept: Option<Lists>,
}

/// The rules and the names that were added by command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists {
    rules: Vec<Rule>,
    names: Vec<NameRule>,
}

/// A file to append to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    device: u64,
    inode: u64,
    /// Its length.
    bytes: u64,
    extent: Extent,
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
        let directory = state_dir.to_owned();
        let ended = Ended::open(state_dir)?;
        let bytes = match trusted_file::read(&path, Links::Refuse, MOST_BYTES) {
            Err(FileError::Absent { .. }) => {
                return Ok(Self {
                    directory,
                    rules: Vec::new(),
                    names: Vec::new(),
                    left: None,
                    is_behind: false,
                    ended,
                    kept: None,
                });
            }
            Err(error) => return Err(StoreError::File { path, error }),
            Ok(bytes) => bytes,
        };
        let read = format::read(&bytes).map_err(|error| error.of(&path))?;
        if read.rest > 0 {
            tracing::warn!(
                path = %path.display(),
                "the last change was not written to its end, and nobody was told that it was made: \
                 it is left out"
            );
        }
        no_foreign(&path, &read.rules, &read.names)?;
        // A file with something at its end that does not count is not appended to, and one of an older
        // version can't be.
        let left = read.extent.filter(|_| read.rest == 0).and_then(|extent| {
            let metadata = fs::symlink_metadata(&path).ok()?;
            let left = Left::of(&metadata, extent);
            (left.bytes == bytes.len() as u64).then_some(left)
        });
        let format::Read { rules, names, .. } = read;
        Ok(Self { directory, rules, names, left, is_behind: false, ended, kept: None })
    }

    /// The rules, in the order in which they were given.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The names, in the order in which they were given.
    #[must_use]
    pub fn names(&self) -> &[NameRule] {
        &self.names
    }

    /// Replaces all the rules, and no names. On return they survive a power cut.
    ///
    /// # Errors
    ///
    /// The old rules stay, here and on disk.
    pub fn replace(&mut self, rules: Vec<Rule>) -> Result<Undo, StoreError> {
        self.replace_all(rules, self.names.clone())
    }

    /// Replaces all the rules and all the names. On return they survive a power cut.
    ///
    /// # Errors
    ///
    /// The old ones stay, here and on disk.
    pub fn replace_all(
        &mut self,
        rules: Vec<Rule>,
        names: Vec<NameRule>,
    ) -> Result<Undo, StoreError> {
        no_foreign(&self.directory.join(FILE_NAME), &rules, &names)?;
        if self.kept.is_some() {
            return Ok(Undo::OnTrial(self.take_place(rules, names)));
        }
        self.write_whole(&rules, &names)?;
        Ok(Undo::Whole(self.take_place(rules, names)))
    }

    /// Changes some of the rules. On return that survives a power cut.
    ///
    /// # Errors
    ///
    /// The old rules stay, here and on disk.
    pub fn change(&mut self, change: Change) -> Result<Undo, StoreError> {
        no_foreign(&self.directory.join(FILE_NAME), &change.add, &change.add_names)?;
        if self.kept.is_some() {
            let (mut rules, mut names) = (self.rules.clone(), self.names.clone());
            drop(change.carry_out(&mut rules, &mut names));
            return Ok(Undo::OnTrial(self.take_place(rules, names)));
        }
        let line = format::change_line(&change);
        let fits = |left: &Left| {
            let whole = left.extent.whole;
            let changes = left.bytes - whole + line.len() as u64;
            changes <= whole + CHANGES_BYTES && whole + changes <= MOST_BYTES
        };
        if let Some(left) = self.left.filter(fits)
            && self.append(left, &line)
        {
            let reversal = change.carry_out(&mut self.rules, &mut self.names);
            return Ok(Undo::Appended { reversal, bytes: left.bytes });
        }
        let (mut rules, mut names) = (self.rules.clone(), self.names.clone());
        drop(change.carry_out(&mut rules, &mut names));
        self.replace_all(rules, names)
    }

    /// Puts other lists here in the place of those before, which it returns.
    fn take_place(&mut self, rules: Vec<Rule>, names: Vec<NameRule>) -> Lists {
        Lists {
            rules: std::mem::replace(&mut self.rules, rules),
            names: std::mem::replace(&mut self.names, names),
        }
    }

    /// Appends a line. `false` if the list has to be written whole instead, as if this had not been
    /// tried.
    fn append(&mut self, left: Left, line: &[u8]) -> bool {
        let path = self.directory.join(FILE_NAME);
        self.left = None;
        let Ok(file) = open_to_append(&path) else { return false };
        // Somebody else's file, or one that somebody else has changed, is replaced.
        let is_ours = file.metadata().is_ok_and(|found| Left::of(&found, left.extent) == left);
        if !is_ours {
            return false;
        }
        let extent = Extent { changes: left.extent.changes + 1, ..left.extent };
        let longer = Left { bytes: left.bytes + line.len() as u64, extent, ..left };
        let written = file
            .write_all_at(line, left.bytes)
            .and_then(|()| file.sync_data())
            // From here on it counts.
            .and_then(|()| longer.write_head(&file));
        if let Err(error) = written {
            tracing::debug!(%error, "a change can't be appended: writing the list whole");
            // Should it count by now, nobody was told. The whole list, which comes next, takes the
            // file's place; should that fail as well, this one is to be as it was.
            let _ = left.write_head(&file).and_then(|()| file.set_len(left.bytes));
            return false;
        }
        // What a crash may have left there while a whole list was being written.
        let _ = fs::remove_file(self.directory.join(NEW_FILE_NAME));
        self.left = Some(longer);
        true
    }

    /// Writes lists in the place of the file. Those of `self` are the ones that it held.
    fn write_whole(&mut self, rules: &[Rule], names: &[NameRule]) -> Result<(), StoreError> {
        let path = self.directory.join(FILE_NAME);
        let left = self.write_beside(rules, names)?;
        if let Err(error) = fs::rename(self.directory.join(NEW_FILE_NAME), &path) {
            return Err(StoreError::Write { path, error });
        }
        self.left = None;
        if let Err(error) = File::open(&self.directory).and_then(|directory| directory.sync_all()) {
            // The new list is there but may not last, and the caller will be told that it is not:
            // the old one goes back, as well as that can be done on such a disk.
            if self.write_beside(&self.rules, &self.names).is_ok() {
                let _ = fs::rename(self.directory.join(NEW_FILE_NAME), &path);
            }
            return Err(StoreError::Write { path: self.directory.clone(), error });
        }
        self.left = Some(left);
        self.is_behind = false;
        Ok(())
    }

    /// Writes the file beside, down to the disk.
    fn write_beside(&self, rules: &[Rule], names: &[NameRule]) -> Result<Left, StoreError> {
        let path = self.directory.join(NEW_FILE_NAME);
        let written = write_new(&path, rules, names);
        let error = match written {
            Ok(left) if left.bytes <= MOST_BYTES => return Ok(left),
            Ok(_) => StoreError::TooLarge { path: self.directory.join(FILE_NAME) },
            Err(error) => StoreError::Write { path: path.clone(), error },
        };
        // Half a list is of no use. If it cannot be removed either, the next write does it.
        let _ = fs::remove_file(&path);
        Err(error)
    }
}

impl Left {
    fn of(metadata: &Metadata, extent: Extent) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), bytes: metadata.len(), extent }
    }

    /// Makes what counts count, for good.
    fn write_head(&self, file: &File) -> io::Result<()> {
        let head = format::head(self.extent.rules, self.extent.changes);
        file.write_all_at(head.as_bytes(), 0)?;
        file.sync_data()
    }
}

/// Never follows a link that somebody put there.
fn open_to_append(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    OpenOptions::new().write(true).custom_flags(flags.bits()).open(path)
}

fn write_new(path: &Path, rules: &[Rule], names: &[NameRule]) -> io::Result<Left> {
    match fs::remove_file(path) {
        // Left behind by a crash.
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // `create_new` never follows a link that somebody put there.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // Whatever the umask made of it.
    file.set_permissions(Permissions::from_mode(0o600))?;
    let mut writer = BufWriter::with_capacity(1 << 18, &file);
    let changes = format::write(&mut writer, rules, names)?;
    writer.flush()?;
    drop(writer);
    file.sync_all()?;
    let metadata = file.metadata()?;
    let extent = Extent { rules: rules.len(), changes, whole: metadata.len() };
    Ok(Left::of(&metadata, extent))
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

#[cfg(test)]
mod tests;
