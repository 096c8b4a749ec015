//! `cargo xtask setup`: finds or installs what the machine lacks.
//!
//! It looks first and acts after, so that a machine where something cannot be installed gets one
//! message with every command, and a machine where everything is there is done in a moment. Only
//! `apt-get` and `mount` are elevated. What only this project needs (bpf-linker) goes into
//! `target/bpf-tools`, built by and belonging to the caller.

mod apt;
pub mod kubernetes;
mod linker;
mod system;
pub mod tools;
mod unpacked;

use std::{
    io::{self, Write as _},
    time::Instant,
};

use anyhow::{Context as _, anyhow, bail};

pub use linker::LINKER_VERSION;

use self::{
    apt::{Apt, KernelPackages},
    system::Program,
    tools::CARGO_DENY,
};
use crate::{
    command::{self, Elevation},
    compiler::KernelCompiler,
    podman,
    workspace::Workspace,
};

/// What the calling verb is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Lint both sides.
    pub lint: bool,
    /// Load the kernel program: bpffs.
    pub load: bool,
    /// Run the demo: network namespaces.
    pub demo: bool,
    /// Run the tests: scanners, captures and the kernel's own lists.
    pub tests: bool,
    /// Boot other kernels: an emulator and what goes into its guests.
    pub kernels: bool,
}

impl Needs {
    /// Building both sides.
    pub const BUILD: Self =
        Self { lint: false, load: false, demo: false, tests: false, kernels: false };
    /// Building and linting both sides.
    pub const LINT: Self = Self { lint: true, ..Self::BUILD };
    /// Building, and running the guard.
    pub const RUN: Self = Self { load: true, ..Self::BUILD };
    /// Building, and running the demo.
    pub const DEMO: Self = Self { demo: true, ..Self::RUN };
    /// Everything.
    pub const TESTS: Self = Self { lint: true, load: true, demo: true, tests: true, ..Self::BUILD };
    /// Building, and booting other kernels with the tests in them.
    pub const KERNELS: Self = Self { kernels: true, ..Self::BUILD };
    /// Everything, and what takes long.
    pub const ALL: Self = Self { kernels: true, ..Self::TESTS };
}

/// What only root can provide and is not there.
struct Missing {
    compiler: bool,
    kernel_clippy: bool,
    programs: Vec<&'static Program>,
    bpffs: bool,
}

impl Missing {
    fn probe(compiler: Option<&KernelCompiler>, needs: Needs) -> Self {
        Self {
            compiler: compiler.is_none(),
            kernel_clippy: needs.lint && compiler.is_none_or(KernelCompiler::lacks_debian_clippy),
            programs: system::missing_programs(needs),
            bpffs: needs.load && !system::bpffs_is_mounted(),
        }
    }

    fn needs_packages(&self) -> bool {
        self.compiler || self.kernel_clippy || !self.programs.is_empty()
    }

    fn is_empty(&self) -> bool {
        !self.needs_packages() && !self.bpffs
    }

    /// The packages to install, given what Rust is called in this suite.
    fn packages(&self, kernel: KernelPackages) -> Vec<&'static str> {
        let mut packages = Vec::new();
        if self.compiler {
            packages.extend([kernel.rustc, kernel.core]);
        }
        if self.kernel_clippy {
            packages.push(kernel.clippy);
        }
        for program in &self.programs {
            if !packages.contains(&program.package) {
                packages.push(program.package);
            }
        }
        packages
    }
}

/// Finds or installs everything for `needs`, says what it does, and returns the compiler of the
/// kernel side.
pub fn setup(workspace: &Workspace, needs: Needs) -> anyhow::Result<KernelCompiler> {
    let start = Instant::now();
    let found = KernelCompiler::find();
    let missing = Missing::probe(found.as_ref(), needs);
    if !missing.is_empty() {
        provide(&missing)?;
    }
    let compiler = match found {
        Some(compiler) => compiler,
        None => KernelCompiler::find().context(
            "the packages are installed, but /usr/bin/rustc with its BPF core library and its \
             libLLVM still cannot be found or is older than this project needs; see what \
             `/usr/bin/rustc -vV` and `ls /usr/lib/rustlib` say",
        )?,
    };
    if needs.lint {
        system::complete_rustup(workspace, &compiler)?;
        tools::ensure(workspace, &CARGO_DENY)?;
    }
    linker::ensure(workspace, &compiler)?;
    if needs.tests {
        unpacked::ensure(workspace, &unpacked::PROMETHEUS)?;
        kubernetes::ensure(workspace)?;
        podman::ensure(workspace)?;
    }
    say(&format!(
        "ready: kernel side by rustc {} (LLVM {}) and bpf-linker {LINKER_VERSION}, checked in \
         {:.1} s",
        compiler.version.release,
        compiler.version.llvm,
        start.elapsed().as_secs_f64()
    ));
    Ok(compiler)
}

/// Prints one step.
pub(crate) fn say(text: &str) {
    println!("setup: {text}");
    // The next lines come from another program, which has its own buffer.
    let _ = io::stdout().flush();
}

/// Installs and mounts, or explains everything at once.
fn provide(missing: &Missing) -> anyhow::Result<()> {
    let elevation = Elevation::detect();
    let apt = Apt::find();
    let Some(apt) = apt.filter(|_| elevation != Elevation::Impossible) else {
        let only_the_mount = !missing.needs_packages() && elevation != Elevation::Impossible;
        if only_the_mount {
            return system::mount_bpffs(elevation);
        }
        return Err(explain(missing, elevation));
    };
    if missing.needs_packages() {
        apt.update(elevation)?;
        let kernel = match KernelPackages::offered(&apt) {
            Some(kernel) => kernel,
            None if missing.compiler || missing.kernel_clippy => bail!(no_kernel_packages()),
            None => KernelPackages::of_this_release(),
        };
        apt.install(elevation, &missing.packages(kernel), &purposes(missing))?;
    }
    if missing.bpffs {
        system::mount_bpffs(elevation)?;
    }
    Ok(())
}

