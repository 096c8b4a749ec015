//! `POST /v1/inner/confirm`.

use std::sync::Arc;

use axum::{Extension, Json, body::Body, extract::State};

use super::change;
use crate::control::{
    access::Action,
    body,
    protocol::InnerReply,
    refusal::Refusal,
    shared::{Caller, Shared},
};

pub(super) async fn confirm(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<InnerReply>, Refusal> {
    let body = change::admit(&shared, &caller, Action::Change, body).await?;
    // There is nothing to say, but nothing wrong with saying it.
    body::discard(body).await;
    let peer = caller.peer.as_ref().clone();
    Ok(Json(change::carry_out(&shared, move |backend| backend.confirm_inner(peer)).await?))
}
