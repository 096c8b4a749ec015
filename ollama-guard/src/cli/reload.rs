//! `ollama-guard reload` and `diff`: what the configuration says now, and what that changes.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use jiff::Timestamp;

use super::{
    NO, SocketArg,
    ask::{may_ask, on_terminal},
    written,
};
use crate::{
    control::{
        Client,
        protocol::{ReloadReply, ReloadRequest},
    },
    events::text::Printable,
    policy::{duration, span},
};

/// Arguments of `reload`.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    shared: DiffArgs,
    /// Take it back by itself after this time, such as 60s, unless `ollama-guard confirm` follows; also if the
    /// daemon dies
    #[arg(long, value_name = "TIME", value_parser = duration)]
    confirm: Option<Duration>,
    /// Do not ask first, which is done on a terminal where it shuts out somebody who is connected, or everybody
    #[arg(long)]
    yes: bool,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

/// Has the daemon read its configuration again.
pub(super) async fn reload(args: ReloadArgs) -> anyhow::Result<ExitCode> {
    let ReloadArgs { shared, confirm, yes } = args;
    let asks = confirm.is_none() && may_ask(yes);
    change(shared.json, asks, async |dry_run| ask(&shared, dry_run, confirm).await).await
}

/// Makes a change, with a question before it if it closes something and somebody is there to ask.
pub(super) async fn change(
    json: bool,
    asks: bool,
    make: impl AsyncFn(bool) -> anyhow::Result<ReloadReply>,
) -> anyhow::Result<ExitCode> {
    if asks {
        let would = make(true).await?;
        if would.closes {
            print(lines(&would).trim_end())?;
            if !on_terminal()? {
                print("nothing has changed")?;
                return Ok(ExitCode::from(NO));
            }
        }
    }
    let reply = make(false).await?;
    if json {
        return print(&serde_json::to_string(&reply)?);
    }
    let mut text = lines(&reply);
    if let Some(until) = reply.trial_until {
        let left = span(until.as_second() - Timestamp::now().as_second());
        let _ = write!(
            text,
            "in force ON TRIAL, as generation {}: in {left} what was before comes back, unless you say \
             `ollama-guard confirm`",
            reply.generation
        );
    } else if reply.changes.is_empty() {
        text.push_str("nothing has changed");
    } else {
        let _ = write!(text, "in force, as generation {}", reply.generation);
    }
    print(&text)
}

/// Says what `reload` would change. Exit status 0 if nothing, 1 if something.
pub(super) async fn diff(args: DiffArgs) -> anyhow::Result<ExitCode> {
    let reply = ask(&args, true, None).await?;
    let is_same = reply.changes.is_empty() && reply.later.is_empty();
    let text = if args.json {
        serde_json::to_string(&reply)?
    } else {
        let mut text = lines(&reply);
        text.push_str(if is_same {
            "`ollama-guard reload` would change nothing"
        } else {
            "nothing has changed yet: `ollama-guard reload` puts it in force"
        });
        text
    };
    let done = print(&text)?;
    Ok(if is_same { done } else { ExitCode::from(NO) })
}

async fn ask(
    args: &DiffArgs,
    dry_run: bool,
    confirm: Option<Duration>,
) -> anyhow::Result<ReloadReply> {
    let confirm_seconds = confirm.map(|time| time.as_secs());
    let request = ReloadRequest { dry_run, confirm_seconds };
    Ok(Client::new(&args.socket.socket).reload(&request).await?)
}

pub(super) fn lines(reply: &ReloadReply) -> String {
    let mut text = String::new();
    for line in &reply.changes {
        let _ = writeln!(text, "{}", Printable(line));
    }
    for line in &reply.later {
        let _ = writeln!(text, "{} (takes a restart of the daemon)", Printable(line));
    }
    for line in &reply.warnings {
        let _ = writeln!(text, "warning: {}", Printable(line));
    }
    text
}

pub(super) fn print(text: &str) -> anyhow::Result<ExitCode> {
    written(writeln!(io::stdout(), "{text}"))
}
