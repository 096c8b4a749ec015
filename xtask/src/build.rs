//! `cargo xtask build`: the kernel program, then the user side with the program embedded.

use std::{fs, path::Path, process::Command, time::Instant};

use anyhow::{Context as _, ensure};

use crate::{
    command,
    compiler::{BPF_TARGET, KernelCompiler},
    setup::{self, Needs},
    workspace::{KERNEL_PACKAGE, Workspace},
};

/// How the user side is built. The kernel side is always optimised: the verifier refuses less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Optimised, into `target/release`.
    Release,
    /// Quickly, into `target/debug`.
    Debug,
}

impl Profile {
    /// Where cargo puts what it has built so.
    pub const fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
        }
    }
}

/// The program of the user side.
pub const GUARD: &str = "ollama-guard";

/// Sets up, builds both sides, and says what came out.
pub fn build(workspace: &Workspace, profile: Profile) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::BUILD)?;
    both_sides(workspace, &compiler, profile, &[])
}

/// Builds both sides, and these programs of the tests.
pub fn both_sides(
    workspace: &Workspace,
    compiler: &KernelCompiler,
    profile: Profile,
    others: &[&str],
) -> anyhow::Result<()> {
    kernel_side(workspace, compiler)?;
    user_side(workspace, profile, others)
}

/// Builds the kernel program and puts it where the user side looks for it.
pub fn kernel_side(workspace: &Workspace, compiler: &KernelCompiler) -> anyhow::Result<()> {
    let start = Instant::now();
    let size = kernel_program(workspace, compiler, KERNEL_PACKAGE, &workspace.bpf_object())?;
    println!(
        "build: target/bpf/ollama-guard.bpf.o, {size} bytes, {:.1} s",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Builds one program of the kernel side's package, and puts it where it is looked for. Returns its
/// size in bytes.
pub fn kernel_program(
    workspace: &Workspace,
    compiler: &KernelCompiler,
    name: &str,
    to: &Path,
) -> anyhow::Result<usize> {
    let mut cargo = compiler.cargo_build(workspace);
    command::run(cargo.args(["--package", KERNEL_PACKAGE, "--bin", name]))
        .context("the kernel side")?;
    let built = workspace.bpf_target().join(BPF_TARGET).join("release").join(name);
    let object = fs::read(&built).with_context(|| format!("could not read {}", built.display()))?;
    ensure!(!object.is_empty(), "the kernel object {} is empty", built.display());
    write_if_different(to, &object)?;
    Ok(object.len())
}

/// An unchanged file keeps its time stamp, so that what is built of it is not built again.
pub fn write_if_different(file: &Path, content: &[u8]) -> anyhow::Result<()> {
    if fs::read(file).is_ok_and(|old| old == content) {
        return Ok(());
    }
    // Renamed into place: an interrupted write must not leave half a file to build from.
    let half = file.with_added_extension("new");
    fs::write(&half, content).with_context(|| format!("could not write {}", half.display()))?;
    fs::rename(&half, file).with_context(|| format!("could not write {}", file.display()))
}

/// Builds the user side with the finished kernel object embedded, and these programs of the tests:
/// optimised, they take longer than the guard itself.
pub fn user_side(workspace: &Workspace, profile: Profile, others: &[&str]) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut cargo = user_side_call(workspace, profile, &workspace.target());
    for program in others {
        cargo.args(["--bin", program]);
    }
    command::run(&mut cargo).context("the user side")?;
    let dir = profile.directory();
    println!("build: target/{dir}/ollama-guard, {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The call of cargo that builds the guard with the finished kernel object embedded. What comes out is put into
/// this directory; all that is compiled on the way is in the one that everything shares.
pub fn user_side_call(workspace: &Workspace, profile: Profile, to: &Path) -> Command {
    let mut cargo = workspace.bare_cargo();
    cargo.arg("build").arg("--target-dir").arg(to);
    // As members of one workspace, so that no dependency is compiled twice with different features.
    cargo
        .args(["--workspace", "--exclude", KERNEL_PACKAGE, "--exclude", "xtask", "--bin", GUARD])
        .env("CARGO_BUILD_BUILD_DIR", workspace.target())
        .env("OLLAMA_GUARD_BPF_OBJECT", workspace.bpf_object());
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    cargo
}
