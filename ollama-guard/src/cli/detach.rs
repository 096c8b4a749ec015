//! `ollama-guard detach`: takes everything of ours out of the kernel.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use super::{NO, PinDirArg, SocketArg, written};
use crate::{
    control::{Client, ClientError},
    dataplane::{
        DataplaneError, INNER_NAME, PinDir, check_kept_capabilities, counters::INNER_DOOR,
        detach_all, remains,
    },
    doors,
};

/// How long the daemon may take to answer, and then to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether something of ours is there, by one that holds.
const HOLD_TICK: Duration = Duration::from_secs(2);

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Stay until a signal, and take away again what is loaded meanwhile: for a pod that must not end
    #[arg(long, conflicts_with = "check")]
    hold: bool,
    /// Take nothing away: exit status 0 if nothing of ours is there, 1 if something is
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    socket: SocketArg,
    #[command(flatten)]
    pins: PinDirArg,
}

/// Detaches, through the daemon if one runs.
pub(super) async fn run(args: DetachArgs) -> anyhow::Result<ExitCode> {
    let pins = PinDir::new(&args.pins.pin_dir);
    if args.check {
        return check(&pins);
    }
    check_kept_capabilities()?;
    if args.hold {
        return hold(&args, &pins).await;
    }
    detach(&args, &pins).await
}

/// Says what of ours is there.
fn check(pins: &PinDir) -> anyhow::Result<ExitCode> {
    let left = remains(pins)?;
    let mut text = String::new();
    for path in &left {
        text.push_str(&format!("{} is still there\n", path.display()));
    }
    if left.is_empty() {
        text.push_str("nothing of ours is in the kernel: the guarded ports are open\n");
    }
    let done = written(io::stdout().write_all(text.as_bytes()))?;
    Ok(if left.is_empty() { done } else { ExitCode::from(NO) })
}

/// Detaches until a signal. What can't be taken away now, because a daemon that is about to end still holds it,
/// say, is tried again: whoever starts this in a pod looks at `--check`, and not at whether it runs.
async fn hold(args: &DetachArgs, pins: &PinDir) -> anyhow::Result<ExitCode> {
    // The first process of a container has no signal handlers but its own.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut told = None;
    loop {
        let outcome = match remains(pins) {
            Ok(left) if left.is_empty() && told.is_some() => Ok(()),
            Ok(_) => detach(args, pins).await.map(drop),
            Err(error) => Err(error.into()),
        };
        let says = outcome.err().map_or_else(String::new, |error| format!("{error:#}"));
        if told.as_ref() != Some(&says) {
            if !says.is_empty() {
                tracing::warn!("{says}; it is tried again");
            }
            told = Some(says);
        }
        tokio::select! {
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            () = sleep(HOLD_TICK) => {}
        }
    }
}

async fn detach(args: &DetachArgs, pins: &PinDir) -> anyhow::Result<ExitCode> {
    if !pins.exists() {
        return written(writeln!(io::stdout(), "nothing to detach: no guard is loaded"));
    }
    match pins.lock_existing() {
        Ok(_lock) => {
            let names = doors::list().await.unwrap_or_default();
            let mut text = String::new();
            for ifindex in detach_all(pins)? {
                let name = names.iter().find(|one| one.ifindex == ifindex);
                let name = name.map_or_else(|| ifindex.to_string(), |one| one.name.clone());
                text.push_str(&match ifindex {
                    INNER_DOOR => format!("removed the {INNER_NAME}\n"),
                    _ => format!("removed the filter on interface {name}\n"),
                });
            }
            written(writeln!(
                io::stdout(),
                "{text}detached: nothing of ours is left in the kernel, and the guarded ports are \
                 open"
            ))
        }
        Err(DataplaneError::Locked { .. }) => through_daemon(args, pins).await,
        Err(error) => Err(error.into()),
    }
}

async fn through_daemon(args: &DetachArgs, pins: &PinDir) -> anyhow::Result<ExitCode> {
    let socket = &args.socket.socket;
    let Ok(answer) = timeout(PATIENCE, Client::new(socket).detach()).await else {
        bail!(
            "the daemon on {} does not answer: end it (`kill -9` does no harm to the filter), then \
             detach again",
            socket.display()
        );
    };
    let reply = match answer {
        Err(ClientError::NotRunning { .. }) => bail!(
            "a daemon holds {}, but none answers on {}: name its socket with --socket, or stop \
             the daemon first",
            pins.root().display(),
            socket.display()
        ),
        reply => reply.context("the daemon did not detach")?,
    };
    let deadline = Instant::now() + PATIENCE;
    // Gone, or kept for what others put there: then the daemon has let go of the lock.
    while pins.exists() && pins.lock_existing().is_err() {
        if Instant::now() > deadline {
            bail!("the daemon answered, but has not let go of {}", pins.root().display());
        }
        sleep(Duration::from_millis(20)).await;
    }
    // An ordinary user's daemon can empty a directory that was made for it, but not remove it. One
    // that holds what is not ours stays.
    let _ = std::fs::remove_dir(pins.root());
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
