//! `ollama-guard reload` and `diff`: what the configuration says now, and what that changes.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;

use super::{NO, SocketArg, written};
use crate::{
    control::{
        Client,
        protocol::{ReloadReply, ReloadRequest},
    },
    events::text::Printable,
};

/// Arguments of `reload` and `diff`.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

/// Has the daemon read its configuration again.
pub(super) async fn reload(args: ReloadArgs) -> anyhow::Result<ExitCode> {
    let reply = ask(&args, false).await?;
    if args.json {
        return print(&serde_json::to_string(&reply)?);
    }
    let mut text = lines(&reply);
    if reply.changes.is_empty() {
        text.push_str("nothing has changed");
    } else {
        let _ = write!(text, "in force, as generation {}", reply.generation);
    }
    print(&text)
}

/// Says what `reload` would change. Exit status 0 if nothing, 1 if something.
pub(super) async fn diff(args: ReloadArgs) -> anyhow::Result<ExitCode> {
    let reply = ask(&args, true).await?;
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

async fn ask(args: &ReloadArgs, dry_run: bool) -> anyhow::Result<ReloadReply> {
    Ok(Client::new(&args.socket.socket).reload(&ReloadRequest { dry_run }).await?)
}

fn lines(reply: &ReloadReply) -> String {
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

fn print(text: &str) -> anyhow::Result<ExitCode> {
    written(writeln!(io::stdout(), "{text}"))
}
