//! Small files of the state directory, each one JSON value: written whole, so that at any moment, also of a
//! power cut, there is the old value or the new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    StoreError,
    trusted_file::{self, FileError, Links},
};

/// Reads a value; `None` if there is no file.
///
/// # Errors
///
/// If the file cannot be read, trusted or understood.
pub(super) fn read<T: DeserializeOwned>(path: &Path, most: u64) -> Result<Option<T>, StoreError> {
    let bytes = match trusted_file::read(path, Links::Refuse, most) {
        Err(FileError::Absent { .. }) => return Ok(None),
        Err(error) => return Err(StoreError::File { path: path.to_owned(), error }),
        Ok(bytes) => bytes,
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| StoreError::Damaged { path: path.to_owned(), problem: error.to_string() })
}

/// Writes a value in the place of the file. On return it survives a power cut.
///
/// # Errors
///
/// The old value stays.
pub(super) fn write<T: Serialize>(
    directory: &Path,
    name: &str,
    value: &T,
) -> Result<(), StoreError> {
    let path = directory.join(name);
    let beside = path.with_added_extension("new");
    let written = write_beside(&beside, value)
        .and_then(|()| fs::rename(&beside, &path))
        .and_then(|()| File::open(directory)?.sync_all());
    written.map_err(|error| {
        // Half a value is of no use. If it cannot be removed either, the next write does it.
        let _ = fs::remove_file(&beside);
        StoreError::Write { path, error }
    })
}

fn write_beside<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    match fs::remove_file(path) {
        // Left behind by a crash.
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // `create_new` never follows a link that somebody put there.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    file.write_all(&bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_there_whole_or_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("some.json");
        let read = || read::<Vec<u32>>(&path, 100);
        assert!(read().unwrap().is_none());
        fs::write(path.with_added_extension("new"), "[1,").unwrap();
        write(directory.path(), "some.json", &[1, 2]).unwrap();
        assert_eq!(read().unwrap(), Some(vec![1, 2]));
        fs::create_dir_all(path.with_added_extension("new").join("full")).unwrap();
        assert!(matches!(
            write(directory.path(), "some.json", &[3]),
            Err(StoreError::Write { .. })
        ));
        assert_eq!(read().unwrap(), Some(vec![1, 2]));
        fs::write(&path, "[1,").unwrap();
        assert!(matches!(read(), Err(StoreError::Damaged { .. })));
    }
}
