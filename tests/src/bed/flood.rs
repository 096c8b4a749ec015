//! Frames over and over, as fast as it goes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Namespace, Wire, wait::is_slow};

/// Frames between two looks at the clock.
const BATCH: usize = 64;
/// Between two batches on a machine that is slow, and has one processor for all.
const SLOW_PAUSE: Duration = Duration::from_millis(50);

/// A running flood. Dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Sends these frames over and over, as fast as it goes: at most `packets` of them, for at
    /// most `limit`.
    ///
    /// # Errors
    ///
    /// If there is no such interface.
    ///
    /// # Panics
    ///
    /// If there is no frame to send.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        frames: Vec<Vec<u8>>,
        packets: u64,
        limit: Duration,
    ) -> Result<Self> {
        assert!(!frames.is_empty(), "a flood of nothing");
        let wire = Wire::open(namespace, interface)?;
        let sent = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let sender = {
            let (sent, stop) = (Arc::clone(&sent), Arc::clone(&stop));
            thread::spawn(move || {
                let deadline = Instant::now() + limit;
                let mut frames = frames.iter().cycle();
                while !stop.load(Ordering::Relaxed) && Instant::now() < deadline {
                    for frame in frames.by_ref().take(BATCH) {
                        if sent.load(Ordering::Relaxed) >= packets {
                            return Ok(());
                        }
                        wire.send(frame)?;
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    if is_slow() {
                        thread::sleep(SLOW_PAUSE);
                    }
                }
                Ok(())
            })
        };
        Ok(Self { sent, stop, sender: Some(sender) })
    }

    /// Frames so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits for the end that was set.
    ///
    /// # Errors
    ///
    /// If sending failed.
    pub fn finish(mut self) -> Result<u64> {
        self.join()?;
        Ok(self.sent())
    }

    /// Ends it now.
    ///
    /// # Errors
    ///
    /// If sending failed.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()?;
        Ok(self.sent())
    }

    fn join(&mut self) -> Result<()> {
        match self.sender.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}
