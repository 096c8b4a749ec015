//! `cargo xtask bench`: what the guard costs, beside bare XDP, nftables, ipset and the kernel's LPM tries.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::{
    build::{self, Profile},
    command::{self, Elevation},
    compiler::KernelCompiler,
    setup::{self, Needs},
    workspace::{BENCH_PROGRAM, Workspace},
};

/// Where the figures are kept, and the line that they follow.
const PAGE: &str = "ollama-guard/docs/performance.md";
/// The picture in it.
const PICTURE: &str = "ollama-guard/docs/performance.svg";
const MARK: &str = "<!-- The rest of this page is written by `cargo xtask bench --record`. -->\n";

/// How much, and what for.
#[derive(Args)]
pub struct Extent {
    /// A few rounds and short lists: enough to see a collapse
    #[arg(long)]
    quick: bool,
    /// Also write the figures into this file, for programs
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the figures into the documentation; with --quick, into what CI compares with
    #[arg(long)]
    record: bool,
}

/// What a quick run usually finds.
const USUAL: &str = "tests/bench.txt";

/// Builds and measures.
pub fn bench(workspace: &Workspace, extent: &Extent) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::TESTS)?;
    build::both_sides(workspace, &compiler, Profile::Release, &["bench"])?;
    let object = workspace.bench_object();
    build::kernel_program(workspace, &compiler, BENCH_PROGRAM, &object)?;
    let program = workspace.release_binary("bench");
    ensure!(program.is_file(), "{} was not built", program.display());
    let mut command = measuring(workspace, program, &object)?;
    if let Some(file) = &extent.json {
        command.arg("--json").arg(file);
    }
    match (extent.quick, extent.record) {
        (true, false) => _ = command.arg("--quick"),
        (true, true) => _ = command.args(["--quick", "--record-usual"]).arg(usual(workspace)),
        (false, true) => _ = command.arg("--svg").arg(workspace.root().join(PICTURE)),
        (false, false) => {}
    }
    let measured = command.stderr(Stdio::inherit()).output().context("measuring")?;
    let report = String::from_utf8_lossy(&measured.stdout);
    println!("{report}");
    ensure!(measured.status.success(), "not everything could be measured; nothing is recorded");
    if extent.record && !extent.quick { record(workspace, &report) } else { Ok(()) }
}

/// A quick run of the benchmark that was built with the tests; both sides must be built. Fails if
/// something is far from what is usual.
pub fn quick(workspace: &Workspace, compiler: &KernelCompiler) -> anyhow::Result<()> {
    let object = workspace.bench_object();
    build::kernel_program(workspace, compiler, BENCH_PROGRAM, &object)?;
    let program = workspace.debug_binary("bench");
    ensure!(program.is_file(), "{} was not built", program.display());
    let mut command = measuring(workspace, program, &object)?;
    command::run(command.args(["--quick", "--usual"]).arg(usual(workspace)))
}

fn usual(workspace: &Workspace) -> PathBuf {
    workspace.root().join(USUAL)
}

/// The benchmark, of the guard as it is released.
fn measuring(workspace: &Workspace, program: PathBuf, object: &Path) -> anyhow::Result<Command> {
    let guard = workspace.release_binary("ollama-guard");
    let env = [
        ("OLLAMA_GUARD_BINARY", guard.as_os_str()),
        ("OLLAMA_GUARD_BENCH_OBJECT", object.as_os_str()),
    ];
    Elevation::detect().require("measuring", program, &env)
}

fn record(workspace: &Workspace, report: &str) -> anyhow::Result<()> {
    let page = workspace.root().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let (head, _) = text.split_once(MARK).with_context(|| format!("{PAGE} has no line {MARK}"))?;
    let commit = command::output(Command::new("git").args(["rev-parse", "--short", "HEAD"]))?;
    let date = command::output(Command::new("date").args(["-u", "+%F"]))?;
    let kernel = command::output(Command::new("uname").args(["-r"]))?;
    let stamp = format!(
        "Of {}, commit {}, on {}, Linux {}.",
        date.trim(),
        commit.trim(),
        processor()?,
        kernel.trim()
    );
    fs::write(&page, format!("{head}{MARK}\n{stamp}\n\n{}\n", report.trim()))
        .with_context(|| page.display().to_string())?;
    println!("bench: written into {PAGE}");
    Ok(())
}

/// What the machine computes with.
fn processor() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!("{count} processors of a virtual machine, {}", model.map_or("unnamed", |(_, m)| m)))
}
