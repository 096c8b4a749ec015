//! Being told to stop, without leaving anything behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// Whether somebody wants the demo to end. The signals are handled and not blocked: a blocked
/// signal would be blocked in every child as well.
#[derive(Clone, Debug)]
pub struct Interrupt {
    is_wanted: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// # Errors
    ///
    /// If the signals can't be had.
    pub fn watch() -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .build()
            .context("starting to listen for signals")?;
        let mut signals = {
            let _inside = runtime.enter();
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
                .map(signal)
                .into_iter()
                .collect::<std::io::Result<Vec<_>>>()
                .context("listening for signals")?
        };
        let is_wanted = Arc::new(AtomicBool::new(false));
        let interrupt = Self { is_wanted: Arc::clone(&is_wanted) };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let [first, second, third] = &mut signals[..] else { return };
                    tokio::select! {
                        _ = first.recv() => {}
                        _ = second.recv() => {}
                        _ = third.recv() => {}
                    }
                    is_wanted.store(true, Ordering::Relaxed);
                    // Further ones change nothing: cleaning up is under way.
                    std::future::pending::<()>().await;
                });
            })
            .context("starting a thread for the signals")?;
        Ok(interrupt)
    }

    /// Whether the demo is to end.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }
}
