//! What is written out of the sources for a release: manual pages, completions, Debian's changelog.

use std::{fs, path::Path, process::Command};

use anyhow::Context as _;

use super::{Stamp, VERSION};
use crate::{command, workspace::Workspace};

/// Where they are, within the release's directory, until they are packed: the package's metadata names it.
pub const DIRECTORY: &str = "pages";

/// Writes all of them.
pub fn write(workspace: &Workspace, directory: &Path, stamp: &Stamp) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    // With the tests, which are built anyway.
    let mut cargo = workspace.cargo("run");
    cargo
        .args(["--quiet", "--package", "ollama-guard-tests", "--bin", "pages", "--"])
        .arg(directory);
    command::run(stamp.applied_to(&mut cargo)).context("manual pages and completions")?;
    let mut date = Command::new("date");
    date.args(["--utc", "--rfc-email", "--date", &format!("@{}", stamp.time)]);
    let date = command::output(stamp.applied_to(&mut date))?;
    let changelog = directory.join("changelog");
    fs::write(&changelog, changelog_of(date.trim()))
        .with_context(|| format!("could not write {}", changelog.display()))
}

/// In Debian's form, which has a version, a date and an author; what has changed is in our own.
fn changelog_of(date: &str) -> String {
    format!(
        "ollama-guard ({VERSION}-1) unstable; urgency=medium\n\n  * Release {VERSION}: see CHANGELOG.md of \
         the sources for what has changed.\n\n -- The ollama-guard authors \
         <ollama-guard@localhost.localdomain>  {date}\n"
    )
}
