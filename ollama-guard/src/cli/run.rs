//! `ollama-guard run`: the daemon.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::Args;

use super::log::LogFormat;
use crate::{
    config::{self, Overrides},
    daemon::{self, LaunchError},
    dataplane::{PinDir, Snapshot},
};

/// Arguments of `run`. Text that the configuration room understands is left to it, so that every
/// mistake of every source is reported at once.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct RunArgs {
    /// The configuration file [default: /etc/ollama-guard/config.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Guard this interface, by name or shell pattern; may be repeated [default: auto]
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Guard this port; may be repeated [default: 11434/tcp]
    #[arg(long = "port", value_name = "PORT[/PROTO]")]
    ports: Vec<String>,
    /// Let this address, prefix or host name in; may be repeated
    #[arg(long, value_name = "PREFIX")]
    allow: Vec<String>,
    /// Keep this address, prefix or host name out, whatever allows it; may be repeated
    #[arg(long, value_name = "PREFIX")]
    deny: Vec<String>,
    /// Confirm that a prefix of all addresses (0.0.0.0/0, ::/0) is meant
    #[arg(long)]
    anyone: bool,
    /// Count and report what would be dropped, and drop nothing
    #[arg(long)]
    observe: bool,
    /// How to attach: auto, native or generic
    #[arg(long, value_name = "MODE")]
    attach: Option<String>,
    /// Whose packets are decided on: all that cross a door, or only those for this host's own
    /// addresses (local), so that what it routes or bridges to others passes [default: all]
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
    /// The inner door, before every socket of the machine: on, off, or the directory of the cgroup
    /// whose processes it is for [default: on]
    #[arg(long, value_name = "on|off|CGROUP")]
    inner: Option<OsString>,
    /// Different prefixes that there must be room for [default: 65536]
    #[arg(long, value_name = "N")]
    capacity: Option<String>,
    /// Where metrics and health are served: an address with a port, or off [default: 127.0.0.1:9434]
    #[arg(long, value_name = "ADDR|off")]
    metrics: Option<String>,
    /// Where programs, maps and links are pinned [default: /sys/fs/bpf/ollama-guard]
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    /// Where added rules and the audit log are kept [default: /var/lib/ollama-guard]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The control socket [default: /run/ollama-guard/control.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The form of the log
    #[arg(
        long,
        value_name = "FORMAT",
        env = "OLLAMA_GUARD_LOG_FORMAT",
        value_enum,
        default_value_t
    )]
    log_format: LogFormat,
    /// Let the kernel side log what must never happen
    #[arg(long)]
    debug_kernel: bool,
}

/// Runs the daemon until a signal or `detach`.
pub(super) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let overrides = args.into_overrides();
    match daemon::launch(overrides.clone()).await {
        Ok(daemon) => daemon.run().await,
        Err(error @ LaunchError::Configuration { .. }) => {
            anyhow::bail!("{error}{}", still_in_force(&overrides))
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a broken configuration leaves in force: the last policy, if there is one.
fn still_in_force(overrides: &Overrides) -> String {
    let directory = overrides
        .pin_dir
        .clone()
        .or_else(|| std::env::var_os("OLLAMA_GUARD_PIN_DIR").map(PathBuf::from));
    let pins = PinDir::new(directory.unwrap_or_else(|| config::DEFAULT_PIN_DIR.into()));
    match Snapshot::read(&pins) {
        Ok(snapshot) => format!(
            "\nThe policy that is in the kernel stays in force: generation {}, {} interfaces.",
            snapshot.generation,
            snapshot.links.iter().filter(|link| link.alive).count()
        ),
        Err(_) => "\nNothing was attached.".into(),
    }
}

impl RunArgs {
    /// The form of the log.
    pub(super) const fn log_format(&self) -> LogFormat {
        self.log_format
    }

    fn into_overrides(self) -> Overrides {
        let Self {
            config,
            interfaces,
            ports,
            allow,
            deny,
            anyone,
            observe,
            attach,
            scope,
            inner,
            capacity,
            metrics,
            pin_dir,
            state_dir,
            socket,
            log_format: _,
            debug_kernel,
        } = self;
        Overrides {
            config,
            interfaces,
            ports,
            allow,
            deny,
            anyone,
            observe,
            attach,
            scope,
            inner,
            capacity,
            metrics,
            pin_dir,
            state_dir,
            socket,
            debug_kernel,
        }
    }
}
