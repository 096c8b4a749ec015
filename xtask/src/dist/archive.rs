//! The archive for any distribution.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::Context as _;

use super::{Stamp, VERSION, directory, pages, program_in};
use crate::{build, command, workspace::Workspace};

/// What goes into it from the work tree: from where, and to where.
const FILES: [(&str, &str); 14] = [
    ("README.md", ""),
    ("CHANGELOG.md", ""),
    ("SECURITY.md", ""),
    ("LICENSE-MIT", ""),
    ("LICENSE-APACHE", ""),
    // The one to install, which observes, as the package does; and the one that shows all keys.
    ("ollama-guard/deploy/debian/config.toml", ""),
    ("ollama-guard/deploy/config.example.toml", ""),
    ("ollama-guard/docs", "docs"),
    ("ollama-guard/deploy/systemd", "systemd"),
    ("ollama-guard/deploy/prometheus/ollama-guard.rules.yml", "prometheus/ollama-guard.rules.yml"),
    ("ollama-guard/deploy/prometheus/scrape.yml", "prometheus/scrape.yml"),
    ("ollama-guard/deploy/grafana", "grafana"),
    ("target/dist/pages/man", "man"),
    ("target/dist/pages/completions", "completions"),
];

/// Packs it.
pub fn write(workspace: &Workspace, built: &Path, stamp: &Stamp) -> anyhow::Result<()> {
    let directory = directory(workspace);
    let name = format!("{}-{VERSION}-{}-linux", build::GUARD, std::env::consts::ARCH);
    let stage = directory.join(pages::DIRECTORY).join(&name);
    fs::create_dir_all(&stage)?;
    let program = stage.join(build::GUARD);
    copy(&program_in(built), &program)?;
    command::run(Command::new("strip").arg(&program))?;
    for (from, to) in FILES {
        let from = workspace.root().join(from);
        let to = if to.is_empty() {
            stage.join(from.file_name().unwrap_or_default())
        } else {
            stage.join(to)
        };
        if let Some(parent) = to.parent().filter(|parent| !parent.exists()) {
            fs::create_dir(parent)?;
            fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
        }
        copy(&from, &to)?;
    }
    let mut tar = Command::new("tar");
    tar.arg("--directory").arg(directory.join(pages::DIRECTORY));
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
    tar.args(["--mtime", &format!("@{}", stamp.time), "--mode=go-w"]);
    // Without its own name and time in it.
    tar.args(["--use-compress-program", "gzip --no-name --best", "--create", "--file"]);
    tar.arg(directory.join(format!("{name}.tar.gz"))).arg(&name);
    command::run(stamp.applied_to(&mut tar)).context("the archive")
}

/// A file or a directory, readable by everybody whatever the umask is.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let trouble = || format!("could not copy {}", from.display());
    let mut mode = 0o755;
    if from.is_dir() {
        fs::create_dir_all(to).with_context(trouble)?;
        for entry in fs::read_dir(from).with_context(trouble)? {
            let name = entry.with_context(trouble)?.file_name();
            copy(&from.join(&name), &to.join(&name))?;
        }
    } else {
        fs::copy(from, to).with_context(trouble)?;
        let is_program =
            fs::metadata(from).with_context(trouble)?.permissions().mode() & 0o100 != 0;
        mode = if is_program { 0o755 } else { 0o644 };
    }
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).with_context(trouble)
}
