//! `ollama-guard events`: recent drops, and the live stream.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::Args;

use super::{TROUBLE, written};
use crate::{
    control::{Client, EventLines},
    events::{Event, Line},
};

/// Arguments of `events`.
#[derive(Clone, Copy, Debug, Args)]
pub struct EventsArgs {
    /// Print one JSON object a line, as the daemon sends it
    #[arg(long)]
    pub json: bool,
    /// Go on with new drops as they happen, until interrupted
    #[arg(long, short)]
    pub follow: bool,
}

/// Prints the events of the daemon at `socket`.
///
/// # Errors
///
/// If no daemon answers, it refuses, or the stream breaks.
pub async fn run(args: EventsArgs, socket: &Path) -> anyhow::Result<ExitCode> {
    execute(args, socket, &mut io::stdout(), &mut io::stderr()).await
}

/// The same with other outputs.
///
/// # Errors
///
/// As [`run`].
pub async fn execute(
    args: EventsArgs,
    socket: &Path,
    out: &mut (dyn Write + Send),
    err: &mut (dyn Write + Send),
) -> anyhow::Result<ExitCode> {
    let mut lines = Client::new(socket).events(args.follow).await?;
    let mut titles = !args.json;
    let mut none = true;
    while let Some(text) = next(&mut lines, args.json).await? {
        none = false;
        if titles {
            titles = false;
            if let Err(error) = writeln!(out, "{}", Event::TITLES) {
                return written(Err(error));
            }
        }
        if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
            return written(Err(error));
        }
    }
    if args.follow {
        // Only the daemon ends a stream that is followed.
        writeln!(err, "the daemon ended the stream: it is stopping")?;
        return Ok(ExitCode::from(TROUBLE));
    }
    if none && !args.json {
        writeln!(err, "no drop was reported since the daemon started")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn next(lines: &mut EventLines, json: bool) -> anyhow::Result<Option<String>> {
    if json {
        return Ok(lines.next_line().await?);
    }
    Ok(lines.next().await?.map(|line| match line {
        Line::Event(event) => event.to_string(),
        Line::Missed { missed } => {
            format!("-- {missed} events missed: this reader was too slow --")
        }
    }))
}
