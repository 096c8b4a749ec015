//! `cargo xtask run -- ARGS`: the release binary on this host's real interfaces.

use std::ffi::{OsStr, OsString};

use crate::{
    build::{self, Profile},
    command::{self, Elevation},
    setup::{self, Needs},
    workspace::Workspace,
};

/// Builds and becomes `ollama-guard run ARGS`; returns only if that fails.
pub fn run(workspace: &Workspace, args: &[OsString]) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::RUN)?;
    build::both_sides(workspace, &compiler, Profile::Release, &[])?;
    let settings = settings();
    let env: Vec<(&str, &OsStr)> =
        settings.iter().map(|(name, value)| (name.as_str(), value.as_os_str())).collect();
    let binary = workspace.release_binary("ollama-guard");
    let mut guard = Elevation::detect().require("running the guard", binary, &env)?;
    Err(command::exec(guard.arg("run").args(args)))
}

/// The daemon's settings in the environment, which sudo would drop.
fn settings() -> Vec<(String, OsString)> {
    let ours = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok()?;
        name.starts_with("OLLAMA_GUARD_").then_some((name, value))
    };
    std::env::vars_os().filter_map(ours).collect()
}
