//! `cargo xtask demo`: the main job on an embedded default.

use anyhow::ensure;

use std::{path::Path, process::Command};

use crate::{
    build::{self, Profile},
    command::{self, Elevation},
    setup::{self, Needs},
    workspace::Workspace,
};

/// Builds and becomes the demo: its exit status is ours, and Ctrl-C or SIGTERM reach it itself,
/// so that it can take down its network. Returns only if that fails.
pub fn demo(workspace: &Workspace) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::DEMO)?;
    build::both_sides(workspace, &compiler, Profile::Release, &["demo"])?;
    Err(command::exec(&mut program(workspace, &workspace.release_binary("demo"))?))
}

/// The demo, which was built here, ready to start; both sides must be built.
pub fn program(workspace: &Workspace, demo: &Path) -> anyhow::Result<Command> {
    ensure!(demo.is_file(), "{} was not built", demo.display());
    let mut command = Elevation::detect().require("the demo", demo, &[])?;
    command.arg("--binary").arg(workspace.release_binary("ollama-guard"));
    Ok(command)
}
