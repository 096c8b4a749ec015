//! Reading files that decide who is let in: only those that nobody but root and the caller can
//! have written.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    unistd::{Uid, geteuid},
};
use thiserror::Error;

/// Why a file is not believed or cannot be read, and the way out.
///
/// The messages do not name the file at the front: that is done where it is known what it is for.
#[derive(Debug, Error)]
pub enum FileError {
    /// There is no such file.
    #[error("there is no such file: create it, or name another one")]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be opened or read.
    #[error("it cannot be read: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        error: io::Error,
    },
    /// A directory, a device, a pipe.
    #[error("it is no regular file: put one in its place")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// A symbolic link where none belongs.
    #[error("it is a symbolic link, which could lead anywhere: move the file itself to this place")]
    SymbolicLink {
        /// The file.
        path: PathBuf,
    },
    /// Owned by somebody else.
    #[error(
        "it belongs to user {owner}, who could let anybody in by it: look at what it says, then \
         `chown root {}`", path.display()
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// Writable by others than the owner.
    #[error(
        "others than its owner may write to it (mode {mode:04o}) and could let anybody in by it: \
         look at what it says, then `chmod go-w {}`", path.display()
    )]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than anything sensible.
    #[error("it is larger than {} MiB: that cannot be what was meant, so look at what it is", most >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes.
        most: u64,
    },
}

/// What becomes of a path that is a symbolic link itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// Its target counts. Mounted configuration is often reached by a link.
    Follow,
    /// It is refused.
    Refuse,
}

/// Reads the whole file, of at most `most` bytes.
pub(super) fn read(path: &Path, links: Links, most: u64) -> Result<Vec<u8>, FileError> {
    let path = path.to_owned();
    // Without O_NONBLOCK a named pipe would hold us up before we could look at what it is.
    let mut flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    if links == Links::Refuse {
        flags |= OFlag::O_NOFOLLOW;
    }
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(FileError::Absent { path });
        }
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
            return Err(FileError::SymbolicLink { path });
        }
        Err(error) => return Err(FileError::Unreadable { path, error }),
    };
    match read_checked(&file, &path, most) {
        Ok(bytes) if bytes.len() as u64 > most => Err(FileError::TooLarge { path, most }),
        other => other,
    }
}

/// Checks what was opened, not the path, which may lead elsewhere by then; reads up to one byte
/// more than allowed.
fn read_checked(mut file: &File, path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let unreadable = |error| FileError::Unreadable { path: path.to_owned(), error };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    check_writers(path, &metadata)?;
    let mut bytes = Vec::new();
    (&mut file).take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Refuses what somebody other than root and the caller can write to.
pub(super) fn check_writers(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    let path = path.to_owned();
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    match suspicion(owner, mode, geteuid()) {
        None => Ok(()),
        Some(Suspicion::Owner) => Err(FileError::Owner { path, owner }),
        Some(Suspicion::Writable) => Err(FileError::Writable { path, mode }),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Suspicion {
    Owner,
    Writable,
}

fn suspicion(owner: u32, mode: u32, caller: Uid) -> Option<Suspicion> {
    if owner != 0 && owner != caller.as_raw() {
        Some(Suspicion::Owner)
    } else if mode & 0o022 != 0 {
        // Where there is an access list, the group's bits are the most that any entry grants.
        Some(Suspicion::Writable)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn only_root_and_the_caller_are_believed() {
        let caller = Uid::from_raw(1000);
        assert_eq!(suspicion(0, 0o644, caller), None);
        assert_eq!(suspicion(1000, 0o600, caller), None);
        assert_eq!(suspicion(1001, 0o600, caller), Some(Suspicion::Owner));
        assert_eq!(suspicion(0, 0o664, caller), Some(Suspicion::Writable));
        assert_eq!(suspicion(1000, 0o602, caller), Some(Suspicion::Writable));
    }

    #[test]
    fn what_is_no_trusted_regular_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let read = |path: &Path, links| read(path, links, 4);
        assert!(matches!(read(&path, Links::Follow), Err(FileError::Absent { .. })));
        assert!(matches!(read(directory.path(), Links::Follow), Err(FileError::NotAFile { .. })));

        fs::write(&path, "four").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read(&path, Links::Refuse).unwrap(), b"four");

        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(read(&link, Links::Follow).unwrap(), b"four");
        assert!(matches!(read(&link, Links::Refuse), Err(FileError::SymbolicLink { .. })));

        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let error = read(&path, Links::Follow).unwrap_err();
        assert!(matches!(error, FileError::Writable { mode: 0o666, .. }));
        assert!(error.to_string().contains("chmod go-w /"), "{error}");

        fs::write(&path, "fives").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read(&path, Links::Follow), Err(FileError::TooLarge { .. })));
    }

    #[test]
    fn a_named_pipe_does_not_hold_us_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read(&path, Links::Follow, 4), Err(FileError::NotAFile { .. })));
    }
}
