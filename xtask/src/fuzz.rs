//! `cargo xtask fuzz`: searches for packets that nobody has thought of.

mod oracle;
mod targets;

use clap::Subcommand;

use crate::workspace::Workspace;

/// What is searched.
#[derive(Subcommand)]
pub enum Fuzz {
    /// Frames with an Ethernet header: the decision against a second parser, guided by coverage
    JudgeLink(targets::Options),
    /// Packets without an Ethernet header: the same
    JudgeNetwork(targets::Options),
    /// Frames by chance to real listeners, without and with the guard: the kernel is the oracle
    Oracle(oracle::Limits),
}

/// Searches, and fails if something was found.
pub fn fuzz(workspace: &Workspace, what: &Fuzz) -> anyhow::Result<()> {
    match what {
        Fuzz::JudgeLink(options) => targets::fuzz(workspace, targets::LINK, options),
        Fuzz::JudgeNetwork(options) => targets::fuzz(workspace, targets::NETWORK, options),
        Fuzz::Oracle(limits) => oracle::oracle(workspace, limits),
    }
}
