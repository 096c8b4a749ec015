//! What the project depends on: licences, sources, duplicates, and known holes (`deny.toml`).

use std::{path::Path, process::Command};

use crate::{command, workspace::Workspace};

/// The fuzz targets have dependencies and a lock file of their own.
const FUZZ_MANIFEST: &str = "ollama-guard-common/fuzz/Cargo.toml";

/// Everything that a checkout and the registry suffice for. Fails if something is found.
pub fn check(workspace: &Workspace, cargo_deny: &Path) -> anyhow::Result<()> {
    for (manifest, unused) in manifests() {
        let mut deny = cargo_deny_for(workspace, cargo_deny, manifest);
        deny.args(["check", "--hide-inclusion-graph"]).args(unused);
        command::run(deny.args(["bans", "licenses", "sources"]))?;
    }
    Ok(())
}

/// Fetches the database of known holes, which comes from elsewhere than the crates: whether it
/// could be had.
pub fn fetch_advisories(workspace: &Workspace, cargo_deny: &Path) -> bool {
    let mut deny = Command::new(cargo_deny);
    // Only whether it works is asked, and a password never.
    deny.current_dir(workspace.root()).env("GIT_TERMINAL_PROMPT", "0");
    command::ask(deny.args(["fetch", "db"])).is_some()
}

/// Compares with the fetched database. Fails if a dependency has a known hole or was withdrawn.
pub fn check_advisories(workspace: &Workspace, cargo_deny: &Path) -> anyhow::Result<()> {
    for (manifest, _) in manifests() {
        let mut deny = cargo_deny_for(workspace, cargo_deny, manifest);
        deny.args(["check", "--hide-inclusion-graph", "--disable-fetch"]);
        command::run(deny.arg("advisories"))?;
    }
    Ok(())
}

/// The lock files, and which warnings only say that the one configuration serves the other too.
fn manifests() -> [(&'static str, &'static [&'static str]); 2] {
    [
        ("Cargo.toml", &["--allow", "license-exception-not-encountered"]),
        (FUZZ_MANIFEST, &["--allow", "unmatched-skip", "--allow", "license-not-encountered"]),
    ]
}

fn cargo_deny_for(workspace: &Workspace, cargo_deny: &Path, manifest: &str) -> Command {
    let mut deny = Command::new(cargo_deny);
    deny.current_dir(workspace.root()).args(["--locked", "--config", "deny.toml"]);
    deny.arg("--manifest-path").arg(workspace.root().join(manifest));
    deny
}
