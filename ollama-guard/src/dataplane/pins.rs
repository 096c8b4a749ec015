//! The pin directory: names, lock, and the checks before anything in it is trusted.
//!
//! ```text
//! <pin-dir>/                     0700, flock(2) held by the daemon
//!   links/xdp-<ifindex>          the attachments; unversioned, so that an upgrade keeps them
//!   links/tcx-<ifindex>          those of interfaces whose XDP slot is somebody else's
//!   links/clsact-<ifindex>       where the kernel has no TCX: the program that the filter runs
//!   links/qdisc-<ifindex>        the same, if the queueing discipline of that filter is ours
//!   links/inner                  the attachment of the inner door, to a cgroup
//!   v4/OG_...                    the maps
//!   v4/OG_RULES-<slot>           the rules in each slot in use (inner maps can't be opened by id
//!                                without CAP_SYS_ADMIN, so they are pinned too)
//!   v4/link, v4/network          the attached programs, by what their frames start with
//!   v4/tc-link, v4/tc-network    the same for TCX and clsact
//!   v4/inner                     the one of the inner door
//!   v4/link-twin, ...            their twins for test runs
//!   v4/link-learn, ...           their variants that also count by source, for a while
//!   next/                        a complete new set, while it is being built
//! ```
//!
//! Long because every name in the directory, and what is ours there, is decided in this one file.
//!
//! No name has a dot in it: bpffs reserves those (`bpf_lookup`, kernel/bpf/inode.c).

mod trust;

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use ollama_guard_common::{Start, abi};

use super::{DataplaneError, Result, links::Hook, sys};

/// How often, and how far apart, a daemon tries to take the lock before it believes that another
/// has it: a second in all.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The suffix of a pin that has not got its place yet.
pub(super) const NEW: &str = "-new";
const QDISC: &str = "qdisc";
const INNER: &str = "inner";

/// The pin directory of one guard.
#[derive(Clone, Debug)]
pub struct PinDir {
    root: PathBuf,
}

/// The lock of the one daemon that may write. Released when dropped, and by the kernel when the
/// process dies.
#[derive(Debug)]
pub struct PinLock {
    lock: Flock<File>,
}

impl PinLock {
    /// Whether this is the lock on the directory that is there now: it may have been removed, or
    /// another file system mounted over it.
    fn is_on(&self, pins: &PinDir) -> bool {
        let held = self.lock.metadata();
        let there = pins.root.symlink_metadata();
        matches!((held, there), (Ok(held), Ok(there))
            if (held.dev(), held.ino()) == (there.dev(), there.ino()))
    }
}

impl PinDir {
    /// Names a pin directory. Touches nothing.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the links are.
    pub(super) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The pin of an interface's link at a hook.
    pub(super) fn link(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.links().join(format!("{hook}-{ifindex}"))
    }

    /// The pin of the link of the inner door.
    pub(super) fn inner_link(&self) -> PathBuf {
        self.links().join(INNER)
    }

    /// The mark of an interface whose clsact queueing discipline is ours.
    pub(super) fn qdisc_mark(&self, ifindex: u32) -> PathBuf {
        self.links().join(format!("{QDISC}-{ifindex}"))
    }

    /// Programs and maps of this version.
    pub(super) fn current(&self) -> PathBuf {
        self.root.join(format!("v{}", abi::ABI_VERSION))
    }

    /// Programs and maps that are being built.
    pub(super) fn next(&self) -> PathBuf {
        self.root.join("next")
    }

    /// The pins of the programs and their variants, and of the maps.
    pub(super) fn objects(&self) -> Vec<PathBuf> {
        let programs = PROGRAMS.into_iter().flat_map(|(hook, start)| names(hook, start));
        programs.chain(abi::maps::ALL).map(|name| self.current().join(name)).collect()
    }

    /// The pins of the rules in every slot.
    pub(super) fn rules(&self) -> Vec<PathBuf> {
        (0..abi::SLOTS).map(|slot| self.current().join(rules_name(slot))).collect()
    }

