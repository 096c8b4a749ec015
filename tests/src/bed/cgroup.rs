//! A cgroup of a test's own: what stands there sees the sockets of the processes in it, and nobody else's.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use ollama_guard::doors::Cgroup as Found;

use super::{Namespace, next_number, process::complain, reap::PIN_DIR_PREFIX};

const PATIENCE: Duration = Duration::from_secs(5);

/// A cgroup. Dropping it kills what is in it and removes it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one below the root of the hierarchy.
    ///
    /// # Errors
    ///
    /// If there is no cgroup2 file system, or for want of root.
    pub fn new() -> Result<Self> {
        let name = format!("{PIN_DIR_PREFIX}{}-{}", std::process::id(), next_number());
        let path = root()?.join(name);
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command in a namespace that is in it from the first: its sockets are made there.
    #[must_use]
    pub fn command(&self, namespace: &Namespace, program: impl Into<PathBuf>) -> Command {
        let mut command = namespace.command("sh");
        let enter = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        command.args(["-c", enter]).arg(&self.path).arg(program.into());
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            complain(&format!("the cgroup {} stays behind: {error:#}", self.path.display()));
        }
    }
}

/// Where the root of the hierarchy is mounted.
fn root() -> Result<PathBuf> {
    Ok(Found::find(None)?.path().to_owned())
}

/// Where the hierarchies of cgroups are, of both versions.
#[must_use]
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroups = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let places = cgroups.filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
    places.filter(|place| place.starts_with("/sys/fs/cgroup")).collect()
}

/// Kills what is in a cgroup and in those below, and removes them. One of the first version can't be killed: what was in it
/// has to die by itself.
///
/// # Errors
///
/// If something in it lives on.
pub fn remove(path: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // 5.14; on older kernels our children die by themselves.
        let _ = fs::write(path.join("cgroup.kill"), "1");
        match remove_with_those_below(path) {
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
            Ok(()) => return Ok(()),
        }
    }
}

fn remove_with_those_below(path: &Path) -> io::Result<()> {
    for child in fs::read_dir(path)? {
        let child = child?;
        if child.file_type()?.is_dir() {
            remove_with_those_below(&child.path())?;
        }
    }
    fs::remove_dir(path)
}
