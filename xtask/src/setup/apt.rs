//! Debian's package manager: what its sources offer, and installing.

use std::{ffi::OsStr, fs, path::PathBuf, process::Command};

use super::{run_elevated, say};
use crate::command::{Elevation, ask, find_program};

/// What the kernel side's compiler is called in a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelPackages {
    /// The compiler; brings libLLVM.
    pub rustc: &'static str,
    /// The prebuilt core library for the BPF target.
    pub core: &'static str,
    /// The linter of the same version.
    pub clippy: &'static str,
}

impl KernelPackages {
    /// The second, newer Rust that stable suites carry for building browsers.
    pub const WEB: Self =
        Self { rustc: "rustc-web", core: "libstd-rust-web-dev-bpf", clippy: "rust-web-clippy" };
    /// The only Rust of sid and of suites made from it.
    pub const MAIN: Self =
        Self { rustc: "rustc", core: "libstd-rust-dev-bpf", clippy: "rust-clippy" };

    /// What the configured sources offer.
    pub fn offered(apt: &Apt) -> Option<Self> {
        [Self::WEB, Self::MAIN].into_iter().find(|packages| apt.offers(packages.core))
    }

    /// What this release ought to offer: for a message, where the package lists are not there.
    pub fn of_this_release() -> Self {
        Self::of_release(&fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    fn of_release(os_release: &str) -> Self {
        // sid and the next release call themselves the same and have no VERSION_ID.
        let released = os_release.lines().any(|line| line.starts_with("VERSION_ID="));
        if released { Self::WEB } else { Self::MAIN }
    }
}

/// apt-get and its companions.
pub struct Apt {
    policy: PathBuf,
}

impl Apt {
    /// Nothing on a system without it.
    pub fn find() -> Option<Self> {
        find_program("apt-get")?;
        Some(Self { policy: find_program("apt-cache")? })
    }

    fn offers(&self, package: &str) -> bool {
        let policy = ask(Command::new(&self.policy).args(["policy", package]).env("LC_ALL", "C"));
        policy.is_some_and(|text| has_candidate(&text))
    }

    /// Fetches the package lists. A source that cannot be reached is no reason to stop: the
    /// packages may come from another.
    pub fn update(&self, elevation: Elevation) -> anyhow::Result<()> {
        say("apt-get update: the lists of available packages (about 5 s)");
        if let Err(error) = apt_get(elevation, &["-qq", "update"]) {
            say(&format!("{error:#}; going on with the lists that are there"));
        }
        Ok(())
    }

    /// Installs exactly these packages and what they depend on.
    pub fn install(
        &self,
        elevation: Elevation,
        packages: &[&str],
        purposes: &str,
    ) -> anyhow::Result<()> {
        let list = packages.join(" ");
        say(&format!("apt-get install {list}: {purposes} (about 30 s)"));
        // Somebody's own packages are never removed to make room for ours.
        let mut words = vec!["-qq", "install", "-y", "--no-install-recommends", "--no-remove"];
        words.extend(packages);
        apt_get(elevation, &words).map_err(|error| match in_the_way(packages) {
            gone if gone.is_empty() => error,
            gone => error.context(format!(
                "{list} can't be installed beside {gone} of the versions that are here, and \
                 nothing of yours is removed for it: if you can do without, call \
                 `apt-get remove {gone}` and try again"
            )),
        })
    }
}

/// The packages that would have to go.
fn in_the_way(packages: &[&str]) -> String {
    let mut simulated = Command::new("apt-get");
    simulated.args(["--simulate", "install", "--no-install-recommends"]).args(packages);
    removed(&ask(simulated.env("LC_ALL", "C")).unwrap_or_default())
}

/// The names in the lines `Remv NAME [VERSION]` of a simulation.
fn removed(simulation: &str) -> String {
    let names = simulation.lines().filter_map(|line| line.strip_prefix("Remv ")?.split(' ').next());
    names.collect::<Vec<_>>().join(" ")
}

fn apt_get(elevation: Elevation, arguments: &[&str]) -> anyhow::Result<()> {
    let mut words = vec!["apt-get"];
    words.extend(arguments);
    let quiet = OsStr::new("noninteractive");
    run_elevated(elevation, &words, &[("DEBIAN_FRONTEND", quiet)])
}

/// Whether `apt-cache policy PACKAGE` names a version that can be installed.
fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("Candidate:"))
        .is_some_and(|version| version.trim() != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_with_a_candidate_is_offered() {
        let text = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1\n";
        assert!(has_candidate(text));
    }

    #[test]
    fn packages_that_stand_in_the_way_are_named() {
        let text = "Remv qemu-utils [1:10.0.2]\nInst qemu-system-x86 (1:7.2 Debian [amd64])\n\
            Remv other [2]\nConf qemu-system-x86 (1:7.2 Debian [amd64])\n";
        assert_eq!(removed(text), "qemu-utils other");
        assert_eq!(removed("Inst qemu-system-x86 (1:7.2 Debian [amd64])\n"), "");
    }

    #[test]
    fn a_package_without_a_candidate_or_that_is_unknown_is_not() {
        assert!(!has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }

    #[test]
    fn a_release_has_the_second_rust_and_sid_only_one() {
        let trixie = "ID=debian\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\n";
        assert_eq!(KernelPackages::of_release(trixie), KernelPackages::WEB);
        let sid = "ID=debian\nVERSION_CODENAME=forky\n";
        assert_eq!(KernelPackages::of_release(sid), KernelPackages::MAIN);
    }
}