    /// Whether anything of ours is there, or may be there: a directory that this user may not
    /// look into is not taken for an absent one.
    #[must_use]
    pub fn exists(&self) -> bool {
        let found = self.root.symlink_metadata();
        !matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Removes the directory if there is nothing in it, as a start that failed early leaves it.
    pub(super) fn remove_empty(&self) {
        for path in [self.links().as_path(), &self.root] {
            // One that is not empty stays, and one that was never made is not missed.
            let _ = fs::remove_dir(path);
        }
    }

    /// Takes the lock for a daemon. `status` holds it for a moment to see whether somebody has it,
    /// so one refusal is not believed yet.
    pub(super) fn lock_for_daemon(&self) -> Result<PinLock> {
        for _ in 0..LOCK_TRIES {
            match self.lock() {
                Err(DataplaneError::Locked { .. }) => thread::sleep(LOCK_PAUSE),
                outcome => return outcome,
            }
        }
        self.lock()
    }

    /// Makes the directory anew if it is not there any more, and then takes its lock. Returns the
    /// lock to hold from now on, if it is another one.
    pub(super) fn mend(&self, lock: &PinLock) -> Result<Option<PinLock>> {
        if lock.is_on(self) {
            make_dir(&self.links())?;
            return Ok(None);
        }
        self.create()?;
        self.lock_for_daemon().map(Some)
    }

    /// Whether a daemon holds the lock. Holds it for a moment if none does.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(self.lock(), Err(DataplaneError::Locked { .. }))
    }

    /// Takes the lock, without waiting.
    pub(super) fn lock(&self) -> Result<PinLock> {
        let directory = File::open(&self.root).map_err(DataplaneError::pin("open", &self.root))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(PinLock { lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                Err(DataplaneError::Locked { path: self.root.clone() })
            }
            Err((_, errno)) => Err(DataplaneError::pin("lock", &self.root)(errno.into())),
        }
    }

    /// The pinned links, dead or alive, by interface and hook.
    pub(super) fn pinned_links(&self) -> Result<Vec<(u32, Hook, PathBuf)>> {
        let mut links = Vec::new();
        for (name, path) in self.link_files()? {
            if let Some((hook, ifindex)) = parse_link_name(&name) {
                links.push((ifindex, hook, path));
            }
        }
        links.sort_unstable();
        Ok(links)
    }

    /// What else of ours stands beside the links: marks, and links that never got their place.
    pub(super) fn link_remains(&self) -> Result<Vec<PathBuf>> {
        let files = self.link_files()?.into_iter();
        Ok(files.filter(|(name, _)| is_link_remain(name)).map(|(_, path)| path).collect())
    }

    fn link_files(&self) -> Result<Vec<(String, PathBuf)>> {
        let directory = self.links();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(DataplaneError::pin("read", directory)(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(DataplaneError::pin("read", &directory))?;
            if let Ok(name) = entry.file_name().into_string() {
                files.push((name, entry.path()));
            }
        }
        Ok(files)
    }

    /// Checks that programs and maps of this version are there.
    pub(super) fn require_current(&self) -> Result<()> {
        if self.current().exists() {
            return Ok(());
        }
        let path = self.root.clone();
        if !self.exists() || self.pinned_links()?.is_empty() {
            return Err(DataplaneError::NotLoaded { path });
        }
        let versions = self.versions()?;
        let names = versions.iter().filter_map(|path| path.file_name()?.to_str());
        Err(DataplaneError::OtherVersion { path, found: names.collect::<Vec<_>>().join(", ") })
    }

    /// Directories with programs and maps, of any version, finished or not. Nothing else in the
    /// pin directory is ours to remove.
    pub(super) fn versions(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.root).map_err(DataplaneError::pin("read", &self.root))?;
        let mut versions = Vec::new();
        for entry in entries {
            let entry = entry.map_err(DataplaneError::pin("read", &self.root))?;
            if entry.file_name().to_str().is_some_and(is_version) {
                versions.push(entry.path());
            }
        }
        Ok(versions)
    }
}

fn is_version(name: &str) -> bool {
    name == "next" || name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Every entry program. TCX and clsact run the same one.
pub(super) const PROGRAMS: [(Hook, Start); 5] = [
    (Hook::Xdp, Start::Link),
    (Hook::Xdp, Start::Network),
    (Hook::Tcx, Start::Link),
    (Hook::Tcx, Start::Network),
    (Hook::Cgroup, Start::Packet),
];

/// The file name of a program's pin.
pub(super) const fn program_name(hook: Hook, start: Start) -> &'static str {
    match (hook, start) {
        (Hook::Xdp, Start::Link) => "link",
        (Hook::Xdp, Start::Network | Start::Packet) => "network",
        (Hook::Tcx | Hook::Clsact, Start::Link) => "tc-link",
        (Hook::Tcx | Hook::Clsact, Start::Network | Start::Packet) => "tc-network",
        (Hook::Cgroup, _) => "inner",
    }
}

