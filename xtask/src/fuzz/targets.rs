//! The targets of cargo-fuzz in `ollama-guard-common/fuzz`.
//!
//! cargo-fuzz asks for a nightly only because of the sanitizers. `judge` has no unsafe code for
//! them to watch, and everything else that libFuzzer needs of the compiler (counters of the code
//! that ran) stable Rust can do: so a nightly is used where one with the address sanitizer is
//! there, for the second parser's sake, and stable Rust without a sanitizer elsewhere.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{
    command::{ask, run},
    compiler::nightly,
    setup::tools::{self, CARGO_FUZZ},
    workspace::Workspace,
};

/// A target, and what the packet table calls the start of its frames.
#[derive(Clone, Copy)]
pub struct Target {
    name: &'static str,
    start: &'static str,
}

/// Frames with an Ethernet header.
pub const LINK: Target = Target { name: "judge-link", start: "link" };
/// Packets without one.
pub const NETWORK: Target = Target { name: "judge-network", start: "network" };

/// How to search.
#[derive(clap::Args)]
pub struct Options {
    /// How long to search
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Afterwards, put the smallest set of frames that reaches all code found so far in the place
    /// of the corpus in the tree
    #[arg(long)]
    keep: bool,
}

/// Longer than all tags, 2,048 bytes of extension headers and the ports.
const LONGEST_FRAME: usize = 3_000;

/// Searches, from the corpus in the tree, the packet table, and what earlier searches found.
pub fn fuzz(workspace: &Workspace, target: Target, options: &Options) -> anyhow::Result<()> {
    let kept = workspace.root().join("ollama-guard-common/fuzz/corpus").join(target.name);
    let found = workspace.target().join("fuzz/corpus").join(target.name);
    let table = workspace.target().join("fuzz/table").join(target.name);
    for directory in [&kept, &found] {
        create(directory)?;
    }
    write_table(workspace, target, &table)?;
    let fuzzer = Fuzzer::find(workspace)?;
    println!("fuzz: {} for {} s by {}", target.name, options.seconds, fuzzer.name());

    let mut search = fuzzer.run(workspace, target);
    search.args([&found, &kept, &table]).arg("--");
    search.arg(format!("-max_total_time={}", options.seconds));
    search.arg(format!("-max_len={LONGEST_FRAME}")).arg("-print_final_stats=1");
    run(&mut search).context("a disagreement; its frame is kept in the file named above")?;
    if options.keep {
        keep_smallest(&fuzzer, workspace, target, &[&found, &table], &kept)?;
    }
    Ok(())
}

/// The frames of the packet table, as files.
fn write_table(workspace: &Workspace, target: Target, directory: &Path) -> anyhow::Result<()> {
    let mut seeds = workspace.cargo("run");
    seeds.args(["--quiet", "--package", "ollama-guard-tests", "--bin", "seeds", "--"]);
    run(seeds.arg(target.start).arg(directory)).context("the packet table")
}

/// Chooses afresh, so that frames that were kept for code that is gone go as well.
fn keep_smallest(
    fuzzer: &Fuzzer,
    workspace: &Workspace,
    target: Target,
    others: &[&PathBuf],
    kept: &Path,
) -> anyhow::Result<()> {
    let chosen = workspace.target().join("fuzz/chosen").join(target.name);
    remove(&chosen)?;
    create(&chosen)?;
    let mut merge = fuzzer.run(workspace, target);
    merge.arg(&chosen).arg(kept).args(others).args(["--", "-merge=1"]);
    run(merge.arg(format!("-max_len={LONGEST_FRAME}")))?;
    remove(kept)?;
    create(kept)?;
    for file in fs::read_dir(&chosen).context("the chosen frames")? {
        let file = file.context("the chosen frames")?;
        fs::copy(file.path(), kept.join(file.file_name())).context("could not keep a frame")?;
    }
    Ok(())
}

/// Who compiles the targets.
enum Fuzzer {
    /// Nightly Rust, with the address sanitizer.
    Nightly(PathBuf),
    /// Stable Rust, without a sanitizer.
    Stable(PathBuf),
}

impl Fuzzer {
    fn find(workspace: &Workspace) -> anyhow::Result<Self> {
        tools::ensure_package("c++", "g++", "libFuzzer is written in C++")?;
        let cargo_fuzz = tools::ensure(workspace, &CARGO_FUZZ)?;
        let has_sanitizer = ask(nightly("rustc").args(["--print", "target-libdir"]))
            .and_then(|directory| fs::read_dir(directory.trim_end()).ok())
            .is_some_and(|mut files| {
                files.any(|file| {
                    file.is_ok_and(|file| file.file_name().to_string_lossy().ends_with("rt.asan.a"))
                })
            });
        Ok(if has_sanitizer { Self::Nightly(cargo_fuzz) } else { Self::Stable(cargo_fuzz) })
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Nightly(_) => "nightly Rust with the address sanitizer",
            Self::Stable(_) => "stable Rust without a sanitizer",
        }
    }

    /// `cargo fuzz run TARGET`, without corpora and without libFuzzer's own arguments.
    fn run(&self, workspace: &Workspace, target: Target) -> Command {
        let (mut command, sanitizer, directory) = match self {
            Self::Nightly(program) => {
                let mut command = nightly("env");
                command.arg(program);
                (command, "address", "fuzz/nightly")
            }
            Self::Stable(program) => (Command::new(program), "none", "fuzz/stable"),
        };
        command.current_dir(workspace.root().join("ollama-guard-common"));
        command.args(["run", "--sanitizer", sanitizer, "--target-dir"]);
        command.arg(workspace.target().join(directory)).arg(target.name);
        command
    }
}

fn create(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("could not create {}", directory.display()))
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    fs::remove_dir_all(directory)
        .with_context(|| format!("could not remove {}", directory.display()))
}
