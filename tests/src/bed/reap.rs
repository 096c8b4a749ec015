//! Removing what killed runs left behind.

use std::{collections::HashSet, fs, os::linux::fs::MetadataExt, path::Path, sync::Once};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    cgroup,
    namespace::{NAMES, ip},
};

/// What the names of our namespaces begin with; the process id follows.
pub(super) const NAMESPACE_PREFIX: &str = "og-";
/// What the names of our pin directories and temporary directories begin with; the process id
/// follows.
pub const PIN_DIR_PREFIX: &str = "og-test-";
/// Where pin directories are made.
pub(super) const BPFFS: &str = "/sys/fs/bpf";

/// Where, in the temporary directory of a guard that does not run as root, a BPF file system of its
/// own is mounted.
pub(super) const OWN_BPFFS: &str = "bpf";

/// Reaps before the first namespace of this process is made.
pub(super) fn reap_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(reap);
}

/// Removes the processes, namespaces, pins and temporary directories of runs whose process is
/// gone. Runs that are alive, and everything without our prefix, are left alone.
pub fn reap() {
    for name in names_in(Path::new(NAMES)) {
        if is_orphan(&name, NAMESPACE_PREFIX) {
            kill_inhabitants(&Path::new(NAMES).join(&name));
            // Another run may be reaping the same.
            let _ = ip(&["netns", "del", &name]);
        }
    }
    for hierarchy in cgroup::hierarchies() {
        for name in names_in(&hierarchy).iter().filter(|name| is_orphan(name, PIN_DIR_PREFIX)) {
            let _ = cgroup::remove(&hierarchy.join(name));
        }
    }
    for directory in [Path::new(BPFFS), &std::env::temp_dir()] {
        for name in names_in(directory) {
            if is_orphan(&name, PIN_DIR_PREFIX) {
                let orphan = directory.join(&name);
                // Fails where nothing is mounted, which is most of them.
                let _ = umount2(&orphan.join(OWN_BPFFS), MntFlags::MNT_DETACH);
                let _ = fs::remove_dir_all(orphan);
            }
        }
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .map(|entries| {
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
        })
        .unwrap_or_default()
}

/// Whether a name has the form `<prefix><pid>-...` with the id of a process that is gone.
fn is_orphan(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .and_then(|rest| rest.split('-').next())
        .and_then(|pid| pid.parse::<i32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Kills the processes in an orphaned namespace: only children of the dead run can be there.
fn kill_inhabitants(namespace: &Path) {
    let Ok(inode) = fs::metadata(namespace).map(|metadata| metadata.st_ino()) else {
        return;
    };
    for pid in inhabitants(inode) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The processes whose network namespace has this inode number.
fn inhabitants(inode: u64) -> HashSet<i32> {
    names_in(Path::new("/proc"))
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter(|pid: &i32| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|metadata| metadata.st_ino() == inode)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_a_dead_process_in_them_are_orphans() {
        let own = std::process::id();
        assert!(!is_orphan(&format!("og-{own}-0-server"), "og-"));
        // Above the largest process id that Linux gives (2^22).
        assert!(is_orphan("og-4194305-0-server", "og-"));
        assert!(!is_orphan("og-test-4194305-0", "og-"));
        assert!(is_orphan("og-test-4194305-0", "og-test-"));
        assert!(!is_orphan("other-4194305-0", "og-"));
    }
}
