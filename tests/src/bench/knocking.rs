//! A source that never stops knocking, and when it was let in: what a change does is seen from outside,
//! by frames that get past the door.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    bed::{CLIENT_INTERFACE, Capture, Direction, Pair, SERVER_DOOR, Wire, until_some},
    packet::{ends, ethernet, ipv4, tcp},
    policy::{GUARDED, SERVER4},
};

/// Between two frames: how exactly a moment is known.
pub const PAUSE: Duration = Duration::from_micros(500);
const PATIENCE: Duration = Duration::from_secs(10);

/// A source that knocks at the guarded port all the time. Dropping it ends it.
#[derive(Debug)]
pub struct Knocking {
    passed: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
    capture: Option<Capture>,
}

impl Knocking {
    /// Begins.
    ///
    /// # Errors
    ///
    /// If there is no cable.
    pub fn from(pair: &Pair, source: Ipv4Addr) -> Result<Self> {
        let passed = Arc::new(Mutex::new(Vec::new()));
        let capture = {
            let passed = Arc::clone(&passed);
            Capture::start(&pair.server, SERVER_DOOR, move |frame, direction| {
                let is_it = direction == Direction::In
                    && ends(frame).is_some_and(|ends| {
                        ends.source.ip() == IpAddr::from(source)
                            && ends.destination.port() == GUARDED
                    });
                if is_it {
                    passed.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                }
                false
            })?
        };
        let wire = Wire::open(&pair.client, CLIENT_INTERFACE)?;
        let frame = ethernet().carries_ip(&ipv4(source, SERVER4).carries(&tcp(40_000, GUARDED)));
        let stop = Arc::new(AtomicBool::new(false));
        let sender = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) && wire.send(&frame).is_ok() {
                    thread::sleep(PAUSE);
                }
            })
        };
        Ok(Self { passed, stop, sender: Some(sender), capture: Some(capture) })
    }

    /// When its last frame got past the door, so far. `None` if none has.
    #[must_use]
    pub fn last(&self) -> Option<Instant> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).last().copied()
    }

    /// When the first of its frames got past the door after `moment`.
    ///
    /// # Errors
    ///
    /// If none does within ten seconds.
    pub fn first_since(&self, moment: Instant) -> Result<Instant> {
        until_some("a knock to be let in", PATIENCE, || {
            let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            passed.iter().copied().find(|&at| at >= moment)
        })
        .context("the change is not in force")
    }
}

impl Drop for Knocking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            // A panic of it has been printed.
            let _ = sender.join();
        }
        self.capture = None;
    }
}
