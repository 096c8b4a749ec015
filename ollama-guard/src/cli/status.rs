//! `ollama-guard status`: what the kernel filters now.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tokio::time::timeout;

use super::{NO, SocketArg, written};
use crate::{
    config::DEFAULT_PIN_DIR,
    control::{Client, ClientError},
    dataplane::PinDir,
    status::{self, DaemonStatus, StatusReport},
};

/// How long the daemon may take to answer before the kernel is asked instead.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
    /// Where programs, maps and links are pinned [default: where the daemon has them, or
    /// /sys/fs/bpf/ollama-guard]
    #[arg(long, value_name = "DIR", env = "OLLAMA_GUARD_PIN_DIR")]
    pin_dir: Option<PathBuf>,
}

/// Prints the state. Exit status 0 if the guard enforces on every door that it should, and what its
/// configuration says; 1 if not.
pub(super) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let Some(report) = read(&args.socket.socket, args.pin_dir.as_deref()).await? else {
        let text = if args.json {
            r#"{"enforcing":false,"problems":["no guard is loaded"],"doors":[]}"#.to_owned()
        } else {
            format!(
                "NOT ENFORCING\n  problem: no guard is loaded under {}; start one with `ollama-guard run`",
                args.pin_dir.as_deref().unwrap_or(Path::new(DEFAULT_PIN_DIR)).display()
            )
        };
        written(writeln!(io::stdout(), "{text}"))?;
        return Ok(ExitCode::from(NO));
    };
    let text = if args.json { serde_json::to_string(&report)? } else { report.to_string() };
    let done = written(writeln!(io::stdout(), "{text}"))?;
    let is_well = report.enforcing && report.rejected().is_none();
    Ok(if is_well { done } else { ExitCode::from(NO) })
}

/// From the daemon, which knows what is to be guarded, or from the pins, if none runs or if it
/// hangs. `None` if nothing is loaded.
pub(super) async fn read(
    socket: &Path,
    pin_dir: Option<&Path>,
) -> anyhow::Result<Option<StatusReport>> {
    let pins = PinDir::new(pin_dir.unwrap_or(Path::new(DEFAULT_PIN_DIR)));
    let asked = timeout(PATIENCE, Client::new(socket).status()).await;
    let daemon = match asked {
        Ok(Ok(report)) => {
            let report: StatusReport = serde_json::from_value(report)?;
            let is_another =
                pin_dir.is_some() && report.daemon.pin_dir.as_deref() != Some(pins.root());
            if !is_another {
                return Ok(Some(report));
            }
            // Asked for by name: the pins count, whoever answers on the socket.
            DaemonStatus { hangs: pins.is_locked(), ..DaemonStatus::default() }
        }
        Ok(Err(ClientError::NotRunning { .. })) => {
            DaemonStatus { hangs: pins.is_locked(), ..DaemonStatus::default() }
        }
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => DaemonStatus { hangs: true, ..DaemonStatus::default() },
    };
    match status::report(&pins, None, daemon).await {
        Ok(report) => Ok(Some(report)),
        Err(error) if error.is_not_loaded() => Ok(None),
        Err(error) if error.is_damage() => Err(anyhow::Error::new(error).context(
            "the pins are damaged, though the filter may go on; start the daemon again, which \
             builds what is missing without a gap",
        )),
        Err(error) => Err(error.into()),
    }
}
