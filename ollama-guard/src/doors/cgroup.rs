//! The cgroup that the inner door stands at.
//!
//! The root of the hierarchy is known by its file system type and its number, not by its path: on hosts with
//! both versions of cgroups it is mounted beside the old one, and in a container it is the container's
//! own cgroup that looks like the root.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStringExt as _,
            fs::{MetadataExt as _, OpenOptionsExt as _},
        },
    },
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

/// Where the kernel says what is mounted.
const MOUNTS: &str = "/proc/thread-self/mountinfo";
/// The number of the root's directory (`kernfs_create_root`, fs/kernfs/dir.c).
const ROOT: u64 = 1;

/// A cgroup, open.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
    directory: OwnedFd,
}

/// Why there is no cgroup to stand at.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// What is mounted can't be read.
    #[error("cannot read {MOUNTS}: {0}")]
    Mounts(io::Error),
    /// There is no hierarchy of the second version.
    #[error(
        "no cgroup2 file system is mounted here: mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`), \
         in a container the host's /sys/fs/cgroup, or do without (`enable = false` under [inner])"
    )]
    NotMounted,
    /// Only a part of it can be seen.
    #[error(
        "{} is not the root of the machine's cgroups but that of a container: mount the host's \
         /sys/fs/cgroup into it, name a cgroup (`cgroup = ...` under [inner]), or do without (`enable = \
         false`)",
        path.display()
    )]
    OnlyAPart {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// The directory can't be opened.
    #[error("cannot open the cgroup {}: {source}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is no such directory.
    #[error("{} is no directory of a cgroup2 file system", path.display())]
    NoCgroup {
        /// The directory.
        path: PathBuf,
    },
}

impl Cgroup {
    /// The named one, or the root.
    ///
    /// # Errors
    ///
    /// If it is not there, or can't be opened.
    pub fn find(named: Option<&Path>) -> Result<Self, CgroupError> {
        named.map_or_else(Self::root, Self::open)
    }

    fn root() -> Result<Self, CgroupError> {
        let mounts = fs::read(MOUNTS).map_err(CgroupError::Mounts)?;
        let mut part = None;
        for path in mounted(&mounts) {
            match Self::open(&path) {
                Ok(cgroup) if cgroup.is_root() => return Ok(cgroup),
                Ok(cgroup) => part = Some(CgroupError::OnlyAPart { path: cgroup.path }),
                // Another file system is mounted over it.
                Err(CgroupError::NoCgroup { .. }) => {}
                Err(error) => part = part.or(Some(error)),
            }
        }
        Err(part.unwrap_or(CgroupError::NotMounted))
    }

    fn open(path: &Path) -> Result<Self, CgroupError> {
        let failed = |source| CgroupError::Open { path: path.to_owned(), source };
        let directory = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path);
        let directory = directory.map_err(failed)?;
        let kind = fstatfs(&directory).map_err(|errno| failed(errno.into()))?;
        if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(CgroupError::NoCgroup { path: path.to_owned() });
        }
        let id = directory.metadata().map_err(failed)?.ino();
        Ok(Self { path: path.to_owned(), id, directory: directory.into() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's number of it.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Whether every process is in it, or beneath.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.id == ROOT
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Where file systems of this type are mounted, by the lines of mountinfo (proc_pid_mountinfo(5)).
fn mounted(mounts: &[u8]) -> impl Iterator<Item = PathBuf> {
    mounts.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let place = fields.nth(4)?;
        // Some fields that may be missing, a hyphen, and the type.
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (kind == b"cgroup2").then(|| OsString::from_vec(unescaped(place)).into())
    })
}

/// White space and backslashes are written as three octal digits (`mangle_path`, fs/seq_file.c).
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte.filter(|_| first == b'\\') {
            Some(byte) => {
                plain.push(byte);
                rest = &behind[3..];
            }
            None => {
                plain.push(first);
                rest = behind;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_by_its_type_wherever_it_is_mounted() {
        let hybrid = b"23 1 0:21 / /sys rw - sysfs sysfs rw\n\
            31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 master:1 - cgroup2 cgroup2 rw\n\
            42 31 0:38 / /mnt/a\\040place rw - cgroup2 none rw\n\n- x\n";
        let found: Vec<PathBuf> = mounted(hybrid).collect();
        assert_eq!(found, ["/sys/fs/cgroup/unified", "/mnt/a place"].map(PathBuf::from));
        assert_eq!(unescaped(b"\\134\\9 \\"), b"\\\\9 \\");
    }

    #[test]
    fn what_is_no_cgroup_is_refused_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let error = Cgroup::find(Some(directory.path())).unwrap_err();
        assert!(matches!(error, CgroupError::NoCgroup { .. }), "{error}");
        let error = Cgroup::find(Some(&directory.path().join("none"))).unwrap_err();
        assert!(matches!(error, CgroupError::Open { .. }), "{error}");
    }
}
