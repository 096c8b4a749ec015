//! `ollama-guard events`: recent drops, those of the past, and the live stream.

mod files;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{TROUBLE, written};
use crate::{
    config::DEFAULT_STATE_DIR,
    control::{Client, ClientError, EventLines},
    events::{Event, Line, Moment, Window},
};

/// Arguments of `events`.
#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// Print one JSON object a line, as the daemon sends it
    #[arg(long)]
    pub json: bool,
    /// Go on with new drops as they happen, until interrupted
    #[arg(long, short)]
    pub follow: bool,
    /// From when on, from the history on disk: how long ago (90s, 15m, 1h, 2d) or a time
    /// (2026-03-01T12:00:00Z)
    #[arg(long, value_name = "WHEN")]
    pub since: Option<Moment>,
    /// Up to when
    #[arg(long, value_name = "WHEN", conflicts_with = "follow")]
    pub until: Option<Moment>,
    /// Where the history is, which is read from there if no daemon answers
    #[arg(
        long,
        value_name = "DIR",
        env = "OLLAMA_GUARD_STATE_DIR",
        default_value = DEFAULT_STATE_DIR
    )]
    pub state_dir: PathBuf,
}

/// Prints the events of the daemon at `socket`, or, if none answers, those in its files.
///
/// # Errors
///
/// If neither can be had, the daemon refuses, or the stream breaks.
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
    let window = Window { since: args.since, until: args.until };
    let mut printer = Printer { json: args.json, printed: 0, out };
    let asked = Client::new(socket).events_within(&window, args.follow).await;
    let mut lines = match asked {
        Ok(lines) => lines,
        Err(error @ ClientError::NotRunning { .. }) if !args.follow => {
            return files::print(error, &args.state_dir, &window, &mut printer, err);
        }
        Err(error) => return Err(error.into()),
    };
    while let Some(text) = next(&mut lines, args.json).await? {
        if let Err(error) = printer.print(&text) {
            return written(Err(error));
        }
    }
    if args.follow {
        // Only the daemon ends a stream that is followed.
        writeln!(err, "the daemon ended the stream: it is stopping")?;
        return Ok(ExitCode::from(TROUBLE));
    }
    if printer.printed == 0 && !args.json {
        let none = if window.is_open() {
            "no drop was reported since the daemon started; `--since 1d` looks further back"
        } else {
            "no drop was reported in that time"
        };
        writeln!(err, "{none}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines on their way out, the titles before the first one.
struct Printer<'out> {
    json: bool,
    printed: u64,
    out: &'out mut (dyn Write + Send),
}

impl Printer<'_> {
    fn print(&mut self, text: &str) -> io::Result<()> {
        if self.printed == 0 && !self.json {
            writeln!(self.out, "{}", Event::TITLES)?;
        }
        self.printed += 1;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }
}

async fn next(lines: &mut EventLines, json: bool) -> anyhow::Result<Option<String>> {
    if json {
        return Ok(lines.next_line().await?);
    }
    Ok(lines.next().await?.map(|line| in_words(&line)))
}

fn in_words(line: &Line) -> String {
    match line {
        Line::Event(event) => event.to_string(),
        Line::Missed { missed } => {
            format!("-- {missed} events missed: this reader was too slow --")
        }
        Line::Unwritten { unwritten } => format!(
            "-- {unwritten} events are not in the history here: too many came at a time, or it could \
             not be written --"
        ),
        Line::Damaged { damaged } => {
            format!("-- {damaged} records of the history here are damaged and passed over --")
        }
    }
}
