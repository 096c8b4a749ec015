//! `cargo xtask image`: the container image, as an OCI archive in `target/dist`.
//!
//! One static program and nothing else. The same commit gives the same bytes by the same compilers and the same
//! podman: the program is built as a release is, every time is the commit's, and the archive is packed by tar,
//! because podman's own has the time of packing in it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::{
    build::{self, Profile},
    command,
    compiler::{KernelCompiler, remapped_paths},
    dist::{self, Stamp, VERSION},
    elsewhere, podman,
    setup::{self, Needs},
    workspace::Workspace,
};

/// What the image may be in bytes: a node pulls it before it is guarded.
const MOST_BYTES: u64 = 15_000_000;

/// What the program needs of the processor's family that another one's build would have, too.
const STATIC: &str = "-Ctarget-feature=+crt-static";

/// Builds it, as it is released or quickly, and says what came out.
pub fn image(workspace: &Workspace, quick: bool) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::BUILD)?;
    if !quick {
        return make(workspace, &compiler).map(drop);
    }
    build::kernel_side(workspace, &compiler)?;
    check(workspace).map(drop)
}

/// Builds it. Returns the archive.
pub fn make(workspace: &Workspace, compiler: &KernelCompiler) -> anyhow::Result<PathBuf> {
    make_of(workspace, workspace, compiler, VERSION)
}

/// Packs one for tests around a program that shares what was compiled for them: no release, but static and optimised
/// as one. It takes a minute instead of seven, and may be one of a work tree that is not committed.
pub fn check(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let podman = podman::ensure(workspace)?;
    let stamp = Stamp::of(workspace)?;
    let program = program_of_the_tests(workspace)?;
    pack(workspace, &podman, &program, VERSION, &stamp)
}

/// Builds one of the next version, whose maps have another layout, for tests. It is called `next`.
pub fn make_next(workspace: &Workspace, compiler: &KernelCompiler) -> anyhow::Result<PathBuf> {
    make_of(workspace, &elsewhere::next_version(workspace)?, compiler, "next")
}

/// Builds the one of `sources` with the tools of `workspace`.
fn make_of(
    workspace: &Workspace,
    sources: &Workspace,
    compiler: &KernelCompiler,
    version: &str,
) -> anyhow::Result<PathBuf> {
    let podman = podman::ensure(workspace)?;
    let stamp = Stamp::of(workspace)?;
    build::kernel_side(sources, compiler)?;
    let program = program(workspace, sources, &stamp)?;
    pack(sources, &podman, &program, version, &stamp)
}

/// The program, static and without symbols: there is nothing in the image that could read them.
fn program(workspace: &Workspace, sources: &Workspace, stamp: &Stamp) -> anyhow::Result<PathBuf> {
    let target = sources.target().join("image-build");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = sources.bare_cargo();
    cargo.args([
        "build",
        "--locked",
        "--release",
        "--package",
        build::GUARD,
        "--bin",
        build::GUARD,
    ]);
    // Said although it is this machine's: the flags are then not those of build scripts and macros.
    cargo.args(["--target", &triple]).arg("--target-dir").arg(&target);
    // Dependencies are the same and are not compiled once more; what comes out is kept apart.
    cargo.env("CARGO_BUILD_BUILD_DIR", workspace.target().join("image-build"));
    let mut flags = remapped_paths(workspace);
    flags.push(STATIC.to_owned());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    cargo.env("OLLAMA_GUARD_BPF_OBJECT", sources.bpf_object());
    cargo.env("OLLAMA_GUARD_COMMIT", &stamp.commit);
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    for variable in ["RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(variable);
    }
    command::run(stamp.applied_to(&mut cargo)).context("the program of the image")?;
    ensure_static(target.join(triple).join("release").join(build::GUARD))
}

/// The same out of the dependencies that the user side was built with. What makes a program static concerns its own
/// crate and the linker only, so a wrapper of the compiler says it for that one.
fn program_of_the_tests(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let target = workspace.target().join("image-check");
    let wrapper = target.join("static-rustc");
    fs::create_dir_all(&target)?;
    // Cargo also asks the compiler what programs are like here: those calls are for a crate of another name.
    let guard = build::GUARD.replace('-', "_");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n*\"--crate-name {guard} \"*\"--crate-type bin \"*)\n  \
         set -- \"$@\" {STATIC} -Cstrip=symbols ;;\nesac\nexec \"$@\"\n"
    );
    build::write_if_different(&wrapper, script.as_bytes())?;
    fs::set_permissions(&wrapper, Permissions::from_mode(0o755))?;
    let mut cargo = build::user_side_call(workspace, Profile::Release, &target);
    cargo.env("RUSTC_WORKSPACE_WRAPPER", &wrapper);
    command::run(&mut cargo).context("the program of an image for tests")?;
    ensure_static(target.join(Profile::Release.directory()).join(build::GUARD))
}

