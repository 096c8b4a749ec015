//! The server: accepts, bounds, serves, ends.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{UnixListener, UnixStream, unix::UCred},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    access::{self, AccessRules},
    backend::Backend,
    connection, routes,
    shared::Shared,
};

/// How long to wait when the kernel refuses a connection, usually because the process has no
/// descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Clients at a time that are told that there is no place.
const REFUSED_AT_A_TIME: usize = 16;
/// How long telling them may take.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Who may do what; may change.
    pub access: watch::Receiver<AccessRules>,
    /// What clients may hold.
    pub limits: Limits,
}

/// What clients may hold, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// How many of these only root and the daemon's own user get, so that nobody else can lock
    /// them out.
    pub reserved: usize,
    /// Clients that follow the events at a time.
    pub event_readers: usize,
    /// Lists of rules on their way out at a time.
    pub listings: usize,
    /// Lists of rules on their way in at a time.
    pub uploads: usize,
    /// Places beside these three, of each kind, that only root and the daemon's own user get.
    pub reserved_places: usize,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Bytes of a body that replaces all rules: about a million rules.
    pub replace_bytes: usize,
    /// How long the head of a request may take, and how long a connection may be idle.
    pub header_time: Duration,
    /// How long a body may take.
    pub body_time: Duration,
    /// How long an answer may make no progress. Event streams may for ever: they hold nothing.
    pub write_time: Duration,
    /// How long a request may wait for its turn among listings or uploads.
    pub wait_time: Duration,
    /// How long requests in progress may take when the server ends.
    pub grace_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            reserved: 8,
            event_readers: 32,
            listings: 4,
            uploads: 2,
            reserved_places: 1,
            body_bytes: 1 << 20,
            replace_bytes: 64 << 20,
            header_time: Duration::from_secs(30),
            body_time: Duration::from_secs(30),
            write_time: Duration::from_secs(30),
            wait_time: Duration::from_secs(10),
            grace_time: Duration::from_secs(5),
        }
    }
}

/// Serves clients until `shutdown` is ready; then ends the event streams, lets requests in
/// progress finish within [`Limits::grace_time`], and closes what is left. A change that is being
/// made is waited for as long.
pub async fn serve(
    listener: UnixListener,
    backend: Arc<dyn Backend>,
    config: ControlConfig,
    shutdown: impl Future<Output = ()>,
) {
    let (ending, watch) = watch::channel(false);
    let grace = config.limits.grace_time;
    let mut server = Server::new(backend, config, watch);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => server.welcome(accepted).await,
            Some(_) = server.connections.join_next() => {}
        }
    }
    // From here on, connecting is refused by the kernel.
    drop(listener);
    ending.send_replace(true);
    if timeout(grace, server.finish()).await.is_err() {
        tracing::warn!("closing control connections that did not end within {grace:?}");
    }
    server.connections.shutdown().await;
}

struct Server {
    shared: Arc<Shared>,
    router: Router,
    full: Router,
    places: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    connections: JoinSet<()>,
}

impl Server {
    fn new(
        backend: Arc<dyn Backend>,
        config: ControlConfig,
        ending: watch::Receiver<bool>,
    ) -> Self {
        let limits = config.limits;
        let shared = Arc::new(Shared::new(backend, config, ending));
        Self {
            router: routes::router(Arc::clone(&shared)),
            full: routes::full(limits.connections),
            shared,
            places: Arc::new(Semaphore::new(limits.connections.saturating_sub(limits.reserved))),
            reserved: Arc::new(Semaphore::new(limits.reserved)),
            refusals: Arc::new(Semaphore::new(REFUSED_AT_A_TIME)),
            connections: JoinSet::new(),
        }
    }

    async fn welcome(&mut self, accepted: io::Result<(UnixStream, tokio::net::unix::SocketAddr)>) {
        match accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?, stream))) {
            Ok((credentials, stream)) => self.admit(stream, credentials),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client of the control socket");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    fn admit(&mut self, stream: UnixStream, credentials: UCred) {
        let limits = *self.shared.limits();
        let ending = self.shared.ending.clone();
        if let Some(place) = self.place(&credentials) {
            let serving =
                connection::serve(stream, credentials, self.router.clone(), limits, ending);
            self.connections.spawn(async move {
                serving.await;
                drop(place);
            });
        } else if let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() {
            tracing::warn!(uid = credentials.uid(), "no place for another control client");
            let refusing =
                connection::serve(stream, credentials, self.full.clone(), limits, ending);
            self.connections.spawn(async move {
                // A client that is still there after that has said nothing.
                let _ = timeout(REFUSAL_TIME, refusing).await;
                drop(place);
            });
        }
    }

    fn place(&self, credentials: &UCred) -> Option<OwnedSemaphorePermit> {
        let privileged = access::is_privileged(credentials.uid(), &self.shared.access());
        let try_one = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        try_one(&self.places).or_else(|| privileged.then(|| try_one(&self.reserved))?)
    }

    /// Waits until no connection is left and no change is being made.
    async fn finish(&mut self) {
        while self.connections.join_next().await.is_some() {}
        self.shared.changes.closed().await;
    }
}
