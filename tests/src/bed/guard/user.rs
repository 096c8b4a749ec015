//! As whom daemon and command line run: as root, or as an ordinary user with three capabilities.

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::bed::Namespace;

/// Says as whom, for a whole run of the tests: `root` or `service`.
const AS_VARIABLE: &str = "OLLAMA_GUARD_TEST_AS";

/// The service's user and group: numbers that no package gives out, and that have no account.
pub const SERVICE_UID: u32 = 64_011;

/// What the daemon is promised to need, as `setpriv` names them.
pub const SERVICE_CAPABILITIES: [&str; 3] = ["bpf", "net_admin", "perfmon"];

/// As whom daemon and command line run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunsAs {
    /// Root with all its capabilities.
    Root,
    /// [`SERVICE_UID`] with exactly these capabilities, which no program that it starts can add to.
    Service(Vec<&'static str>),
}

impl RunsAs {
    /// The service as it is promised to work.
    #[must_use]
    pub fn service() -> Self {
        Self::Service(SERVICE_CAPABILITIES.to_vec())
    }

    /// What the environment says, for tests that don't choose.
    ///
    /// # Errors
    ///
    /// If it says something else.
    pub fn from_environment() -> Result<Self> {
        match std::env::var_os(AS_VARIABLE) {
            None => Ok(Self::Root),
            Some(word) if word == "root" => Ok(Self::Root),
            Some(word) if word == "service" => Ok(Self::service()),
            Some(word) => anyhow::bail!("{AS_VARIABLE} is {word:?}: `root` or `service` belongs"),
        }
    }

    /// A command in a namespace that runs a program so, behind the words of a wrapper if there are any. The
    /// namespace is entered, and the wrapper run, as root.
    pub(super) fn command(
        &self,
        wrapper: &[String],
        namespace: &Namespace,
        program: &Path,
    ) -> Command {
        let mut words: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
        if let Self::Service(capabilities) = self {
            words.extend(["setpriv", "--clear-groups", "--no-new-privs"].map(OsString::from));
            for id in ["--reuid", "--regid"] {
                words.extend([id.to_owned(), SERVICE_UID.to_string()].map(OsString::from));
            }
            let set =
                capabilities.iter().fold("-all".to_owned(), |set, name| format!("{set},+{name}"));
            // In this order: what is not inheritable can't be ambient.
            for kind in ["--bounding-set", "--inh-caps", "--ambient-caps"] {
                words.extend([kind, &set].map(OsString::from));
            }
            words.push("--".into());
        }
        words.push(program.into());
        let mut command = namespace.command(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// Makes a file or directory the user's own, as the unit or the package does it.
    ///
    /// # Errors
    ///
    /// If there is no such path.
    pub fn own(&self, path: &Path) -> Result<()> {
        match self {
            Self::Root => Ok(()),
            Self::Service(_) => chown(path, Some(SERVICE_UID), Some(SERVICE_UID))
                .with_context(|| format!("giving {} away", path.display())),
        }
    }

    /// Lets the user into a directory and lets it make its own directories there.
    ///
    /// # Errors
    ///
    /// If there is no such directory.
    pub fn settle(&self, directory: &Path) -> Result<()> {
        if *self == Self::Root {
            return Ok(());
        }
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        self.own(directory)
    }

    /// The binary, where the user may run it: a copy in the directory, if it lies behind a
    /// directory that is closed to others. An earlier copy may be running: its name is free, for it
    /// is removed.
    pub(super) fn reachable(&self, binary: PathBuf, directory: &Path) -> Result<PathBuf> {
        let is_open = |path: &Path| {
            fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0)
        };
        if *self == Self::Root || binary.ancestors().all(is_open) {
            return Ok(binary);
        }
        let copy = directory.join("ollama-guard");
        // A program that runs can't be written to.
        if let Err(error) = fs::remove_file(&copy)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("removing {}", copy.display()));
        }
        fs::copy(&binary, &copy).with_context(|| format!("copying {}", binary.display()))?;
        fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
        Ok(copy)
    }
}

/// A BPF file system for the pins of one user. Dropping it takes the pins along.
#[derive(Debug)]
pub(super) struct Bpffs {
    path: PathBuf,
}

impl Bpffs {
    /// Mounts one, closed to everybody but the user.
    pub(super) fn mount(path: PathBuf, user: &RunsAs) -> Result<Self> {
        fs::create_dir(&path)?;
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .context("mounting a BPF file system")?;
        // From here on, dropping it cleans up.
        let mounted = Self { path };
        user.own(&mounted.path)?;
        Ok(mounted)
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            super::complain(&format!("{} stays mounted: {error}", self.path.display()));
        }
    }
}
