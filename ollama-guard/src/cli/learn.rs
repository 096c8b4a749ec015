//! `ollama-guard learn`: an allowlist, proposed from who is at the guarded ports.

use std::{
    fs,
    io::{self, IsTerminal as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{self, ExitCode},
};

use anyhow::{Context as _, bail};
use clap::{Args, builder::RangedU64ValueParser};
use nix::unistd::{AccessFlags, access};
use ollama_guard_common::{
    Mode,
    abi::{DEFAULT_PLACES, MOST_PLACES},
};

use super::{NO, SocketArg, written};
use crate::{
    control::{
        Client, EventLines,
        learning::{LearnLine, LearnRequest, MOST_SECONDS, Progress},
    },
    policy::proposal::{Group, Proposal, Summary},
};

/// Where nobody looks at a line that is written over: seconds between two lines about the progress.
const LOG_SECONDS: u32 = 60;

/// Arguments of `learn`.
#[derive(Debug, Args)]
pub struct LearnArgs {
    /// How long to look
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(MOST_SECONDS / 60))
    )]
    minutes: u32,
    /// The same in seconds
    #[arg(long, value_name = "N", hide = true, conflicts_with = "minutes")]
    seconds: Option<u32>,
    /// Sources that there is to be room for
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT_PLACES,
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(MOST_PLACES))
    )]
    sources: u32,
    /// Write the proposal into this file, which only its owner can read, and not to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

/// Proposes an allowlist. Exit status 1 if it is incomplete, or if nobody is in it or let in already.
pub(super) async fn run(args: LearnArgs) -> anyhow::Result<ExitCode> {
    // Before, and not when the time is over.
    if let Some(path) = &args.output {
        check_writable(path)?;
    }
    let request = LearnRequest {
        seconds: args.seconds.unwrap_or(args.minutes.saturating_mul(60)),
        sources: args.sources,
    };
    let mut lines = Client::new(&args.socket.socket).learn(&request).await?;
    let proposal = receive(&mut lines, &mut Teller::new(request.seconds)).await?;
    let summary = &proposal.summary;
    if summary.sources == 0 && summary.complete {
        say("no packet for a guarded port came in: there is nothing to propose")?;
        return Ok(ExitCode::from(NO));
    }
    let text = if args.json { json(&proposal)? } else { proposal.to_string() };
    let done = match &args.output {
        None => written(write!(io::stdout(), "{text}"))?,
        Some(path) => match write_file(path, &text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // What took that long is not to be lost.
                written(write!(io::stdout(), "{text}"))?;
                return Err(error.context("the proposal went to standard output instead"));
            }
        },
    };
    let is_good = conclude(&proposal, &args)?;
    Ok(if is_good { done } else { ExitCode::from(NO) })
}

/// Says what came of it. Answers whether it is a list that can be used.
fn conclude(proposal: &Proposal, args: &LearnArgs) -> anyhow::Result<bool> {
    let count = |group| proposal.entries.iter().filter(|entry| entry.group == group).count();
    let Proposal { summary, entries } = proposal;
    let (local, public) = (count(Group::Local), count(Group::Public));
    let is_let_in = |group| matches!(group, Group::Kept | Group::Allowed);
    let known = entries.iter().any(|entry| is_let_in(entry.group) && entry.sources > 0);
    if !summary.complete {
        say(&format!(
            "INCOMPLETE: {} packets are of sources that there was no room for; learn again, with \
             more than --sources {}",
            summary.homeless, args.sources
        ))?;
        return Ok(false);
    }
    if summary.mode == Mode::Enforce.name() {
        say(
            "in mode enforce strangers can only knock: in mode observe it shows which of them talk",
        )?;
    }
    if local + public == 0 && !known {
        let sources = summary.sources;
        say(&format!("{sources} sources knocked, and none of them talked: nobody is proposed"))?;
        return Ok(false);
    }
    say(&format!(
        "proposed: {local} on local networks, {public} from elsewhere; {} sources were seen",
        summary.sources
    ))?;
    if public > 0 {
        say("look at those from elsewhere: a stranger who found the open port talks, too")?;
    }
    if let Some(path) = &args.output {
        let path = path.display();
        say(&format!("written to {path}; read it, then: ollama-guard allow replace {path}"))?;
    }
    Ok(true)
}

/// Waits for the whole of it.
async fn receive(lines: &mut EventLines, teller: &mut Teller) -> anyhow::Result<Proposal> {
    let mut entries = Vec::new();
    while let Some(line) = lines.next_of().await? {
        match line {
            LearnLine::Progress(progress) => teller.tell(&progress)?,
            LearnLine::Entry(entry) => entries.push(entry),
            LearnLine::Done(summary) => {
                teller.end()?;
                return Ok(Proposal { summary, entries });
            }
            LearnLine::Failed(error) => {
                teller.end()?;
                bail!("the daemon cannot tell what was counted: {error}");
            }
        }
    }
    teller.end()?;
    bail!("the daemon ended before the time was over: it is stopping, or was detached")
}

fn json(proposal: &Proposal) -> anyhow::Result<String> {
    #[derive(serde::Serialize)]
    struct Whole<'a> {
        #[serde(flatten)]
        summary: &'a Summary,
        entries: &'a [crate::policy::proposal::Entry],
    }
    let Proposal { summary, entries } = proposal;
    Ok(serde_json::to_string(&Whole { summary, entries })? + "\n")
}

/// The progress, on standard error.
struct Teller {
    is_terminal: bool,
    /// When to say something again, in seconds before the end.
    next: u32,
}

impl Teller {
    fn new(seconds: u32) -> Self {
        Self { is_terminal: io::stderr().is_terminal(), next: seconds }
    }

    fn tell(&mut self, progress: &Progress) -> io::Result<()> {
        let Progress { seconds_left, sources, packets, homeless } = *progress;
        let mut text =
            format!("learning: {seconds_left} s to go, {sources} sources, {packets} packets");
        if homeless > 0 {
            text += &format!("; NO ROOM for more: {homeless} packets of others");
        }
        if self.is_terminal {
            // Written over the last one.
            write!(io::stderr(), "\r{text}\x1b[K")
        } else if seconds_left <= self.next {
            self.next = seconds_left.saturating_sub(LOG_SECONDS);
            say(&text)
        } else {
            Ok(())
        }
    }

    fn end(&self) -> io::Result<()> {
        if self.is_terminal { writeln!(io::stderr()) } else { Ok(()) }
    }
}

fn say(text: &str) -> io::Result<()> {
    writeln!(io::stderr(), "{text}")
}

/// Whether a file can be put there.
fn check_writable(path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(!path.is_dir(), "{} is a directory: name a file in it", path.display());
    anyhow::ensure!(path.file_name().is_some(), "{} is no name of a file", path.display());
    let directory = directory(path);
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK)
        .with_context(|| format!("cannot write into {}", directory.display()))
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Puts a file in the place of another, whole or not at all.
fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", process::id()));
    let new = directory(path).join(name);
    let write = || {
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display())).inspect_err(|_| {
        // It may not even be there.
        let _ = fs::remove_file(&new);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_its_owners() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proposal");
        fs::write(&path, "before").unwrap();
        check_writable(&path).unwrap();
        write_file(&path, "after\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_where_no_file_can_be_is_told_before() {
        let directory = tempfile::tempdir().unwrap();
        for bad in [directory.path().to_owned(), directory.path().join("none/proposal")] {
            assert!(check_writable(&bad).is_err(), "{}", bad.display());
        }
        check_writable(Path::new("proposal")).unwrap();
    }
}
