//! Who changed what, and what came of it: one JSON object a line.
//!
//! The log is bounded: a line by cutting long texts, the file by rotation at 1 MiB, of which three
//! are kept beside the current one. Texts from outside are JSON strings, so no comment can forge a
//! line. A line is handed to the kernel before [`AuditLog::append`] returns; it is not synced to
//! the disk, which the rules themselves are.

#![forbid(unsafe_code)]

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use nix::fcntl::OFlag;
use serde::Serialize;
use thiserror::Error;

/// Name of the log in the state directory. Rotated ones have `.1` (newest) to `.3` appended.
pub const AUDIT_FILE: &str = "audit.log";
/// Bytes at which the log is rotated.
pub const AUDIT_BYTES: u64 = 1 << 20;
/// Rotated logs that are kept.
pub const AUDIT_KEPT: u32 = 3;
/// Prefixes of a change that a line names; the number of all is in `count`.
pub const AUDIT_PREFIXES: usize = 16;

/// Characters of a prefix that are kept: the longest real one has 43.
const PREFIX_CHARS: usize = 64;
/// Characters of a comment or a result that are kept.
const TEXT_CHARS: usize = 512;

/// The log could not be written. The change that it was about is done or refused all the same.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The state directory could not be made.
    #[error("cannot create the state directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log could not be opened.
    #[error("cannot open the audit log {}: {source}", path.display())]
    Open {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else has the log's name.
    #[error("{} is not a regular file: move it away, so that the audit log can be written",
        path.display())]
    NotAFile {
        /// The log.
        path: PathBuf,
    },
    /// A full log could not be moved aside.
    #[error("cannot rotate the audit log {}: {source}", path.display())]
    Rotate {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line could not be written.
    #[error(
        "cannot write to the audit log {}: {source}; free space or repair the file system, the \
         next change is logged again", path.display())]
    Write {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One change, done or refused.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// When it was asked for.
    pub time: Timestamp,
    /// User id of the client, as the kernel says.
    pub uid: u32,
    /// Process id of the client, as the kernel says.
    pub pid: Option<i32>,
    /// Name of that user, if it has one.
    pub user: Option<&'a str>,
    /// What was asked for: `add`, `remove`, `replace`, `reload`, `detach`.
    pub action: &'a str,
    /// `allow` or `deny`, where the action has an effect.
    pub effect: Option<&'a str>,
    /// The prefixes that it was about.
    pub prefixes: &'a [String],
    /// The comment that was given.
    pub comment: Option<&'a str>,
    /// The policy's number after the change; `None` if nothing changed.
    pub generation: Option<u64>,
    /// What came of it: the error's text if it was refused.
    pub result: Result<(), &'a str>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    uid: u32,
    pid: Option<i32>,
    user: Option<&'a str>,
    action: &'a str,
    effect: Option<&'a str>,
    count: usize,
    prefixes: Vec<&'a str>,
    comment: Option<&'a str>,
    generation: Option<u64>,
    result: &'a str,
}

impl<'a> From<&Entry<'a>> for Line<'a> {
    fn from(entry: &Entry<'a>) -> Self {
        let first = entry.prefixes.iter().take(AUDIT_PREFIXES);
        Self {
            time: entry.time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            uid: entry.uid,
            pid: entry.pid,
            user: entry.user.map(|user| cut(user, TEXT_CHARS)),
            action: cut(entry.action, PREFIX_CHARS),
            effect: entry.effect.map(|effect| cut(effect, PREFIX_CHARS)),
            count: entry.prefixes.len(),
            prefixes: first.map(|prefix| cut(prefix, PREFIX_CHARS)).collect(),
            comment: entry.comment.map(|comment| cut(comment, TEXT_CHARS)),
            generation: entry.generation,
            result: entry.result.map_or_else(|error| cut(error, TEXT_CHARS), |()| "done"),
        }
    }
}

fn cut(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

/// The log, open for appending.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: File,
    rotate_at: u64,
}

impl AuditLog {
    /// Opens the log in the state directory; creates the directory (0700) and the log (0600) if
    /// they are absent.
    ///
    /// # Errors
    ///
    /// If that cannot be done, with the path and the reason.
    pub fn open(state_dir: &Path) -> Result<Self, AuditError> {
        Self::open_with(state_dir, AUDIT_BYTES)
    }

    fn open_with(state_dir: &Path, rotate_at: u64) -> Result<Self, AuditError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(|source| AuditError::Directory { path: state_dir.to_owned(), source })?;
        let path = state_dir.join(AUDIT_FILE);
        let file = open_file(&path)?;
        Ok(Self { path, file, rotate_at })
    }

    /// Appends one line. On an error the log is left as it was, and the next call tries afresh.
    ///
    /// # Errors
    ///
    /// If the line could not be written whole.
    pub fn append(&mut self, entry: &Entry<'_>) -> Result<(), AuditError> {
        let failed = |source| AuditError::Write { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(&Line::from(entry))
            .map_err(|error| failed(io::Error::from(error)))?;
        line.push(b'\n');

        if self.was_moved_away() {
            self.file = open_file(&self.path)?;
        }
        let mut length = self.length()?;
        if length > 0 && length + line.len() as u64 > self.rotate_at {
            self.rotate()?;
            length = self.length()?;
        }
        self.write(&line, length)
            .map_err(|source| AuditError::Write { path: self.path.clone(), source })
    }

    fn write(&mut self, line: &[u8], length: u64) -> io::Result<()> {
        let written = self.file.write_all(line).and_then(|()| self.file.flush());
        if written.is_err() {
            // Half a line would swallow the next one. If this fails too, opening mends it.
            let _ = self.file.set_len(length);
        }
        written
    }

    fn length(&self) -> Result<u64, AuditError> {
        let metadata = self
            .file
            .metadata()
            .map_err(|source| AuditError::Write { path: self.path.clone(), source })?;
        Ok(metadata.len())
    }

    /// Whether the open file is no longer the one with the log's name.
    fn was_moved_away(&self) -> bool {
        match (fs::symlink_metadata(&self.path), self.file.metadata()) {
            (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
            _ => true,
        }
    }

    fn rotate(&mut self) -> Result<(), AuditError> {
        let rotated = |number: u32| self.path.with_added_extension(number.to_string());
        for number in (1..AUDIT_KEPT).rev() {
            match fs::rename(rotated(number), rotated(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(AuditError::Rotate { path: rotated(number), source: error });
                }
                _ => {}
            }
        }
        fs::rename(&self.path, rotated(1))
            .map_err(|source| AuditError::Rotate { path: self.path.clone(), source })?;
        self.file = open_file(&self.path)?;
        Ok(())
    }
}

fn open_file(path: &Path) -> Result<File, AuditError> {
    let failed = |source| AuditError::Open { path: path.to_owned(), source };
    // Opening a FIFO would wait for its reader for ever.
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(AuditError::NotAFile { path: path.to_owned() });
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(failed)?;
    end_last_line(&mut file).map_err(failed)?;
    Ok(file)
}

/// Ends a line that a crash or a full disk cut off, so that it cannot swallow the next one.
fn end_last_line(file: &mut File) -> io::Result<()> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last != *b"\n" { file.write_all(b"\n") } else { Ok(()) }
}

#[cfg(test)]
mod tests;
