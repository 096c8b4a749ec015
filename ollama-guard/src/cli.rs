//! The commands: one file each. A command knows its arguments, does its work and prints itself.
//!
//! Exit codes: 0 done; 1 the answer is no (not enforcing, the source would be dropped); 2 trouble
//! or wrong usage.

#![forbid(unsafe_code)]

pub mod ask;
mod check;
mod detach;
mod doctor;
pub mod events;
mod explain;
mod groups;
mod learn;
pub mod log;
mod mode;
mod reload;
pub mod rules;
mod run;
mod status;
pub mod top;
mod trial;
mod verify;
mod version;

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{DEFAULT_PIN_DIR, DEFAULT_SOCKET},
    dataplane::TrialEnd,
    policy::{Effect, Subject},
};

/// The answer is no.
const NO: u8 = 1;
/// Trouble or wrong usage.
pub const TROUBLE: u8 = 2;

/// A kernel-level lock for LLM servers: drops every packet to a guarded port whose source is not
/// on the allowlist
#[derive(Debug, Parser)]
#[command(
    name = "ollama-guard",
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    version: version::VersionArgs,

    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load the filter, keep its rules and stream its drops, until a signal; the filter stays
    Run(run::RunArgs),
    /// The allowlist: who may reach the guarded ports
    Allow(ToldRules),
    /// The denylist: who may not, whatever else allows them
    Deny(ToldRules),
    /// What the kernel filters now, by which program, on which interfaces
    Status(status::StatusArgs),
    /// Whether every door holds, proven by test packets on the live maps
    Verify(verify::VerifyArgs),
    /// Whether a configuration file can be used, with all its mistakes; applies nothing
    Check(check::CheckArgs),
    /// The built-in groups that rules may name, as they are on this host now
    Groups(groups::GroupsArgs),
    /// What `reload` would change
    Diff(reload::DiffArgs),
    /// Have the daemon read its configuration again and put it in force, as it does by itself when
    /// the file changes
    Reload(reload::ReloadArgs),
    /// Have services enforced or observed, whatever the configuration says at this time
    Mode(mode::ModeArgs),
    /// Make a change stay that is on trial
    Confirm(trial::ConfirmArgs),
    /// Take a change back that is on trial, at once
    Revert(trial::TrialArgs),
    /// Propose an allowlist from who is at the guarded ports; best while observing
    Learn(learn::LearnArgs),
    /// Recent drops, those of the past, and the live stream
    Events(ToldEvents),
    /// Who knocks, how often, and what becomes of it, on a live screen
    Top(top::TopArgs),
    /// Whether an address may reach a guarded port, and why
    Explain(explain::ExplainArgs),
    /// What this host can do, which paths lead around the guard, and whom it would hurt
    Doctor(doctor::DoctorArgs),
    /// Take everything of ours out of the kernel: the guarded ports are open afterwards
    Detach(detach::DetachArgs),
}

/// `allow` and `deny`, told to the daemon.
#[derive(Debug, Args)]
pub struct ToldRules {
    #[command(flatten)]
    rules: rules::RulesArgs,
    #[command(flatten)]
    socket: SocketArg,
}

/// `events`, asked of the daemon.
#[derive(Debug, Args)]
pub struct ToldEvents {
    #[command(flatten)]
    events: events::EventsArgs,
    #[command(flatten)]
    socket: SocketArg,
}

/// Where the daemon listens.
#[derive(Clone, Debug, Args)]
pub struct SocketArg {
    /// The daemon's control socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "OLLAMA_GUARD_SOCKET",
        default_value = DEFAULT_SOCKET
    )]
    socket: PathBuf,
}

/// Where the pins are.
#[derive(Clone, Debug, Args)]
pub struct PinDirArg {
    /// Where programs, maps and links are pinned
    #[arg(
        long,
        value_name = "DIR",
        env = "OLLAMA_GUARD_PIN_DIR",
        default_value = DEFAULT_PIN_DIR
    )]
    pin_dir: PathBuf,
}

impl Cli {
    /// The form of the log: commands that end speak to a person.
    #[must_use]
    pub const fn log_format(&self) -> log::LogFormat {
        match &self.command {
            Some(Command::Run(args)) => args.log_format(),
            _ => log::LogFormat::Text,
        }
    }

    /// Does what was asked.
    pub async fn execute(self) -> anyhow::Result<ExitCode> {
        let Some(command) = self.command else {
            // Then `--version` is there: clap answers nothing at all by its help.
            return self.version.print();
        };
        match command {
            Command::Run(args) => run::run(args).await,
            Command::Allow(told) => edit(Effect::Allow, told).await,
            Command::Deny(told) => edit(Effect::Deny, told).await,
            Command::Status(args) => status::run(args).await,
            Command::Verify(args) => verify::run(args).await,
            Command::Check(args) => check::run(args).await,
            Command::Groups(args) => groups::run(args).await,
            Command::Diff(args) => reload::diff(args).await,
            Command::Reload(args) => reload::reload(args).await,
            Command::Mode(args) => mode::run(args).await,
            Command::Confirm(args) => trial::confirm(args).await,
            Command::Revert(args) => trial::settle(args, TrialEnd::Reverted).await,
            Command::Learn(args) => learn::run(args).await,
            Command::Events(told) => events::run(told.events, &told.socket.socket).await,
            Command::Top(args) => top::run(args).await,
            Command::Explain(args) => explain::run(args).await,
            Command::Doctor(args) => doctor::run(args).await,
            Command::Detach(args) => detach::run(args).await,
        }
    }
}

async fn edit(effect: Effect, told: ToldRules) -> anyhow::Result<ExitCode> {
    let check = |text: &str| text.parse::<Subject>().map(drop).map_err(|error| error.to_string());
    rules::run(effect, told.rules, &told.socket.socket, check).await
}

/// What came of writing to standard output. A reader that has seen enough and closed the pipe is
/// no failure.
fn written(result: io::Result<()>) -> anyhow::Result<ExitCode> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to standard output"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_closed_pipe_is_success_and_a_full_disk_is_not() {
        assert!(written(Err(ErrorKind::BrokenPipe.into())).is_ok());
        assert!(written(Ok(())).is_ok());
        let error = written(Err(ErrorKind::StorageFull.into())).expect_err("trouble");
        assert!(error.to_string().contains("standard output"));
    }
}
