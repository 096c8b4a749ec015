//! `ollama-guard detach`: takes everything of ours out of the kernel.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::time::{Instant, sleep};

use super::{PinDirArg, SocketArg, written};
use crate::{
    control::{Client, ClientError},
    dataplane::{DataplaneError, PinDir, check_privileges, detach_all},
};

/// How long the daemon may take to end after it has detached.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    #[command(flatten)]
    socket: SocketArg,
    #[command(flatten)]
    pins: PinDirArg,
}

/// Detaches, through the daemon if one runs.
pub(super) async fn run(args: DetachArgs) -> anyhow::Result<ExitCode> {
    let pins = PinDir::new(&args.pins.pin_dir);
    check_privileges()?;
    if !pins.exists() {
        return written(writeln!(io::stdout(), "nothing to detach: no guard is loaded"));
    }
    match pins.lock() {
        Ok(_lock) => {
            let interfaces = detach_all(&pins)?.len();
            written(writeln!(
                io::stdout(),
                "detached from {interfaces} interfaces: nothing of ours is left in the kernel, and \
                 the guarded ports are open"
            ))
        }
        Err(DataplaneError::Locked { .. }) => through_daemon(&args, &pins).await,
        Err(error) => Err(error.into()),
    }
}

async fn through_daemon(args: &DetachArgs, pins: &PinDir) -> anyhow::Result<ExitCode> {
    let socket = &args.socket.socket;
    let reply = match Client::new(socket).detach().await {
        Err(ClientError::NotRunning { .. }) => bail!(
            "a daemon holds {}, but none answers on {}: name its socket with --socket, or stop \
             the daemon first",
            pins.root().display(),
            socket.display()
        ),
        reply => reply.context("the daemon did not detach")?,
    };
    let deadline = Instant::now() + PATIENCE;
    while pins.exists() {
        if Instant::now() > deadline {
            bail!("the daemon answered, but {} is still there", pins.root().display());
        }
        sleep(Duration::from_millis(20)).await;
    }
    let mut text = String::new();
    for line in reply.removed.iter().chain(&reply.warnings) {
        text.push_str(&format!("removed {line}\n"));
    }
    written(writeln!(
        io::stdout(),
        "{text}detached: nothing of ours is left in the kernel, and the guarded ports are open; \
         the daemon has ended"
    ))
}
