//! `cargo xtask soak`: floods, friends, edits, interfaces, event readers and kills, all at once.

use anyhow::ensure;
use clap::Args;

use crate::{
    build::{self, Profile},
    command::{self, Elevation},
    recorded::{Page, play},
    setup::{self, Needs},
    workspace::Workspace,
};

/// Where the figures are kept, and the line that they follow.
const PAGE: Page = Page {
    path: "ollama-guard/docs/soak.md",
    mark: "<!-- The rest of this page is written by `cargo xtask soak --record`. -->\n",
};

/// How long, and what for.
#[derive(Args)]
pub struct Limits {
    /// So long
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// The seed of an earlier run [default: a new one]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Write the figures into the documentation
    #[arg(long)]
    record: bool,
}

/// Builds and runs it; anything that was not as it should be is an error.
pub fn soak(workspace: &Workspace, limits: &Limits) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::TESTS)?;
    build::both_sides(workspace, &compiler, Profile::Release, &["soak"])?;
    let program = workspace.release_binary("soak");
    ensure!(program.is_file(), "{} was not built", program.display());
    let guard = workspace.release_binary("ollama-guard");
    let env = [("OLLAMA_GUARD_BINARY", guard.as_os_str())];
    let mut command = Elevation::detect().require("the soak", program, &env)?;
    command.args(["--minutes", &limits.minutes.to_string()]);
    if let Some(seed) = limits.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if !limits.record {
        return command::run(&mut command);
    }
    let report = play(&mut command, "the soak")?;
    let head = format!("{} minutes, ", limits.minutes);
    PAGE.record(workspace, &head, &format!("```text\n{}\n```", report.trim_end()))
}
