//! The files: their names, their order, and how they are opened.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use super::HISTORY_DIR;

const EXTENSION: &str = "log";

/// One file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) bytes: u64,
}

/// Where the history of a state directory is.
#[must_use]
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join(HISTORY_DIR)
}

/// All files, the oldest first. What has another name is nobody's concern.
pub(super) fn list(directory: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(number) else { continue };
        // It may have gone meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() {
            segments.push(Segment { number, bytes: metadata.len() });
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// The path of a file.
pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:08}.{EXTENSION}"))
}

fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    let is_ours = digits.len() >= 8 && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_ours.then(|| digits.parse().ok())?
}

/// Opens a file to read it. What is no regular file is an error, and is not waited for.
pub(super) fn open(directory: &Path, number: u64) -> io::Result<File> {
    regular(OpenOptions::new().read(true), &path(directory, number))
}

/// Opens a file to append to it; it is made if it is absent.
pub(super) fn open_to_append(directory: &Path, number: u64) -> io::Result<File> {
    let mut options = OpenOptions::new();
    regular(options.read(true).append(true).create(true).mode(0o600), &path(directory, number))
}

fn regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is no regular file", path.display())));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_names_and_sorted_by_their_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let other = ["7.log", "00000001.txt", "0000000x.log", "00000002", "notes", "+0000003.log"];
        for name in other.iter().chain(&["00000012.log", "00000003.log", "100000000.log"]) {
            fs::write(directory.path().join(name), "x").unwrap();
        }
        fs::create_dir(directory.path().join("00000004.log")).unwrap();
        let found = list(directory.path()).unwrap();
        let numbers: Vec<_> = found.iter().map(|segment| segment.number).collect();
        assert_eq!(numbers, [3, 12, 100_000_000]);
        assert!(found.iter().all(|segment| segment.bytes == 1));
        open(directory.path(), 4).unwrap_err();
    }
}