/// The program, if it is.
fn ensure_static(program: PathBuf) -> anyhow::Result<PathBuf> {
    let bytes = fs::read(&program).with_context(|| program.display().to_string())?;
    ensure!(!asks_for_a_loader(&bytes), "{} is not static", program.display());
    Ok(program)
}

/// Whether an ELF program names a dynamic loader (PT_INTERP), which an empty image does not have.
fn asks_for_a_loader(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = elf.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    // Elf64_Ehdr: e_phoff, e_phentsize, e_phnum.
    let headers = (|| Some((number(32, 8)?, number(54, 2)?, number(56, 2)?)))();
    let Some((start, size, count)) = headers else { return true };
    (0..count).any(|index| number(start + index * size, 4) == Some(PT_INTERP as usize))
}

/// Builds the image of the finished program, and packs it.
fn pack(
    workspace: &Workspace,
    podman: &Path,
    program: &Path,
    version: &str,
    stamp: &Stamp,
) -> anyhow::Result<PathBuf> {
    let work = workspace.target().join("image");
    if work.exists() {
        fs::remove_dir_all(&work)
            .with_context(|| format!("could not remove {}", work.display()))?;
    }
    let context = work.join("context");
    fs::create_dir_all(&context)?;
    fs::copy(program, context.join(build::GUARD))?;
    let containerfile = workspace.root().join("ollama-guard/deploy/container/Containerfile");
    let name = format!("localhost/{}:{version}", build::GUARD);
    let created = command::output(
        Command::new("date")
            .args(["--utc", "+%Y-%m-%dT%H:%M:%SZ", "--date"])
            .arg(format!("@{}", stamp.time)),
    )?;
    let called = || {
        let mut command = Command::new(podman);
        command.arg("--root").arg(work.join("storage")).arg("--runroot").arg(work.join("run"));
        command.arg("--tmpdir").arg(work.join("tmp"));
        command
    };
    let mut build = called();
    build.args(["build", "--quiet", "--format", "oci", "--timestamp", &stamp.time, "--tag", &name]);
    for (key, value) in
        [("VERSION", version), ("COMMIT", &stamp.commit), ("CREATED", created.trim())]
    {
        build.arg("--build-arg").arg(format!("{key}={value}"));
    }
    command::run_quietly(build.arg("--file").arg(containerfile).arg(&context))
        .context("the image")?;
    let layout = work.join("layout");
    command::run_quietly(
        called()
            .args(["save", "--quiet", "--format", "oci-dir", "--output"])
            .arg(&layout)
            .arg(&name),
    )?;
    let index = fs::read_to_string(layout.join("index.json"))?;
    ensure!(index.contains(&name), "without its name no runtime imports it: {index}");
    let directory = dist::directory(workspace);
    fs::create_dir_all(&directory)?;
    let archive =
        directory.join(format!("{}-{version}-{}.oci.tar", build::GUARD, std::env::consts::ARCH));
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--format=gnu",
        "--mode=go-w",
    ]);
    tar.args(["--mtime", &format!("@{}", stamp.time), "--create", "--file"]).arg(&archive);
    command::run(tar.arg("--directory").arg(&layout).arg("."))?;
    let size = fs::metadata(&archive)?.len();
    ensure!(size < MOST_BYTES, "{} has {size} bytes, and may have {MOST_BYTES}", archive.display());
    command::run_quietly(called().args(["image", "rm", "--force", &name]))?;
    fs::remove_dir_all(&work)?;
    println!("image: {}, {size} bytes, {name}", archive.display());
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_wants_a_loader_is_told_from_one_that_does_not() {
        // This test's own program is linked dynamically.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(asks_for_a_loader(&own));
        let mut none = own.clone();
        none[56..58].copy_from_slice(&[0, 0]);
        assert!(!asks_for_a_loader(&none));
        assert!(asks_for_a_loader(b"not a program"));
    }
}
