//! Where things are in the work tree.
//!
//! Every path that two verbs must agree on is named here once. `target/` is always the one in the
//! work tree, whatever `CARGO_TARGET_DIR` says: the documents and the build script of
//! `ollama-guard` name paths in it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

/// The package of the kernel side.
pub const KERNEL_PACKAGE: &str = "ollama-guard-ebpf";

/// The program in it that the benchmark measures with.
pub const BENCH_PROGRAM: &str = "ollama-guard-bench";

/// The root of the checkout.
pub struct Workspace {
    root: PathBuf,
    bpf_tools: PathBuf,
}

impl Workspace {
    /// The workspace that this very xtask belongs to.
    pub fn locate() -> anyhow::Result<Self> {
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir.parent().context("the directory of xtask has no parent")?;
        ensure!(
            root.join("ollama-guard/Cargo.toml").is_file(),
            "{} is not the ollama-guard checkout; start me as `cargo xtask` from inside it",
            root.display()
        );
        Ok(Self { root: root.to_path_buf(), bpf_tools: root.join("target/bpf-tools") })
    }

    /// A copy of this one in another place, with the tools of this one.
    pub fn copied_to(&self, root: PathBuf) -> Self {
        Self { root, bpf_tools: self.bpf_tools.clone() }
    }

    /// The root of the checkout.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `target/` of the checkout.
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// Where tools that only this project needs are installed.
    pub fn bpf_tools(&self) -> &Path {
        &self.bpf_tools
    }

    /// The target directory of the kernel side, which another compiler builds.
    pub fn bpf_target(&self) -> PathBuf {
        self.target().join("bpf")
    }

    /// The finished kernel object that the user side embeds.
    pub fn bpf_object(&self) -> PathBuf {
        self.bpf_target().join("ollama-guard.bpf.o")
    }

    /// The finished kernel object that the benchmark measures with.
    pub fn bench_object(&self) -> PathBuf {
        self.bpf_target().join("bench.bpf.o")
    }

    /// A finished optimised program of the user side.
    pub fn release_binary(&self, name: &str) -> PathBuf {
        self.target().join("release").join(name)
    }

    /// A program of the user side that was built with the tests.
    pub fn debug_binary(&self, name: &str) -> PathBuf {
        self.target().join("debug").join(name)
    }

    /// `cargo VERB` with the caller's own toolchain, in the root, into `target/`.
    pub fn cargo(&self, verb: &str) -> Command {
        let mut cargo = self.bare_cargo();
        cargo.arg(verb).arg("--target-dir").arg(self.target());
        cargo
    }

    /// `cargo` with the caller's own toolchain, in the root, for verbs that build nothing.
    pub fn bare_cargo(&self) -> Command {
        let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut cargo = Command::new(program);
        cargo.current_dir(&self.root);
        cargo
    }
}
