//! `ollama-guard top`: who knocks, how often, and what becomes of it, as it happens.
//!
//! Rates and totals are differences of the kernel's counters, by way of the daemon's status; what is
//! said of strangers is estimated from events. [`model`] and [`view`] are plain values, [`screen`] draws
//! them, [`feed`] asks the daemon and [`live`] holds the terminal. A rule that is added here goes by the
//! same request as `allow add`, so that the daemon's rules on who may, and its audit log, are the same.

mod dialog;
mod feed;
mod live;
mod model;
mod plain;
mod rates;
mod screen;
mod strangers;
pub mod terminal;
mod theme;
mod view;

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use clap::Args;

use self::{strangers::Choice, view::View};
use super::SocketArg;
use crate::{
    config::DEFAULT_SOCKET,
    events::{Moment, Window},
    policy::{Prefix, PrefixError},
};

/// Arguments of `top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// Print one snapshot after an interval and end; so it is too if standard output is no terminal
    #[arg(long, visible_alias = "plain")]
    once: bool,
    /// The same in JSON
    #[arg(long)]
    json: bool,
    /// How often the daemon is asked: from 200ms to 1m
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// From when on strangers are counted
    #[arg(long, value_name = "WHEN", default_value = "1h")]
    since: Moment,
    /// Leave sources out; may be repeated
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    ignore: Vec<Prefix>,
    #[command(flatten)]
    socket: SocketArg,
}

impl TopArgs {
    fn socket(&self) -> &Path {
        &self.socket.socket
    }

    const fn window(&self) -> Window {
        Window { since: Some(self.since), until: None }
    }

    fn view(&self) -> View {
        let is_usual = self.socket() == Path::new(DEFAULT_SOCKET);
        View {
            choice: Choice { ignored: self.ignore.clone(), ..Choice::default() },
            socket: (!is_usual).then(|| self.socket().display().to_string()),
            ..View::default()
        }
    }
}

/// Shows the screen until the person has seen enough, or prints one snapshot.
///
/// # Errors
///
/// If no daemon answers or it refuses, or the terminal can't be used. A daemon that goes away later is
/// waited for.
pub(super) async fn run(args: TopArgs) -> anyhow::Result<ExitCode> {
    if args.once || args.json || !io::stdout().is_terminal() {
        plain::run(&args, &mut io::stdout()).await
    } else {
        live::run(args).await
    }
}

fn prefix(text: &str) -> Result<Prefix, PrefixError> {
    text.parse()
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(Moment::Ago(length))
            if (Duration::from_millis(200)..=Duration::from_secs(60)).contains(&length) =>
        {
            Ok(length)
        }
        _ => Err("write a time from 200ms to 1m".into()),
    }
}
