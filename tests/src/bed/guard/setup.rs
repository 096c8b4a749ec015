//! Which daemon to start, and how.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Guard, RunsAs, user::Bpffs};
use crate::bed::{
    Cgroup, Namespace, next_number,
    reap::{BPFFS, OWN_BPFFS, PIN_DIR_PREFIX},
};

/// Names the binary to test, if it is not the release build beside the tests.
const BINARY_VARIABLE: &str = "OLLAMA_GUARD_BINARY";

/// The layout version of the maps in what `ollama-guard --version --verbose` prints.
#[must_use]
pub fn layout_in(version: &str) -> Option<u32> {
    version.lines().find_map(|line| line.strip_prefix("layout"))?.trim().parse().ok()
}

/// The daemon's binary: `OLLAMA_GUARD_BINARY`, or `release/ollama-guard` in the target directory
/// that the running test or demo was built into.
///
/// # Errors
///
/// If it is not there.
pub fn guard_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        let path = PathBuf::from(path);
        anyhow::ensure!(
            path.is_file(),
            "{BINARY_VARIABLE} names {}, which is no file",
            path.display()
        );
        return path.canonicalize().context("finding the binary");
    }
    let own = std::env::current_exe().context("finding the running executable")?;
    own.ancestors()
        .map(|directory| directory.join("release/ollama-guard"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no release/ollama-guard above {}: build it with `cargo xtask build`, or name it \
                 in {BINARY_VARIABLE}",
                own.display()
            )
        })
}

/// A daemon to be started.
#[derive(Clone, Debug)]
pub struct GuardSetup {
    binary: Option<PathBuf>,
    arguments: Vec<String>,
    config: Option<String>,
    pin_parent: Option<PathBuf>,
    runs_as: Option<RunsAs>,
    pin_dir: Option<PathBuf>,
    is_inner_by_file: bool,
}

impl GuardSetup {
    /// A guard that chooses its interfaces itself.
    #[must_use]
    pub const fn automatic() -> Self {
        Self {
            binary: None,
            arguments: Vec::new(),
            config: None,
            pin_parent: None,
            runs_as: None,
            pin_dir: None,
            is_inner_by_file: false,
        }
    }

    /// A guard of one interface.
    #[must_use]
    pub fn of(interface: &str) -> Self {
        Self::automatic().arguments(&["--interface", interface])
    }

    /// With another binary than the usual one.
    #[must_use]
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = Some(path.to_owned());
        self
    }

    /// With its pins in another BPF file system than the usual one.
    #[must_use]
    pub fn pins_in(mut self, mount_point: &Path) -> Self {
        self.pin_parent = Some(mount_point.to_owned());
        self
    }

    /// With further arguments to `run`.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// With the inner door at a cgroup, in so many words.
    #[must_use]
    pub fn inner_at(self, cgroup: &Cgroup) -> Self {
        self.arguments(&["--inner", &cgroup.path().display().to_string()])
    }

    /// With the inner door as the configuration file has it, which has to name a cgroup.
    #[must_use]
    pub const fn inner_by_file(mut self) -> Self {
        self.is_inner_by_file = true;
        self
    }

    /// With `--attach`.
    #[must_use]
    pub fn attach(self, mode: &str) -> Self {
        self.arguments(&["--attach", mode])
    }

    /// With an allowed prefix.
    #[must_use]
    pub fn allow(self, prefix: impl ToString) -> Self {
        self.arguments(&["--allow", &prefix.to_string()])
    }

    /// With a denied prefix.
    #[must_use]
    pub fn deny(self, prefix: impl ToString) -> Self {
        self.arguments(&["--deny", &prefix.to_string()])
    }

    /// With a configuration file of this content.
    #[must_use]
    pub fn config(mut self, content: &str) -> Self {
        self.config = Some(content.to_owned());
        self
    }

    /// As this user, whatever the rest of the tests runs as.
    #[must_use]
    pub fn runs_as(mut self, user: RunsAs) -> Self {
        self.runs_as = Some(user);
        self
    }

    /// With its pins in this directory, and not in one of its own.
    #[must_use]
    pub fn pins_at(mut self, directory: &Path) -> Self {
        self.pin_dir = Some(directory.to_owned());
        self
    }

    /// Lays out the directories without starting anything.
    ///
    /// # Errors
    ///
    /// If there is no binary, or no directory can be made.
    pub fn prepare(self, namespace: &Namespace) -> Result<Guard<'_>> {
        let name = format!("{PIN_DIR_PREFIX}{}-{}", std::process::id(), next_number());
        let directory = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir()
            .context("making a directory for the guard")?;
        let runs_as = self.runs_as.map_or_else(RunsAs::from_environment, Ok)?;
        runs_as.settle(directory.path())?;
        let binary = self.binary.map_or_else(guard_binary, Ok)?;
        // The machine's own BPF file system may be closed to all but root.
        let bpffs = match runs_as {
            RunsAs::Root => None,
            RunsAs::Service(_) => Some(Bpffs::mount(directory.path().join(OWN_BPFFS), &runs_as)?),
        };
        let guard = Guard {
            namespace,
            binary: runs_as.reachable(binary, directory.path())?,
            arguments: self.arguments,
            runs_as,
            is_inner_by_file: self.is_inner_by_file,
            pin_dir: match (self.pin_dir, self.pin_parent, &bpffs) {
                (Some(named), ..) => named,
                (None, Some(parent), _) => parent.join(name),
                (None, None, None) => Path::new(BPFFS).join(name),
                (None, None, Some(bpffs)) => bpffs.path().join("guard"),
            },
            daemon: None,
            resolver: None,
            _bpffs: bpffs,
            directory,
        };
        if let Some(content) = self.config {
            guard.write_config(&content)?;
        }
        Ok(guard)
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it ends or does not answer in time; the message holds what it said.
    pub fn start(self, namespace: &Namespace) -> Result<Guard<'_>> {
        let mut guard = self.prepare(namespace)?;
        guard.start()?;
        Ok(guard)
    }
}
