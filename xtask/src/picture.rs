//! `cargo xtask picture`: the picture of `ollama-guard top` in the documentation, and the screens that
//! its tests compare with, drawn anew from the real screen.

use crate::{command, workspace::Workspace};

/// Says to the tests that they are to write.
const RECORD: &str = "OLLAMA_GUARD_RECORD";

/// Draws them by the tests that compare them at all other times.
pub fn picture(workspace: &Workspace) -> anyhow::Result<()> {
    let mut cargo = workspace.cargo("test");
    cargo.args(["--package", "ollama-guard", "--lib", "cli::top::screen"]).env(RECORD, "1");
    command::run(&mut cargo)?;
    println!("picture: written into ollama-guard/docs/top.svg; look at what git says has changed");
    Ok(())
}
