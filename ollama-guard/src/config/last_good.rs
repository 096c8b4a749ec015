//! The last configuration that was in force, kept in the state directory for the day that the files can't
//! be used: pins are gone after a reboot, and a slip in a file must not leave the ports open.
//!
//! What is kept is the text of every file, and not what it came to: it is read again by the same rules, so
//! that this lasts over versions, and groups of the host are those of the day. Flags and environment are not
//! kept: they are there at the next start, too.
//!
//! One file, replaced whole: on its first line the hash of all that follows, on the second a head in JSON, and
//! behind it the contents of the files, one after the other. A file that is not what was written is no
//! configuration.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Config, Environment, FileError, Interfaces, Overrides, Problems, Surroundings, Transcript,
    files::Files,
    read_from,
    trusted_file::{self, Links},
};

/// The version of the file's layout.
const VERSION: u32 = 1;
/// The file within the state directory.
const FILE_NAME: &str = "last-good-configuration";
/// Where the next one is written before it takes the file's place.
const NEW_FILE_NAME: &str = "last-good-configuration.new";
/// The largest file that is read.
const MOST_BYTES: u64 = 512 << 20;

/// Why the last good configuration can't be had, or kept.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// There is none: no daemon has started with this state directory yet.
    #[error("no earlier configuration is kept in {}", path.display())]
    None {
        /// The state directory.
        path: PathBuf,
    },
    /// It can't be read or trusted.
    #[error("the last good configuration, {}, is not used: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: FileError,
    },
    /// It is not as it was written, or was written by a later version.
    #[error("the last good configuration, {}, is not used: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// It is that of another file.
    #[error(
        "the last good configuration, {}, is not used: it is that of {}, and not of {}",
        path.display(), kept.display(), asked.display()
    )]
    Another {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        kept: PathBuf,
        /// Whose was asked for.
        asked: PathBuf,
    },
    /// It can't be used any more.
    #[error("nor can the last good configuration be used: {0}")]
    Problems(Problems),
    /// It can't be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// Where the last good configuration is kept.
#[derive(Clone, Debug)]
pub struct LastGood {
    directory: PathBuf,
}

/// The second line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    /// When it was put in force.
    at: Timestamp,
    main: PathBuf,
    /// The interfaces that were asked for by name: one that was there once is no slip.
    interfaces: Vec<String>,
    files: Vec<HeadFile>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeadFile {
    path: PathBuf,
    bytes: usize,
}

/// What was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// When it was put in force.
    pub at: Timestamp,
    /// The interfaces that were asked for by name.
    pub interfaces: Vec<String>,
    /// The files.
    pub transcript: Transcript,
}

