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
        let path = self.path;
        let page = workspace.root().join(path);
        let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        let ask = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
            Ok(command::output(Command::new(program).args(arguments))?.trim().to_owned())
        };
        let commit = ask("git", &["rev-parse", "--short", "HEAD"])?;
        let (date, kernel) = (ask("date", &["-u", "+%F"])?, ask("uname", &["-r"])?);
        let first = format!("{head}{date}, commit {commit}, Linux {kernel}:");
        let text = self.with(&text, &first, report)?;
        fs::write(&page, text).with_context(|| page.display().to_string())?;
        println!("written into {path}");
        Ok(())
    }

    /// The page with other figures.
    fn with(&self, text: &str, first: &str, report: &str) -> anyhow::Result<String> {
        let Self { path, mark } = self;
        let (before, _) =
            text.split_once(mark).with_context(|| format!("{path} has no line {mark}"))?;
        Ok(format!("{before}{mark}\n{first}\n\n{report}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_mark_stays_and_what_stands_behind_goes() {
        let page = Page { path: "page.md", mark: "<!-- mark -->\n" };
        let text = page.with("words\n<!-- mark -->\n\nold\n", "today:", "new").unwrap();
        assert_eq!(text, "words\n<!-- mark -->\n\ntoday:\n\nnew\n");
        assert_eq!(page.with(&text, "today:", "new").unwrap(), text);
        assert!(page.with("words\n", "today:", "new").is_err());
    }
}
