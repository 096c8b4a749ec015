//! `cargo xtask dist`: everything of a release, into `target/dist`.
//!
//! The same commit gives the same bytes wherever and whenever it is built, by the same compilers: the places
//! of work tree and registry are kept out of the program, and every time is the commit's. `same_elsewhere`
//! builds all of it a second time, in another directory, and compares.

mod archive;
mod pages;
mod parts;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

pub use parts::{Extent, deb};

use crate::{
    build, command,
    compiler::{KernelCompiler, remapped_paths},
    elsewhere,
    setup::{
        self, Needs,
        tools::{self, CARGO_CYCLONEDX, CARGO_DEB},
    },
    workspace::Workspace,
};

/// The version of everything in the work tree.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Which sources these are.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// The commit, with a word if the work tree is not as it is there.
    pub commit: String,
    /// Its time, in seconds since 1970: every time in what is built.
    pub time: String,
}

impl Stamp {
    /// Of the work tree as it is.
    pub fn of(workspace: &Workspace) -> anyhow::Result<Self> {
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            command::output(git.current_dir(workspace.root()).args(arguments))
                .map(|text| text.trim().to_owned())
                .context("a release takes its commit and its time from git")
        };
        let mut commit = git(&["rev-parse", "--short=12", "HEAD"])?;
        if !git(&["status", "--porcelain"])?.is_empty() {
            println!("dist: the work tree is not as it was committed: this is no release");
            commit.push_str("-modified");
        }
        Ok(Self { commit, time: git(&["log", "-1", "--format=%ct"])? })
    }

    /// A command that is told the time.
    pub fn applied_to<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("SOURCE_DATE_EPOCH", &self.time).env("TZ", "UTC").env("LC_ALL", "C.UTF-8")
    }
}

/// Builds the release and says what came out.
pub fn dist(workspace: &Workspace) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::BUILD)?;
    let stamp = Stamp::of(workspace)?;
    make(workspace, workspace, &compiler, &stamp)?;
    print!("{}", fs::read_to_string(directory(workspace).join(parts::SUMS))?);
    println!("dist: in {}", directory(workspace).display());
    Ok(())
}

/// Builds the release once more, in another directory, and compares every byte with the first.
pub fn same_elsewhere(workspace: &Workspace, compiler: &KernelCompiler) -> anyhow::Result<()> {
    let stamp = Stamp::of(workspace)?;
    make(workspace, workspace, compiler, &stamp)?;
    let other = elsewhere::copy(workspace)?;
    make(workspace, &other, compiler, &stamp)?;
    let files = |workspace: &Workspace| -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory(workspace))? {
            let entry = entry?;
            if entry.path().is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                files.push((name, fs::read(entry.path())?));
            }
        }
        files.sort();
        Ok(files)
    };
    let (here, there) = (files(workspace)?, files(&other)?);
    let names = |files: &[(String, Vec<u8>)]| -> Vec<String> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    ensure!(names(&here) == names(&there), "{:?} and {:?}", names(&here), names(&there));
    let differ: Vec<_> =
        here.iter().zip(&there).filter(|(a, b)| a != b).map(|(a, _)| &a.0).collect();
    ensure!(
        differ.is_empty(),
        "the same sources gave two releases: {differ:?} differ between {} and {}",
        directory(workspace).display(),
        directory(&other).display()
    );
    println!("dist: {} files, the same in {}", here.len(), other.root().display());
    Ok(())
}

/// Where a release is put.
pub fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target().join("dist")
}

/// Writes what the package takes out of the sources, beside what was built by another verb.
pub fn pages(workspace: &Workspace, stamp: &Stamp) -> anyhow::Result<()> {
    let directory = directory(workspace);
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            fs::remove_file(entry.path())?;
        }
    }
    pages::write(workspace, &directory.join(pages::DIRECTORY), stamp)
}

/// Builds all parts of one work tree, with the tools of another.
fn make(
    tools: &Workspace,
    workspace: &Workspace,
    compiler: &KernelCompiler,
    stamp: &Stamp,
) -> anyhow::Result<()> {
    let cargo_deb = tools::ensure(tools, &CARGO_DEB)?;
    let cyclonedx = tools::ensure(tools, &CARGO_CYCLONEDX)?;
    let directory = directory(workspace);
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("could not remove {}", directory.display()))?;
    }
    fs::create_dir_all(&directory)?;
    build::kernel_side(workspace, compiler)?;
    let built = program(workspace, stamp)?;
    pages::write(tools, &directory.join(pages::DIRECTORY), stamp)?;
    deb(workspace, &cargo_deb, &built, stamp, Extent::Release)?;
    archive::write(workspace, &built, stamp)?;
    parts::bill_of_materials(workspace, &cyclonedx, stamp)?;
    fs::remove_dir_all(directory.join(pages::DIRECTORY))?;
    parts::sums(&directory)
}

/// Builds the program as it is released. Returns the target directory.
fn program(workspace: &Workspace, stamp: &Stamp) -> anyhow::Result<PathBuf> {
    let target = workspace.target().join("dist-build");
    let mut cargo = workspace.bare_cargo();
    cargo.args([
        "build",
        "--locked",
        "--release",
        "--package",
        build::GUARD,
        "--bin",
        build::GUARD,
    ]);
    cargo.arg("--target-dir").arg(&target);
    // Takes precedence over RUSTFLAGS and over flags from a configuration of the caller's.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", remapped_paths(workspace).join("\x1f"));
    cargo.env("OLLAMA_GUARD_BPF_OBJECT", workspace.bpf_object());
    cargo.env("OLLAMA_GUARD_COMMIT", &stamp.commit);
    for variable in ["RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(variable);
    }
    command::run(stamp.applied_to(&mut cargo)).context("the program as it is released")?;
    Ok(target)
}

/// The finished program in such a target directory.
fn program_in(target: &Path) -> PathBuf {
    target.join("release").join(build::GUARD)
}
