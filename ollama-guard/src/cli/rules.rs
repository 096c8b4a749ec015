//! `ollama-guard allow` and `ollama-guard deny`: the rules of one effect.

mod file;
mod show;

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

pub use file::{ListError, Problem, read_list};

use super::{NO, ask, written};
use crate::{
    control::{
        Client, Effect,
        backend::Manner,
        protocol::{AddRequest, Comment, Edit, RemoveRequest, ReplaceRequest},
    },
    policy::{End, Limits, Pattern, duration},
};

/// Says what is wrong with the text of a prefix, before anything is sent.
pub type PrefixCheck = fn(&str) -> Result<(), String>;

/// Arguments of `allow` and `deny`.
#[derive(Clone, Debug, Args)]
pub struct RulesArgs {
    /// What to do with the rules.
    #[command(subcommand)]
    pub command: RulesCommand,
    #[command(flatten)]
    /// Whether it is on trial
    pub trial: TrialArgs,
}

/// Whether a change is on trial.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct TrialArgs {
    /// Take a change back by itself after this time, such as 60s, unless `ollama-guard confirm` follows; also if
    /// the daemon dies
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub confirm: Option<Duration>,
    /// Only say what a change would come to, and whom it would shut out who is connected now
    #[arg(long, global = true, conflicts_with = "confirm")]
    pub dry_run: bool,
    /// Do not ask first, which is done on a terminal where a change shuts out somebody who is connected, or
    /// everybody
    #[arg(long, global = true)]
    pub yes: bool,
}

/// What to do with the rules.
#[derive(Clone, Debug, Subcommand)]
pub enum RulesCommand {
    /// Add rules; they stay over restarts, and until they end or are removed. What is there already gets the
    /// end that is named, or none
    Add {
        /// Addresses, prefixes or host names, such as 192.0.2.7, 2001:db8::/32, home.example.org
        #[arg(value_name = "PREFIX", required = true)]
        prefixes: Vec<String>,
        #[command(flatten)]
        /// Where they hold
        limits: LimitArgs,
        /// A word on what they are for
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
        /// Confirm that a prefix of all addresses (0.0.0.0/0, ::/0) is meant
        #[arg(long)]
        anyone: bool,
        /// End them after this time, such as 90s, 45m, 2h, 1h30m, 7d
        #[arg(long = "for", value_name = "TIME", value_parser = duration, conflicts_with = "until")]
        time: Option<Duration>,
        /// End them at this moment, such as 2026-12-01T18:00:00Z
        #[arg(long, value_name = "MOMENT")]
        until: Option<End>,
    },
    /// Remove rules that were added with `add` or `replace`
    Remove {
        /// Prefixes as they are listed
        #[arg(value_name = "PREFIX", required = true)]
        prefixes: Vec<String>,
        #[command(flatten)]
        /// Where they hold
        limits: LimitArgs,
    },
    /// Show the rules and where they come from
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace all rules that were added by those in a file, all or nothing
    Replace {
        /// One prefix a line, behind it `until MOMENT` if it ends, and a comment behind `#`; `-` reads standard
        /// input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        /// Where they hold
        limits: LimitArgs,
        /// Confirm that a prefix of all addresses (0.0.0.0/0, ::/0) is meant
        #[arg(long)]
        anyone: bool,
    },
}

/// Where rules hold.
#[derive(Clone, Debug, Default, Args)]
pub struct LimitArgs {
    /// Only for this service [default: for all of them]
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only for what comes in through these interfaces, such as eth1 or wg* [default: all of them]
    #[arg(long, value_name = "INTERFACE", value_delimiter = ',')]
    pub on: Vec<Pattern>,
}

impl LimitArgs {
    /// As they go over the socket.
    fn limits(self) -> Option<Limits> {
        let limits = Limits::new(self.service.map(Arc::from), self.on);
        limits.map(Arc::unwrap_or_clone)
    }
}

/// Reads or changes the rules of one effect in the daemon at `socket`.
///
/// # Errors
///
/// If the arguments or the file are wrong, no daemon answers, or it refuses.
pub async fn run(
    effect: Effect,
    args: RulesArgs,
    socket: &Path,
    check: PrefixCheck,
) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout());
    let asks = ask::may_ask(args.trial.yes);
    execute(
        effect,
        args,
        socket,
        check,
        (&mut out, &mut io::stderr()),
        asks.then_some(ask::on_terminal),
    )
    .await
}

/// The same with other outputs.
///
/// # Errors
///
/// As [`run`].
pub async fn execute(
    effect: Effect,
    args: RulesArgs,
    socket: &Path,
    check: PrefixCheck,
    (out, err): (&mut (dyn Write + Send), &mut (dyn Write + Send)),
    ask: Option<ask::Ask>,
) -> anyhow::Result<ExitCode> {
    let manner = match args.trial.confirm {
        _ if args.trial.dry_run => Manner::DryRun,
        Some(time) => Manner::OnTrial(time),
        None => Manner::ForGood,
    };
    let edit = match args.command {
        RulesCommand::List { json } => {
            let mut list = Client::new(socket).rules().await?;
            list.rules.retain(|rule| rule.effect == effect);
            list.names.retain(|name| name.effect == effect);
            let shown = show::list(effect, &list, json, out, err).and_then(|()| out.flush());
            return written(shown);
        }
        command => edit(effect, command, check)?,
    };
    if let (Manner::ForGood, Some(ask)) = (manner, ask) {
        let would = Client::new(socket).changing(Manner::DryRun).edit(&edit).await?;
        if would.closes {
            show::warnings(&would, err)?;
            if !ask()? {
                writeln!(err, "nothing has changed")?;
                return Ok(ExitCode::from(NO));
            }
        }
    }
    let reply = Client::new(socket).changing(manner).edit(&edit).await?;
    show::warnings(&reply, err)?;
    let shown = if manner == Manner::DryRun {
        show::preview(effect, &reply, out)
    } else {
        show::reply(effect, &reply, out)
    };
    written(shown.and_then(|()| out.flush()))
}

/// What a command asks of the daemon.
fn edit(effect: Effect, command: RulesCommand, check: PrefixCheck) -> anyhow::Result<Edit> {
    Ok(match command {
        RulesCommand::List { .. } => bail!("a list changes nothing"),
        RulesCommand::Add { prefixes, limits, comment, anyone, time, until: expires } => {
            check_all(&prefixes, check)?;
            let limits = limits.limits();
            let comment = comment.map(Comment::try_from).transpose().context("--comment")?;
            let for_seconds = time.map(|time| time.as_secs());
            Edit::Add(AddRequest {
                effect,
                prefixes,
                limits,
                comment,
                anyone,
                expires,
                for_seconds,
            })
        }
        RulesCommand::Remove { prefixes, limits } => {
            check_all(&prefixes, check)?;
            Edit::Remove(RemoveRequest { effect, prefixes, limits: limits.limits() })
        }
        RulesCommand::Replace { file, limits, anyone } => {
            let rules = read_list(&file, check)?;
            Edit::Replace(ReplaceRequest { effect, rules, limits: limits.limits(), anyone })
        }
    })
}

fn check_all(prefixes: &[String], check: PrefixCheck) -> anyhow::Result<()> {
    let problems: Vec<_> = prefixes.iter().filter_map(|prefix| check(prefix).err()).collect();
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}