/// The file name of the pin of a program's twin.
pub(super) const fn twin_name(hook: Hook, start: Start) -> &'static str {
    match (hook, start) {
        (Hook::Xdp, Start::Link) => "link-twin",
        (Hook::Xdp, Start::Network | Start::Packet) => "network-twin",
        (Hook::Tcx | Hook::Clsact, Start::Link) => "tc-link-twin",
        (Hook::Tcx | Hook::Clsact, Start::Network | Start::Packet) => "tc-network-twin",
        (Hook::Cgroup, _) => "inner-twin",
    }
}

/// The file name of the pin of a program's variant that also counts by source.
pub(super) const fn learning_name(hook: Hook, start: Start) -> &'static str {
    match (hook, start) {
        (Hook::Xdp, Start::Link) => "link-learn",
        (Hook::Xdp, Start::Network | Start::Packet) => "network-learn",
        (Hook::Tcx | Hook::Clsact, Start::Link) => "tc-link-learn",
        (Hook::Tcx | Hook::Clsact, Start::Network | Start::Packet) => "tc-network-learn",
        (Hook::Cgroup, _) => "inner-learn",
    }
}

/// The file names of the pins of a program and of its variants.
pub(super) const fn names(hook: Hook, start: Start) -> [&'static str; 3] {
    [program_name(hook, start), twin_name(hook, start), learning_name(hook, start)]
}

/// The file name of the pin of a slot's rules.
pub(super) fn rules_name(slot: u32) -> String {
    format!("{}-{slot}", abi::maps::RULES)
}

/// Makes a directory that only its owner may enter. An existing one is no error.
pub(super) fn make_dir(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(DataplaneError::pin("create", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a pin. One that is not there is no error.
pub(super) fn unpin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DataplaneError::pin("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Pins an object in the place of another, in one step.
pub(super) fn replace(object: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(NEW);
    let new = PathBuf::from(new);
    unpin(&new)?;
    sys::obj_pin(object, &new).map_err(DataplaneError::pin("pin", &new))?;
    fs::rename(&new, path).map_err(DataplaneError::pin("rename", new))
}

/// Removes a directory of pins and all that is in it. One that is not there is no error.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DataplaneError::pin("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn parse_link_name(name: &str) -> Option<(Hook, u32)> {
    let (hook, ifindex) = name.split_once('-')?;
    let hook = Hook::ALL.into_iter().find(|known| known.name() == hook)?;
    Some((hook, ifindex.parse().ok()?))
}

fn is_link_remain(name: &str) -> bool {
    let mark = name.strip_prefix(QDISC).and_then(|rest| rest.strip_prefix('-'));
    let is_inner = name.strip_suffix(NEW).unwrap_or(name) == INNER;
    is_inner
        || mark.is_some_and(|ifindex| ifindex.parse::<u32>().is_ok())
        || name.strip_suffix(NEW).is_some_and(|name| parse_link_name(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_off_bpffs_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let error = PinDir::new(directory.path().join("pins")).create().unwrap_err();
        assert!(matches!(error, DataplaneError::NoBpffs { .. }));
        assert!(error.to_string().contains("mount -t bpf"));
    }

    #[test]
    fn link_names_lead_back_to_the_interface() {
        for hook in Hook::ALL {
            assert_eq!(parse_link_name(&format!("{hook}-17")), Some((hook, 17)));
        }
        for other in ["xdp-", "cgroup-1", "tcx-3-new", "qdisc-3", "tcx", ""] {
            assert_eq!(parse_link_name(other), None, "{other}");
        }
    }

    #[test]
    fn what_stands_beside_the_links_is_ours_or_is_left() {
        for ours in ["qdisc-3", "tcx-3-new", "clsact-12-new", "inner", "inner-new"] {
            assert!(is_link_remain(ours), "{ours}");
        }
        for other in ["tcx-3", "qdisc-", "qdisc-x", "other-new", "-new", "cgroup-1-new", "inner-3"]
        {
            assert!(!is_link_remain(other), "{other}");
        }
    }

    #[test]
    fn only_directories_of_ours_are_cleared_away() {
        for ours in ["next", "v0", "v1", "v12"] {
            assert!(is_version(ours), "{ours}");
        }
        for other in ["links", "v", "vpn", "v1x", "tc", "cilium", "v-1", ""] {
            assert!(!is_version(other), "{other}");
        }
    }
}
