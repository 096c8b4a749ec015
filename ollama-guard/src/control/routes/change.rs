//! What every change has in common: who may make it is decided before its body is read, and once
//! begun it is brought to its end.

use std::sync::Arc;

use axum::http::StatusCode;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;

use crate::control::{
    access::Action,
    backend::{Backend, Failure},
    body,
    refusal::Refusal,
    shared::{Caller, Shared},
};

/// Bytes from which on JSON is decoded where it delays nobody else.
const LARGE: usize = 256 * 1024;

/// Decides on access. The body of a caller who may not is read to its end and forgotten, so that
/// the caller gets to see why.
pub(super) async fn admit(
    shared: &Shared,
    caller: &Caller,
    action: Action,
    body: axum::body::Body,
) -> Result<axum::body::Body, Refusal> {
    match shared.admit(caller, action) {
        Ok(()) => Ok(body),
        Err(refusal) => {
            body::discard(body).await;
            Err(refusal)
        }
    }
}

/// Reads and decodes a body.
pub(super) async fn receive<T: DeserializeOwned + Send + 'static>(
    shared: &Shared,
    body: axum::body::Body,
    limit: usize,
) -> Result<T, Refusal> {
    let bytes = body::read(body, limit, shared.limits().body_time).await?;
    let decode = move || {
        serde_json::from_slice(&bytes).map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("the request is not understood: {error}"))
        })
    };
    if limit <= LARGE {
        return decode();
    }
    tokio::task::spawn_blocking(decode).await.map_err(interrupted)?
}

/// Lets the backend make a change in a task of its own, which a client that goes away does not
/// interrupt, and which the server waits for when it ends.
pub(super) async fn carry_out<T, F>(shared: &Shared, change: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: FnOnce(&dyn Backend) -> BoxFuture<'_, Result<T, Failure>> + Send + 'static,
{
    let backend = Arc::clone(&shared.backend);
    let running = shared.changes.subscribe();
    let task = tokio::spawn(async move {
        let done = change(backend.as_ref()).await;
        drop(running);
        done
    });
    Ok(task.await.map_err(interrupted)??)
}

fn interrupted(error: tokio::task::JoinError) -> Refusal {
    tracing::error!(%error, "a request was not carried out");
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the daemon failed within this request: see its log, and `ollama-guard status`",
    )
}
