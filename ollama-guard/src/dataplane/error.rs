//! What can go wrong between the daemon and the kernel, in words for the operator.

use std::{io, path::PathBuf};

use super::links::Hook;

/// A failure of the dataplane. The text says what failed, on what, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The binary was built without the kernel program.
    #[error("this binary was built without its kernel program; build it with `cargo xtask build`")]
    NoKernelProgram,
    /// A capability is missing.
    #[error("missing {missing}: run as root, or give the process the capabilities {needed}")]
    Privileges {
        /// The names of the missing capabilities.
        missing: String,
        /// The names of all that are needed.
        needed: String,
    },
    /// Something in front of the kernel's own rules refuses `bpf`.
    #[error(
        "`bpf` is refused although the capabilities are there: mostly by a container's seccomp profile that \
         knows CAP_SYS_ADMIN only; have it allow `bpf` with CAP_BPF, or take a newer container runtime"
    )]
    BpfRefused,
    /// The kernel lacks a feature.
    #[error(
        "this kernel ({release}) has no {feature}, which ollama-guard needs: boot a newer one; \
         Linux 5.15 has all that it needs, and 6.1 is the oldest that it is tested on"
    )]
    KernelTooOld {
        /// What is missing.
        feature: &'static str,
        /// `uname -r`.
        release: String,
    },
    /// The pin directory is not on a BPF file system.
    #[error(
        "{path} is not on a BPF file system; mount one with `mount -t bpf bpf /sys/fs/bpf`, or name another place with --pin-dir"
    )]
    NoBpffs {
        /// The pin directory.
        path: PathBuf,
    },
    /// The pin directory can be neither reached nor made by this user.
    #[error(
        "user {uid} can neither reach nor make the pin directory {path}: have root make it \
         (`install -d -m 0700 -o {uid} {path}`), and where others may not enter the directory \
         above it, bind it to where the user may (docs/privileges.md)"
    )]
    PinDirClosed {
        /// The pin directory.
        path: PathBuf,
        /// The user.
        uid: u32,
    },
    /// Others may write to the pin directory.
    #[error(
        "the pin directory {path} {problem}; whoever can change the pins can open the guarded ports. Remove it or correct it, then start again"
    )]
    PinDirUnsafe {
        /// The pin directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another daemon holds the lock.
    #[error(
        "another ollama-guard holds {path}; stop it first, or give this one a --pin-dir of its own"
    )]
    Locked {
        /// The pin directory.
        path: PathBuf,
    },
    /// No pins: nothing of ours is loaded.
    #[error("no guard is loaded under {path}: start one with `ollama-guard run`")]
    NotLoaded {
        /// The pin directory.
        path: PathBuf,
    },
    /// A guard of another layout version is loaded.
    #[error(
        "a guard of another version ({found}) is loaded under {path}, which this one can't read; \
         use that version's `ollama-guard`, or start this one's daemon, which takes over without a \
         gap"
    )]
    OtherVersion {
        /// The pin directory.
        path: PathBuf,
        /// The versions found.
        found: String,
    },
    /// A pin is not what it should be.
    #[error("the pin {path} is not ours to trust: {problem}")]
    ForeignPin {
        /// The pin.
        path: PathBuf,
        /// In what it differs.
        problem: String,
    },
    /// A file operation on a pin failed.
    #[error("cannot {action} {path}: {source}")]
    Pin {
        /// What was tried.
        action: &'static str,
        /// On which pin.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The verifier refused a program.
    #[error("the kernel refused the program {program}: {cause}; the verifier's log is in {log}")]
    Refused {
        /// The program.
        program: &'static str,
        /// The kernel's error.
        cause: io::Error,
        /// The file with the whole log.
        log: PathBuf,
    },
    /// A program or object could not be loaded for another reason.
    #[error("cannot load the kernel program: {0}")]
    Load(String),
    /// A map operation failed.
    #[error("cannot {action} the map {map}: {source}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// On which map.
        map: &'static str,
        /// The cause.
        source: aya::maps::MapError,
    },
    /// A raw map operation failed.
    #[error("cannot {action} the map {map}: {source}")]
    RawMap {
        /// What was tried.
        action: &'static str,
        /// On which map.
        map: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Neither XDP nor TC takes a program on an interface.
    #[error(
        "{interface} can't be guarded: {xdp}; and {hook}, which would do instead, fails: {cause}. \
         ollama-guard never displaces another program: detach it with the tool that loaded it, or \
         leave this interface out with `exclude`"
    )]
    NoHook {
        /// The interface.
        interface: String,
        /// Why not at XDP.
        xdp: String,
        /// What was tried last.
        hook: Hook,
        /// Why that failed.
        cause: Box<DataplaneError>,
    },
    /// The link is in another mode than the one asked for by name.
    #[error(
        "{interface} is filtered in {current} mode; changing it to {wanted} would leave it open for a moment. Run `ollama-guard detach`, then start again"
    )]
    OtherMode {
        /// The interface.
        interface: String,
        /// The mode in force.
        current: &'static str,
        /// The mode asked for.
        wanted: &'static str,
    },
    /// The image does not fit the tables of the program.
    #[error("the policy does not fit the kernel's tables: {0}")]
    Image(String),
    /// A test run failed.
    #[error("cannot run a test packet through {program}: {cause}")]
    TestRun {
        /// The program.
        program: &'static str,
        /// The cause.
        cause: String,
    },
}

impl DataplaneError {
    /// Whether an interface can't be covered because it is not there any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NoHook { cause, .. }
            if matches!(&**cause, Self::Pin { source, .. }
                if source.raw_os_error() == Some(libc::ENODEV)))
    }

    /// For `map_err` after a file operation on a pin.
    pub(super) fn pin(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Pin { action, path, source }
    }

    /// For `map_err` after a map operation.
    pub(super) fn map(
        action: &'static str,
        map: &'static str,
    ) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map { action, map, source }
    }
}
