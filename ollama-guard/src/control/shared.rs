//! What all connections of a server share.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use super::{
    access::{self, Action},
    backend::Backend,
    peer::Peer,
    refusal::Refusal,
    server::{ControlConfig, Limits},
    stall::Patience,
};

/// The client of a request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) peer: Arc<Peer>,
    pub(super) patience: Patience,
}

/// Waits until the server ends, or is gone.
pub(super) async fn ended(ending: &mut watch::Receiver<bool>) {
    // What it returns is a lock, which must not be held.
    let _ = ending.wait_for(|ending| *ending).await;
}

pub(super) struct Shared {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) config: ControlConfig,
    /// Turns true when the server ends.
    pub(super) ending: watch::Receiver<bool>,
    /// Each change that is being made holds a receiver.
    pub(super) changes: watch::Sender<()>,
    readers: Arc<Semaphore>,
    listings: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new(
        backend: Arc<dyn Backend>,
        config: ControlConfig,
        ending: watch::Receiver<bool>,
    ) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            backend,
            ending,
            changes: watch::Sender::new(()),
            readers: semaphore(config.limits.event_readers),
            listings: semaphore(config.limits.listings),
            uploads: semaphore(config.limits.uploads),
            config,
        }
    }

    pub(super) const fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Whether this caller may do this.
    pub(super) fn admit(&self, caller: &Caller, action: Action) -> Result<(), Refusal> {
        access::decide(&caller.peer, action, &self.config.access).map_err(|denied| {
            let Peer { uid, pid, .. } = *caller.peer;
            tracing::warn!(uid, pid, ?action, "refused a client of the control socket: {denied}");
            denied.into()
        })
    }

    /// A place among the readers of events.
    pub(super) fn reader(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.readers).try_acquire_owned().map_err(|_| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "{} clients follow the events already: end one of them, or try again later",
                    self.limits().event_readers
                ),
            )
        })
    }

    /// The right to have a list of rules in memory on its way out.
    pub(super) async fn listing(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.turn(&self.listings, "too many clients list the rules at this moment").await
    }

    /// The right to have a whole list of rules in memory on its way in.
    pub(super) async fn upload(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.turn(&self.uploads, "other lists of rules are being received").await
    }

    async fn turn(
        &self,
        semaphore: &Arc<Semaphore>,
        busy: &str,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        let turn = Arc::clone(semaphore).acquire_owned();
        match timeout(self.limits().wait_time, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Refusal::busy(busy)),
        }
    }
}
