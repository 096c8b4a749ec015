//! `cargo xtask soak`: floods, friends, edits, interfaces, event readers and kills, all at once.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::{
    build::{self, Profile},
    command::{self, Elevation},
    setup::{self, Needs},
    workspace::Workspace,
};

/// Where the figures are kept, and the line that they follow.
const PAGE: &str = "ollama-guard/docs/soak.md";
const MARK: &str = "<!-- The rest of this page is written by `cargo xtask soak --record`. -->\n";

/// How long, and what for.
#[derive(Args)]
pub struct Limits {
    /// So long
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// The seed of an earlier run [default: a new one]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Write the figures into the documentation
    #[arg(long)]
    record: bool,
}

/// Builds and runs it; anything that was not as it should be is an error.
pub fn soak(workspace: &Workspace, limits: &Limits) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::TESTS)?;
    build::both_sides(workspace, &compiler, Profile::Release, &["soak"])?;
    let program = workspace.release_binary("soak");
    ensure!(program.is_file(), "{} was not built", program.display());
    let guard = workspace.release_binary("ollama-guard");
    let env = [("OLLAMA_GUARD_BINARY", guard.as_os_str())];
    let mut command = Elevation::detect().require("the soak", program, &env)?;
    command.args(["--minutes", &limits.minutes.to_string()]);
    if let Some(seed) = limits.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if !limits.record {
        return command::run(&mut command);
    }
    // Shown also if something was found; then nothing is recorded.
    let played = command.stderr(Stdio::inherit()).output().context("the soak")?;
    let report = String::from_utf8_lossy(&played.stdout);
    println!("{report}");
    ensure!(played.status.success(), "not everything was as it should be; nothing is recorded");
    record(workspace, limits.minutes, &report)
}

fn record(workspace: &Workspace, minutes: u32, report: &str) -> anyhow::Result<()> {
    let page = workspace.root().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let (head, _) = text.split_once(MARK).with_context(|| format!("{PAGE} has no line {MARK}"))?;
    let ask = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
        Ok(command::output(Command::new(program).args(arguments))?.trim().to_owned())
    };
    let commit = ask("git", &["rev-parse", "--short", "HEAD"])?;
    let (date, kernel) = (ask("date", &["-u", "+%F"])?, ask("uname", &["-r"])?);
    let first = format!("{minutes} minutes, {date}, commit {commit}, kernel {kernel}:");
    fs::write(&page, format!("{head}{MARK}\n{first}\n\n```text\n{}\n```\n", report.trim_end()))
        .with_context(|| page.display().to_string())?;
    println!("soak: written into {PAGE}");
    Ok(())
}
