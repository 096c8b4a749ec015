//! Programs of Debian packages that would start a service if they were installed.
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

/// A package of which only the programs are wanted.
pub struct Unpacked {
    /// The package.
    package: &'static str,
    /// Its programs that are called.
    programs: &'static [&'static str],
    /// What they are for.
    purpose: &'static str,
}

/// A real Prometheus, to scrape the daemon and to run every query of alerts and dashboard.
pub const PROMETHEUS: Unpacked = Unpacked {
    package: "prometheus",
    programs: &["prometheus", "promtool"],
    purpose: "scrapes the daemon and tries alerts and dashboard; 19 MB to fetch",
};

/// Fetches and unpacks the package, unless its programs are on the path or were unpacked before.
pub fn ensure(workspace: &Workspace, wanted: &Unpacked) -> anyhow::Result<()> {
    let Unpacked { package, programs, purpose } = wanted;
    let root = workspace.target().join("tools").join(package);
    let is_there = |program: &&str| {
        find_program(program).is_some() || root.join("usr/bin").join(program).is_file()
    };
    if programs.iter().all(is_there) {
        return Ok(());
    }
    let Some(apt) = Apt::find().filter(|_| find_program("dpkg-deb").is_some()) else {
        bail!("{} are missing ({purpose}): put them on the path", programs.join(" and "));
    };
    say(&format!("apt-get download {package}, unpacked into target/tools/{package}: {purpose}"));
    let fetched = workspace.target().join("tools").join(format!("{package}.fetched"));
    clear(&fetched)?;
    fs::create_dir_all(&fetched)?;
    if download(package, &fetched).is_err() {
        // Mostly for want of package lists.
        apt.update(Elevation::detect())?;
        download(package, &fetched)?;
    }
    let archive = archive_in(&fetched)?;
    // Under another name first: what is half unpacked must not pass for the whole.
    let partial = fetched.join("root");
    command::run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&partial))?;
    clear(&root)?;
    fs::rename(&partial, &root).with_context(|| format!("making {}", root.display()))?;
    clear(&fetched)?;
    ensure!(programs.iter().all(is_there), "the package {package} lacks one of {programs:?}");
    Ok(())
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
