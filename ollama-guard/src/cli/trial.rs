//! `ollama-guard confirm` and `revert`: the end of a change on trial.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;

use super::{SocketArg, written};
use crate::{
    control::{Client, protocol::TrialReply},
    dataplane::TrialEnd,
    events::text::Printable,
};

/// Arguments of `confirm` and `revert`.
#[derive(Debug, Args)]
pub struct TrialArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

/// Ends a trial.
pub(super) async fn settle(args: TrialArgs, end: TrialEnd) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.socket.socket);
    let reply = match end {
        TrialEnd::Confirmed => client.confirm().await?,
        TrialEnd::Reverted => client.revert().await?,
    };
    if args.json {
        return written(writeln!(io::stdout(), "{}", serde_json::to_string(&reply)?));
    }
    let TrialReply { trial, generation } = reply;
    let (what, by) = (Printable(&trial.what), Printable(&trial.by));
    let text = match end {
        TrialEnd::Confirmed => {
            format!("{what} by {by} is for good: generation {generation} is in force")
        }
        TrialEnd::Reverted => {
            format!("{what} by {by} is taken back: generation {generation} is in force")
        }
    };
    written(writeln!(io::stdout(), "{text}"))
}
