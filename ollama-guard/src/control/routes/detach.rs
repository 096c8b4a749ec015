//! `POST /v1/detach`.

use std::sync::Arc;

use axum::{Extension, Json, body::Body, extract::State};

use super::change;
use crate::control::{
    access::Action,
    body,
    protocol::DetachReply,
    refusal::Refusal,
    shared::{Caller, Shared},
};

pub(super) async fn detach(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<DetachReply>, Refusal> {
    let body = change::admit(&shared, &caller, Action::Detach, body).await?;
    // There is nothing to say, but nothing wrong with saying it.
    body::discard(body).await;
    let peer = caller.peer.as_ref().clone();
    Ok(Json(change::carry_out(&shared, move |backend| backend.detach(peer)).await?))
}
