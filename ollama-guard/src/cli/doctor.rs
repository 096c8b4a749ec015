//! `ollama-guard doctor`: what this host can do, which paths lead around the guard, and whom it
//! would hurt.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;

use super::{NO, written};
use crate::{
    config::{self, Overrides, ProcessEnvironment},
    daemon::{Chosen, Host},
    doctor::{self, Report},
    status::SelectionSource as _,
};

/// Arguments of `doctor`: those of `run` that change what it looks at.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The configuration file [default: /etc/ollama-guard/config.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The interfaces that `run` would be given; may be repeated
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// The ports that `run` would be given; may be repeated. Of a guard that is loaded, its own
    /// count
    #[arg(long = "port", value_name = "PORT[/PROTO]")]
    ports: Vec<String>,
    /// How `run` would attach: auto, native or generic
    #[arg(long, value_name = "MODE")]
    attach: Option<String>,
    /// Where programs, maps and links are pinned [default: /sys/fs/bpf/ollama-guard]
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
}

/// Looks, and prints. Exit status 0 if there is nothing to do, 1 if a path is open, if the guard
/// cannot work, or if it would hurt somebody.
pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let DoctorArgs { json, config, interfaces, ports, attach, pin_dir } = args;
    let overrides =
        Overrides { config, interfaces, ports, attach, pin_dir, ..Overrides::default() };
    let config = config::load(&overrides, &ProcessEnvironment, &Host::look().await)
        .map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let chosen = Chosen::new(&config);
    let facts = doctor::examine(&config, |interfaces| chosen.choose(interfaces)).await?;
    let report = Report::new(facts);
    let text = if json {
        serde_json::to_string(&report)?
    } else {
        report.to_string().trim_end().to_owned()
    };
    let done = written(writeln!(io::stdout(), "{text}"))?;
    Ok(if report.healthy { done } else { ExitCode::from(NO) })
}
