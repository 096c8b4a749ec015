//! Programs of Debian packages that would start a service, or change how the machine runs containers, if they
//! were installed.
//!
//! They are fetched by the system's own apt and unpacked into `target/tools/`: nothing is installed,
//! started or enabled, no user is made, and no port is taken. It needs no root, but for package lists
//! that are not there.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use super::{apt::Apt, say};
use crate::{
    command::{self, Elevation, find_program},
    workspace::Workspace,
};

/// Packages of which only the programs are wanted.
pub struct Unpacked {
    /// The directory that they go into, in `target/tools`.
    name: &'static str,
    /// The packages, each by its names in different suites: the first that is offered is taken.
    packages: &'static [&'static [&'static str]],
    /// The programs that are called.
    programs: &'static [&'static str],
    /// Whether programs on the path do as well.
    may_be_the_systems: bool,
    /// What they are for.
    purpose: &'static str,
}

/// A real Prometheus, to scrape the daemon and to run every query of alerts and dashboard.
pub const PROMETHEUS: Unpacked = Unpacked {
    name: "prometheus",
    packages: &[&["prometheus"]],
    programs: &["usr/bin/prometheus", "usr/bin/promtool"],
    may_be_the_systems: true,
    purpose: "scrapes the daemon and tries alerts and dashboard; 19 MB to fetch",
};

/// What builds the image and runs it, with the libraries that a bare system lacks.
pub const PODMAN: Unpacked = Unpacked {
    name: "podman",
    packages: &[
        &["podman"],
        &["conmon"],
        &["runc"],
        &["catatonit"],
        &["golang-github-containers-common"],
        &["golang-github-containers-image"],
        &["libsubid4", "libsubid5"],
        &["libgpgme11", "libgpgme11t64"],
        &["libassuan0", "libassuan9"],
        &["libglib2.0-0", "libglib2.0-0t64"],
        &["libseccomp2"],
    ],
    programs: &["usr/bin/podman", "usr/bin/conmon", "usr/sbin/runc", "usr/bin/catatonit"],
    may_be_the_systems: false,
    purpose: "builds the image and runs it in the tests; 16 MB to fetch",
};

/// Fetches and unpacks the packages, unless their programs are there. Returns where.
pub fn ensure(workspace: &Workspace, wanted: &Unpacked) -> anyhow::Result<PathBuf> {
    let Unpacked { name, packages, programs, may_be_the_systems, purpose } = wanted;
    let root = workspace.target().join("tools").join(name);
    let is_there = |program: &&str| {
        let name = program.rsplit('/').next().unwrap_or_default();
        (*may_be_the_systems && find_program(name).is_some()) || root.join(program).is_file()
    };
    if programs.iter().all(is_there) {
        return Ok(root);
    }
    let Some(apt) = Apt::find().filter(|_| find_program("dpkg-deb").is_some()) else {
        bail!("{} are missing ({purpose}): this takes apt-get and dpkg-deb", programs.join(", "));
    };
    say(&format!("apt-get download {name}, unpacked into target/tools/{name}: {purpose}"));
    let fetched = workspace.target().join("tools").join(format!("{name}.fetched"));
    clear(&fetched)?;
    // Under another name first: what is half unpacked must not pass for the whole.
    let partial = fetched.join("root");
    let mut has_updated = false;
    for (number, names) in packages.iter().enumerate() {
        let place = fetched.join(number.to_string());
        fs::create_dir_all(&place)?;
        let mut result = download_any(names, &place);
        if result.is_err() && !has_updated {
            // Mostly for want of package lists.
            has_updated = true;
            apt.update(Elevation::detect())?;
            result = download_any(names, &place);
        }
        result?;
        let archive = archive_in(&place)?;
        command::run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&partial))?;
    }
    clear(&root)?;
    fs::rename(&partial, &root).with_context(|| format!("making {}", root.display()))?;
    clear(&fetched)?;
    ensure!(programs.iter().all(is_there), "the packages of {name} lack one of {programs:?}");
    Ok(root)
}

/// Downloads the first of these that the package sources have.
fn download_any(names: &[&str], directory: &Path) -> anyhow::Result<()> {
    let mut result = Ok(());
    for name in names {
        result = download(name, directory);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn download(package: &str, directory: &Path) -> anyhow::Result<()> {
    let mut apt = Command::new("apt-get");
    // The user that apt downloads as by default may not write into our directory.
    apt.args(["-qq", "-o", "APT::Sandbox::User=root", "download", package]);
    command::run_quietly(apt.current_dir(directory))
}

/// The one archive in a directory.
fn archive_in(directory: &Path) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let mut magic = [0; 8];
        // An ar archive, which a Debian package is (deb(5)).
        if File::open(&path)?.read_exact(&mut magic).is_ok() && &magic == b"!<arch>\n" {
            return Ok(path);
        }
    }
    bail!("apt-get download left no package in {}", directory.display())
}

fn clear(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_told_from_what_else_lies_there() {
        let directory =
            std::env::temp_dir().join(format!("ollama-guard-unpacked-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("partial"), "!<ar").unwrap();
        assert!(archive_in(&directory).is_err());
        let package = directory.join("p.deb");
        fs::write(&package, "!<arch>\ndebian-binary").unwrap();
        assert_eq!(archive_in(&directory).unwrap(), package);
        clear(&directory).unwrap();
        clear(&directory).unwrap();
    }
}
