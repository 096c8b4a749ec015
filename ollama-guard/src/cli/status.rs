//! `ollama-guard status`: what the kernel filters now.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tokio::time::timeout;

use super::{NO, PinDirArg, SocketArg, written};
use crate::{
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
    #[command(flatten)]
    pins: PinDirArg,
}

/// Prints the state. Exit status 0 if the guard enforces on every door that it should, 1 if not.
pub(super) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let Some(report) = read(&args).await? else {
        let text = if args.json {
            r#"{"enforcing":false,"problems":["no guard is loaded"],"doors":[]}"#.to_owned()
        } else {
            format!(
                "NOT ENFORCING\n  problem: no guard is loaded under {}; start one with `ollama-guard run`",
                args.pins.pin_dir.display()
            )
        };
        written(writeln!(io::stdout(), "{text}"))?;
        return Ok(ExitCode::from(NO));
    };
    let text = if args.json { serde_json::to_string(&report)? } else { report.to_string() };
    let done = written(writeln!(io::stdout(), "{text}"))?;
    Ok(if report.enforcing { done } else { ExitCode::from(NO) })
}

/// From the daemon, which knows what is to be guarded, or from the pins, if none runs or if it
/// hangs. `None` if nothing is loaded.
async fn read(args: &StatusArgs) -> anyhow::Result<Option<StatusReport>> {
    let asked = timeout(PATIENCE, Client::new(&args.socket.socket).status()).await;
    let daemon = match asked {
        Ok(Ok(report)) => return Ok(Some(serde_json::from_value(report)?)),
        Ok(Err(ClientError::NotRunning { .. })) => DaemonStatus::default(),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => DaemonStatus { hangs: true, ..DaemonStatus::default() },
    };
    match status::report(&PinDir::new(&args.pins.pin_dir), None, daemon).await {
        Ok(report) => Ok(Some(report)),
        Err(error) if error.is_not_loaded() => Ok(None),
        Err(error) if error.is_damage() => Err(anyhow::Error::new(error).context(
            "the pins are damaged, though the filter may go on; start the daemon again, which \
             builds what is missing without a gap",
        )),
        Err(error) => Err(error.into()),
    }
}
