//! What the service manager is told, if one has started us: that we are ready, that we are alive, and in a
//! line how things stand (sd_notify(3)).
//!
//! **Ready** is said when the guard is proven to hold, and not before: what is ordered behind us, such as
//! the network and Ollama, then starts behind a guard. **Alive** is said by the daemon's main loop, and
//! only each time that the guard's own thread has answered it; a daemon in which either hangs is killed
//! and started again, without a gap in what is filtered.
//!
//! The manager's socket is opened by name each time, which the walls around a running daemon allow.

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use ollama_guard_common::Mode;
use sd_notify::NotifyState;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    readiness::{self, Proof},
    reload::{Reloader, Settings},
};
use crate::{
    dataplane::{Dataplane, PinDir},
    guard::{Guard, Handle},
};

/// Between two attempts to prove that the guard holds: the keeper puts right what it can meanwhile.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the line is brought up to date if nobody waits for signs of life.
const SELDOM: Duration = Duration::from_secs(10);
/// So many signs of life fit into the time after which we would be killed.
const BEATS: u32 = 4;

/// Tells the service manager.
pub(super) struct Supervisor {
    pub(super) handle: Handle,
    pub(super) pins: PinDir,
    pub(super) settings: watch::Receiver<Settings>,
    pub(super) reloader: Arc<Reloader>,
    /// For the log.
    pub(super) socket: PathBuf,
}

impl Supervisor {
    /// Tells it for as long as it is asked for the next thing. To be polled by the main loop itself.
    pub(super) async fn attend(self) -> Infallible {
        let Proof { doors, packets } = self.until_proven().await;
        tracing::info!(
            socket = %self.socket.display(),
            doors,
            packets,
            "ready"
        );
        let mut told = self.standing().await;
        tell(&[NotifyState::Ready, NotifyState::Status(&told)]);
        let patience = sd_notify::watchdog_enabled();
        let mut beat = interval(patience.map_or(SELDOM, |patience| patience / BEATS));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            // Where the guard's thread does not answer, this waits, and nothing more is told.
            let standing = self.standing().await;
            tell(&[NotifyState::Watchdog]);
            if standing != told {
                tell(&[NotifyState::Status(&standing)]);
                told = standing;
            }
        }
    }

    async fn until_proven(&self) -> Proof {
        let mut said = Vec::new();
        loop {
            let chosen = self.settings.borrow().chosen.clone();
            let problems = match readiness::prove(&self.handle, &self.pins, &chosen).await {
                Ok(proof) => return proof,
                Err(problems) => problems,
            };
            if problems != said {
                problems.iter().for_each(|problem| tracing::error!("not ready yet: {problem}"));
                tell(&[NotifyState::Status(&format!("not ready yet: {}", problems.join("; ")))]);
                said = problems;
            }
            sleep(AGAIN).await;
        }
    }

    /// How things stand, by the word of the guard's thread.
    async fn standing(&self) -> String {
        let look = |guard: &mut Guard<Dataplane>| {
            let links = guard.sink_mut().links().unwrap_or_default();
            (guard.mode(), guard.generation(), links.iter().filter(|link| link.alive).count())
        };
        match self.handle.maintain(look).await {
            Ok((mode, generation, doors)) => {
                line(mode, generation, doors, self.reloader.status().rejected.is_some())
            }
            // It was detached: the main loop hears of it as well, and ends.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Says that we are about to end, because we were told to.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager can't be told how the daemon is");
    }
}

fn line(mode: Mode, generation: u64, doors: usize, is_rejected: bool) -> String {
    let what = match mode {
        Mode::Enforce => "enforcing",
        Mode::Observe => "OBSERVING, nothing is dropped,",
    };
    let place = match doors {
        0 => "and waiting for an interface to guard".to_owned(),
        1 => "on 1 interface".to_owned(),
        more => format!("on {more} interfaces"),
    };
    let rejected =
        if is_rejected { "; CONFIGURATION REJECTED, `ollama-guard status` says why" } else { "" };
    format!("{what} {place}; policy {generation}{rejected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_an_operator_must_not_miss() {
        assert_eq!(line(Mode::Enforce, 7, 2, false), "enforcing on 2 interfaces; policy 7");
        let observing = line(Mode::Observe, 1, 1, true);
        assert!(observing.starts_with("OBSERVING, nothing is dropped, on 1 interface;"));
        assert!(observing.contains("CONFIGURATION REJECTED"), "{observing}");
        assert!(line(Mode::Enforce, 1, 0, false).contains("waiting for an interface"));
    }
}
