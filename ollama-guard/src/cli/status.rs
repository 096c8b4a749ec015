//! `ollama-guard status`: what the kernel filters now.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;

use super::{NO, PinDirArg, SocketArg, written};
use crate::{
    control::{Client, ClientError},
    dataplane::PinDir,
    status::{self, DaemonStatus, StatusReport},
};

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

/// From the daemon, which knows what is to be guarded, or from the pins. `None` if nothing is
/// loaded.
async fn read(args: &StatusArgs) -> anyhow::Result<Option<StatusReport>> {
    match Client::new(&args.socket.socket).status().await {
        Ok(report) => Ok(Some(serde_json::from_value(report)?)),
        Err(ClientError::NotRunning { .. }) => {
            let pins = PinDir::new(&args.pins.pin_dir);
            match status::report(&pins, None, DaemonStatus::default()).await {
                Ok(report) => Ok(Some(report)),
                Err(error) if error.is_not_loaded() => Ok(None),
                Err(error) => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}
