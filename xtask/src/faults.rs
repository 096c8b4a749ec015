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

/// Builds and runs the matrix of these phases, or of all. Their sections of the page are written
/// only if nothing went wrong; those of other phases stay as they were recorded.
pub fn faults(workspace: &Workspace, phases: &[String], workers: usize) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::TESTS)?;
    build::both_sides(workspace, &compiler, Profile::Release, &["faults"])?;
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
    println!("{table}");
    let page = workspace.root().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let (head, recorded) =
        text.split_once(MARK).with_context(|| format!("{PAGE} has no line {MARK}"))?;
    let commit = command::output(Command::new("git").args(["rev-parse", "--short", "HEAD"]))?;
    let date = command::output(Command::new("date").args(["-u", "+%F"]))?;
    let stamp = format!("{}, commit {}.", date.trim(), commit.trim());
    fs::write(&page, format!("{head}{MARK}{}", merged(recorded, &table, &stamp)))
        .with_context(|| page.display().to_string())?;
    println!("faults: written into {PAGE}");
    Ok(())
}

/// The recorded sections, with those that are new in their places, each with the stamp behind its
/// heading.
fn merged(recorded: &str, new: &str, stamp: &str) -> String {
    let mut sections: Vec<(String, String)> = sections(recorded);
    for (phase, table) in self::sections(new) {
        let table = format!("\nOf {stamp}\n{table}");
        match sections.iter_mut().find(|(name, _)| *name == phase) {
            Some((_, old)) => *old = table,
            None => sections.push((phase, table)),
        }
    }
    sections.iter().map(|(phase, text)| format!("\n### {phase}\n\n{}\n", text.trim())).collect()
}

/// Name and text of each section.
fn sections(text: &str) -> Vec<(String, String)> {
    let sections = text.split("### ").skip(1);
    sections
        .map(|section| {
            let (name, text) = section.split_once('\n').unwrap_or((section, ""));
            (name.trim().to_owned(), format!("\n{}\n", text.trim()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_that_was_run_replaces_its_section_and_no_other() {
        let first =
            merged("\nNothing yet.\n", "\n### add\n\n| a |\n\n### start\n\n| s |\n", "monday");
        assert_eq!(first, "\n### add\n\nOf monday\n\n| a |\n\n### start\n\nOf monday\n\n| s |\n");
        let second = merged(&first, "\n### start\n\n| t |\n", "tuesday");
        assert_eq!(second, first.replace("Of monday\n\n| s |", "Of tuesday\n\n| t |"));
        assert_eq!(merged(&second, "", "never"), second);
    }
}
