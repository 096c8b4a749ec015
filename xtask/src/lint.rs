//! `cargo xtask lint`: format, clippy with warnings denied for both sides, the rules of the house,
//! and dependencies.
//!
//! Every part runs even if an earlier one failed: one call shows everything that is to be done.

mod code;
mod dependencies;
mod length;
mod rooms;
mod unsafety;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{
    command,
    compiler::KernelCompiler,
    setup::{
        self, Needs,
        tools::{self, CARGO_DENY},
    },
    workspace::{KERNEL_PACKAGE, Workspace},
};

/// Sets up, checks everything, and fails if anything was found.
pub fn lint(workspace: &Workspace) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::LINT)?;
    let outcome = check(workspace, &compiler);
    for part in &outcome.skipped {
        println!("lint: skipped: {part}");
    }
    if outcome.failed.is_empty() {
        println!("lint: clean");
        return Ok(());
    }
    bail!("lint failed: {}", outcome.failed.join(", "))
}

/// What became of the parts.
#[derive(Default)]
pub struct Outcome {
    /// Names of the parts that found something.
    pub failed: Vec<String>,
    /// Parts that were left out, each with the reason.
    pub skipped: Vec<String>,
}

/// Checks everything.
pub fn check(workspace: &Workspace, compiler: &KernelCompiler) -> Outcome {
    let mut outcome = Outcome::default();
    let mut part = |name: &str, result: anyhow::Result<()>| match result {
        Ok(()) => println!("lint: {name}: clean"),
        Err(error) => {
            println!("lint: {name}: {error:#}");
            outcome.failed.push(name.to_owned());
        }
    };
    part("format", format(workspace));
    part("clippy, user side", clippy_user_side(workspace));
    part("clippy, kernel side", clippy_kernel_side(workspace, compiler));
    part("rules of the house", house_rules(workspace.root()));
    match tools::ensure(workspace, &CARGO_DENY) {
        Err(error) => part("dependencies", Err(error)),
        Ok(cargo_deny) => {
            part("dependencies", dependencies::check(workspace, &cargo_deny));
            if dependencies::fetch_advisories(workspace, &cargo_deny) {
                part("advisories", dependencies::check_advisories(workspace, &cargo_deny));
            } else {
                let reason = "advisories: LEFT OUT, the advisory database can't be fetched";
                outcome.skipped.push(reason.to_owned());
            }
        }
    }
    outcome
}

fn format(workspace: &Workspace) -> anyhow::Result<()> {
    command::run(workspace.bare_cargo().args(["fmt", "--all", "--check"]))
        .context("`cargo fmt --all` puts it right")
}

fn clippy_user_side(workspace: &Workspace) -> anyhow::Result<()> {
    let mut cargo = workspace.cargo("clippy");
    cargo.args(["--workspace", "--exclude", KERNEL_PACKAGE, "--all-targets", "--keep-going"]);
    command::run(cargo.args(["--", "-D", "warnings"]))
}

fn clippy_kernel_side(workspace: &Workspace, compiler: &KernelCompiler) -> anyhow::Result<()> {
    let mut cargo = compiler.cargo_clippy(workspace);
    cargo.args(["--package", KERNEL_PACKAGE, "--package", "ollama-guard-common", "--keep-going"]);
    command::run(&mut cargo)
}

/// The rules that no compiler knows.
fn house_rules(root: &Path) -> anyhow::Result<()> {
    let files = sources(root)?;
    for line in unsafety::summary(&files) {
        println!("lint: {line}");
    }
    let mut problems = Vec::new();
    for file in &files {
        problems.extend(unsafety::check(file));
        problems.extend(rooms::check(file));
        problems.extend(length::check(file));
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("\n  {}", problems.join("\n  "))
}

/// A source file of ours.
struct Source {
    /// Relative to the root, with `/`.
    path: String,
    /// As it is on disk.
    text: String,
    /// Without comments and without the contents of literals, line by line as on disk.
    code: String,
}

impl Source {
    fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { path: path.into(), code: code::only(&text), text }
    }

    /// The code's lines with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// Every Rust file of the workspace, but for what is built or not ours.
fn sources(root: &Path) -> anyhow::Result<Vec<Source>> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for path in entries(&directory)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                directories.push(path);
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("could not read {}", path.display()))?;
                let relative = path.strip_prefix(root).unwrap_or(&path);
                files.push(Source::new(relative.to_string_lossy(), text));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn entries(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect());
    entries.with_context(|| format!("could not list {}", directory.display()))
}
