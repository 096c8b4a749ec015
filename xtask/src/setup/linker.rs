//! bpf-linker, which turns the compiler's bitcode into a BPF object.
//!
//! It is linked to the very LLVM library of the kernel side's compiler. Its build asks only for a
//! directory whose `lib/` holds a link named `libLLVM.so`, so no development packages are needed.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use super::say;
use crate::{
    command::{ask, find_program, run},
    compiler::KernelCompiler,
    workspace::Workspace,
};

/// The version that this project is built with.
pub const LINKER_VERSION: &str = "0.13.0";

/// Builds the linker unless it is there, works, and fits the compiler.
pub fn ensure(workspace: &Workspace, compiler: &KernelCompiler) -> anyhow::Result<()> {
    let feature = compiler.version.linker_feature()?;
    let tools = workspace.bpf_tools();
    let (program, lib) = (tools.join("bin/bpf-linker"), tools.join("llvm/lib"));
    if is_right(&program, &lib, &compiler.llvm_library) {
        return Ok(());
    }
    ensure!(
        find_program("cc").is_some(),
        "building bpf-linker needs a C compiler as the linker of Rust programs, and there is no \
         `cc`; on Debian, as root, type:\n\n    apt-get install -y gcc libc6-dev\n\nThen call me again."
    );
    say(&format!(
        "cargo install bpf-linker {LINKER_VERSION} into target/bpf-tools: links the kernel \
         program (about 1 minute on two cores)"
    ));
    // If this is interrupted, the old program must not pass for one of the new library.
    remove(&program)?;
    remove_tree(&tools.join("llvm"))?;
    link_llvm(&lib, &compiler.llvm_library)?;
    let build = tools.join("build");
    let mut install = workspace.bare_cargo();
    install
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--quiet", "--no-default-features", "--features", &feature])
        .arg("--root")
        .arg(tools)
        .arg("--target-dir")
        .arg(&build)
        .env("LLVM_PREFIX", tools.join("llvm"))
        .env_remove("RUSTC")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    run(&mut install).context("bpf-linker could not be built")?;
    // 300 MB that nobody needs again.
    remove_tree(&build)?;
    ensure!(
        is_right(&program, &lib, &compiler.llvm_library),
        "{} was built but does not start; see what `{0} --version` says",
        program.display()
    );
    Ok(())
}

/// The link to the library is also the record of what the program was linked to.
fn is_right(program: &Path, lib: &Path, library: &Path) -> bool {
    fs::read_link(lib.join("libLLVM.so")).is_ok_and(|linked| linked == library)
        && library.exists()
        && ask(Command::new(program).arg("--version")).is_some_and(|text| is_version(&text))
}

fn is_version(text: &str) -> bool {
    text.split_whitespace().eq(["bpf-linker", LINKER_VERSION])
}

/// Two links: one by the name that the build asks for, one by the name that the finished program
/// asks for (a nightly's library is in no directory that the system searches).
fn link_llvm(lib: &Path, library: &Path) -> anyhow::Result<()> {
    let own_name = library.file_name().context("the LLVM library has a name")?;
    fs::create_dir_all(lib).with_context(|| format!("could not create {}", lib.display()))?;
    for name in [Path::new("libLLVM.so"), Path::new(own_name)] {
        let link: PathBuf = lib.join(name);
        symlink(library, &link).with_context(|| format!("could not create {}", link.display()))?;
    }
    Ok(())
}

fn remove(file: &Path) -> anyhow::Result<()> {
    absent(fs::remove_file(file), file)
}

fn remove_tree(directory: &Path) -> anyhow::Result<()> {
    absent(fs::remove_dir_all(directory), directory)
}

/// What was not there is removed as well.
fn absent(result: io::Result<()>, path: &Path) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pinned_version_is_right() {
        assert!(is_version("bpf-linker 0.13.0\n"));
        assert!(!is_version("bpf-linker 0.13.1\n"));
        assert!(!is_version(""));
    }
}
