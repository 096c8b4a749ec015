//! `ollama-guard mode`: have services enforced or observed.

use std::{process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};

use super::{
    SocketArg,
    ask::may_ask,
    reload::{change, lines, print},
};
use crate::{
    control::{
        Client,
        protocol::{ModeRequest, WrittenMode},
    },
    policy::duration,
};

/// Arguments of `mode`.
#[derive(Debug, Args)]
pub struct ModeArgs {
    /// What is to be done with packets of those who are not allowed
    #[arg(value_name = "MODE")]
    mode: ModeArg,
    /// Only for this service [default: for all of them]
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Take it back by itself after this time, such as 60s, unless `ollama-guard confirm` follows; also if the
    /// daemon dies
    #[arg(long, value_name = "TIME", value_parser = duration)]
    confirm: Option<Duration>,
    /// Only say what it would come to, and whom it would shut out who is connected now
    #[arg(long, conflicts_with = "confirm")]
    dry_run: bool,
    /// Do not ask first, which is done on a terminal where it shuts out somebody who is connected, or everybody
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

/// What is done.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    /// Drop them
    Enforce,
    /// Count and report what would be dropped, and drop nothing
    Observe,
}

/// Changes the mode, until the configuration says something else than now.
pub(super) async fn run(args: ModeArgs) -> anyhow::Result<ExitCode> {
    let ModeArgs { mode, service, confirm, dry_run, yes, json, socket } = args;
    let mode = match mode {
        ModeArg::Enforce => WrittenMode::Enforce,
        ModeArg::Observe => WrittenMode::Observe,
    };
    let client = Client::new(&socket.socket);
    let request = |dry_run: bool| {
        let confirm_seconds = confirm.filter(|_| !dry_run).map(|time| time.as_secs());
        ModeRequest { service: service.clone(), mode, dry_run, confirm_seconds }
    };
    if dry_run {
        let reply = client.set_mode(&request(true)).await?;
        if json {
            return print(&serde_json::to_string(&reply)?);
        }
        let generation = reply.generation;
        let is_in_force = format!("nothing has changed, generation {generation} is in force");
        return print(&format!("{}a dry run: {is_in_force}", lines(&reply)));
    }
    let asks = confirm.is_none() && may_ask(yes);
    change(json, asks, async |dry_run| Ok(client.set_mode(&request(dry_run)).await?)).await
}
