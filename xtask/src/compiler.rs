//! The compiler of the kernel side.
//!
//! Stable Rust from rustup has no core library for the BPF target, so the kernel side is built by
//! one of two other compilers: Debian's, which has a package with a prebuilt core, or a nightly
//! with `rust-src`, which builds core itself. Debian's is preferred where both are complete: its
//! version stands still, while "nightly" is another compiler every day.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::{
    command::{ask, find_program},
    workspace::Workspace,
};

/// Debian's compiler, by its full path: rustup's comes first in most people's `PATH`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";
const DEBIAN_RUSTLIB: &str = "/usr/lib/rustlib";
/// The LLVM versions that bpf-linker 0.13 has a feature `llvm-N` for.
const LINKER_LLVM: [u32; 3] = [21, 22, 23];

/// The BPF target of this machine's byte order.
pub const BPF_TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// What `rustc -vV` says, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// As printed, such as `1.96.0` or `1.97.0-nightly`.
    pub release: String,
    /// Major and minor number of the release.
    pub number: (u32, u32),
    /// Major number of the LLVM that the compiler contains.
    pub llvm: u32,
}

impl Version {
    /// Reads the output of `rustc -vV`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
                .with_context(|| format!("`rustc -vV` has no line \"{key}:\""))
        };
        let release = value("release")?;
        let llvm = value("LLVM version")?;
        Ok(Self {
            release: release.to_owned(),
            number: major_minor(release)
                .with_context(|| format!("\"{release}\" is not a release of rustc"))?,
            llvm: llvm
                .split('.')
                .next()
                .and_then(|major| major.parse().ok())
                .with_context(|| format!("\"{llvm}\" is not a version of LLVM"))?,
        })
    }

    /// The feature of bpf-linker that fits, or why none does.
    pub fn linker_feature(&self) -> anyhow::Result<String> {
        ensure!(
            LINKER_LLVM.contains(&self.llvm),
            "the kernel side's rustc {} contains LLVM {}, but bpf-linker {} can only be built for \
             LLVM {LINKER_LLVM:?}; install a rustc with one of these (Debian trixie and \
             bookworm-security have one), or move this project to a newer bpf-linker",
            self.release,
            self.llvm,
            crate::setup::LINKER_VERSION,
        );
        Ok(format!("llvm-{}", self.llvm))
    }
}

fn major_minor(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Where the compiler came from, which decides how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Debian's packages: a stable compiler with a prebuilt core.
    Debian,
    /// rustup's nightly with `rust-src`: builds core itself.
    Nightly,
}

/// A complete compiler for the kernel side.
pub struct KernelCompiler {
    /// Where it came from.
    pub origin: Origin,
    /// Its version.
    pub version: Version,
    /// The LLVM library that it uses, and that bpf-linker is linked to as well: both must read
    /// and write the same bitcode.
    pub llvm_library: PathBuf,
}

impl KernelCompiler {
    /// The compiler that is there, if one is; installs nothing.
    pub fn find() -> Option<Self> {
        Self::find_debian().or_else(Self::find_nightly)
    }

    fn find_debian() -> Option<Self> {
        if !Path::new(DEBIAN_RUSTLIB).join(BPF_TARGET).is_dir() {
            return None;
        }
        let version = Version::parse(&ask(Command::new(DEBIAN_RUSTC).arg("-vV"))?).ok()?;
        if version.number < major_minor(env!("CARGO_PKG_RUST_VERSION"))? {
            return None;
        }
        let prefix = format!("libLLVM.so.{}.", version.llvm);
        let mut multiarch = fs::read_dir("/usr/lib").ok()?.flatten();
        let llvm_library = multiarch.find_map(|dir| file_with_prefix(&dir.path(), &prefix))?;
        Some(Self { origin: Origin::Debian, version, llvm_library })
    }

