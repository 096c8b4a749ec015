//! `ollama-guard check`: whether a configuration can be used, without using it.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use jiff::Timestamp;

use super::{NO, written};
use crate::{
    config::{self, Config, DEFAULT_CONFIG, Overrides, ProcessEnvironment},
    daemon::Host,
    events::text::Printable,
    guard::{self, Desired},
    policy::{Effect, Service},
};

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file [default: /etc/ollama-guard/config.toml]
    #[arg(value_name = "FILE", env = "OLLAMA_GUARD_CONFIG")]
    file: Option<PathBuf>,
}

/// Reads it as the daemon would, and applies nothing. Exit status 0 if it is good, 1 with every mistake
/// if not.
pub(super) async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let file = args.file.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG));
    let overrides = Overrides { config: Some(file), ..Overrides::default() };
    let refused = |text: &str| -> anyhow::Result<ExitCode> {
        written(writeln!(io::stdout(), "{text}"))?;
        Ok(ExitCode::from(NO))
    };
    let config = match config::load(&overrides, &ProcessEnvironment, &Host::look().await) {
        Ok(config) => config,
        Err(problems) => return refused(&problems.to_string()),
    };
    if let Err(error) = guard::check(&Desired::from(&config)) {
        return refused(&error.to_string());
    }
    written(writeln!(io::stdout(), "{}", summary(&config)))
}

fn summary(config: &Config) -> String {
    let mut text = String::new();
    for warning in config.warnings.iter().chain(&config.ended(Timestamp::now())) {
        text.push_str(&format!("warning: {}\n", Printable(warning)));
    }
    let count = |effect| config.rules.iter().filter(|rule| rule.effect == effect).count();
    let services: Vec<_> = config.services.iter().map(|one| said(one, config)).collect();
    let names: BTreeSet<_> = config.names.iter().map(|rule| &rule.name).collect();
    let files: Vec<_> = config.files.iter().map(|path| path.display().to_string()).collect();
    text.push_str(&format!(
        "{}: good: {}, {} allow rules, {} deny rules{}",
        files.join(", "),
        services.join("; "),
        count(Effect::Allow),
        count(Effect::Deny),
        match names.len() {
            0 => String::new(),
            1 => ", 1 host name, which is not looked up here".to_owned(),
            count => format!(", {count} host names, which are not looked up here"),
        }
    ));
    text
}

fn said(service: &Service, config: &Config) -> String {
    let ports: Vec<_> = service.ports.iter().map(ToString::to_string).collect();
    let (mode, ports) = (service.mode.name(), ports.join(", "));
    match config.services.len() {
        1 => format!("mode {mode}, ports {ports}"),
        _ => format!("{}: mode {mode}, ports {ports}", service.name),
    }
}
