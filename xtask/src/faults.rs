//! `cargo xtask faults`: every system call of the guard fails, with every error, in every phase.

use std::{fs, process::Command};

use anyhow::{Context as _, ensure};

use crate::{
    build::{self, Profile},
    command::{self, Elevation},
    setup::{self, Needs},
    workspace::Workspace,
};

/// Where the table is kept, and the line that it follows.
const PAGE: &str = "ollama-guard/docs/faults.md";
const MARK: &str = "<!-- The rest of this page is written by `cargo xtask faults`. -->\n";

/// Builds and runs the matrix of these phases, or of all. The whole table goes into the page: it
/// is written only if nothing went wrong.
pub fn faults(workspace: &Workspace, phases: &[String], workers: usize) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::TESTS)?;
    build::both_sides(workspace, &compiler, Profile::Release)?;
    let program = workspace.release_binary("faults");
    ensure!(program.is_file(), "{} was not built", program.display());
    let guard = workspace.release_binary("ollama-guard");
    let env = [("OLLAMA_GUARD_BINARY", guard.as_os_str())];
    let mut command = Elevation::detect().require("injecting faults", program, &env)?;
    command.args(["--workers", &workers.to_string()]);
    for phase in phases {
        command.args(["--phase", phase]);
    }
    let table = command::output(&mut command)?;
    if !phases.is_empty() {
        println!("{table}");
        return Ok(());
    }
    let page = workspace.root().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let (head, _) = text.split_once(MARK).with_context(|| format!("{PAGE} has no line {MARK}"))?;
    let commit = command::output(Command::new("git").args(["rev-parse", "--short", "HEAD"]))?;
    let date = command::output(Command::new("date").args(["-u", "+%F"]))?;
    let (commit, date) = (commit.trim(), date.trim());
    fs::write(&page, format!("{head}{MARK}\nOf {date}, commit {commit}.\n{table}"))
        .with_context(|| page.display().to_string())?;
    println!("faults: written into {PAGE}");
    Ok(())
}
