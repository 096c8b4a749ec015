//! One file for each thing that can be asked for.

mod change;
mod detach;
mod events;
mod inner;
mod learn;
mod reload;
mod rules;
mod status;
mod trial;

use std::sync::Arc;

use axum::{
    Router,
    http::{Method, StatusCode, Uri},
    routing::{get, post},
};

use super::{refusal::Refusal, shared::Shared};

/// Every route.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/status", get(status::show))
        .route("/v1/rules", get(rules::list))
        .route("/v1/rules/add", post(rules::add))
        .route("/v1/rules/remove", post(rules::remove))
        .route("/v1/rules/replace", post(rules::replace))
        .route("/v1/confirm", post(trial::confirm))
        .route("/v1/revert", post(trial::revert))
        .route("/v1/inner/confirm", post(inner::confirm))
        .route("/v1/reload", post(reload::reload))
        .route("/v1/mode", post(reload::mode))
        .route("/v1/events", get(events::stream))
        .route("/v1/learn", post(learn::learn))
        .route("/v1/detach", post(detach::detach))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(shared)
}

/// The answer to every request when there is no place for another client.
pub(super) fn full(connections: usize) -> Router {
    Router::new().fallback(move || async move {
        Refusal::busy(&format!("{connections} clients are connected to the guard already"))
    })
}

async fn unknown(uri: Uri) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!(
            "there is nothing at {}: this daemon knows /v1/status, /v1/rules, \
             /v1/rules/{{add,remove,replace}}, /v1/confirm, /v1/revert, /v1/inner/confirm, \
             /v1/reload, /v1/mode, /v1/events, /v1/learn and /v1/detach",
            uri.path()
        ),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let right = if method == Method::POST { "GET" } else { "POST" };
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{} does not take {method}: use {right}", uri.path()),
    )
}

#[cfg(test)]
mod tests;
