//! What all connections of a server share.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use super::{
    access::{self, AccessRules, Action},
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
    readers: Places,
    listings: Places,
    uploads: Places,
}

/// Places of one kind, of which some are kept for root and the daemon's own user: members of the
/// group can't lock them out.
struct Places {
    common: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
}

impl Places {
    fn new(common: usize, reserved: usize) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { common: semaphore(common), reserved: semaphore(reserved) }
    }

    /// A place, if there is one now.
    fn now(&self, privileged: bool) -> Option<OwnedSemaphorePermit> {
        let try_one = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        try_one(&self.common).or_else(|| privileged.then(|| try_one(&self.reserved))?)
    }

    /// A place, when there is one.
    async fn wait(&self, privileged: bool) -> Option<OwnedSemaphorePermit> {
        let common = Arc::clone(&self.common).acquire_owned();
        if !privileged {
            return common.await.ok();
        }
        tokio::select! {
            biased;
            place = common => place.ok(),
            place = Arc::clone(&self.reserved).acquire_owned() => place.ok(),
        }
    }
}

impl Shared {
    pub(super) fn new(
        backend: Arc<dyn Backend>,
        config: ControlConfig,
        ending: watch::Receiver<bool>,
    ) -> Self {
        let places = |common| Places::new(common, config.limits.reserved_places);
        Self {
            backend,
            ending,
            changes: watch::Sender::new(()),
            readers: places(config.limits.event_readers),
            listings: places(config.limits.listings),
            uploads: places(config.limits.uploads),
            config,
        }
    }

    /// Who may do what, at this moment.
    pub(super) fn access(&self) -> AccessRules {
        *self.config.access.borrow()
    }

    pub(super) const fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Whether this caller may do this.
    pub(super) fn admit(&self, caller: &Caller, action: Action) -> Result<(), Refusal> {
        access::decide(&caller.peer, action, &self.access()).map_err(|denied| {
            let Peer { uid, pid, .. } = *caller.peer;
            tracing::warn!(uid, pid, ?action, "refused a client of the control socket: {denied}");
            denied.into()
        })
    }

    /// A place among the readers of events.
    pub(super) fn reader(&self, caller: &Caller) -> Result<OwnedSemaphorePermit, Refusal> {
        self.readers.now(self.is_privileged(caller)).ok_or_else(|| {
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
    pub(super) async fn listing(&self, caller: &Caller) -> Result<OwnedSemaphorePermit, Refusal> {
        self.turn(caller, &self.listings, "too many clients list the rules at this moment").await
    }

    /// The right to have a whole list of rules in memory on its way in.
    pub(super) async fn upload(&self, caller: &Caller) -> Result<OwnedSemaphorePermit, Refusal> {
        self.turn(caller, &self.uploads, "other lists of rules are being received").await
    }

    async fn turn(
        &self,
        caller: &Caller,
        places: &Places,
        busy: &str,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        let turn = places.wait(self.is_privileged(caller));
        match timeout(self.limits().wait_time, turn).await {
            Ok(Some(place)) => Ok(place),
            Ok(None) | Err(_) => Err(Refusal::busy(busy)),
        }
    }

    fn is_privileged(&self, caller: &Caller) -> bool {
        access::is_privileged(caller.peer.uid, &self.access())
    }
}
