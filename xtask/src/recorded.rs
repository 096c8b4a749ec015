//! What a program has seen, written into a page of the documentation.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::{command, workspace::Workspace};

/// Where figures are kept.
pub struct Page {
    /// The page, from the top of the tree.
    pub path: &'static str,
    /// The line that they follow, with its end.
    pub mark: &'static str,
}

/// Runs a program that prints a report, and shows it, also if something was found; then it is an error.
pub fn play(program: &mut Command, what: &'static str) -> anyhow::Result<String> {
    let played = program.stderr(Stdio::inherit()).output().context(what)?;
    let report = String::from_utf8_lossy(&played.stdout).into_owned();
    println!("{report}");
    ensure!(played.status.success(), "not everything was as it should be; nothing is recorded");
    Ok(report)
}

impl Page {
    /// Puts a report in the place of the last one, with the date, the commit and the kernel above it, behind `head`.
    pub fn record(&self, workspace: &Workspace, head: &str, report: &str) -> anyhow::Result<()> {
        let Self { path, mark } = self;
        let page = workspace.root().join(path);
        let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        let (before, _) =
            text.split_once(mark).with_context(|| format!("{path} has no line {mark}"))?;
        let ask = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
            Ok(command::output(Command::new(program).args(arguments))?.trim().to_owned())
        };
        let commit = ask("git", &["rev-parse", "--short", "HEAD"])?;
        let (date, kernel) = (ask("date", &["-u", "+%F"])?, ask("uname", &["-r"])?);
        let first = format!("{head}{date}, commit {commit}, Linux {kernel}:");
        fs::write(&page, format!("{before}{mark}\n{first}\n\n{report}\n"))
            .with_context(|| page.display().to_string())?;
        println!("written into {path}");
        Ok(())
    }
}
