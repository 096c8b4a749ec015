//! The parts of a release that other programs make.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use super::{Stamp, VERSION, directory};
use crate::{build, command, workspace::Workspace};

/// The list of all the others.
pub const SUMS: &str = "SHA256SUMS";

/// How carefully a package is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// To be looked at.
    Check,
    /// To be downloaded.
    Release,
}

/// Packs the Debian package of what was built into this target directory. Returns it.
pub fn deb(
    workspace: &Workspace,
    cargo_deb: &Path,
    built: &Path,
    stamp: &Stamp,
    extent: Extent,
) -> anyhow::Result<PathBuf> {
    let directory = directory(workspace);
    let mut deb = Command::new(cargo_deb);
    deb.current_dir(workspace.root()).env("CARGO_TARGET_DIR", built);
    deb.args(["--no-build", "--locked", "--quiet", "--package", build::GUARD, "--strip"]);
    if extent == Extent::Check {
        deb.arg("--fast");
    }
    deb.arg("--output").arg(&directory);
    command::run(stamp.applied_to(&mut deb)).context("the Debian package")?;
    let mut found = fs::read_dir(&directory)?.flatten().map(|entry| entry.path());
    found
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("cargo-deb has made no package")
}

/// Everything that the program contains, in CycloneDX's form.
pub fn bill_of_materials(
    workspace: &Workspace,
    cyclonedx: &Path,
    stamp: &Stamp,
) -> anyhow::Result<()> {
    // It writes beside the manifest of each member.
    const NAME: &str = "bill-of-materials";
    let mut list = Command::new(cyclonedx);
    list.current_dir(workspace.root()).arg("cyclonedx");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    list.args(["--format", "json", "--spec-version", "1.5", "--target", &target]);
    list.args([
        "--no-build-deps",
        "--quiet",
        "--override-filename",
        NAME,
        "--manifest-path",
        "ollama-guard/Cargo.toml",
    ]);
    command::run(stamp.applied_to(&mut list)).context("the bill of materials")?;
    let mut list = None;
    for entry in fs::read_dir(workspace.root())?.flatten() {
        let written = entry.path().join(NAME).with_extension("json");
        if !written.is_file() {
            continue;
        }
        if entry.file_name() == build::GUARD {
            // Names of our own crates have the place of the work tree in them.
            let place = format!("file://{}/", workspace.root().display());
            list = Some(fs::read_to_string(&written)?.replace(&place, "file:///"));
        }
        fs::remove_file(&written)?;
    }
    let list = list.context("cargo-cyclonedx has written nothing")?;
    let file = directory(workspace).join(format!("{}-{VERSION}.cdx.json", build::GUARD));
    fs::write(&file, list).with_context(|| format!("could not write {}", file.display()))
}

/// The list of hashes, to be checked by `sha256sum --check`.
pub fn sums(directory: &Path) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name());
    }
    names.sort();
    ensure!(!names.is_empty(), "{} is empty", directory.display());
    let mut sum = Command::new("sha256sum");
    let text = command::output(sum.current_dir(directory).arg("--").args(names))?;
    fs::write(directory.join(SUMS), text).context("the list of hashes")
}