/// What the packages are for, in words.
fn purposes(missing: &Missing) -> String {
    let mut purposes = Vec::new();
    if missing.compiler {
        purposes.push("a Rust compiler with a core library for BPF (about 135 MB)".to_owned());
    }
    if missing.kernel_clippy {
        purposes.push("clippy for the kernel side".to_owned());
    }
    for program in &missing.programs {
        purposes.push(format!("{} ({})", program.name, program.purpose));
    }
    purposes.join(", ")
}

const NIGHTLY: &str =
    "rustup toolchain install nightly --profile minimal --component rust-src --component clippy";

fn no_kernel_packages() -> String {
    format!(
        "none of the configured package sources has a Rust core library for BPF \
         (libstd-rust-web-dev-bpf or libstd-rust-dev-bpf).\n\
         On Debian bookworm enable the suite bookworm-security, then call me again.\n\
         Anywhere rustup's nightly does as well:\n\n    {NIGHTLY}\n"
    )
}

/// The one message with the exact commands, where nothing can be done automatically.
fn explain(missing: &Missing, elevation: Elevation) -> anyhow::Error {
    let (why, mut commands, mut notes) = (reason(elevation), Vec::new(), String::new());
    match Apt::find() {
        _ if !missing.needs_packages() => {}
        Some(apt) => {
            let kernel =
                KernelPackages::offered(&apt).unwrap_or_else(KernelPackages::of_this_release);
            let packages = missing.packages(kernel).join(" ");
            commands.push("apt-get update".to_owned());
            commands.push(format!("apt-get install -y --no-install-recommends {packages}"));
        }
        None => {
            if missing.compiler || missing.kernel_clippy {
                notes.push_str(&format!("\nAs yourself, type:\n\n    {NIGHTLY}\n"));
            }
            let names: Vec<_> = missing.programs.iter().map(|program| program.name).collect();
            if !names.is_empty() {
                let names = names.join(", ");
                notes.push_str(&format!("\nInstall with your package manager: {names}.\n"));
            }
        }
    }
    if missing.bpffs {
        commands.push(system::MOUNT_BPFFS.join(" "));
    }
    let mut text = format!("{} missing, and {why}.\n", listed(missing));
    if !commands.is_empty() {
        text.push_str(&format!("As root, type:\n\n    {}\n", commands.join("\n    ")));
    }
    text.push_str(&notes);
    text.push_str("\nThen call me again.");
    anyhow!(text)
}

fn listed(missing: &Missing) -> String {
    let mut things = Vec::new();
    if missing.needs_packages() {
        things.push(purposes(missing));
    }
    if missing.bpffs {
        things.push("a mounted bpffs".to_owned());
    }
    let things = things.join(", ");
    let mut letters = things.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    let verb = if things.contains(", ") { "are" } else { "is" };
    format!("{}{} {verb}", first.into_iter().collect::<String>(), letters.as_str())
}

fn reason(elevation: Elevation) -> &'static str {
    match elevation {
        Elevation::Impossible => {
            "installing needs root, but you are neither root nor may use sudo here"
        }
        Elevation::Root | Elevation::Sudo => {
            "I can install only with apt-get, which this system does not have"
        }
    }
}

/// Shared by the steps: runs as root; says what failed, and nothing else.
fn run_elevated(
    elevation: Elevation,
    words: &[&str],
    env: &[(&str, &std::ffi::OsStr)],
) -> anyhow::Result<()> {
    let (program, arguments) = words.split_first().context("a command has a name")?;
    let mut command = elevation.require(&words.join(" "), program, env)?;
    command::run_quietly(command.args(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Missing {
        Missing {
            compiler: true,
            kernel_clippy: true,
            programs: system::PROGRAMS.iter().collect(),
            bpffs: true,
        }
    }

    #[test]
    fn each_package_is_asked_for_once() {
        let packages = everything().packages(KernelPackages::WEB);
        let mut unique = packages.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(packages.len(), unique.len(), "{packages:?}");
        assert!(packages.starts_with(&["rustc-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"]));
    }

    #[test]
    fn a_machine_that_lacks_one_tool_gets_one_package() {
        let curl: Vec<_> = system::PROGRAMS.iter().filter(|p| p.name == "curl").collect();
        let missing =
            Missing { compiler: false, kernel_clippy: false, programs: curl, bpffs: false };
        assert_eq!(missing.packages(KernelPackages::WEB), ["curl"]);
    }

    #[test]
    fn only_what_a_verb_needs_is_missing() {
        assert!(system::needed(Needs::BUILD).next().is_none());
        assert_eq!(system::needed(Needs::DEMO).map(|p| p.name).collect::<Vec<_>>(), ["ip"]);
        assert_eq!(system::needed(Needs::TESTS).count(), system::PROGRAMS.len());
    }

    #[test]
    fn the_explanation_names_every_command_once() {
        let text = explain(&everything(), Elevation::Impossible).to_string();
        assert!(text.contains("mount -t bpf -o mode=0700 bpf /sys/fs/bpf"), "{text}");
        assert!(text.contains("neither root nor may use sudo"), "{text}");
    }
}
