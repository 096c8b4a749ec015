//! One connection, from its first byte to its last.

use std::{convert::Infallible, pin::pin, sync::Arc};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixStream, unix::UCred},
    sync::watch,
};
use tower::ServiceExt;

use super::{
    peer::Peer,
    server::Limits,
    shared::{Caller, ended},
    stall::{Impatient, Patience},
};

/// Bytes that a connection buffers in each direction.
const BUFFER: usize = 64 * 1024;

/// Serves a client until it goes away, breaks a limit, or the server ends.
pub(super) async fn serve(
    stream: UnixStream,
    credentials: UCred,
    router: Router,
    limits: Limits,
    mut ending: watch::Receiver<bool>,
) {
    let patience = Patience::default();
    let peer = Arc::new(Peer::identify(credentials).await);
    let caller = Caller { peer, patience: patience.clone() };
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(caller.clone());
        let answer = router.clone().oneshot(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });

    let io = TokioIo::new(Impatient::new(stream, limits.write_time, patience));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // Also how long a connection may stay open between two requests.
            .header_read_timeout(limits.header_time)
            .max_buf_size(BUFFER)
            .serve_connection(io, service)
    );
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = ended(&mut ending) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        // The client's fault or its wish; the daemon goes on.
        tracing::debug!(%error, "a connection of the control socket ended early");
    }
}