    /// Complete only with the sources of core and a shared LLVM to link bpf-linker to.
    fn find_nightly() -> Option<Self> {
        let sysroot = ask(nightly("rustc").args(["--print", "sysroot"]))?;
        let sysroot = Path::new(sysroot.trim_end());
        if !sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").is_file() {
            return None;
        }
        let version = Version::parse(&ask(nightly("rustc").arg("-vV"))?).ok()?;
        version.linker_feature().ok()?;
        let prefix = format!("libLLVM.so.{}.", version.llvm);
        let llvm_library = file_with_prefix(&sysroot.join("lib"), &prefix)?;
        Some(Self { origin: Origin::Nightly, version, llvm_library })
    }

    /// Whether linting the kernel side takes one more of Debian's packages.
    pub fn lacks_debian_clippy(&self) -> bool {
        self.origin == Origin::Debian && !Path::new(DEBIAN_CLIPPY).is_file()
    }

    /// `cargo build` for the kernel side, optimised, without a choice of packages.
    pub fn cargo_build(&self, workspace: &Workspace) -> Command {
        self.cargo_build_for(workspace, env::consts::ARCH, &workspace.bpf_target())
    }

    /// The same as it would be called on another processor, into a directory of its own.
    pub fn cargo_build_for(&self, workspace: &Workspace, arch: &str, target: &Path) -> Command {
        let mut cargo = match self.origin {
            Origin::Debian => workspace.bare_cargo(),
            Origin::Nightly => nightly("cargo"),
        };
        cargo.arg("build");
        self.complete(&mut cargo, workspace, arch, target, &[]);
        cargo.arg("--release");
        cargo
    }

    /// `cargo check` for the kernel side with clippy in the compiler's place and every warning an
    /// error, without a choice of packages.
    pub fn cargo_clippy(&self, workspace: &Workspace) -> Command {
        let mut cargo = match self.origin {
            Origin::Debian => {
                // rustup's cargo-clippy would put rustup's clippy-driver in front of Debian's
                // rustc, and the two only work with a core library of their own version.
                let mut cargo = workspace.bare_cargo();
                cargo.arg("check").env("RUSTC_WORKSPACE_WRAPPER", DEBIAN_CLIPPY);
                cargo
            }
            Origin::Nightly => {
                let mut cargo = nightly("cargo");
                cargo.arg("clippy");
                cargo
            }
        };
        let target = workspace.bpf_target();
        self.complete(&mut cargo, workspace, env::consts::ARCH, &target, &["-Dwarnings"]);
        cargo
    }

    /// Adds everything that is the same for every call of cargo for the BPF target.
    fn complete(
        &self,
        cargo: &mut Command,
        workspace: &Workspace,
        arch: &str,
        target: &Path,
        more_flags: &[&str],
    ) {
        cargo.current_dir(workspace.root());
        cargo.args(["--target", BPF_TARGET, "--target-dir"]).arg(target);
        match self.origin {
            Origin::Debian => {
                // One crate needs an unstable feature (inline assembly for BPF); no other gets any.
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "aya_ebpf");
            }
            Origin::Nightly => {
                cargo.arg("-Zbuild-std=core").env_remove("RUSTC");
            }
        }
        // Takes precedence over RUSTFLAGS and over flags from a configuration of the caller's.
        let mut flags = remapped_paths(workspace);
        flags.extend(more_flags.iter().map(|&flag| flag.to_owned()));
        cargo.env("CARGO_ENCODED_RUSTFLAGS", encoded_flags(arch, &flags));
        cargo.env("PATH", path_with(&workspace.bpf_tools().join("bin")));
    }
}

/// Flags that keep the places of work tree and registry out of what is built: the same
/// sources give the same object wherever they are built.
pub fn remapped_paths(workspace: &Workspace) -> Vec<String> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME")?;
        Some(Path::new(&home).join(".cargo"))
    });
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![remap(workspace.root(), ".")];
    flags.extend(cargo_home.map(|home| remap(&home, "cargo")));
    flags
}

/// The flags of the kernel side, separated as cargo wants them.
fn encoded_flags(arch: &str, more: &[String]) -> String {
    let arch = format!("--cfg=bpf_target_arch=\"{arch}\"");
    let mut flags = vec![
        arch.as_str(),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Cpanic=abort",
        // 32-bit registers and jumps (Linux 5.1).
        "-Ctarget-cpu=v3",
        // The verifier lets packets be read at any address where the processor does, which is where
        // XDP programs run; else each field would be read byte by byte.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
    ];
    flags.extend(more.iter().map(String::as_str));
    flags.join("\x1f")
}

fn path_with(first: &Path) -> OsString {
    let mut path = first.as_os_str().to_os_string();
    if let Some(rest) = env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

/// A program of rustup's nightly. Never downloads a toolchain that is not there.
pub fn nightly(program: &str) -> Command {
    let rustup = find_program("rustup").unwrap_or_else(|| "rustup".into());
    let mut command = Command::new(rustup);
    command.args(["run", "nightly", program]).env("RUSTUP_AUTO_INSTALL", "0");
    command
}

fn file_with_prefix(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).filter(named).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
        binary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    #[test]
    fn the_version_of_debians_rustc_is_read() {
        let version = Version::parse(DEBIAN).expect("the text is complete");
        let expected = Version { release: "1.96.0".into(), number: (1, 96), llvm: 22 };
        assert_eq!(version, expected);
        assert_eq!(version.linker_feature().expect("22 is known"), "llvm-22");
    }

    #[test]
    fn the_version_of_a_nightly_is_read() {
        let text = DEBIAN.replace("release: 1.96.0", "release: 1.97.0-nightly");
        assert_eq!(Version::parse(&text).expect("the text is complete").number, (1, 97));
    }

    #[test]
    fn a_missing_line_is_named() {
        let text = DEBIAN.replace("LLVM version", "llvm");
        let error = Version::parse(&text).expect_err("there is no LLVM version");
        assert!(error.to_string().contains("LLVM version"), "{error}");
    }

    #[test]
    fn an_llvm_that_the_linker_does_not_know_is_refused_by_number() {
        let version = Version { release: "1.63.0".into(), number: (1, 63), llvm: 14 };
        let error = version.linker_feature().expect_err("14 is too old").to_string();
        assert!(error.contains("LLVM 14") && error.contains("21, 22, 23"), "{error}");
    }

    #[test]
    fn flags_are_separated_by_the_unit_separator() {
        let flags = encoded_flags("aarch64", &["-Dwarnings".to_owned()]);
        let flags: Vec<_> = flags.split('\x1f').collect();
        assert_eq!(flags.first(), Some(&"--cfg=bpf_target_arch=\"aarch64\""));
        assert_eq!(flags.last(), Some(&"-Dwarnings"));
        assert_eq!(flags.len(), 7);
    }
}