impl LastGood {
    /// Names the state directory. Touches nothing.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self { directory: state_dir.into() }
    }

    /// Keeps what is in force now. If it is what is kept already, nothing is written.
    ///
    /// # Errors
    ///
    /// The older one stays.
    pub fn keep(&self, transcript: &Transcript, config: &Config) -> Result<(), LastGoodError> {
        let interfaces = named(config);
        let same = self
            .recall()
            .is_ok_and(|kept| kept.transcript == *transcript && kept.interfaces == interfaces);
        if same {
            return Ok(());
        }
        let contents = || transcript.files.iter().map(|(_, bytes)| bytes.as_slice());
        let head = Head {
            version: VERSION,
            at: Timestamp::now(),
            main: transcript.main.clone(),
            interfaces,
            files: transcript
                .files
                .iter()
                .map(|(path, bytes)| HeadFile { path: path.clone(), bytes: bytes.len() })
                .collect(),
        };
        let path = self.path();
        let trouble = |error| LastGoodError::Write { path: path.clone(), error };
        let mut text = serde_json::to_vec(&head).map_err(|error| trouble(error.into()))?;
        text.push(b'\n');
        let body = || std::iter::once(text.as_slice()).chain(contents());
        let hash = format!("{}\n", sha256(body()));
        let all = std::iter::once(hash.as_bytes()).chain(body());
        replace(&self.directory, &path, all).map_err(trouble)
    }

    /// What was kept last.
    ///
    /// # Errors
    ///
    /// If there is nothing, or nothing that can be trusted and read.
    pub fn recall(&self) -> Result<Kept, LastGoodError> {
        let path = self.path();
        let bytes = match trusted_file::read(&path, Links::Refuse, MOST_BYTES) {
            Ok(bytes) => bytes,
            Err(FileError::Absent { .. }) => {
                return Err(LastGoodError::None { path: self.directory.clone() });
            }
            Err(error) => return Err(LastGoodError::File { path, error }),
        };
        parse(&bytes).map_err(|problem| LastGoodError::Damaged { path, problem })
    }

    /// The configuration that was kept last, instead of the one that these sources say: with the same flags
    /// and environment, and when it was put in force.
    ///
    /// # Errors
    ///
    /// If there is none, if it is that of another file, or if it can't be used any more.
    pub fn instead(
        &self,
        overrides: &Overrides,
        environment: &dyn Environment,
        surroundings: &dyn Surroundings,
        main: &Path,
    ) -> Result<(Config, Timestamp), LastGoodError> {
        let Kept { at, transcript, .. } = self.recall()?;
        if transcript.main != main {
            let (path, kept, asked) = (self.path(), transcript.main, main.to_owned());
            return Err(LastGoodError::Another { path, kept, asked });
        }
        let files = Files::from(transcript);
        let reading = read_from(files, overrides, environment, surroundings);
        reading.config.map(|config| (config, at)).map_err(LastGoodError::Problems)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE_NAME)
    }
}

fn named(config: &Config) -> Vec<String> {
    match &config.interfaces {
        Interfaces::Auto => Vec::new(),
        Interfaces::Named(patterns) => patterns.iter().map(ToString::to_string).collect(),
    }
}

fn parse(bytes: &[u8]) -> Result<Kept, String> {
    let (hash, body) = line(bytes).ok_or("it is cut off")?;
    if sha256(std::iter::once(body)).as_bytes() != hash {
        return Err("it is not what was written".into());
    }
    let (head, mut rest) = line(body).ok_or("it has no head")?;
    let version = serde_json::from_slice::<serde_json::Value>(head)
        .ok()
        .and_then(|head| head.get("version")?.as_u64())
        .ok_or("its head is damaged")?;
    if version != u64::from(VERSION) {
        return Err(format!("its layout is version {version}, and this program knows {VERSION}"));
    }
    let head: Head = serde_json::from_slice(head).map_err(|error| error.to_string())?;
    let mut files = Vec::with_capacity(head.files.len());
    for HeadFile { path, bytes } in head.files {
        let (file, more) = rest.split_at_checked(bytes).ok_or("it is cut off")?;
        files.push((path, file.to_vec()));
        rest = more;
    }
    let transcript = Transcript { main: head.main, files };
    Ok(Kept { at: head.at, interfaces: head.interfaces, transcript })
}

/// The first line, without its end, and what follows.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn sha256<'b>(parts: impl Iterator<Item = &'b [u8]>) -> String {
    let mut hash = Sha256::new();
    parts.for_each(|part| hash.update(part));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// At any moment, also of a power cut, there is the old file or the new one.
fn replace<'b>(
    directory: &Path,
    path: &Path,
    parts: impl Iterator<Item = &'b [u8]>,
) -> io::Result<()> {
    let new = directory.join(NEW_FILE_NAME);
    match fs::remove_file(&new) {
        // Left behind by a crash.
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // `create_new` never follows a link that somebody put there.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    // Whatever the umask made of it.
    let written = file.set_permissions(Permissions::from_mode(0o600)).and_then(|()| {
        parts.into_iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()?;
        fs::rename(&new, path)
    });
    if let Err(error) = written {
        // Half of it is of no use.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
