//! `ollama-guard confirm` and `revert`: the end of a change on trial.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;

use super::{SocketArg, written};
use crate::{
    control::{Client, protocol::TrialReply},
    dataplane::{INNER_NAME, TrialEnd},
    events::text::Printable,
};

/// Arguments of `confirm`.
#[derive(Debug, Args)]
pub struct ConfirmArgs {
    /// Have the inner door drop that has only observed since an upgrade, and confirm nothing else
    #[arg(long)]
    inner: bool,
    #[command(flatten)]
    trial: TrialArgs,
}

/// Confirms.
pub(super) async fn confirm(args: ConfirmArgs) -> anyhow::Result<ExitCode> {
    let ConfirmArgs { inner, trial } = args;
    if !inner {
        return settle(trial, TrialEnd::Confirmed).await;
    }
    let reply = Client::new(&trial.socket.socket).confirm_inner().await?;
    if trial.json {
        return written(writeln!(io::stdout(), "{}", serde_json::to_string(&reply)?));
    }
    let text = match reply.observed {
        true => "drops from now on",
        false => "has been dropping before",
    };
    written(writeln!(io::stdout(), "the {INNER_NAME} {text}"))
}

/// Arguments of `revert`, and more or less of `confirm`.
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
