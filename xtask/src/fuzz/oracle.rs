//! `cargo xtask fuzz oracle`: builds what is needed, then runs the test of `tests/src/oracle` as
//! root, for as long as one likes.

use anyhow::ensure;
use clap::Args;

use crate::{
    build::{self, Profile},
    command::{self, Elevation},
    setup::{self, Needs},
    workspace::Workspace,
};

/// How long, and with what. The longer of the two limits counts.
#[derive(Args)]
pub struct Limits {
    /// At least this long
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// At least so many frames
    #[arg(long, default_value_t = 100_000)]
    frames: u64,
    /// The seed of an earlier run, to get the same frames again [default: a new one]
    #[arg(long, value_name = "S")]
    seed: Option<String>,
}

/// Builds and becomes the test: its exit status is ours. Returns only if that fails.
pub fn oracle(workspace: &Workspace, limits: &Limits) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::TESTS)?;
    build::both_sides(workspace, &compiler, Profile::Release, &["oracle"])?;
    let program = workspace.release_binary("oracle");
    ensure!(program.is_file(), "{} was not built", program.display());
    let guard = workspace.release_binary("ollama-guard");
    let env = [("OLLAMA_GUARD_BINARY", guard.as_os_str())];
    let mut command = Elevation::detect().require("the oracle", program, &env)?;
    command.args(["--seconds", &limits.seconds.to_string()]);
    command.args(["--frames", &limits.frames.to_string()]);
    if let Some(seed) = &limits.seed {
        command.args(["--seed", seed]);
    }
    command.arg("--keep").arg(workspace.root().join("tests/fixtures/oracle"));
    Err(command::exec(&mut command))
}
