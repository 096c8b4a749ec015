//! What has to be so before anything in the pin directory is believed, or made there.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use nix::{
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use super::{PinDir, PinLock, make_dir};
use crate::dataplane::{DataplaneError, Result};

/// The inode number of a BPF file system's root (`simple_fill_super`, fs/libfs.c).
const BPFFS_ROOT_INODE: u64 = 1;

impl PinDir {
    /// Makes the directory if it is not there, and checks that it can be trusted.
    pub fn create(&self) -> Result<()> {
        self.check_place()?;
        make_dir(&self.root).map_err(|error| match error {
            DataplaneError::Pin { source, .. } if is_closed(&source) => self.closed(),
            error => error,
        })?;
        self.check_owner()?;
        self.check()?;
        make_dir(&self.links())
    }

    /// Takes the lock on a directory that is there, to remove what is in it. Nothing outside a BPF
    /// file system, and nothing that others may write, is ever taken for ours.
    ///
    /// Root may remove what is another user's: a guard that runs as that user.
    pub fn lock_existing(&self) -> Result<PinLock> {
        self.check_place()?;
        if !geteuid().is_root() {
            self.check_owner()?;
        }
        self.check()?;
        self.lock()
    }

    /// Checks that the directory is, or would be, within a BPF file system.
    pub(super) fn check_place(&self) -> Result<()> {
        let parent = self.root.parent().unwrap_or(Path::new("/"));
        let bpffs = |path: &Path| statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
        if bpffs(&self.root) {
            // One that was made beforehand may be mounted anywhere, into a container for example.
            // The root of the whole file system would do to the kernel, but it is everybody's.
            let inode = self.root.metadata().map(|found| found.ino());
            return match inode {
                Ok(BPFFS_ROOT_INODE) => {
                    self.unsafe_because("is the root of a BPF file system".into())
                }
                _ => Ok(()),
            };
        }
        if bpffs(parent) {
            return Ok(());
        }
        match self.root.symlink_metadata() {
            Err(error) if is_closed(&error) => Err(self.closed()),
            _ => Err(DataplaneError::NoBpffs { path: self.root.clone() }),
        }
    }

    pub(super) fn closed(&self) -> DataplaneError {
        DataplaneError::PinDirClosed { path: self.root.clone(), uid: geteuid().as_raw() }
    }

    /// Checks the owner: whoever can change the pins can open the guarded ports.
    pub(super) fn check_owner(&self) -> Result<()> {
        let owner = self.metadata()?.uid();
        if owner == 0 || owner == geteuid().as_raw() {
            return Ok(());
        }
        self.unsafe_because(format!("belongs to user {owner}"))
    }

    /// Checks that it is a directory and that none but its owner may write to it.
    pub(super) fn check(&self) -> Result<()> {
        let meta = self.metadata()?;
        if !meta.is_dir() {
            return self.unsafe_because("is not a directory".into());
        }
        if meta.mode() & 0o022 != 0 {
            let mode = meta.mode() & 0o777;
            return self.unsafe_because(format!("may be written by others (mode {mode:o})"));
        }
        Ok(())
    }

    fn metadata(&self) -> Result<fs::Metadata> {
        self.root.symlink_metadata().map_err(DataplaneError::pin("look at", &self.root))
    }

    fn unsafe_because(&self, problem: String) -> Result<()> {
        Err(DataplaneError::PinDirUnsafe { path: self.root.clone(), problem })
    }
}

/// Whether the trouble is that an ordinary user may not.
pub(super) fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied && !geteuid().is_root()
}
