//! `POST /v1/reload` and `/v1/mode`.

use std::sync::Arc;

use axum::{Extension, Json, body::Body, extract::State};

use super::change;
use crate::control::{
    access::Action,
    protocol::{ModeRequest, ReloadReply, ReloadRequest},
    refusal::Refusal,
    shared::{Caller, Shared},
};

/// Also for a dry run, which reads a file that may be root's only, the right to change is needed.
pub(super) async fn reload(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<ReloadReply>, Refusal> {
    let body = change::admit(&shared, &caller, Action::Change, body).await?;
    let limit = shared.limits().body_bytes;
    let request: ReloadRequest = change::receive(&shared, body, limit).await?;
    let peer = caller.peer.as_ref().clone();
    let reply = change::carry_out(&shared, move |backend| backend.reload(request, peer)).await?;
    Ok(Json(reply))
}

pub(super) async fn mode(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<ReloadReply>, Refusal> {
    let body = change::admit(&shared, &caller, Action::Change, body).await?;
    let limit = shared.limits().body_bytes;
    let request: ModeRequest = change::receive(&shared, body, limit).await?;
    let peer = caller.peer.as_ref().clone();
    let reply = change::carry_out(&shared, move |backend| backend.set_mode(request, peer)).await?;
    Ok(Json(reply))
}
