//! Programs of cargo that only this project's verbs call, and what they need to be built.
//!
//! They go into `target/tools`, built by and belonging to the caller, each at a pinned version.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};

use super::{apt::Apt, say};
use crate::{
    command::{Elevation, ask, find_program, run},
    workspace::Workspace,
};

/// A program of cargo.
pub struct Tool {
    /// Its name, as a package and as a program.
    name: &'static str,
    /// The version that this project uses.
    version: &'static str,
    /// What it is for, and how long its build takes.
    purpose: &'static str,
}

/// Checks what the project depends on.
pub const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    purpose: "licences, sources and known holes of the dependencies (about 1 minute on two cores)",
};

/// Packs the Debian package.
pub const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    version: "3.8.0",
    purpose: "packs the Debian package (about 1 minute on two cores)",
};

/// Lists everything that the program contains.
pub const CARGO_CYCLONEDX: Tool = Tool {
    name: "cargo-cyclonedx",
    version: "0.5.9",
    purpose: "the list of everything in the program (about half a minute on two cores)",
};

/// Builds and runs fuzz targets.
pub const CARGO_FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: "0.13.2",
    purpose: "builds and runs the fuzz targets (about half a minute on two cores)",
};

/// Builds the tool unless it is there, and returns its path.
pub fn ensure(workspace: &Workspace, tool: &Tool) -> anyhow::Result<PathBuf> {
    let root = workspace.target().join("tools");
    let program = root.join("bin").join(tool.name);
    if tool.is_right(&program) {
        return Ok(program);
    }
    say(&format!(
        "cargo install {} {} into target/tools: {}",
        tool.name, tool.version, tool.purpose
    ));
    let build = root.join("build");
    let mut install = workspace.bare_cargo();
    install
        .args(["install", tool.name, "--version", tool.version, "--locked", "--force", "--quiet"])
        .arg("--root")
        .arg(&root)
        .arg("--target-dir")
        .arg(&build)
        // They run for seconds at most: what they cost is their build.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "false")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env_remove("RUSTC")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    run(&mut install).with_context(|| format!("{} could not be built", tool.name))?;
    fs::remove_dir_all(&build).with_context(|| format!("could not remove {}", build.display()))?;
    ensure!(
        tool.is_right(&program),
        "{} was built but does not start; see what `{0} --version` says",
        program.display()
    );
    Ok(program)
}

impl Tool {
    fn is_right(&self, program: &PathBuf) -> bool {
        // Some of them know their version only where cargo would call them.
        let verb = self.name.strip_prefix("cargo-").unwrap_or_default();
        [&["--version"][..], &[verb, "--version"]].into_iter().any(|words| {
            let answer = ask(Command::new(program).args(words)).unwrap_or_default();
            answer.split_whitespace().last() == Some(self.version)
        })
    }
}

/// Installs a Debian package unless the program that it is wanted for is there.
pub fn ensure_package(program: &str, package: &'static str, purpose: &str) -> anyhow::Result<()> {
    if find_program(program).is_some() {
        return Ok(());
    }
    let elevation = Elevation::detect();
    let apt = Apt::find().filter(|_| elevation != Elevation::Impossible).with_context(|| {
        format!("`{program}` is missing ({purpose}); on Debian, as root: apt-get install {package}")
    })?;
    apt.update(elevation)?;
    apt.install(elevation, &[package], purpose)
}
